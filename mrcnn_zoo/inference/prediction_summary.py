"""Text about predictions on image files: counts by image and class, the written files, failures."""

import sys
from collections import Counter
from pathlib import Path

from tabulate import tabulate

from mrcnn_zoo.errors import counted
from mrcnn_zoo.inference.image_files import PREDICTIONS_FILE, TABLE_FILE, PredictedImages
from mrcnn_zoo.progress import terminal_width

IMAGES_SHOWN, NAME_SHOWN, TABLE_WIDTH = 20, 40, 100  # rows, characters of a name, characters of a row


def summary_of(result: PredictedImages, output: Path, *, threshold: float | str | None) -> str:
    """Counts, and the written files.

    Args:
        result: of `predict_images`.
        output: its folder.
        threshold: minimum score, or "best" or a file; None where all given boxes are shown.
    """
    written = {
        str(output / PREDICTIONS_FILE): "boxes, masks, areas and scores, in COCO format",
        str(output / TABLE_FILE): "a row per object: image, class, score, box, area, centroid, ...",
        f"{output}/*.png" if len(result.counts) > 1 else str(result.pictures[0]): "the objects drawn",
    }
    width = max(map(len, written))
    files = (f"  {path:{width}}  {what}" for path, what in written.items())
    return "\n".join([count_table(result.counts), "", f"{objects_of(result, threshold=threshold)}. Written:", *files])


def objects_of(result: PredictedImages, *, threshold: float | str | None) -> str:
    """The number of objects, how they were chosen, and the number of images.

    Args:
        result: of a prediction.
        threshold: see `summary_of`.
    """
    chosen = "in all given boxes"
    if threshold is not None:
        lowest_score = "that of highest F1 of their class" if isinstance(threshold, str) else format(threshold, "g")
        chosen = f"with a score of at least {lowest_score}"
    return f"{counted(result.num_objects, 'object')} {chosen} in {counted(len(result.counts), 'image')}"


def count_table(counts: dict[str, Counter[str]], *, rest: str = f"; {TABLE_FILE} has all") -> str:
    """Table of objects per image and class: the first images, and the most frequent classes that fit.

    Args:
        counts: objects by class, by image.
        rest: where the others are, for the line below an incomplete table.
    """
    totals: Counter[str] = sum(counts.values(), Counter())
    columns = len(totals)
    table = _count_table(counts, totals, columns)
    width = min(TABLE_WIDTH, terminal_width(sys.stdout) or TABLE_WIDTH)
    while columns > 1 and max(map(len, table.splitlines())) > width:
        columns -= 1
        table = _count_table(counts, totals, columns)
    images, classes = max(0, len(counts) - IMAGES_SHOWN), len(totals) - columns
    if images or classes:
        parts = [counted(images, "more image")] * bool(images) + [counted(classes, "more class")] * bool(classes)
        table += f"\nNot shown: {' and '.join(parts)}{rest}."
    return table


def _count_table(counts: dict[str, Counter[str]], totals: Counter[str], num_columns: int) -> str:
    shown = [name for name, _ in totals.most_common(num_columns)]
    has_sum = len(totals) != 1

    def row(name: str, counter: Counter[str]) -> list[object]:
        return [name, *(counter[column] for column in shown), *([counter.total()] if has_sum else [])]

    rows = [row(_shortened(name), counter) for name, counter in list(counts.items())[:IMAGES_SHOWN]]
    if len(counts) > 1:
        rows.append(row(f"all {len(counts):,} images", totals))
    return tabulate(rows, ["image", *shown, *(["all"] if has_sum else [])])


def _shortened(name: str) -> str:
    return name if len(name) <= NAME_SHOWN else "..." + name[-NAME_SHOWN + 3 :]


def failures_of(result: PredictedImages) -> str:
    """How many images could not be read.

    Args:
        result: with failures.
    """
    count = len(result.failures)
    if not result.counts:
        who = "the image could not" if count == 1 else f"none of the {count:,} images could"
        return f"{who} be read; nothing is written."
    return f"{counted(count, 'input')} could not be read (see above); the others are done."
