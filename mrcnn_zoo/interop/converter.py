"""How the weights of another project become ours: converters and the tables they share."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from mrcnn_zoo.registries import CHECKPOINT_CONVERTERS

Renames = Sequence[tuple[str, str]]  # regular expression and its replacement


@dataclass(frozen=True)
class Conversion:
    """A whole detector of another project, as ours.

    Args:
        weights: under our absolute names, in our conventions (classes in order, background last).
        leftovers: names in the file that no line of the table took; they are listed, never guessed.
        settings: config keys and the values with which our model computes the same.
        class_names: by class index; empty where the file does not tell.
        notes: sentences about what was assumed, and about what our model does not compute in the same way.
    """

    weights: dict[str, Tensor]
    leftovers: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class DetectorSource(Protocol):
    """A kind of files with whole detectors of another project; one file each, registered in CHECKPOINT_CONVERTERS."""

    @property
    def source(self) -> str:
        """As reports call it."""
        ...

    def recognises(self, names: Collection[str]) -> bool:
        """Whether weights with these names come from this source; never true of our own names."""
        ...

    def convert(self, weights: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Conversion:
        """The same network as ours.

        Args:
            weights: by their names in the file; not changed.
            meta: what else the file holds beside the weights, by its keys there; may be empty.

        Raises:
            UserError: a network of this source that cannot be expressed as ours.
        """
        ...


@dataclass(frozen=True)
class Converter:
    """A source of backbones: how it is recognised and how its names are changed.

    Args:
        source: as reports call it.
        signature: names that all files of this source have, and no others.
        renames: regular expressions and replacements, applied to each name in this order. The results are names
            relative to wherever the model has its backbone.
        expected_settings: config keys and the values that the weights were trained with.
        bottleneck_settings: more of them, for files with the names in `bottleneck_signature`.
        bottleneck_signature: a name that only networks with bottleneck blocks have.
        optional: regular expression of our names that are taken where they fit, and else are nothing to complain of.
        prepare: changes values and adds what the file leaves out, under the names of the file.
        settings_by_weights: more of the settings, as far as the weights tell.
    """

    source: str
    signature: tuple[str, ...]
    renames: tuple[tuple[str, str], ...] = ()
    expected_settings: Mapping[str, Any] = field(default_factory=dict)
    bottleneck_settings: Mapping[str, Any] = field(default_factory=dict)
    bottleneck_signature: str = ""
    optional: str = ""
    prepare: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict
    settings_by_weights: Callable[[Mapping[str, Tensor]], dict[str, Any]] = lambda _: {}

    def recognises(self, names: Collection[str]) -> bool:
        """Whether weights with these names come from this source."""
        return all(name in names for name in self.signature)

    def rename(self, name: str) -> str:
        """Our name, relative to the backbone."""
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        return name

    def settings(self, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """The config values that weights, by their names in the file, expect."""
        has_bottlenecks = self.bottleneck_signature in weights
        return {
            **self.expected_settings,
            **(self.bottleneck_settings if has_bottlenecks else {}),
            **self.settings_by_weights(weights),
        }


def renamed(weights: Mapping[str, Tensor], renames: Renames) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Weights under new names: every line of a table is applied to every name, in the order of the lines.

    Returns:
        Those with a name that some line has changed, and the names that no line has changed.
    """
    taken: dict[str, Tensor] = {}
    leftovers: list[str] = []
    for name, tensor in weights.items():
        new_name = name
        was_taken = False
        for pattern, replacement in renames:
            new_name, count = re.subn(pattern, replacement, new_name)
            was_taken |= count > 0
        if not was_taken:
            leftovers.append(name)
        elif new_name in taken:
            raise AssertionError(f"two weights would be named {new_name}; {name} is one of them")
        else:
            taken[new_name] = tensor
    return taken, tuple(leftovers)


def background_last(rows: Tensor) -> Tensor:
    """Rows of K + 1 classes, the background's moved from first, as most projects have it, to last, as we do."""
    return rows.roll(-1, dims=0)


def background_first(rows: Tensor) -> Tensor:
    """Rows of K + 1 classes, the background's moved from last to first."""
    return rows.roll(1, dims=0)


def find_converter(names: Collection[str]) -> Converter | DetectorSource | None:
    """The registered converter that recognises the names, if any does; those of whole detectors come first."""
    converters = [CHECKPOINT_CONVERTERS.get(name)() for name in CHECKPOINT_CONVERTERS]
    for converter in sorted(converters, key=lambda converter: isinstance(converter, Converter)):
        if converter.recognises(names):
            return converter
    return None


Line = tuple[str, str]  # their piece of a name, ours


def to_ours(name: str, table: Sequence[Line]) -> str:
    """Our name of one of theirs; the same name if no line of the table applies.

    Lines are applied in their order. A piece that begins with a dot may stand anywhere in a name, others only at its
    beginning.
    """
    for theirs, ours in table:
        name = _replaced(name, theirs, ours)
    return name


def to_theirs(name: str, table: Sequence[Line]) -> str:
    """Their name of one of ours; see `to_ours`."""
    for theirs, ours in table:
        name = _replaced(name, ours, theirs)
    return name


def _replaced(name: str, old: str, new: str) -> str:
    if old.startswith("."):
        return name.replace(old, new, 1)
    return new + name.removeprefix(old) if name.startswith(old) else name


OUR_EPS = 1e-5  # that our norms add to the variance, and torchvision's new ones


def variance_under_our_eps(variance: Tensor, *, eps: float) -> Tensor:
    """The variance that our norm needs where another one adds `eps` to this one: (C,) -> (C,)."""
    return (variance.double() + (eps - OUR_EPS)).to(variance.dtype)


def folded(layer: tuple[Tensor, Tensor], norm: tuple[Tensor, Tensor, Tensor, Tensor], *, eps: float) -> tuple:
    """A layer that computes what it and the batch norm after it do at inference.

    Args:
        layer: weight (C, ...) and bias (C,).
        norm: scale, shift, mean and variance, each (C,).
        eps: that the norm adds to the variance.

    Returns:
        Weight and bias.
    """
    weight, bias = (tensor.double() for tensor in layer)
    scale, shift, mean, variance = (tensor.double() for tensor in norm)
    factor = scale * torch.rsqrt(variance + eps)
    new_weight = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    return new_weight.to(layer[0].dtype), ((bias - mean) * factor + shift).to(layer[1].dtype)


RPN_HEAD = "proposal_generator.rpn_head"


def sizes_first(weights: Mapping[str, Tensor], *, num_sizes: int) -> dict[str, Tensor]:
    """The RPN's last layers, of anchors that go through all sizes of one shape and then of the next, for ours.

    Ours go through all shapes of one size, then of the next.

    Args:
        weights: under our names.
        num_sizes: anchors of one shape on a cell; with one, both orders are the same.
    """
    reordered = dict(weights)
    for layer, values in ((f"{RPN_HEAD}.objectness_logits", 1), (f"{RPN_HEAD}.anchor_deltas", 4)):
        for name in (f"{layer}.weight", f"{layer}.bias"):
            tensor = weights[name]
            anchors = torch.arange(len(tensor) // values).reshape(-1, num_sizes).T.flatten()
            reordered[name] = tensor.unflatten(0, (-1, values))[anchors].flatten(0, 1)
    return reordered


UNUSED_ID = "N/A"

# By category id, from 1 on; the annotations leave some ids out.
COCO_CLASSES_BY_ID = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", UNUSED_ID, "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep"),
    *("cow", "elephant", "bear", "zebra", "giraffe", UNUSED_ID, "backpack", "umbrella", UNUSED_ID, UNUSED_ID),
    *("handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat"),
    *("baseball glove", "skateboard", "surfboard", "tennis racket", "bottle", UNUSED_ID, "wine glass", "cup", "fork"),
    *("knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza"),
    *(
        "donut",
        "cake",
        "chair",
        "couch",
        "potted plant",
        "bed",
        UNUSED_ID,
        "dining table",
        UNUSED_ID,
        UNUSED_ID,
        "toilet",
    ),
    *(UNUSED_ID, "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink"),
    *("refrigerator", UNUSED_ID, "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
)

# The 80 in use, in the order of their ids: class index k of most detectors.
COCO_CLASSES = tuple(name for name in COCO_CLASSES_BY_ID if name != UNUSED_ID)
COCO_CATEGORY_IDS = tuple(
    number for number, name in enumerate(COCO_CLASSES_BY_ID, start=1) if name != UNUSED_ID
)  # of COCO_CLASSES
