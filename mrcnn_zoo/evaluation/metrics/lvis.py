"""LVIS AP, of rare, common and frequent classes, with its federated annotations."""

import contextlib
import io
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.formats.coco_json import read_json
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.ground_truth import BBOX, SEGM
from mrcnn_zoo.evaluation.metrics.contract import Evaluated, MetricReport, import_library
from mrcnn_zoo.evaluation.metrics.overlaps import score_of
from mrcnn_zoo.evaluation.result_rows import Row
from mrcnn_zoo.evaluation.tables import Metrics, footnote, summary_table
from mrcnn_zoo.registries import METRICS

MAX_DETECTIONS = 300  # per image, of all classes; Gupta et al. 2019, section 3.4
IMAGE_FIELDS = ("neg_category_ids", "not_exhaustive_category_ids")
FREQUENCY = "frequency"  # of a category: r, c or f
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR@300", "ARs@300", "ARm@300", "ARl@300")
UNDEFINED = -1.0  # hotcoco's value without ground truth


class LvisMetric:
    """The metric "lvis", computed by hotcoco.

    In an image, only detections of classes that are annotated in it or listed in its `neg_category_ids` count, and
    those of `not_exhaustive_category_ids` that match no object are not false. Of each image, 300 detections count.

    Source: Gupta et al. 2019 (LVIS), section 3.
    """

    def names(self, tasks: Sequence[str]) -> list[str]:
        """Names of the results.

        Args:
            tasks: that will be evaluated.
        """
        return [f"lvis_{task}/{name}" for task in (BBOX, SEGM) if task in tasks for name in NAMES]

    def check(self, dataset: Dataset) -> None:
        """Check that the annotation file has the fields of LVIS.

        Args:
            dataset: to be evaluated on.

        Raises:
            UserError: naming the file and the first image or category without them.
        """
        without = {"images": [{"id": record.image_id} for record in dataset.records], "categories": []}
        sections = read_json(Path(dataset.annotation_file)) if dataset.annotation_file else without
        _lvis_fields(sections, where=dataset.annotation_file or dataset.name)

    def __call__(self, evaluated: Evaluated) -> MetricReport:
        """Measure.

        Args:
            evaluated: ground truth and detections. The fields of LVIS are read from `annotation_file` if the ground
                truth does not have them.

        Raises:
            UserError: the annotations are not LVIS's, or hotcoco is not installed.
        """
        ground_truth = with_lvis_fields(evaluated)
        results = {
            f"lvis_{task}": _measure(replace(evaluated, ground_truth=ground_truth), task)
            for task in (BBOX, SEGM)
            if task in evaluated.tasks
        }
        text = f"## LVIS AP\n\n{summary_table(results)}{footnote(results)}"
        counts = Counter(row["image_id"] for row in evaluated.rows)
        # A results file may have more than the limit; they count.
        if max(counts.values(), default=0) == evaluated.max_detections < MAX_DETECTIONS:
            text += (
                f"\n\nTEST.DETECTIONS_PER_IMAGE is {evaluated.max_detections}; LVIS's own limit is {MAX_DETECTIONS} "
                "detections per image."
            )
        return MetricReport(results=results, text=text)


def with_lvis_fields(evaluated: Evaluated) -> dict[str, Any]:
    """The ground truth with the fields of LVIS.

    Args:
        evaluated: whose ground truth or annotation file has them.

    Raises:
        UserError: naming the file and the first image or category without them.
    """
    truth = evaluated.ground_truth
    file = evaluated.annotation_file
    sections: Mapping[str, Any] = truth
    if file and not (_has_fields(truth["images"], IMAGE_FIELDS) and _has_fields(truth["categories"], (FREQUENCY,))):
        sections = read_json(Path(file))
    images, categories = _lvis_fields(sections, where=file or evaluated.dataset_name)
    return truth | {
        "images": [image | images[image["id"]] for image in truth["images"]],
        "categories": [category | categories[category["id"]] for category in truth["categories"]],
    }


def _lvis_fields(sections: Mapping[str, Any], *, where: str) -> tuple[dict[Any, dict[str, Any]], ...]:
    """The fields of LVIS of images and of categories, by id."""
    images = _fields_by_id(sections["images"], IMAGE_FIELDS, what="image", where=where)
    return images, _fields_by_id(sections["categories"], (FREQUENCY,), what="category", where=where)


def _has_fields(items: Sequence[Mapping[str, Any]], names: Sequence[str]) -> bool:
    return all(name in item for item in items for name in names)


def _fields_by_id(
    items: Sequence[Mapping[str, Any]], names: Sequence[str], *, what: str, where: str
) -> dict[Any, dict[str, Any]]:
    for item in items:
        missing = [name for name in names if name not in item]
        if missing:
            raise UserError(
                f"EVAL.METRICS has 'lvis', but {where} is not annotated as LVIS is: {what} {item.get('id')} has no "
                f"{' and no '.join(missing)}. Use LVIS's annotation file (lvis_v1_val.json), or leave out 'lvis'."
            )
    return {item["id"]: {name: item[name] for name in names} for item in items}


def _measure(evaluated: Evaluated, task: str) -> Metrics:
    hotcoco = import_library("hotcoco", metric="lvis")
    found = replace(evaluated, rows=_first_rows(evaluated.rows, task)).detections_of(task)
    evaluation = hotcoco.LVISeval(hotcoco.COCO(evaluated.ground_truth_of(task)), hotcoco.COCO(found), task)
    evaluation.params.max_dets = [MAX_DETECTIONS]
    evaluation.evaluate()
    evaluation.accumulate()
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its table
        evaluation.summarize()
    values: Mapping[str, float] = evaluation.get_results()
    return {name: float("nan") if values[name] == UNDEFINED else 100 * values[name] for name in NAMES}


def _first_rows(rows: Sequence[Row], task: str) -> list[Row]:
    """The rows that count in each image: those with the highest scores, of all classes."""
    by_image = defaultdict(list)
    for row in rows:
        by_image[row["image_id"]].append(row)
    return [
        row
        for of_image in by_image.values()
        for row in sorted(of_image, key=lambda row: -score_of(row, task))[:MAX_DETECTIONS]
    ]


@METRICS.register("lvis")
def build_lvis_metric(_: CfgNode) -> LvisMetric:
    """The metric "lvis".

    Raises:
        UserError: hotcoco is not installed.
    """
    import_library("hotcoco", metric="lvis")
    return LvisMetric()
