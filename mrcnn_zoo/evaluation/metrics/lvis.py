"""LVIS AP, of rare, common and frequent classes, with its federated annotations."""

import contextlib
import io
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.formats.coco_lvis import ABSENT, FREQUENCY, INCOMPLETE
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.ground_truth import BBOX, SEGM, complete_ground_truth
from mrcnn_zoo.evaluation.metrics.contract import Evaluated, MetricReport, import_library
from mrcnn_zoo.evaluation.metrics.overlaps import score_of
from mrcnn_zoo.evaluation.result_rows import Row
from mrcnn_zoo.evaluation.tables import Metrics, footnote, summary_table
from mrcnn_zoo.registries import METRICS

MAX_DETECTIONS = 300  # per image, of all classes; Gupta et al. 2019, section 3.4
IMAGE_FIELDS = (ABSENT, INCOMPLETE)
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
        """Check that the dataset has the fields of LVIS.

        Args:
            dataset: to be evaluated on.

        Raises:
            UserError: naming the first image or category without them.
        """
        without = replace(dataset, records=tuple(replace(record, instances=()) for record in dataset.records))
        _require_lvis_fields(complete_ground_truth(without), where=dataset.annotation_file or dataset.name)

    def __call__(self, evaluated: Evaluated) -> MetricReport:
        """Measure.

        Args:
            evaluated: ground truth, with the fields of LVIS, and detections.

        Raises:
            UserError: the annotations are not LVIS's, or hotcoco is not installed.
        """
        _require_lvis_fields(evaluated.ground_truth, where=evaluated.annotation_file or evaluated.dataset_name)
        results = {f"lvis_{task}": _measure(evaluated, task) for task in (BBOX, SEGM) if task in evaluated.tasks}
        text = f"## LVIS AP\n\n{summary_table(results)}{footnote(results)}"
        counts = Counter(row["image_id"] for row in evaluated.rows)
        # A results file may have more than the limit; they count.
        if max(counts.values(), default=0) == evaluated.max_detections < MAX_DETECTIONS:
            text += (
                f"\n\nTEST.DETECTIONS_PER_IMAGE is {evaluated.max_detections}; LVIS's own limit is {MAX_DETECTIONS} "
                "detections per image."
            )
        return MetricReport(results=results, text=text)


def _require_lvis_fields(sections: Mapping[str, Any], *, where: str) -> None:
    """Refuse ground truth of which an image or a category lacks the fields of LVIS."""
    for section, what, names in (("images", "image", IMAGE_FIELDS), ("categories", "category", (FREQUENCY,))):
        for item in sections[section]:
            missing = [name for name in names if name not in item]
            if missing:
                raise UserError(
                    f"EVAL.METRICS has 'lvis', but {where} is not annotated as LVIS is: {what} {item.get('id')} has no "
                    f"{' and no '.join(missing)}. Use LVIS's annotation file (lvis_v1_val.json), or leave out 'lvis'."
                )


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
