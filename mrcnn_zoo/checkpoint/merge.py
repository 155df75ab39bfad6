"""Weights from a file into a model, with an account of each."""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mrcnn_zoo.checkpoint.adaptation import (
    NO_ROW,
    ClassNames,
    columns_by_class,
    differs_in_input_channels,
    filled_by_class,
    rows_by_class,
    stored_class_names,
    with_input_channels,
)
from mrcnn_zoo.checkpoint.report import LoadReport, Shape, shape_text
from mrcnn_zoo.checkpoint.sources import WeightsFile, read_weights
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.interop import BackboneConverter, Conversion, DetectorConverter, find_converter

# Counters and constants that a model has or has not without being another one: those of batch norms (a frozen one
# counts nothing), and what old Detectron2 files keep of pixel statistics and anchors.
IGNORED_NAMES = re.compile(
    r"(^|\.)(num_batches_tracked|pixel_mean|pixel_std|cell_anchors\.\d+|anchor_generator\.cell_anchors)$"
)
# Last layers, with one output (or four) for each class or keypoint.
CLASS_LAYERS = re.compile(
    r"(^|\.)(cls_score|bbox_pred|predictor|score_lowres|coarse_head\.prediction|point_head\.fc\d+)\.(weight|bias)$"
)
RESIDUAL_BLOCK = re.compile(r"(?:^|\.)(res[2-5])\.(\d+)\.")
NAMES_SHOWN = 20
MIN_FIT = 0.5  # of the values
MAX_MISMATCHED = 0.2  # of the tensors: a changed layer or two are fine, a wider network is another one

logger = logging.getLogger(__name__)


@dataclass
class Match:
    """Which weight of a file goes to which of a model."""

    pairs: dict[str, str] = field(default_factory=dict)  # name in the model -> name in the file
    reinitialized: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    mismatched: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    refitted: dict[str, str] = field(default_factory=dict)  # as pairs: first convolutions for other input channels
    # Name in the model -> see `rows_by_class` and `columns_by_class`.
    by_class: dict[str, tuple[Tensor | None, Tensor | None]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)  # names in the file that the model has, in whatever shape

    def missing(self, targets: Iterable[str]) -> tuple[str, ...]:
        """The names of the model for which the file has nothing."""
        found = {*self.pairs, *self.refitted, *self.by_class, *self.reinitialized, *self.mismatched}
        return tuple(name for name in targets if name not in found)

    def skipped(self, offered: Iterable[str]) -> tuple[str, ...]:
        """The names of the file for which the model has no place."""
        return tuple(name for name in offered if name not in self.used)


@dataclass(frozen=True)
class Offer:
    """What a file has for a model, under names that can be compared with the model's."""

    weights: dict[str, Tensor]
    converter: BackboneConverter | None = (
        None  # of a backbone, whose names are relative to wherever the model has its own
    )
    leftovers: tuple[str, ...] = ()  # names in the file that its source does not know
    source: str = ""  # what the file was recognised as
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()  # empty where they are not known


def load_weights(model: nn.Module, path_or_url: str | Path) -> LoadReport:
    """Fill a model with the weights of a file as far as they fit.

    Sources: our checkpoints and bare state dicts, Detectron2's `.pth` and `.pkl`, `.safetensors`, and whatever
    CHECKPOINT_CONVERTERS recognises; local, at an http(s) URL, or `detectron2://...`.

    A first convolution for another number of input channels is spread over the channels of the model.

    Args:
        model: changed in place; weights that the file has not, or has for another number of classes, stay as they are.
        path_or_url: of the file.

    Raises:
        UserError: the file cannot be read or is one of another model. The model is not changed then.
    """
    return load_weights_file(model, read_weights(path_or_url))


def load_weights_file(model: nn.Module, file: WeightsFile, *, class_names: Sequence[str] = ()) -> LoadReport:
    """As `load_weights`, of a file that has been read.

    Args:
        model: see `load_weights`.
        file: see there.
        class_names: of the model by class index. Where the file has other ones, the rows of its last layers are taken
            by name, and those of classes that it does not have stay as they are. Without names rows keep their order.
    """
    targets = {name: value for name, value in model.state_dict().items() if not IGNORED_NAMES.search(name)}
    offer = _offer(file, targets)
    match = _match(targets, offer, input_channels=len(getattr(model, "pixel_mean", ())))
    classes = ClassNames(file=offer.class_names, model=tuple(class_names))
    if classes.file and classes.model and classes.file != classes.model:
        _match_classes(match, targets, offer, classes=classes, model=model)
    renamed = [offer.converter.names.rename(name) if offer.converter else name for name in offer.weights]
    _require_equal_depth(file.source, targets, renamed)
    _require_fit(file.source, targets, offer.weights, match)
    filling = {target: offer.weights[source] for target, source in match.pairs.items()}
    for target, source in match.refitted.items():
        filling[target] = with_input_channels(offer.weights[source], targets[target].shape[1])
    for target, (rows, columns) in match.by_class.items():
        filling[target] = filled_by_class(offer.weights[target], targets[target], rows, columns)
    model.load_state_dict(filling, strict=False)
    _warn_of_unnamed(match, classes, file.source)
    return LoadReport(
        source=file.source,
        sizes={name: value.numel() for name, value in {**file.weights, **offer.weights, **targets}.items()},
        loaded=() if offer.source else tuple(match.pairs),
        converted=(*(match.pairs if offer.source else ()), *match.refitted),
        by_class={name: _num_copied(*places, targets[name]) for name, places in match.by_class.items()},
        reinitialized=match.reinitialized,
        mismatched=match.mismatched,
        missing=match.missing(targets),
        skipped=(*match.skipped(offer.weights), *offer.leftovers),
        converter=offer.source,
        expected_settings=offer.settings,
        notes=(*offer.notes, *_class_notes(match, classes)),
    )


def convert_detector(file: WeightsFile) -> Conversion | None:
    """The detector in a file of another project as ours; None for files of ours, Detectron2's and backbones.

    Raises:
        UserError: it is one, and cannot be expressed as ours.
    """
    converter = find_converter(file.weights.keys())
    return (
        None
        if converter is None or isinstance(converter, BackboneConverter)
        else converter.convert(file.weights, file.meta)
    )


def _offer(file: WeightsFile, targets: Mapping[str, Tensor]) -> Offer:
    offered = {name: value for name, value in file.weights.items() if not IGNORED_NAMES.search(name)}
    converter = find_converter(file.weights.keys())
    if converter is None:
        return Offer(offered, class_names=stored_class_names(file))
    if isinstance(converter, BackboneConverter):
        if targets.keys() & offered.keys():
            return Offer(offered)
        prepared = {name: value for name, value in converter.prepare(offered).items() if not IGNORED_NAMES.search(name)}
        return Offer(prepared, converter, source=converter.source, settings=converter.settings(file.weights))
    return _offer_of_detector(file, converter)


def _offer_of_detector(file: WeightsFile, converter: DetectorConverter) -> Offer:
    conversion = converter.convert(file.weights, file.meta)
    return Offer(
        {name: value for name, value in conversion.weights.items() if not IGNORED_NAMES.search(name)},
        leftovers=tuple(name for name in conversion.leftovers if not IGNORED_NAMES.search(name)),
        source=converter.source,
        settings=conversion.settings,
        notes=conversion.notes,
        class_names=stored_class_names(file) or conversion.class_names,
    )


def _match(targets: Mapping[str, Tensor], offer: Offer, *, input_channels: int) -> Match:
    offered = offer.weights
    sources = {name: name for name in targets if name in offered}
    if offer.converter is not None:
        sources = _by_longest_ending(targets, {offer.converter.names.rename(name): name for name in offered})
    match = Match(used=set(sources.values()))
    for name, source in sources.items():
        shapes = tuple(offered[source].shape), tuple(targets[name].shape)
        if shapes[0] == shapes[1]:
            match.pairs[name] = source
        elif CLASS_LAYERS.search(name) and _differ_in_classes(*shapes):
            match.reinitialized[name] = shapes
        elif differs_in_input_channels(name, *shapes, input_channels=input_channels):
            match.refitted[name] = source
        elif offer.converter is not None and offer.converter.optional and re.search(offer.converter.optional, name):
            match.used.discard(source)
        else:
            match.mismatched[name] = shapes
    return match


def _match_classes(
    match: Match, targets: Mapping[str, Tensor], offer: Offer, *, classes: ClassNames, model: nn.Module
) -> None:
    """Take the layers with rows of classes out of the others, because equal shapes do not mean equal classes."""
    for name in [name for name in (*match.pairs, *match.reinitialized) if name in offer.weights]:
        rows = rows_by_class(name, offer.weights[name], targets[name], classes=classes, model=model)
        columns = columns_by_class(name, offer.weights[name], targets[name], classes=classes, model=model)
        if rows is not None or columns is not None:
            match.by_class[name] = rows, columns
            match.pairs.pop(name, None)
            match.reinitialized.pop(name, None)


def _num_copied(rows: Tensor | None, columns: Tensor | None, target: Tensor) -> int:
    num_rows = len(target) if rows is None else int((rows != NO_ROW).sum())
    share = 1.0 if columns is None else (columns != NO_ROW).float().mean().item()
    return round(num_rows * target[0].numel() * share)


def _class_notes(match: Match, classes: ClassNames) -> tuple[str, ...]:
    if not match.by_class:
        return ()
    new = [name for name in classes.model if name not in classes.file]
    parts = [
        f"the rows of {_shortened(names)} {fate}"
        for names, fate in ((classes.shared, "are copied by name"), (new, "are newly initialised"))
        if names
    ]
    return (f"The file is for {counted(len(classes.file), 'class')} ({_shortened(classes.file)}); {', '.join(parts)}.",)


def _warn_of_unnamed(match: Match, classes: ClassNames, source: str) -> None:
    if classes.model and not classes.file and any(map(CLASS_LAYERS.search, match.pairs)):
        logger.warning("%s has no class names: its classes are taken to be the model's, in the same order", source)


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")


def _by_longest_ending(targets: Mapping[str, Tensor], renamed: Mapping[str, str]) -> dict[str, str]:
    sources = {}
    for target in targets:
        parts = target.split(".")
        endings = (".".join(parts[start:]) for start in range(len(parts)))
        ending = next((ending for ending in endings if ending in renamed), None)
        if ending is not None:
            sources[target] = renamed[ending]
    return sources


def _differ_in_classes(first: Shape, second: Shape) -> bool:
    """Whether one side differs, or outputs and inputs by the same number, as where a layer sees what others predict."""
    changes = [a - b for a, b in zip(first, second, strict=False) if a != b]
    return len(first) == len(second) and (len(changes) == 1 or (len(changes) == 2 and changes[0] == changes[1]))


def _require_equal_depth(source: str, targets: Iterable[str], offered: Iterable[str]) -> None:
    # The blocks of a deeper network fit one by one into a shallower one, and compute nothing useful there.
    ours, theirs = _blocks(targets), _blocks(offered)
    for stage in sorted(ours.keys() & theirs.keys()):
        if ours[stage] != theirs[stage]:
            raise UserError(
                f"{source} holds the weights of another model: {stage} has {len(theirs[stage])} blocks in the file, "
                f"{len(ours[stage])} in the model. Check MODEL.RESNETS.DEPTH. Nothing was loaded."
            )


def _blocks(names: Iterable[str]) -> dict[str, set[str]]:
    blocks: dict[str, set[str]] = {}
    for stage, block in (found.groups() for found in map(RESIDUAL_BLOCK.search, names) if found):
        blocks.setdefault(stage, set()).add(block)
    return blocks


def _require_fit(source: str, targets: Mapping[str, Tensor], offered: Mapping[str, Tensor], match: Match) -> None:
    # Heads for other classes count on neither side: they are expected to differ.
    of_classes = {*match.reinitialized, *match.by_class}
    of_model = sum(value.numel() for name, value in targets.items() if name not in of_classes)
    of_file = sum(value.numel() for name, value in offered.items() if name not in of_classes)
    fitting = sum(targets[name].numel() for name in (*match.pairs, *match.refitted))
    # A backbone alone fills little of a detector, but then all of the file fits. Weights that share names but not
    # shapes come from a network of another size, and what fits of them by chance is of no use.
    share = fitting / max(of_model if match.mismatched else min(of_model, of_file), 1)
    if share >= MIN_FIT and len(match.mismatched) <= MAX_MISMATCHED * len(targets):
        return
    parts = [f"{source} holds the weights of another model: only {fitting:,} of this one's {of_model:,} values fit."]
    for name, (theirs, ours) in list(match.mismatched.items())[:2]:
        parts.append(f"{name} is {shape_text(theirs)} in the file, {shape_text(ours)} in the model.")
    skipped, missing = match.skipped(offered)[:3], match.missing(targets)[:3]
    if skipped and missing:
        parts.append(f"The file has e.g. {', '.join(skipped)}; the model has e.g. {', '.join(missing)}.")
    parts.append("Use the config that the weights were trained with, or other MODEL.WEIGHTS. Nothing was loaded.")
    raise UserError(" ".join(parts))
