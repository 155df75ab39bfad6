"""Ceilings: the AP if one part of the detector were perfect, by changing only that part of its detections.

A detection belongs to an object from an IoU of 0.1 on, and has the class of an object from 0.5 on, as in TIDE (Bolya et
al. 2020, section 2.2). Crowds are not changed. The IoU is that of the task, boxes or masks.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from tabulate import tabulate

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.evaluation.backends import Backend, build_backend, detection_set
from mrcnn_zoo.evaluation.ground_truth import BBOX, SEGM
from mrcnn_zoo.evaluation.metrics.contract import Evaluated, MetricReport
from mrcnn_zoo.evaluation.metrics.overlaps import (
    ImageOverlaps,
    image_overlaps,
    overlap_matrix,
    pairs_of_largest_sum,
    score_of,
)
from mrcnn_zoo.evaluation.result_rows import Row
from mrcnn_zoo.evaluation.tables import Metrics, coco_metrics
from mrcnn_zoo.ops.masks import paste_masks
from mrcnn_zoo.ops.rle import decode_window, encode_windows
from mrcnn_zoo.registries import METRICS

OBJECT_IOU = 0.1  # minimum IoU of a detection that belongs to an object
CLASS_IOU = 0.5  # minimum IoU of a detection that shows the class of an object
NONE = -1  # index of a detection without object
MASK_THRESHOLD = 0.5  # of the pasted probabilities
HOTCOCO = "hotcoco"  # the fastest of AP_BACKENDS
POINT_REND = "PointRendMaskHead"  # the MODEL.ROI_MASK_HEAD.NAME whose masks grow by subdivision

Oracle = Callable[[ImageOverlaps], list[Row]]  # the changed detections of an image


def match_greedily(overlaps: ImageOverlaps, is_allowed: NDArray[np.bool_], threshold: float) -> NDArray[np.int64]:
    """One object per detection: in descending order of score, each takes the free object of highest IoU.

    This is COCO's matching, which makes any lower threshold match at least as many of the first n detections.

    Args:
        overlaps: of the image.
        is_allowed: (D, G) pairs that may match; crowds never do.
        threshold: minimum IoU of a pair.

    Returns:
        (D,) index of the object, -1 without.
    """
    ious = np.where(is_allowed & ~overlaps.is_crowd, overlaps.ious, -1.0)
    matches = np.full(len(ious), NONE, dtype=np.int64)
    if ious.size:
        for row, values in enumerate(ious):
            best = values.argmax()
            if values[best] >= threshold:
                matches[row] = best
                ious[:, best] = -1.0
    return matches


def perfect_boxes(overlaps: ImageOverlaps) -> list[Row]:
    """The box of each detection that belongs to an object of its class is that of the object.

    Args:
        overlaps: of the boxes of an image.
    """
    matches = match_greedily(overlaps, overlaps.same_class, OBJECT_IOU)
    return [
        row if match == NONE else {**row, "bbox": overlaps.objects[match]["bbox"]}
        for row, match in zip(overlaps.rows, matches, strict=True)
    ]


def perfect_classes(overlaps: ImageOverlaps) -> list[Row]:
    """Detections that show an object of another class get its class.

    If the object has a detection already, they are removed: with the right class they would have been suppressed.

    Args:
        overlaps: of an image.
    """
    same = overlaps.same_class
    correct = match_greedily(overlaps, same, CLASS_IOU)
    is_free = ~np.isin(np.arange(len(overlaps.objects)), correct)
    wrong = match_greedily(overlaps, ~same & is_free & (correct == NONE)[:, None], CLASS_IOU)
    shows = (overlaps.ious >= CLASS_IOU) & ~overlaps.is_crowd
    is_unmatched = (wrong == NONE) & (correct == NONE)
    is_removed = is_unmatched & np.any(shows & ~same, axis=1) & ~np.any(shows & same, axis=1)
    return [
        row if match == NONE else {**row, "category_id": int(overlaps.object_classes[match])}
        for row, match, removed in zip(overlaps.rows, wrong, is_removed, strict=True)
        if not removed
    ]


def perfect_suppression(overlaps: ImageOverlaps, task: str) -> list[Row]:
    """One detection per object and class: the one of highest IoU, with the highest score of those that it replaces.

    Detections that belong to no object stay. This is the ceiling of every choice among these detections, rescoring as
    in GossipNet included.

    Args:
        overlaps: of an image.
        task: "bbox" or "segm".
    """
    ious = np.where(overlaps.same_class & ~overlaps.is_crowd & (overlaps.ious >= OBJECT_IOU), overlaps.ious, 0.0)
    kept = np.full(len(ious), NONE, dtype=np.int64)
    rows, columns = pairs_of_largest_sum(ious)
    kept[rows] = np.where(ious[rows, columns] > 0, columns, NONE)
    belongs = np.any(ious > 0, axis=1)
    owner = np.where(kept != NONE, kept, ious.argmax(axis=1) if ious.size else NONE)
    best = np.full(len(overlaps.objects), -np.inf)
    np.maximum.at(best, owner[belongs], overlaps.scores[belongs])
    return [
        row if match == NONE else _with_score(row, float(best[match]), task)
        for row, match, is_any in zip(overlaps.rows, kept, belongs, strict=True)
        if match != NONE or not is_any
    ]


def found_objects(overlaps: ImageOverlaps) -> list[Row]:
    """Objects that no detection belongs to get a detection like the annotation, with score 1.

    Objects that are detected with another class are not missed.

    Args:
        overlaps: of an image.
    """
    same = overlaps.same_class
    own = match_greedily(overlaps, same, OBJECT_IOU)
    other = match_greedily(overlaps, ~same & (own == NONE)[:, None], CLASS_IOU)
    is_missed = ~overlaps.is_crowd & ~np.isin(np.arange(len(overlaps.objects)), np.concatenate((own, other)))
    names = ("image_id", "category_id", "bbox", "segmentation")
    found = [
        {name: annotation[name] for name in names if name in annotation} | {"score": 1.0}
        for annotation, missed in zip(overlaps.objects, is_missed, strict=True)
        if missed
    ]
    return [*overlaps.rows, *found]


def without_background(overlaps: ImageOverlaps) -> list[Row]:
    """Detections that overlap no object of any class by 0.1 are removed.

    Args:
        overlaps: of an image.
    """
    is_kept = np.any(overlaps.ious >= OBJECT_IOU, axis=1)
    return [row for row, kept in zip(overlaps.rows, is_kept, strict=True) if kept]


def perfect_masks(overlaps: ImageOverlaps, side: int) -> list[Row]:
    """The mask of each detection that belongs to an object of its class is that of the object, as far as possible.

    The mask of the object is averaged in the side x side cells of the detected box and pasted as the head's
    probabilities are. Where the predicted mask overlaps the object more, it stays.

    Args:
        overlaps: of the masks of an image.
        side: M, cells per side of the head's masks.
    """
    matches = match_greedily(overlaps, overlaps.same_class, OBJECT_IOU)
    changed = list(overlaps.rows)
    size = (overlaps.image["height"], overlaps.image["width"])
    for row in np.flatnonzero(matches != NONE):
        annotation = overlaps.objects[matches[row]]
        masked = {**changed[row], "segmentation": mask_on_grid(annotation["segmentation"], changed[row], side, size)}
        iou = overlap_matrix([masked], [annotation], SEGM, np.zeros(1, dtype=bool))[0, 0]
        if iou >= overlaps.ious[row, matches[row]]:
            changed[row] = masked
    return changed


def mask_on_grid(rle: Row, row: Row, side: int, image_size: tuple[int, int]) -> Row:
    """A mask as a head with a grid of cells in a box can represent it.

    Args:
        rle: the mask, not empty.
        row: with the box, "bbox", x y width height.
        side: M, cells per side.
        image_size: (height, width).

    Returns:
        RLE.
    """
    from torchvision.ops import roi_align

    window = decode_window(dict(rle))
    assert window is not None, "an object that overlaps a detection has pixels"
    x, y, width, height = row["bbox"]
    # A margin of 2 zeros, because RoIAlign continues the pixels at the border.
    bitmap = torch.from_numpy(np.pad(window.bitmap, 2).astype(np.float32))[None, None]
    left, top = x - window.x + 2, y - window.y + 2
    box = torch.tensor([[0.0, left, top, left + width, top + height]], dtype=torch.float32)
    cells = roi_align(bitmap, box, side, aligned=True)[0].numpy()  # (1, M, M)
    corners = np.array([[x, y, x + width, y + height]], dtype=np.float32)
    return encode_windows(paste_masks(cells, corners, image_size, threshold=MASK_THRESHOLD), image_size)[0]


@dataclass(frozen=True)
class OracleMetric:
    """The metric "oracles".

    Without crowds no ceiling is below the AP of the run, but for rare cases of "classes" above an IoU of 0.5.

    Args:
        backend: computes precision and recall; one of AP_BACKENDS.
        mask_side: M, cells per side of the masks of the head.
    """

    backend: Backend
    mask_side: int

    def names(self, tasks: Sequence[str]) -> list[str]:
        """Names of the results.

        Args:
            tasks: that will be evaluated.
        """
        return [f"oracles_{task}/{name}" for task in (BBOX, SEGM) if task in tasks for name in self._oracles(task)]

    def __call__(self, evaluated: Evaluated) -> MetricReport:
        """Measure.

        Args:
            evaluated: ground truth and detections.
        """
        results: dict[str, Metrics] = {}
        lines = []
        for task in (BBOX, SEGM):
            if task in evaluated.tasks:
                measured = dict(self._measure(evaluated, task))
                base = measured.pop("")
                results[f"oracles_{task}"] = {name: metrics["AP"] for name, metrics in measured.items()}
                lines += [_line(task, "nothing", base, base)]
                lines += [_line(task, name, metrics, base) for name, metrics in measured.items()]
        table = tabulate(
            lines,
            ("task", "perfect", "AP", "change", "AP50", "AP75"),
            tablefmt="pipe",
            disable_numparse=True,
            colalign=("left", "left", "right", "right", "right", "right"),
        )
        note = f"Masks at {self.mask_side} x {self.mask_side} cells per box. Definitions: docs/evaluation.md."
        return MetricReport(results=results, text=f"## AP if one part were perfect\n\n{table}\n\n{note}")

    def _oracles(self, task: str) -> dict[str, Oracle]:
        own: dict[str, Oracle] = (
            {"boxes": perfect_boxes}
            if task == BBOX
            else {"masks": lambda overlaps: perfect_masks(overlaps, self.mask_side)}
        )
        return own | {
            "classes": perfect_classes,
            "suppression": lambda overlaps: perfect_suppression(overlaps, task),
            "missed": found_objects,
            "background": without_background,
        }

    def _measure(self, evaluated: Evaluated, task: str) -> Iterator[tuple[str, Metrics]]:
        """COCO's metrics by oracle; "" for the detections as they are."""
        ground_truth = evaluated.ground_truth_of(task)
        images = list(image_overlaps(evaluated, task))
        # More than before can be found; those beyond the limit are removed from `images`.
        limit = max((len(overlaps.rows) + len(overlaps.objects) for overlaps in images), default=1)
        unchanged: dict[str, Oracle] = {"": lambda overlaps: overlaps.rows}
        for name, oracle in (unchanged | self._oracles(task)).items():
            rows = [dict(row) for overlaps in images for row in oracle(overlaps)]
            curves = self.backend(ground_truth, detection_set(rows, ground_truth, task), task, [max(limit, 1)])
            yield name, coco_metrics(curves, evaluated.class_names, evaluated.category_ids)


def _with_score(row: Row, score: float, task: str) -> Row:
    if score_of(row, task) == score:
        return row
    return {**row, "mask_score" if task == SEGM and "mask_score" in row else "score": score}


def _line(task: str, name: str, metrics: Metrics, base: Metrics) -> list[str]:
    values = (metrics["AP"], metrics["AP50"], metrics["AP75"])
    ap, ap50, ap75 = ("-" if np.isnan(value) else f"{value:.2f}" for value in values)
    change = metrics["AP"] - base["AP"]
    return [task, name, ap, "" if metrics is base or np.isnan(change) else f"{change:+.2f}", ap50, ap75]


def build_mask_side(cfg: CfgNode) -> int:
    """M, cells per side of the predicted masks.

    Args:
        cfg: of the model.
    """
    head, points = cfg.MODEL.ROI_MASK_HEAD, cfg.MODEL.POINT_HEAD
    if head.NAME == POINT_REND:
        return int(head.OUTPUT_SIDE_RESOLUTION * 2 ** (points.SUBDIVISION_STEPS if head.POINT_HEAD_ON else 0))
    return int(head.POOLER_RESOLUTION * 2**head.NUM_UPSAMPLE)


@METRICS.register("oracles")
def build_oracle_metric(cfg: CfgNode) -> OracleMetric:
    """The metric "oracles"; the resolution of masks is that of the configured head.

    It evaluates up to 12 times, by hotcoco where that is installed, which takes minutes less than pycocotools.

    Args:
        cfg: of the model.
    """
    backend = HOTCOCO if find_spec(HOTCOCO) else cfg.EVAL.BACKEND  # equal numbers
    return OracleMetric(build_backend(backend), build_mask_side(cfg))
