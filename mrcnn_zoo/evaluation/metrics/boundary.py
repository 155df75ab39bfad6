"""Boundary AP: COCO's AP with an IoU that is sensitive to the contours of large objects."""

from collections.abc import Sequence

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.evaluation.backends import AREAS, curves_by_faster_coco_eval
from mrcnn_zoo.evaluation.ground_truth import SEGM
from mrcnn_zoo.evaluation.metrics.contract import Evaluated, MetricReport, import_library
from mrcnn_zoo.evaluation.tables import coco_metric_names, coco_metrics, footnote, is_of_class, summary_table
from mrcnn_zoo.registries import METRICS

BOUNDARY = "boundary"  # group of the results, and faster-coco-eval's name of the task
HEADING = "## Boundary AP of masks"


class BoundaryMetric:
    """The metric "boundary", computed by faster-coco-eval.

    The IoU of two masks is the smaller one of their IoU and that of their boundaries; the boundary of a mask is its
    pixels within 2 % of the image's diagonal from its contour, at least 1 pixel. Everything else is COCO's: crowds,
    IoU thresholds, sizes of objects and the limit of detections.

    Source: Cheng et al. 2021 (Boundary IoU), section 5.
    """

    def names(self, tasks: Sequence[str]) -> list[str]:
        """Names of the results, without those of classes.

        Args:
            tasks: that will be evaluated.
        """
        names = coco_metric_names(areas=AREAS, limits=(), class_names=())
        return [f"{BOUNDARY}/{name}" for name in names] if SEGM in tasks else []

    def __call__(self, evaluated: Evaluated) -> MetricReport:
        """Measure.

        Args:
            evaluated: ground truth and detections.
        """
        if SEGM not in evaluated.tasks:
            return MetricReport(details=f"{HEADING}\n\nNo masks are evaluated.")
        curves = curves_by_faster_coco_eval(
            evaluated.ground_truth_of(SEGM), evaluated.detections_of(SEGM), BOUNDARY, [evaluated.max_detections]
        )
        metrics = coco_metrics(curves, evaluated.class_names, evaluated.category_ids)
        overall = {name: value for name, value in metrics.items() if not is_of_class(name)}
        table = summary_table({BOUNDARY: overall}) + footnote({BOUNDARY: overall})
        return MetricReport(results={BOUNDARY: metrics}, text=f"{HEADING}\n\n{table}")


@METRICS.register("boundary")
def build_boundary_metric(_: CfgNode) -> BoundaryMetric:
    """The metric "boundary".

    Raises:
        UserError: faster-coco-eval is not installed.
    """
    import_library("faster_coco_eval", metric=BOUNDARY)
    return BoundaryMetric()
