"""Converters of backbones and of whole detectors, and the search for the converter of a file."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from mrcnn_zoo.interop.renaming import RenameTable
from mrcnn_zoo.registries import CHECKPOINT_CONVERTERS


@dataclass(frozen=True)
class Conversion:
    """A detector of another project as one of ours.

    Args:
        weights: under our absolute names and in our conventions (order of anchors and classes, background last).
        leftovers: names in the file that no line of the table matches; they are reported, never guessed.
        settings: config keys and the values with which our model computes the same.
        class_names: by class index; empty where they are not known.
        notes: sentences about assumptions, and about what our model computes in another way.
    """

    weights: dict[str, Tensor]
    leftovers: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class DetectorConverter(Protocol):
    """Converts the files of one project with whole detectors; registered in CHECKPOINT_CONVERTERS."""

    @property
    def source(self) -> str:
        """Name of the project in reports."""
        ...

    def recognises(self, names: Collection[str]) -> bool:
        """Whether a file comes from this project; never true of our own files.

        Args:
            names: of the weights in the file.
        """
        ...

    def convert(self, weights: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Conversion:
        """The same network as one of ours.

        Args:
            weights: by their names in the file; not changed.
            meta: the other content of the file by its keys there; may be empty.

        Raises:
            UserError: a network that ours cannot express.
        """
        ...


@dataclass(frozen=True)
class BackboneConverter:
    """Converts the files of one project with backbones.

    Args:
        source: name of the project in reports.
        signature: names that all its files have, and no others.
        names: gives our names, relative to the backbone of a model.
        expected_settings: config keys and the values that the weights were trained with.
        settings_from_weights: more of these, which depend on the weights, by their names in the file.
        optional: regular expression of our names that are loaded where they fit, and otherwise not reported.
        prepare: changes values and adds omitted ones, under the names in the file.
    """

    source: str
    signature: tuple[str, ...]
    names: RenameTable = field(default_factory=RenameTable)
    expected_settings: Mapping[str, Any] = field(default_factory=dict)
    settings_from_weights: Callable[[Mapping[str, Tensor]], dict[str, Any]] = lambda _: {}
    optional: str = ""
    prepare: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict

    def recognises(self, names: Collection[str]) -> bool:
        """Whether a file comes from this project.

        Args:
            names: of the weights in the file.
        """
        return has_all(names, self.signature)

    def settings(self, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Config keys and values for these weights.

        Args:
            weights: by their names in the file.
        """
        return {**self.expected_settings, **self.settings_from_weights(weights)}


def has_all(names: Collection[str], signature: Collection[str]) -> bool:
    """Whether a file has all names of a signature.

    Args:
        names: in the file.
        signature: that its project is recognised by.
    """
    return all(name in names for name in signature)


def find_converter(names: Collection[str]) -> BackboneConverter | DetectorConverter | None:
    """The registered converter that recognises a file; those of detectors come first.

    Args:
        names: of the weights in the file.

    Returns:
        None for our own files and Detectron2's.
    """
    converters = [CHECKPOINT_CONVERTERS.get(name)() for name in CHECKPOINT_CONVERTERS]
    for converter in sorted(converters, key=lambda converter: isinstance(converter, BackboneConverter)):
        if converter.recognises(names):
            return converter
    return None
