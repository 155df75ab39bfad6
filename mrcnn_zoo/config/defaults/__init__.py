"""Every config key with its default, unit and meaning, one module an area."""

from mrcnn_zoo.config.defaults import (
    data,
    evaluation,
    mask_iou_head,
    model,
    panoptic,
    point_rend,
    retinanet,
    roi_heads,
    rpn,
    run,
    solver,
)
from mrcnn_zoo.config.keys import Key

AREAS = (model, rpn, roi_heads, mask_iou_head, retinanet, panoptic, data, solver, evaluation, run)

DETECTRON2_NAMES: frozenset[str] = frozenset(key.name for area in AREAS for key in area.DETECTRON2_KEYS)
# Names that Detectron2's core does not declare, and its project that does.
PROJECT_OF_NAME: dict[str, str] = {key.name: "PointRend" for key in point_rend.PROJECT_KEYS}
ALL_KEYS: tuple[Key, ...] = (
    *(key for area in AREAS for key in area.DETECTRON2_KEYS + area.NEW_KEYS),
    *point_rend.PROJECT_KEYS,
)
KEYS_BY_NAME: dict[str, Key] = {key.name: key for key in ALL_KEYS}
