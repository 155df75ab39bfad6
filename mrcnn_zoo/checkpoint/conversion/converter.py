"""How the names of another project become ours."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from mrcnn_zoo.registries import CHECKPOINT_CONVERTERS


@dataclass(frozen=True)
class Converter:
    """A source of weights: how it is recognised and how its names are changed.

    Args:
        source: as reports call it.
        signature: names that all files of this source have, and no others.
        renames: regular expressions and replacements, applied to each name in this order. The results are names
            relative to wherever the model has its backbone.
        expected_settings: config keys and the values that the weights were trained with.
        bottleneck_settings: more of them, for files with the names in `bottleneck_signature`.
        bottleneck_signature: a name that only networks with bottleneck blocks have.
    """

    source: str
    signature: tuple[str, ...]
    renames: tuple[tuple[str, str], ...] = ()
    expected_settings: Mapping[str, Any] = field(default_factory=dict)
    bottleneck_settings: Mapping[str, Any] = field(default_factory=dict)
    bottleneck_signature: str = ""

    def recognises(self, names: Collection[str]) -> bool:
        """Whether weights with these names come from this source."""
        return all(name in names for name in self.signature)

    def rename(self, name: str) -> str:
        """Our name, relative to the backbone."""
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        return name

    def settings(self, names: Collection[str]) -> dict[str, Any]:
        """The config values that weights with these names expect."""
        has_bottlenecks = self.bottleneck_signature in names
        return {**self.expected_settings, **(self.bottleneck_settings if has_bottlenecks else {})}


def find_converter(names: Collection[str]) -> Converter | None:
    """The registered converter that recognises the names, if any does."""
    for name in CHECKPOINT_CONVERTERS:
        converter: Converter = CHECKPOINT_CONVERTERS.get(name)()
        if converter.recognises(names):
            return converter
    return None
