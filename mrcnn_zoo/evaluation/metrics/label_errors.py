"""Suspected label errors of the evaluated dataset as a CSV and a JSON file; see `evaluation/label_errors.py`."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.evaluation.label_errors import KINDS, Suspect, find_label_errors
from mrcnn_zoo.evaluation.metrics.contract import Evaluated, MetricReport
from mrcnn_zoo.evaluation.tables import table_name
from mrcnn_zoo.output_files import csv_text
from mrcnn_zoo.registries import METRICS

NAME = "label_errors"
SHOWN = 12  # suspects in the table of results.md
COLUMNS = ("rank", "score", "kind", "file_name", "image_id", "annotation_ids", "class", "x", "y", "width", "height")


class LabelErrors:
    """The metric "label_errors": suspects in inference/label_errors.csv and .json, and a table of the first ones.

    It has no results: the number of suspects measures neither the model nor the labels.
    """

    def __call__(self, evaluated: Evaluated) -> MetricReport:
        """Find the suspects.

        Args:
            evaluated: ground truth and detections.
        """
        suspects = find_label_errors(evaluated)
        ranked = list(enumerate(suspects, start=1))
        rows = [_cells(rank, suspect) for rank, suspect in ranked]
        entries = [_entry(rank, suspect) for rank, suspect in ranked]
        content = {"dataset": evaluated.dataset_name, "task": evaluated.mask_task, "suspects": entries}
        files: dict[str, str | bytes] = {
            f"{NAME}.csv": csv_text([(*COLUMNS, "text"), *rows]),
            f"{NAME}.json": json.dumps(content, indent=1) + "\n",
        }
        return MetricReport(text=_text(suspects), files=files, details=_table(suspects))


def _cells(rank: int, suspect: Suspect) -> list[object]:
    ids = " ".join(map(str, suspect.annotation_ids))
    box = (f"{value:.1f}" for value in suspect.box)
    image = suspect.image
    first = [rank, f"{suspect.score:.4f}", suspect.kind, image["file_name"], image["id"], ids]
    return [*first, suspect.class_name, *box, suspect.text]


def _entry(rank: int, suspect: Suspect) -> dict[str, Any]:
    columns = ("category_id", "bbox", "score", "segmentation")
    return {
        "rank": rank,
        "score": round(suspect.score, 4),
        "strength": round(suspect.strength, 4),
        "reliability": round(suspect.reliability, 4),
        "kind": suspect.kind,
        "image_id": suspect.image["id"],
        "file_name": suspect.image["file_name"],
        "annotation_ids": list(suspect.annotation_ids),
        "object_numbers": [item["id"] for item in suspect.annotations],  # counted from 1 through the dataset
        "class": suspect.class_name,
        "bbox": list(suspect.box),
        "detections": [{name: row[name] for name in columns if name in row} for row in suspect.detections],
        "text": suspect.text,
    }


def read_suspects(path: Path, ground_truth: Mapping[str, Any], *, count: int) -> list[Suspect]:
    """The first suspects of a file that the metric has written.

    Args:
        path: of `label_errors.json`.
        ground_truth: of the evaluated dataset, see `complete_ground_truth`.
        count: maximum number.
    """
    entries = json.loads(path.read_text(encoding="utf-8"))["suspects"][:count]
    images = {image["id"]: image for image in ground_truth["images"]}
    objects = {item["id"]: item for item in ground_truth["annotations"]}
    return [
        Suspect(
            **{name: entry[name] for name in ("kind", "score", "strength", "reliability", "text")},
            image=images[entry["image_id"]],
            class_name=entry["class"],
            annotations=tuple(objects[number] for number in entry["object_numbers"]),
            detections=tuple(row | {"image_id": entry["image_id"]} for row in entry["detections"]),
        )
        for entry in entries
    ]


def _text(suspects: Sequence[Suspect]) -> str:
    counts = Counter(suspect.kind for suspect in suspects)
    total = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])
    return f"## Suspected label errors\n\n{total or 'none'}; ranked in {NAME}.csv, the most likely ones first"


def _table(suspects: Sequence[Suspect]) -> str:
    if not suspects:
        return ""
    rows = [
        [f"{s.score:.2f}", s.kind, table_name(Path(s.image["file_name"]).name), table_name(s.text)]
        for s in suspects[:SHOWN]
    ]
    headers = ["score", "kind", "image", "reason"]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=("right", "left", "left", "left"))


@METRICS.register(NAME)
def build_label_errors(_: CfgNode) -> LabelErrors:
    """Suspected label errors: missing, extra, wrong class, loose, merged and split objects, ranked."""
    return LabelErrors()
