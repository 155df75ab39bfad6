"""Statistics of a dataset: sides, image files, classes, number and size of objects; as text and as a PNG."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from mrcnn_zoo.config.own_data import SIDES
from mrcnn_zoo.data.images.arrays import as_pixels
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.evaluation.backends import LARGE_SIDE, MEDIUM_SIDE
from mrcnn_zoo.inspection.figures import finish, new_figure, save_figure
from mrcnn_zoo.ops import rle

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IMAGES_READ, PIXELS_READ = 12, 100_000_000  # at most, for depth and channels
CLASSES_SHOWN = 40
BAR = 40  # characters of the longest bar
FIRST_SIZE, LAST_SIZE = 4, 1024  # pixels; bounds of the histogram of sizes, each twice the one before
NUMBER_BOUNDS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # objects per image
CLASSES_DRAWN, CLASSES_TO_FILL = 25, 5  # in the picture; fewer have bars of the height of this number


@dataclass(frozen=True)
class DatasetStatistics:
    """Numbers of a dataset; crowds are counted apart from objects.

    Args:
        dataset: from which the numbers are.
        classes: (O,) class index of each object.
        sizes: (O,) square root of its area in pixels.
        images: (O,) row of its image.
        kinds: number of objects by kind: "polygons", "mask", "box alone".
        num_crowds: regions of uncounted objects.
        pixels: number of examined image files by the kind of their pixels, e.g. "8-bit RGB".
    """

    dataset: Dataset
    classes: NDArray[np.int64]
    sizes: NDArray[np.float64]
    images: NDArray[np.int64]
    kinds: Counter[str]
    num_crowds: int
    pixels: Counter[str]

    @property
    def objects_per_image(self) -> NDArray[np.int64]:
        """(N,) number of objects of each image."""
        return np.bincount(self.images, minlength=len(self.dataset))

    @property
    def image_sizes(self) -> NDArray[np.int64]:
        """(N, 2) height and width of each image."""
        return np.array([record.image_size for record in self.dataset.records], dtype=np.int64).reshape(-1, 2)


def dataset_statistics(dataset: Dataset) -> DatasetStatistics:
    """The statistics; reads the pixels of a few images.

    Args:
        dataset: as loaded.
    """
    found = [
        (item.class_index, _area(item), row)
        for row, record in enumerate(dataset.records)
        for item in record.instances
        if not item.is_crowd
    ]
    table = np.array(found, dtype=np.float64).reshape(-1, 3)
    instances = [item for record in dataset.records for item in record.instances]
    return DatasetStatistics(
        dataset,
        table[:, 0].astype(np.int64),
        np.sqrt(table[:, 1]),
        table[:, 2].astype(np.int64),
        Counter(map(_kind, instances)),
        sum(item.is_crowd for item in instances),
        _kinds_of_pixels(dataset.records),
    )


def _area(item: InstanceRecord) -> float:
    """In square pixels; overlapping polygons of one object are added."""
    if item.area is not None:
        return item.area
    if isinstance(item.segmentation, dict):
        return float(rle.area(rle.compress(item.segmentation)))
    if item.segmentation is not None:
        area = 0.0
        for polygon in item.segmentation:
            x, y = np.asarray(polygon, dtype=np.float64).reshape(-1, 2).T
            area += abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
        return area
    x1, y1, x2, y2 = item.box
    return (x2 - x1) * (y2 - y1)


def _kind(item: InstanceRecord) -> str:
    if item.segmentation is None:
        return "box alone"
    return "mask" if isinstance(item.segmentation, dict) else "polygons"


def _kinds_of_pixels(records: Sequence[ImageRecord]) -> Counter[str]:
    rows = np.unique(np.linspace(0, len(records) - 1, min(IMAGES_READ, len(records))).round().astype(int)).tolist()
    kinds: Counter[str] = Counter()
    num_pixels = 0
    for row in rows:
        num_pixels += records[row].image_size[0] * records[row].image_size[1]
        if kinds and num_pixels > PIXELS_READ:
            break
        kinds[_kind_of_pixels(records[row])] += 1
    return kinds


def _kind_of_pixels(record: ImageRecord) -> str:
    try:
        pixels = as_pixels(record.source.read(), record.source.name)
    except UserError as error:
        return f"not readable ({error})"
    depth = "float" if pixels.dtype.kind == "f" else f"{8 * pixels.dtype.itemsize}-bit"
    channels = pixels.shape[2]
    if channels != 3:
        return f"{depth}, {counted(channels, 'channel')}"
    return f"{depth} {'grey' if (pixels == pixels[:, :, :1]).all() else 'RGB'}"


def statistics_text(statistics: DatasetStatistics) -> str:
    """Sections of lines and tables, for a terminal.

    Args:
        statistics: see `dataset_statistics`.
    """
    sections = [_sides(statistics), _images(statistics), _classes(statistics), _numbers(statistics), _sizes(statistics)]
    if statistics.dataset.notes:
        sections.append(
            "Left out or changed while reading:\n" + "\n".join(f"  {note}" for note in statistics.dataset.notes)
        )
    return "\n\n".join(section for section in sections if section)


def _sides(statistics: DatasetStatistics) -> str:
    """A row per side, and the sum of several."""
    splits = np.array([record.split for record in statistics.dataset.records])
    rows = [(side, splits == side) for side in (*SIDES, "") if (splits == side).any()]
    if len(rows) != 1:
        rows.append(("all", np.ones(len(splits), dtype=np.bool_)))
    numbers = statistics.objects_per_image
    table = [
        [side or "no side", int(chosen.sum()), int(numbers[chosen].sum()), int((numbers[chosen] == 0).sum())]
        for side, chosen in rows
    ]
    return tabulate(table, ["side", "images", "objects", "images without objects"])


def _images(statistics: DatasetStatistics) -> str:
    sizes = statistics.image_sizes
    if not len(sizes):
        return "Images: none"
    distinct = Counter(map(tuple, sizes.tolist()))
    areas = sizes.prod(axis=1)
    order = np.argsort(areas, kind="stable")
    smallest, median, largest = (as_text(sizes[order[place]]) for place in (0, len(order) // 2, -1))
    text = f"all {smallest}" if len(distinct) == 1 else f"smallest {smallest}, median {median}, largest {largest}"
    kinds = ", ".join(f"{number} x {kind}" for kind, number in statistics.pixels.most_common())
    lines = [f"Images (width x height): {text}"]
    if len(distinct) > 1:
        common = ", ".join(f"{number} x {as_text(size)}" for size, number in distinct.most_common(3))
        lines.append(f"  {counted(len(distinct), 'size')}, most frequent: {common}")
    return "\n".join([*lines, f"  pixels of {counted(statistics.pixels.total(), 'image')} that were read: {kinds}"])


def as_text(size: Sequence[int] | NDArray[np.int64]) -> str:
    """A size as "width x height".

    Args:
        size: (height, width).
    """
    return f"{size[1]} x {size[0]}"


def _classes(statistics: DatasetStatistics) -> str:
    """A row per class, the most frequent first."""
    names = statistics.dataset.class_names
    rows: list[tuple[str, int, str, int, str]] = []
    for index, name in enumerate(names):
        chosen = statistics.classes == index
        number = int(chosen.sum())
        share = f"{100 * number / max(len(chosen), 1):.1f} %"
        size = f"{np.median(statistics.sizes[chosen]):.1f}" if number else ""
        rows.append((name, number, share, len(np.unique(statistics.images[chosen])), size))
    rows.sort(key=lambda row: -row[1])
    table = tabulate(rows[:CLASSES_SHOWN], ["class", "objects", "share", "images", "median size"])
    kinds = ", ".join(f"{number:,} x {kind}" for kind, number in statistics.kinds.most_common())
    lines = [table]
    if len(rows) > CLASSES_SHOWN:
        rest = rows[CLASSES_SHOWN:]
        lines.append(f"and {counted(len(rest), 'class')} with {counted(sum(row[1] for row in rest), 'object')}")
    if kinds:
        crowds = f" ({counted(statistics.num_crowds, 'crowd')} among them)" if statistics.num_crowds else ""
        lines.append(f"Annotated with: {kinds}{crowds}")
    if statistics.dataset.keypoint_names:
        lines.append(f"Keypoints: {', '.join(statistics.dataset.keypoint_names)}")
    return "\n".join(lines)


def _numbers(statistics: DatasetStatistics) -> str:
    numbers = statistics.objects_per_image
    if not len(numbers):
        return ""
    text = f"minimum {numbers.min()}, median {np.median(numbers):g}, mean {numbers.mean():.1f}, maximum {numbers.max()}"
    bounds = [*NUMBER_BOUNDS, np.inf]
    counts = np.histogram(numbers, bounds)[0].tolist()
    labels = [_interval(low, high) for low, high in pairwise(bounds)]
    return f"Objects per image: {text}\n" + _bars(labels, counts)


def _interval(low: float, high: float) -> str:
    """Whole numbers from `low` to below `high`."""
    if not np.isfinite(high):
        return f"{low:g} or more"
    return f"{low:g}" if high == low + 1 else f"{low:g} to {high - 1:g}"


def _sizes(statistics: DatasetStatistics) -> str:
    sizes = statistics.sizes
    if not len(sizes):
        return ""
    small, large = int((sizes < MEDIUM_SIDE).sum()), int((sizes >= LARGE_SIDE).sum())
    shares = [
        f"{name} {number:,} ({100 * number / len(sizes):.1f} %)"
        for name, number in (("small", small), ("medium", len(sizes) - small - large), ("large", large))
    ]
    bounds = _size_bounds()
    labels = [f"below {FIRST_SIZE}", *(f"{low:g} to {2 * low:g}" for low in bounds[1:-2].tolist()), f"from {LAST_SIZE}"]
    counts = np.histogram(sizes, bounds)[0].tolist()
    lines = [
        f"Size of objects, the square root of the area in pixels: median {np.median(sizes):.1f}; {', '.join(shares)}",
        f"  (small is below {MEDIUM_SIDE:g}, large is from {LARGE_SIDE:g} on, as in COCO's tables)",
        _bars(labels, counts),
    ]
    return "\n".join(lines)


def _size_bounds() -> NDArray[np.float64]:
    powers = 2.0 ** np.arange(np.log2(FIRST_SIZE), np.log2(LAST_SIZE) + 1)
    return np.array([0.0, *powers, np.inf])


def _bars(labels: Sequence[str], counts: Sequence[int]) -> str:
    """A bar per interval, from the first one with a count to the last one."""
    used = [place for place, number in enumerate(counts) if number]
    shown = range(used[0], used[-1] + 1)
    width, digits = max(len(labels[place]) for place in shown), len(f"{max(counts):,}")
    lines = []
    for place in shown:
        bar = "#" * round(BAR * counts[place] / max(counts))
        lines.append(f"  {labels[place]:>{width}}  {counts[place]:>{digits},} {bar}".rstrip())
    return "\n".join(lines)


def save_statistics(statistics: DatasetStatistics, path: str | Path) -> Path:
    """Draw objects per class, their number per image, their sizes, and the sizes of the images.

    Args:
        statistics: see `dataset_statistics`.
        path: of the PNG.
    """
    figure = new_figure(columns=2, side=5.0)
    figure.set_figheight(9.0)
    figure.suptitle(f"{statistics.dataset.name}: {statistics.dataset.summary()}")
    (classes, numbers), (sizes, images) = figure.subplots(2, 2)
    _draw_classes(classes, statistics)
    per_image = statistics.objects_per_image
    numbers.hist(per_image, bins=_whole_bins(per_image), color="C1")
    finish(numbers, title="objects per image", y_label="images", x_label="objects")
    _draw_sizes(sizes, statistics.sizes)
    distinct = Counter(map(tuple, statistics.image_sizes.tolist()))
    if distinct:
        height, width = np.array(list(distinct)).T
        images.scatter(width, height, s=20 + 200 * np.array(list(distinct.values())) / len(per_image), alpha=0.5)
        images.set(xlim=(0, None), ylim=(0, None))
    finish(images, title="sizes of images", y_label="height, pixels", x_label="width, pixels")
    for axis in (classes.xaxis, numbers.xaxis, numbers.yaxis, sizes.yaxis):
        axis.get_major_locator().set_params(integer=True)
    return save_figure(figure, path)


def _draw_sizes(axes: "Axes", sizes: NDArray[np.float64]) -> None:
    """A histogram on a logarithmic scale with the bounds of COCO's sizes."""
    if len(sizes):
        low, high = max(min(float(sizes.min()), MEDIUM_SIDE / 2), 1.0), max(float(sizes.max()), LARGE_SIDE * 1.1)
        axes.hist(np.maximum(sizes, low), bins=np.geomspace(low * 0.99, high * 1.01, 40).tolist(), color="C2")
        ticks = 2.0 ** np.arange(np.ceil(np.log2(low)), np.floor(np.log2(high)) + 1)
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks.tolist()])
        axes.set_xticks([], minor=True)
        for bound in (MEDIUM_SIDE, LARGE_SIDE):
            axes.axvline(bound, color="black", linestyle="--", linewidth=0.8)
    title = "size of objects (lines: small, medium, large)"
    finish(axes, title=title, y_label="objects", x_label="square root of area, pixels")


def _draw_classes(axes: "Axes", statistics: DatasetStatistics) -> None:
    names = statistics.dataset.class_names
    counts = np.bincount(statistics.classes, minlength=len(names))
    order = np.argsort(-counts, kind="stable")[:CLASSES_DRAWN][::-1]
    axes.barh([names[index] for index in order.tolist()], counts[order])
    if len(order) < CLASSES_TO_FILL:
        axes.set_ylim(len(order) - 0.5 - CLASSES_TO_FILL, len(order) - 0.5)
    axes.tick_params(axis="y", labelsize=7 if len(order) > 12 else 9)
    title = f"the {len(order)} most frequent of {len(names)} classes" if len(order) < len(names) else "classes"
    finish(axes, title=title, y_label="", x_label="objects")


def _whole_bins(numbers: NDArray[np.int64]) -> Iterable[float] | int:
    largest = int(numbers.max(initial=0))
    return np.arange(largest + 2) - 0.5 if largest < 60 else 60
