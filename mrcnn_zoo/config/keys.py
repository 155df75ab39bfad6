"""How a config key is declared: its dotted name, its default and what it means."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Key:
    """One line of the defaults.

    Args:
        name: dotted, e.g. "MODEL.FPN.OUT_CHANNELS".
        default: also fixes the type that a value must have.
        meaning: one or two sentences with unit and allowed values, as `mrcnn-zoo config explain` prints them.
        is_built: False for a Detectron2 key whose part does not exist here yet; changing it is refused.
        other_types: further types a value may have, e.g. (str,) for a number that may also be "auto".
    """

    name: str
    default: Any
    meaning: str
    is_built: bool = True
    other_types: tuple[type, ...] = ()
