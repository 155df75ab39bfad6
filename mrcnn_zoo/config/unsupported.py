"""Keys of Detectron2 that this version does not support, and when that matters."""

import logging
from dataclasses import dataclass
from typing import Any

from mrcnn_zoo.config.defaults import ALL_KEYS
from mrcnn_zoo.config.keys import Key
from mrcnn_zoo.config.node import CfgNode
from mrcnn_zoo.config.provenance import COMMAND_LINE
from mrcnn_zoo.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Condition:
    """Keys that nothing reads unless another key selects their part.

    Args:
        prefix: of the dotted names of the keys.
        selector: the key that selects the part.
        values: of the selector that do.
    """

    prefix: str
    selector: str
    values: tuple[Any, ...]

    def holds(self, config: CfgNode) -> bool:
        """Whether the part is selected."""
        return config.value_of(self.selector) in self.values

    def __str__(self) -> str:
        return f"{self.selector} is {' or '.join(str(value) for value in self.values)}"


# Detectron2's full config.yaml files set every key, also those of parts that are not in use. An unbuilt key that no
# line here begins with matters always.
CONDITIONS = (
    Condition("MODEL.SEM_SEG_HEAD.", "MODEL.META_ARCHITECTURE", ("PanopticFPN", "SemanticSegmentor")),
    Condition("MODEL.PANOPTIC_FPN.", "MODEL.META_ARCHITECTURE", ("PanopticFPN",)),
    Condition("MODEL.ANCHOR_GENERATOR.ANGLES", "MODEL.ANCHOR_GENERATOR.NAME", ("RotatedAnchorGenerator",)),
    Condition("MODEL.POINT_HEAD.COARSE_SEM_SEG_HEAD_NAME", "MODEL.META_ARCHITECTURE", ("SemanticSegmentor",)),
    Condition("MODEL.IMPLICIT_POINTREND.", "MODEL.ROI_MASK_HEAD.NAME", ("ImplicitPointRendMaskHead",)),
    Condition("INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", "MODEL.META_ARCHITECTURE", ("SemanticSegmentor",)),
    Condition("INPUT.COLOR_AUG_SSD", "MODEL.META_ARCHITECTURE", ("SemanticSegmentor",)),
)


def condition_of(key: Key) -> Condition | None:
    """When an unbuilt key matters; None for always."""
    return next((condition for condition in CONDITIONS if key.name.startswith(condition.prefix)), None)


def unbuilt_changes(config: CfgNode) -> list[Key]:
    """The unbuilt keys that differ from their default where that would change the result, or on the command line.

    Files may carry keys of parts they do not select, as Detectron2's full dumps do; what is typed should count.
    """
    return [key for key in _changed(config) if _matters(key, config) or _is_typed(key, config)]


def inert_changes(config: CfgNode) -> list[Key]:
    """The unbuilt keys that differ from their default in a file, and belong to a part that it does not select."""
    return [key for key in _changed(config) if not _matters(key, config) and not _is_typed(key, config)]


def warn_of_inert(config: CfgNode) -> None:
    """Log one line that lists the changed keys without effect, if there are any."""
    inert = [f"{key.name} ({config.origin_of(key.name)})" for key in inert_changes(config)]
    if inert:
        logger.warning(
            "set without effect, as they belong to parts that the config does not select: %s", ", ".join(inert)
        )


def _changed(config: CfgNode) -> list[Key]:
    return [key for key in ALL_KEYS if not key.is_built and config.value_of(key.name) != key.default]


def _matters(key: Key, config: CfgNode) -> bool:
    condition = condition_of(key)
    return condition is None or condition.holds(config)


def _is_typed(key: Key, config: CfgNode) -> bool:
    return config.origin_of(key.name).source == COMMAND_LINE


def refuse_unbuilt(config: CfgNode) -> None:
    """Raise a UserError that lists every unbuilt key that the config relies on."""
    lines = []
    for key in unbuilt_changes(config):
        condition = condition_of(key)
        why = "because" if _matters(key, config) else "only if"
        reason = f", which counts {why} {condition}" if condition else ""
        lines.append(
            f"{config.origin_of(key.name)}: {key.name} = {config.value_of(key.name)!r}{reason}; "
            f"leave it at its default {key.default!r}."
        )
    if lines:
        keys = "this key sets a part" if len(lines) == 1 else "these keys set parts"
        raise UserError(f"{keys} of Detectron2 that this version does not have:\n  " + "\n  ".join(lines))
