"""Which key a path means; what to say when there is none."""

from difflib import SequenceMatcher
from functools import lru_cache

from mrcnn_zoo.config.defaults import KEYS_BY_NAME
from mrcnn_zoo.config.keys import Key
from mrcnn_zoo.config.provenance import Assignment
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registry import did_you_mean

MAX_SUGGESTIONS = 4

# Version 1 of Detectron2's config (2019) differs from version 2 in these names only.
RENAMED = {
    "MODEL.WEIGHT": "MODEL.WEIGHTS",
    "MODEL.RPN_HEAD.NAME": "MODEL.RPN.HEAD_NAME",
    "MODEL.RPN.ANCHOR_SIZES": "MODEL.ANCHOR_GENERATOR.SIZES",
    "MODEL.RPN.ANCHOR_ASPECT_RATIOS": "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS",
    "MODEL.RETINANET.ANCHOR_SIZES": "MODEL.ANCHOR_GENERATOR.SIZES",
    "MODEL.RETINANET.ANCHOR_ASPECT_RATIOS": "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS",
    "MODEL.RETINANET.INFERENCE_SCORE_THRESHOLD": "MODEL.RETINANET.SCORE_THRESH_TEST",
    "MODEL.RETINANET.INFERENCE_TOPK_CANDIDATES": "MODEL.RETINANET.TOPK_CANDIDATES_TEST",
    "MODEL.RETINANET.INFERENCE_NMS_THRESHOLD": "MODEL.RETINANET.NMS_THRESH_TEST",
    "MODEL.ROI_HEADS.SCORE_THRESH": "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
    "MODEL.ROI_HEADS.NMS": "MODEL.ROI_HEADS.NMS_THRESH_TEST",
    "MODEL.PANOPTIC_FPN.SEMANTIC_LOSS_SCALE": "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT",
    "MODEL.PANOPTIC_FPN.RPN_LOSS_SCALE": "MODEL.RPN.LOSS_WEIGHT",
    "MODEL.PANOPTIC_FPN.INSTANCE_LOSS_SCALE": "MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT",
    "MODEL.PANOPTIC_FPN.COMBINE_ON": "MODEL.PANOPTIC_FPN.COMBINE.ENABLED",
    "MODEL.PANOPTIC_FPN.COMBINE_OVERLAP_THRESHOLD": "MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH",
    "MODEL.PANOPTIC_FPN.COMBINE_STUFF_AREA_LIMIT": "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT",
    "MODEL.PANOPTIC_FPN.COMBINE_INSTANCES_CONFIDENCE_THRESHOLD": (
        "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH"
    ),
    "TEST.DETECTIONS_PER_IMG": "TEST.DETECTIONS_PER_IMAGE",
    "TEST.AUG_ON": "TEST.AUG.ENABLED",
    "TEST.AUG_MIN_SIZES": "TEST.AUG.MIN_SIZES",
    "TEST.AUG_MAX_SIZE": "TEST.AUG.MAX_SIZE",
    "TEST.AUG_FLIP": "TEST.AUG.FLIP",
}


@lru_cache(maxsize=1)
def section_names() -> frozenset[str]:
    """Every dotted name that has keys below it, e.g. "MODEL.FPN"."""
    parts = [name.split(".") for name in KEYS_BY_NAME]
    return frozenset(".".join(names[:end]) for names in parts for end in range(1, len(names)))


def keys_below(section: str) -> list[Key]:
    """The keys in a section, in the order of their declaration; all keys for an empty name."""
    prefix = f"{section}." if section else ""
    return [key for name, key in KEYS_BY_NAME.items() if name.startswith(prefix)]


def locate(assignment: Assignment) -> tuple[Key, tuple[str, ...]]:
    """The key that an assignment means, and the names below it when that key is an open section.

    Raises:
        UserError: when there is no such key, naming the nearest ones and where the assignment stands.
    """
    path: list[str] = []
    parts = list(assignment.path)
    while parts:
        path += parts.pop(0).split(".")
        # The shortest prefix counts, since below an open section the user's own names may hold dots.
        for end in range(1, len(path) + 1):
            key = KEYS_BY_NAME.get(".".join(path[:end]))
            if key is not None and key.is_open:
                return key, (*path[end:], *parts)
    name = ".".join(path)
    name = RENAMED.get(name, name)
    if name not in KEYS_BY_NAME:
        raise UserError(f"{assignment.origin}: {no_such_key(name)}")
    return KEYS_BY_NAME[name], ()


def no_such_key(name: str) -> str:
    """A sentence about a name that is no key, with what may have been meant."""
    if name in section_names():
        leaves = ", ".join(key.name.removeprefix(f"{name}.") for key in keys_below(name)[:8])
        return f"{name} is a section and takes no value of its own; give one of its keys ({leaves}, ...)."
    for parent in _parents(name):
        if parent in KEYS_BY_NAME:
            return f"{parent} is a value, not a section, so there is no key {name}."
    return f"there is no config key {name}.{suggestion(name)}"


def suggestion(name: str) -> str:
    """` Did you mean ...?` with the keys of the same last part, or else the nearest key; or an empty string."""
    leaf = name.rsplit(".", 1)[-1].lower()
    same_leaf = [key for key in KEYS_BY_NAME.values() if key.name.rsplit(".", 1)[-1].lower() == leaf]
    if len(same_leaf) in range(1, MAX_SUGGESTIONS + 1):
        same_leaf.sort(key=lambda key: (not key.is_built, -SequenceMatcher(None, name, key.name).ratio()))
        return f" Did you mean {' or '.join(repr(key.name) for key in same_leaf)}?"
    return did_you_mean(name, [*KEYS_BY_NAME, *section_names()])


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]
