"""A table of all images with their counts and scores, to be sorted in a spreadsheet."""

import math
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.evaluation.image_ranking import (
    ImageResult,
    best_images,
    confidently_wrong_images,
    image_results,
    worst_images,
)
from mrcnn_zoo.evaluation.metrics.contract import Evaluated, MetricReport
from mrcnn_zoo.evaluation.tables import ABSENT, table_name
from mrcnn_zoo.output_files import csv_text
from mrcnn_zoo.registries import METRICS

HEADERS = ("image", "objects", "found", "missed", "false", "mean IoU", "score", "most confident error")
COLUMNS = ("file_name", "image_id", "objects", "found", "missed", "false", "mean_iou", "score", "confidence", "error")
SHOWN = 5  # images per list in results.md


class ImageTable:
    """The metric "images": inference/images.csv with a row per image, and the first images of each ranking.

    Args:
        score_threshold: minimum score of a detection, in [0, 1].
    """

    def __init__(self, *, score_threshold: float = 0.5) -> None:
        self._score_threshold = score_threshold

    def __call__(self, evaluated: Evaluated) -> MetricReport:
        """The table as CSV, and the best, the worst and the most confidently wrong images in Markdown.

        Args:
            evaluated: ground truth and detections.
        """
        results = image_results(evaluated, score_threshold=self._score_threshold)
        rows = [_cells(result) for result in results]
        lists = {
            "Worst": worst_images(results, SHOWN),
            "Most confidently wrong": confidently_wrong_images(results, SHOWN),
            "Best": best_images(results, SHOWN),
        }
        parts = [f"{name}:\n\n{_table(images)}" for name, images in lists.items() if images]
        heading = f"## Images ({evaluated.mask_task}, scores from {self._score_threshold:g})"
        details = "\n\n".join([heading, *parts, "All images: images.csv"])
        return MetricReport(details=details, files={"images.csv": csv_text([COLUMNS, *rows])})


def _cells(result: ImageResult) -> list[object]:
    counts = (result.num_objects, len(result.found), result.num_missed, result.num_false)
    shares = (_number(result.mean_iou, absent=""), f"{result.score:.4f}", f"{result.confidence:.4f}")
    error = result.errors[0].text if result.errors else ""
    return [result.image["file_name"], result.image["id"], *counts, *shares, error]


def _table(images: Sequence[ImageResult]) -> str:
    rows = [
        [
            table_name(Path(result.image["file_name"]).name),
            *map(str, (result.num_objects, len(result.found), result.num_missed, result.num_false)),
            _number(result.mean_iou, absent=ABSENT),
            f"{result.score:.4f}",
            table_name(result.errors[0].text) if result.errors else ABSENT,
        ]
        for result in images
    ]
    sides = ["left", *["right"] * (len(HEADERS) - 2), "left"]
    return tabulate(rows, HEADERS, tablefmt="pipe", disable_numparse=True, colalign=sides)


def _number(value: float, *, absent: str) -> str:
    return absent if math.isnan(value) else f"{value:.4f}"


@METRICS.register("images")
def build_image_table(cfg: CfgNode) -> ImageTable:
    """Objects, found, missed and false ones, IoU and score per image; scores from EVAL.SCORE_THRESHOLD."""
    return ImageTable(score_threshold=cfg.EVAL.SCORE_THRESHOLD)
