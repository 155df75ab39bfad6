"""How a config key is declared: its dotted name, its default and what it means."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Key:
    """One line of the defaults.

    Args:
        name: dotted, e.g. "MODEL.FPN.OUT_CHANNELS".
        default: also fixes the type that a value must have. `{}` declares an open section with names of the user's own.
        meaning: one or two sentences with unit and allowed values, as `mrcnn-zoo config explain` prints them.
        is_built: False for a Detectron2 key whose part does not exist here yet; changing it is refused.
        other_types: further types a value may have, e.g. (str,) for a number that may also be "auto".
        element_types: of the numbers or strings in a list; () takes those of the default's elements.
        choices: the only allowed values, when they are few and no registry knows them; () allows all.
    """

    name: str
    default: Any
    meaning: str
    is_built: bool = True
    other_types: tuple[type, ...] = ()
    element_types: tuple[type, ...] = ()
    choices: tuple[Any, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether this is a section in which the user invents the names."""
        return self.default == {}

    @property
    def types(self) -> tuple[type, ...]:
        """Every type that a value may have, the default's first."""
        return (type(self.default), *self.other_types)
