"""Tables of weight names: one table per project renames in one direction or, where it is literal, in both."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from mrcnn_zoo.errors import UserError

# A piece of a name and its replacement. A literal piece that begins with a dot is replaced anywhere in a name, another
# literal piece only at the beginning of a name, and a compiled pattern wherever it matches.
Line = tuple[str | re.Pattern[str], str]


@dataclass(frozen=True)
class RenameTable:
    """Renames weights by the lines of a table, in their order.

    Args:
        lines: each places a part of the network. A name that none of them matches is not a name of this table.
        inner: applied after `lines`, within the parts that those have placed.
    """

    lines: Sequence[Line] = ()
    inner: Sequence[Line] = ()

    def rename(self, name: str) -> str:
        """The new name of a weight; the same name where no line matches.

        Args:
            name: in the file.
        """
        return self._placed(name) or name

    def apply(self, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """Rename all weights of a file.

        Args:
            weights: by their names in the file.

        Returns:
            The weights under their new names, and the names that no line matches.

        Raises:
            UserError: two weights with the same new name.
        """
        renamed: dict[str, Tensor] = {}
        leftovers: list[str] = []
        for name, tensor in weights.items():
            new_name = self._placed(name)
            if new_name is None:
                leftovers.append(name)
            elif new_name in renamed:
                raise UserError(
                    f"two weights of the file become {new_name}; {name} is one of them. Remove one of the two."
                )
            else:
                renamed[new_name] = tensor
        return renamed, tuple(leftovers)

    def inverse(self) -> "RenameTable":
        """The table of the other direction.

        Raises:
            ValueError: a line is a pattern.
        """
        return RenameTable(_swapped(self.lines), _swapped(self.inner))

    def _placed(self, name: str) -> str | None:
        matched = False
        for line in self.lines:
            new_name = _replaced(name, line)
            if new_name is not None:
                matched, name = True, new_name
        if not matched:
            return None
        for line in self.inner:
            name = _replaced(name, line) or name
        return name


def patterns(*lines: tuple[str, str]) -> tuple[Line, ...]:
    """Lines of regular expressions and their replacements."""
    return tuple((re.compile(pattern), replacement) for pattern, replacement in lines)


def _replaced(name: str, line: Line) -> str | None:
    old, new = line
    if isinstance(old, re.Pattern):
        renamed, count = old.subn(new, name)
        return renamed if count else None
    if old.startswith("."):
        return name.replace(old, new, 1) if old in name else None
    return new + name.removeprefix(old) if name.startswith(old) else None


def _swapped(lines: Iterable[Line]) -> tuple[Line, ...]:
    swapped: list[Line] = []
    for old, new in lines:
        if isinstance(old, re.Pattern):
            raise ValueError(f"the pattern {old.pattern} cannot be read in the other direction")
        swapped.append((new, old))
    return tuple(swapped)


# Within a residual block: torchvision's names, which MMDetection and maskrcnn-benchmark share, and Detectron2's.
RESIDUAL_BLOCK: tuple[Line, ...] = (
    (".bn1.", ".conv1.norm."),
    (".bn2.", ".conv2.norm."),
    (".bn3.", ".conv3.norm."),
    (".downsample.1.", ".shortcut.norm."),
    (".downsample.0.", ".shortcut."),
)


def without_pyramid(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename `backbone.bottom_up.*` to `backbone.*`, the names of a ResNet without an FPN.

    Args:
        weights: under our names.
    """
    table = RenameTable((("backbone.bottom_up.", "backbone."),))
    return {table.rename(name): tensor for name, tensor in weights.items()}
