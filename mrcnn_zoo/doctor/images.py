"""Checks of image files: readable, of the annotated size, with contrast, and with the pixels that the model expects."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.images.headers import size_from_header
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.records import ImageRecord
from mrcnn_zoo.doctor.examined import TRAIN, DoctorInput, Side, images_read
from mrcnn_zoo.doctor.finding import EXAMPLES_KEPT, Example, Finding, Severity
from mrcnn_zoo.errors import counted
from mrcnn_zoo.inspection.dataset_statistics import as_text

# Of pixels after normalisation: beyond, the first layer of a model with random weights gets hardly any signal, or a
# constant far larger than it.
MAX_SHIFT, MIN_SPREAD, MAX_SPREAD = 2.5, 0.1, 5.0
NOTED_SHIFT, NOTED_SPREAD = 1.0, 2.0  # from which better values are named
LITTLE_CONTRAST = 10.0  # standard deviation, of 255, below which images are flat for a model with trained weights
DARK = 32.0  # highest value, of 255, of an image that uses few of its grey levels
UINT8_MAX = 255.0
KEEP = "keep"  # value of INPUT.SIXTEEN_BIT


def check_files(examined: DoctorInput) -> Iterator[Finding]:
    """Image files that are missing, empty, cannot be decoded, or have another size than in the annotations.

    All files are looked up, and the sizes in their headers compared; those of the sample are decoded.

    Args:
        examined: datasets and settings.
    """
    for side in examined.sides:
        problems = {record.image_id: facts for record, facts in zip(side.sample, side.images, strict=True)}
        broken: list[Example] = []
        of_other_size: list[Example] = []
        for record in side.dataset.records:
            facts = problems.get(record.image_id)
            text = facts.problem if facts is not None else _problem_of_file(record)
            if text:
                of_size = facts.has_wrong_size if facts is not None else "pixels" in text
                (of_other_size if of_size else broken).append(Example(_without_name(text, record), record))
        if broken:
            yield Finding(
                Severity.ERROR,
                f"{side.name}: {counted(len(broken), 'image')} cannot be read",
                "The training ends at the first of them. Copy the files again, or take them out of the annotations.",
                count=len(broken),
                total=len(side.dataset),
                examples=tuple(broken[:EXAMPLES_KEPT]),
            )
        if of_other_size:
            yield Finding(
                Severity.ERROR,
                f"{side.name}: {counted(len(of_other_size), 'image')} with another size than in the annotations",
                "The training ends at the first of them. Use the images that were annotated: masks and boxes are in "
                "their pixels.",
                count=len(of_other_size),
                total=len(side.dataset),
                examples=tuple(of_other_size[:EXAMPLES_KEPT]),
            )


def _problem_of_file(record: ImageRecord) -> str:
    """What is wrong with a file that is not decoded; "" for other sources."""
    if not isinstance(record.source, FileImage):
        return ""
    try:
        num_bytes = Path(record.source.path).stat().st_size
    except OSError as error:
        return f"{error.strerror}"
    if not num_bytes:
        return "the file is empty"
    size = size_from_header(record.source.path)
    if size is None or size == tuple(record.image_size):
        return ""
    return f"{as_text(size)} pixels (width x height), in the annotations {as_text(record.image_size)}"


def _without_name(text: str, record: ImageRecord) -> str:
    """A message without the path, which stands before it in the list of examples."""
    name = record.source.name
    return text.removeprefix(f"{name}: ").removeprefix(f"{name} ").removeprefix("image ").strip()


def check_flat_images(examined: DoctorInput) -> Iterator[Finding]:
    """Images with one value in all pixels.

    Args:
        examined: datasets and settings.
    """
    for side in examined.sides:
        flat = [
            Example(f"all pixels are {facts.low:g}", record)
            for record, facts in zip(side.sample, side.images, strict=True)
            if facts.kind and facts.low == facts.high
        ]
        if flat:
            yield Finding(
                Severity.WARNING,
                f"{side.name}: {counted(len(flat), 'image')} without any contrast, of {images_read([side])}",
                "Probably a failed export or an empty exposure. Replace them, or take them out of the annotations.",
                count=len(flat),
                total=len(side.rows),
                examples=tuple(flat[:EXAMPLES_KEPT]),
            )


def check_channels(examined: DoctorInput) -> Iterator[Finding]:
    """Depths and channels of the files beside INPUT.FORMAT, SIXTEEN_BIT and the channels of the model.

    Args:
        examined: datasets and settings.
    """
    settings = examined.settings
    kinds: dict[str, Counter[str]] = {}
    for side in examined.sides:
        found = Counter(facts.kind for facts in side.images if facts.kind)
        kinds[side.name] = found
        depths: Counter[str] = Counter()
        for kind, number in found.items():
            depths[kind.split()[0]] += number
        if len(depths) > 1:
            rare = min(depths, key=depths.__getitem__)
            yield Finding(
                Severity.WARNING,
                f"{side.name}: images of different depths: {_listed(found)}",
                f"Images deeper than 8 bits are converted by INPUT.SIXTEEN_BIT ({settings.sixteen_bit}), the others "
                "not, so that equal objects may look different. Write all files with one depth.",
                count=depths[rare],
                total=depths.total(),
                examples=_of_depth(side, rare),
            )
        yield from _few_levels(examined, side, set(depths))
    depths_of_sides = [frozenset(kind.split()[0] for kind in found) for found in kinds.values() if found]
    if len(set(depths_of_sides)) > 1 and all(len(depths) == 1 for depths in depths_of_sides):
        yield Finding(
            Severity.WARNING,
            "the datasets have different depths: " + "; ".join(f"{name} {_listed(kinds[name])}" for name in kinds),
            "Write the files of all datasets with one depth.",
        )


def _few_levels(examined: DoctorInput, side: Side, depths: set[str]) -> Iterator[Finding]:
    """Deep images that use few of the values after their conversion to 8 bits."""
    if not depths - {"8-bit"} or examined.settings.sixteen_bit == KEEP:
        return
    dark = [
        Example(f"values up to {facts.high:g} of 255", record)
        for record, facts in zip(side.sample, side.images, strict=True)
        if facts.kind and not facts.kind.startswith("8-bit") and facts.low < facts.high <= DARK
    ]
    if dark:
        yield Finding(
            Severity.WARNING,
            f"{side.name}: {counted(len(dark), 'image')} with few grey levels after the conversion to 8 bits by "
            f"INPUT.SIXTEEN_BIT {examined.settings.sixteen_bit}, of {images_read([side])}",
            "A 12-bit camera fills a sixteenth of 16 bits. `range` scales all images alike by the values of the "
            "training images:",
            count=len(dark),
            total=len(side.rows),
            examples=tuple(dark[:EXAMPLES_KEPT]),
            paste="INPUT: {SIXTEEN_BIT: range}",
        )


def _listed(kinds: Counter[str]) -> str:
    return ", ".join(f"{number} x {kind}" for kind, number in kinds.most_common())


def _of_depth(side: Side, depth: str) -> tuple[Example, ...]:
    pairs = zip(side.sample, side.images, strict=True)
    chosen = [Example(facts.kind, record) for record, facts in pairs if facts.kind.startswith(f"{depth} ")]
    return tuple(chosen[:EXAMPLES_KEPT])


def check_statistics(examined: DoctorInput) -> Iterator[Finding]:
    """MODEL.PIXEL_MEAN and PIXEL_STD beside the pixels of the training images.

    Args:
        examined: datasets and settings.
    """
    settings = examined.settings
    sides = examined.of_role(TRAIN) or list(examined.sides)
    moments = pixel_moments(sides)
    if moments is None:
        yield Finding(Severity.SKIPPED, "MODEL.PIXEL_MEAN and PIXEL_STD: no image could be read")
        return
    mean, std = moments
    shift = float(np.abs((mean - settings.pixel_mean) / np.array(settings.pixel_std)).max())
    spread = std / np.array(settings.pixel_std)
    is_far = shift > MAX_SHIFT or spread.min() < MIN_SPREAD or spread.max() > MAX_SPREAD
    is_noted = shift > NOTED_SHIFT or spread.min() < 1 / NOTED_SPREAD or spread.max() > NOTED_SPREAD
    channels = settings.pixel_format
    text = f"pixels of {images_read(sides)} have mean {_numbers(mean)} and deviation {_numbers(std)} ({channels})"
    if not (is_far or is_noted):
        yield Finding(Severity.FINE, f"{text}, near MODEL.PIXEL_MEAN and PIXEL_STD")
        return
    values = f"MODEL:\n  PIXEL_MEAN: [{_numbers(mean)}]\n  PIXEL_STD: [{_numbers(np.maximum(std, 1e-3))}]"
    text = f"{text}; the config has {_numbers(settings.pixel_mean)} and {_numbers(settings.pixel_std)}"
    if settings.weights:
        yield Finding(
            Severity.NOTE if std.max() < LITTLE_CONTRAST else Severity.FINE,
            text,
            f"The images have little contrast: stretch them. PIXEL_MEAN and PIXEL_STD belong to {settings.weights} "
            "and stay.",
        )
        return
    yield Finding(
        Severity.WARNING if is_far else Severity.NOTE,
        text,
        "The model starts from random weights, for which inputs near mean 0 and deviation 1 are best:"
        if is_far
        else "The model learns with these, too. Values that give mean 0 and deviation 1:",
        paste=values,
    )


def pixel_moments(sides: Sequence[Side]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """(C,) mean and standard deviation of the network's input over all pixels read; None without any.

    Args:
        sides: whose images have equal weights, whatever their size.
    """
    facts = [facts for side in sides for facts in side.images if facts.means]
    if not facts:
        return None
    mean = np.mean([item.means for item in facts], axis=0)
    variance = np.mean([item.squares for item in facts], axis=0) - mean**2
    return mean, np.sqrt(np.maximum(variance, 0))


def _numbers(values: Sequence[float] | NDArray[np.float64]) -> str:
    return ", ".join(f"{value:.4g}" for value in np.asarray(values).tolist())
