"""Every config key with its default, unit and meaning, one module per area."""

from mrcnn_zoo.config.defaults import (
    classifier,
    data,
    evaluation,
    gossip_net,
    model,
    proposal_generators,
    region_branches,
    retinanet,
    roi_heads,
    rpn,
    run,
    scenes,
    solver,
    unsupported,
)
from mrcnn_zoo.config.keys import Key

AREAS = (
    model,
    rpn,
    proposal_generators,
    roi_heads,
    region_branches,
    gossip_net,
    retinanet,
    classifier,
    data,
    scenes,
    solver,
    evaluation,
    run,
    unsupported,
)

DETECTRON2_NAMES: frozenset[str] = frozenset(key.name for area in AREAS for key in area.DETECTRON2_KEYS)
# Keys that Detectron2's core does not declare, and its project that does.
POINTREND_KEYS = region_branches.POINTREND_KEYS + unsupported.POINTREND_KEYS
PROJECT_OF_NAME: dict[str, str] = {key.name: "PointRend" for key in POINTREND_KEYS}

ALL_KEYS: tuple[Key, ...] = (
    *(key for area in AREAS for key in area.DETECTRON2_KEYS + area.NEW_KEYS),
    *POINTREND_KEYS,
)
KEYS_BY_NAME: dict[str, Key] = {key.name: key for key in ALL_KEYS}
KEYS_BY_OLD_NAME: dict[str, Key] = {old: key for key in ALL_KEYS for old in key.old_names}
_PARTS = [name.split(".") for name in KEYS_BY_NAME]
SECTION_NAMES: frozenset[str] = frozenset(  # every dotted name that has keys below it, e.g. "MODEL.FPN"
    ".".join(parts[:end]) for parts in _PARTS for end in range(1, len(parts))
)


def keys_below(section: str) -> list[Key]:
    """The keys in a section, in the order of their declaration.

    Args:
        section: dotted; empty for all keys.
    """
    prefix = f"{section}." if section else ""
    return [key for name, key in KEYS_BY_NAME.items() if name.startswith(prefix)]
