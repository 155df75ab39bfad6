"""Operators whose translation to ONNX is our own: NMS and RoIPool.

NMS is an operator of its own, which becomes ONNX's NonMaxSuppression per class when a program is written.

torch's NMS compares all boxes in one group: boxes of several classes are moved apart, in float64 because float32 has
too few bits for the sums. ONNX compares in float32 only, but knows classes, so here boxes stay where they are.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrcnn_zoo.ops import nms

NO_LIMIT = 2**63 - 1  # boxes per class
LEAST_SCORE = float(np.finfo(np.float32).min)  # of a box that is compared; the others have minus infinity


@torch.library.custom_op("mrcnn_zoo::kept_by_nms", mutates_args=())
def _kept_by_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, is_usable: Tensor, iou_threshold: float, num_groups: int
) -> Tensor:
    return nms.kept_by_nms(boxes, scores, groups, is_usable, iou_threshold=iou_threshold, num_groups=num_groups)


@_kept_by_nms.register_fake
def _shape_of_kept(
    boxes: Tensor,  # noqa: ARG001
    scores: Tensor,  # noqa: ARG001
    groups: Tensor,  # noqa: ARG001
    is_usable: Tensor,
    iou_threshold: float,  # noqa: ARG001
    num_groups: int,  # noqa: ARG001
) -> Tensor:
    return torch.empty_like(is_usable)


def kept_by_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, is_usable: Tensor, *, iou_threshold: float, num_groups: int
) -> Tensor:
    """`ops.nms.kept_by_nms` as one operator of a program that becomes ONNX."""
    return _kept_by_nms(boxes, scores, groups, is_usable, iou_threshold, num_groups)


def translation_table() -> dict[Any, Any]:
    """The translations for `torch.onnx.export`."""
    import torchvision  # noqa: F401, registers its operations

    return {torch.ops.mrcnn_zoo.kept_by_nms.default: _in_onnx, torch.ops.torchvision.roi_pool.default: _roi_pool}


def _roi_pool(features: Any, regions: Any, scale: float, height: int, width: int) -> Any:
    """The maxima and, for torch's second output that nothing reads, the maxima again; onnxscript's own fails."""
    import onnxscript

    op: Any = onnxscript.opset18
    pooled = op.MaxRoiPool(features, regions, pooled_shape=[height, width], spatial_scale=scale)
    return pooled, pooled


def _in_onnx(boxes: Any, scores: Any, groups: Any, is_usable: Any, iou_threshold: float, num_groups: int) -> Any:
    import onnxscript

    op: Any = onnxscript.opset18
    scores = op.Where(is_usable, scores, op.Constant(value_float=-np.inf))
    if num_groups > 1:
        numbers = op.Constant(value_ints=list(range(num_groups)))
        is_own = op.Equal(op.Unsqueeze(groups, [0]), op.Unsqueeze(numbers, [1]))  # (G, R)
        scores = op.Where(is_own, op.Unsqueeze(scores, [0]), op.Constant(value_float=-np.inf))
    else:
        scores = op.Unsqueeze(scores, [0])
    kept = op.NonMaxSuppression(
        op.Unsqueeze(boxes, [0]),
        op.Unsqueeze(scores, [0]),
        op.Constant(value_ints=[NO_LIMIT]),
        op.Constant(value_floats=[_not_above(iou_threshold)]),
        op.Constant(value_floats=[LEAST_SCORE]),
    )  # (S, 3): image, class, row
    rows = op.Slice(kept, [2], [3], [1])
    none = op.Expand(op.Constant(value_int=0), op.Shape(is_usable))
    ones = op.Expand(op.Constant(value_int=1), op.Shape(op.Squeeze(rows, [1])))
    return op.Equal(op.ScatterND(none, rows, ones), op.Constant(value_int=1))


def _not_above(threshold: float) -> float:
    """The largest float32 up to a threshold: a float32 above it is above the threshold, too."""
    rounded = np.float32(threshold)
    return float(rounded if float(rounded) <= threshold else np.nextafter(rounded, np.float32(-np.inf)))
