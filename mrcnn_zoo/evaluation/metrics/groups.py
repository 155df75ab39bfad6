"""AP by groups of images, such as the camera, the site or the staining that a file name contains."""

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tabulate import tabulate

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.backends import KEYPOINTS, Backend, build_backend
from mrcnn_zoo.evaluation.metrics.contract import Evaluated, MetricReport
from mrcnn_zoo.evaluation.tables import ABSENT, Results, coco_metrics, table_name
from mrcnn_zoo.registries import METRICS

KEY = "EVAL.IMAGE_GROUPS"
REST = "(no group)"
FILE_SUFFIXES = (".json", ".csv")
SHOWN = ("AP", "AP50", "AP75")
LIMITS = (1, 10)  # of detections per image, below the largest

GroupOf = Callable[[Mapping[str, Any]], str]  # an image of the COCO dataset -> the name of its group


class ImageGroups:
    """COCO's AP of each group of images, equal to that of an evaluation of these images alone.

    Results: {"groups_segm": {"AP-<group>": ..., "AP50-<group>": ..., "AP75-<group>": ...}}. The mean is over the
    classes that have objects in the group, so groups without hard classes have a higher AP.

    Args:
        group_of: name of the group of an image.
        backend: computes precision and recall.
    """

    def __init__(self, group_of: GroupOf, *, backend: Backend) -> None:
        self._group_of = group_of
        self._backend = backend

    def __call__(self, evaluated: Evaluated) -> MetricReport:
        """A table with a row per group.

        Args:
            evaluated: ground truth and detections.

        Raises:
            UserError: no image has a group.
        """
        groups = self._groups(evaluated.ground_truth["images"], evaluated.dataset_name)
        tasks = [task for task in evaluated.tasks if task != KEYPOINTS]
        results: Results = {f"groups_{task}": {} for task in tasks}
        rows = []
        for name in sorted(groups):
            part = _part(evaluated, groups[name])
            row = [table_name(name), str(len(groups[name])), str(_num_objects(part))]
            for task in tasks:
                metrics = self._metrics(part, task)
                results[f"groups_{task}"] |= {f"{metric}-{name}": metrics[metric] for metric in SHOWN}
                row += [f"{metrics[metric]:.2f}".replace("nan", ABSENT) for metric in SHOWN]
            rows.append(row)
        headers = ["group", "images", "objects", *(f"{task} {metric}" for task in tasks for metric in SHOWN)]
        sides = ["left", *["right"] * (len(headers) - 1)]
        table = tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=sides)
        note = f"\n\n{ABSENT}: the group has no objects" if any(ABSENT in row[3:] for row in rows) else ""
        return MetricReport(results, f"## AP by groups of images\n\n{table}{note}")

    def check(self, dataset: Dataset) -> None:
        """Check that images have groups.

        Args:
            dataset: to be evaluated on.

        Raises:
            UserError: no image has a group.
        """
        images = [{"id": record.image_id, "file_name": record.source.name} for record in dataset.records]
        self._groups(images, dataset.name)

    def _groups(self, images: Sequence[Mapping[str, Any]], dataset_name: str) -> dict[str, set[int | str]]:
        """The ids of the images of each group."""
        groups: dict[str, set[int | str]] = {}
        for image in images:
            groups.setdefault(self._group_of(image), set()).add(image["id"])
        if set(groups) <= {REST}:
            example = next((image["file_name"] for image in images), "")
            raise UserError(f"{KEY} gives no image of {dataset_name} a group; its file names are like {example!r}.")
        return groups

    def _metrics(self, part: Evaluated, task: str) -> dict[str, float]:
        limits = [limit for limit in LIMITS if limit < part.max_detections] + [part.max_detections]
        curves = self._backend(part.ground_truth_of(task), part.detections_of(task), task, limits)
        return coco_metrics(curves, part.class_names, part.category_ids)


def _part(evaluated: Evaluated, image_ids: set[int | str]) -> Evaluated:
    """The images of a group with their objects and detections."""
    truth = evaluated.ground_truth
    own = {
        "images": [image for image in truth["images"] if image["id"] in image_ids],
        "annotations": [row for row in truth["annotations"] if row["image_id"] in image_ids],
    }
    rows = [row for row in evaluated.rows if row["image_id"] in image_ids]
    return replace(evaluated, ground_truth=truth | own, rows=rows, curves={})


def _num_objects(part: Evaluated) -> int:
    return sum(not annotation["iscrowd"] for annotation in part.ground_truth["annotations"])


def group_by_pattern(pattern: str) -> GroupOf:
    """Groups named by what a regular expression finds in the file name: its first group in parentheses, or all of it.

    Args:
        pattern: of Python's `re`, searched in the name without folders.

    Raises:
        UserError: not a regular expression.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"{KEY} = {pattern!r} is not a regular expression ({error}), nor a file that ends with .json or .csv."
        ) from error

    def group_of(image: Mapping[str, Any]) -> str:
        found = compiled.search(Path(image["file_name"]).name)
        if found is None:
            return REST
        return (found[1] if compiled.groups else found[0]) or REST

    return group_of


def group_by_file(path: str | Path) -> GroupOf:
    """Groups of a file: JSON {image: group}, or CSV with the columns image, group and a header.

    Args:
        path: of the file. An image is named by its file name, with or without folders, or its id.

    Raises:
        UserError: the file is missing or has another content.
    """
    file = Path(path).expanduser()
    try:
        text = file.read_text(encoding="utf-8-sig")
        names = _read_json(text) if file.suffix == ".json" else dict(_read_csv(text.splitlines()))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{KEY} = {path}: cannot be read ({error}). It must be a JSON object {{image: group}}, or a CSV file with "
            "the columns image and group under a header, where an image is its file name or its id."
        ) from error

    def group_of(image: Mapping[str, Any]) -> str:
        keys = (image["file_name"], Path(image["file_name"]).name, str(image["id"]))
        return next((names[key] for key in keys if key in names), REST)

    return group_of


def _read_json(text: str) -> dict[str, str]:
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError(f"a {type(content).__name__}")
    return {str(image): str(group) for image, group in content.items()}


def _read_csv(lines: Sequence[str]) -> list[tuple[str, str]]:
    reader = csv.DictReader(lines)
    if not {"image", "group"} <= set(reader.fieldnames or ()):
        raise ValueError(f"its columns are {', '.join(reader.fieldnames or ()) or 'none'}")
    return [(row["image"], row["group"]) for row in reader]


@METRICS.register("groups")
def build_image_groups(cfg: CfgNode) -> ImageGroups:
    """AP by groups of images, given by EVAL.IMAGE_GROUPS."""
    source = cfg.EVAL.IMAGE_GROUPS
    if not source:
        raise UserError(
            f"EVAL.METRICS has 'groups', but {KEY} is empty: give a regular expression on the file name, such as "
            "'^([a-z]+)_', or a file {image: group} that ends with .json or .csv."
        )
    group_of = group_by_file(source) if source.endswith(FILE_SUFFIXES) else group_by_pattern(source)
    return ImageGroups(group_of, backend=build_backend(cfg.EVAL.BACKEND))
