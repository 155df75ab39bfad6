"""Matches the weights of a file with those of a model, and refuses those of another model."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from mrcnn_zoo.checkpoint.adaptation import ClassNames, columns_by_class, differs_in_input_channels, rows_by_class
from mrcnn_zoo.checkpoint.report import Shape, shape_text
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.interop import BackboneConverter

# Last layers, with one output (or four) per class or keypoint.
CLASS_LAYERS = re.compile(
    r"(^|\.)(cls_score|bbox_pred|predictor|score_lowres|coarse_head\.prediction|point_head\.fc\d+)\.(weight|bias)$"
)
RESIDUAL_BLOCK = re.compile(r"(?:^|\.)(res[2-5])\.(\d+)\.")
MIN_FIT = 0.5  # share of the values
MAX_MISMATCHED = 0.2  # share of the tensors: one or two changed layers are fine, a wider network is another model


@dataclass(frozen=True)
class SourceWeights:
    """The weights of a file under names that can be matched with a model's.

    Args:
        weights: under our names, or under those of the file where there is a `converter`.
        converter: of a backbone, whose names are relative to the backbone of the model.
        leftovers: names in the file that its converter has no name for.
        project: that the file was recognised as; empty for our names.
        settings: config keys and values that the weights expect.
        notes: sentences about assumptions.
        class_names: by class index; empty where they are not known.
    """

    weights: dict[str, Tensor]
    converter: BackboneConverter | None = None
    leftovers: tuple[str, ...] = ()
    project: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()

    def our_names(self) -> dict[str, str]:
        """Our name, relative to the backbone where there is a converter, -> name in `weights`."""
        if self.converter is None:
            return {name: name for name in self.weights}
        return {self.converter.names.rename(name): name for name in self.weights}


@dataclass
class Match:
    """Which weight of a file is loaded into which weight of a model.

    Args:
        pairs: name in the model -> name in the file.
        other_channels: as `pairs`, of first convolutions for another number of input channels.
        by_class: name in the model -> rows and columns of shared classes, see `rows_by_class` and `columns_by_class`.
        reinitialized: name in the model -> shape in the file and in the model; of layers for other classes.
        mismatched: the same, of all other layers.
        used: names in the file that the model has, in any shape.
    """

    pairs: dict[str, str] = field(default_factory=dict)
    other_channels: dict[str, str] = field(default_factory=dict)
    by_class: dict[str, tuple[Tensor | None, Tensor | None]] = field(default_factory=dict)
    reinitialized: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    mismatched: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def missing(self, targets: Iterable[str]) -> tuple[str, ...]:
        """The names of the model that are not in the file.

        Args:
            targets: all names of the model.
        """
        found = {*self.pairs, *self.other_channels, *self.by_class, *self.reinitialized, *self.mismatched}
        return tuple(name for name in targets if name not in found)

    def skipped(self, sources: Iterable[str]) -> tuple[str, ...]:
        """The names in the file that are not in the model.

        Args:
            sources: all names in the file.
        """
        return tuple(name for name in sources if name not in self.used)


def match_weights(targets: Mapping[str, Tensor], source: SourceWeights, *, input_channels: int) -> Match:
    """Match the weights of a file with a model's by name and shape.

    Args:
        targets: the state dict of the model.
        source: of the file.
        input_channels: of the model's images; 0 where unknown.
    """
    names = {name: name for name in targets if name in source.weights}
    optional = ""
    if source.converter is not None:
        names = _match_endings(targets, source.our_names())
        optional = source.converter.optional
    match = Match(used=set(names.values()))
    for target, name in names.items():
        theirs, ours = tuple(source.weights[name].shape), tuple(targets[target].shape)
        if theirs == ours:
            match.pairs[target] = name
        elif CLASS_LAYERS.search(target) and _differ_in_classes(theirs, ours):
            match.reinitialized[target] = theirs, ours
        elif differs_in_input_channels(target, theirs, ours, input_channels=input_channels):
            match.other_channels[target] = name
        elif optional and re.search(optional, target):
            match.used.discard(name)
        else:
            match.mismatched[target] = theirs, ours
    return match


def _match_endings(targets: Iterable[str], sources: Mapping[str, str]) -> dict[str, str]:
    """For each name of a model the weight of a backbone that is its longest ending.

    Args:
        targets: names of the model.
        sources: name relative to the backbone -> name in the file.
    """
    found = {}
    for target in targets:
        parts = target.split(".")
        endings = (".".join(parts[start:]) for start in range(len(parts)))
        ending = next((ending for ending in endings if ending in sources), None)
        if ending is not None:
            found[target] = sources[ending]
    return found


def _differ_in_classes(first: Shape, second: Shape) -> bool:
    """Whether one side differs, or outputs and inputs by the same number, as a layer of others' logits does."""
    changes = [a - b for a, b in zip(first, second, strict=False) if a != b]
    return len(first) == len(second) and (len(changes) == 1 or (len(changes) == 2 and changes[0] == changes[1]))


def match_classes(
    match: Match, targets: Mapping[str, Tensor], source: SourceWeights, *, classes: ClassNames, model: nn.Module
) -> None:
    """Match the rows of last layers by class name, also where shapes are equal: the classes may still differ.

    Args:
        match: by name and shape; changed in place.
        targets: the state dict of the model.
        source: of the file.
        classes: of the file and of the model.
        model: see `rows_by_class`.
    """
    for name in [name for name in (*match.pairs, *match.reinitialized) if name in source.weights]:
        rows = rows_by_class(name, source.weights[name], targets[name], classes=classes, model=model)
        columns = columns_by_class(name, source.weights[name], targets[name], classes=classes, model=model)
        if rows is not None or columns is not None:
            match.by_class[name] = rows, columns
            match.pairs.pop(name, None)
            match.reinitialized.pop(name, None)


def require_equal_depth(file: str, targets: Iterable[str], sources: Iterable[str]) -> None:
    """Refuse a ResNet of another depth: its blocks fit into a shallower one, and compute nothing useful there.

    Args:
        file: the path or URL, for the message.
        targets: names of the model.
        sources: names in the file, renamed to ours.

    Raises:
        UserError: with the stage and its number of blocks.
    """
    ours, theirs = _blocks(targets), _blocks(sources)
    for stage in sorted(ours.keys() & theirs.keys()):
        if ours[stage] != theirs[stage]:
            raise UserError(
                f"{file} holds the weights of another model: {stage} has {len(theirs[stage])} blocks in the file, "
                f"{len(ours[stage])} in the model. Check MODEL.RESNETS.DEPTH. Nothing was loaded."
            )


def _blocks(names: Iterable[str]) -> dict[str, set[str]]:
    blocks: dict[str, set[str]] = {}
    for stage, block in (found.groups() for found in map(RESIDUAL_BLOCK.search, names) if found):
        blocks.setdefault(stage, set()).add(block)
    return blocks


def require_fit(file: str, targets: Mapping[str, Tensor], sources: Mapping[str, Tensor], match: Match) -> None:
    """Refuse the weights of another model, of which too few fit.

    Args:
        file: the path or URL, for the message.
        targets: the state dict of the model.
        sources: the weights of the file.
        match: of the two.

    Raises:
        UserError: with examples of shapes and names that differ.
    """
    # Heads for other classes are left out of both counts: they are expected to differ.
    of_classes = {*match.reinitialized, *match.by_class}
    in_model = sum(value.numel() for name, value in targets.items() if name not in of_classes)
    in_file = sum(value.numel() for name, value in sources.items() if name not in of_classes)
    fitting = sum(targets[name].numel() for name in (*match.pairs, *match.other_channels))
    # A backbone fills a small share of a detector, but then the whole file fits. Weights with the same names and other
    # shapes come from a network of another size, and those of them that fit do so by chance.
    share = fitting / max(in_model if match.mismatched else min(in_model, in_file), 1)
    if not match.mismatched:
        share = max(share, _share_of_common_parts(targets, sources, match))
    if share >= MIN_FIT and len(match.mismatched) <= MAX_MISMATCHED * len(targets):
        return
    parts = [f"{file} holds the weights of another model: only {fitting:,} of this one's {in_model:,} values fit."]
    for name, (theirs, ours) in list(match.mismatched.items())[:2]:
        parts.append(f"{name} is {shape_text(theirs)} in the file, {shape_text(ours)} in the model.")
    skipped, missing = match.skipped(sources)[:3], match.missing(targets)[:3]
    if skipped and missing:
        parts.append(f"The file has e.g. {', '.join(skipped)}; the model has e.g. {', '.join(missing)}.")
    parts.append("Use the config that the weights were trained with, or other MODEL.WEIGHTS. Nothing was loaded.")
    raise UserError(" ".join(parts))


def _share_of_common_parts(targets: Mapping[str, Tensor], sources: Mapping[str, Tensor], match: Match) -> float:
    """The share that fits of the parts that file and model have in common; parts are the first components of names.

    A small backbone of a classifier with large dense layers, for example, fills a detector's backbone completely.
    """
    common = {name.split(".")[0] for name in targets} & {name.split(".")[0] for name in sources}
    sizes = [
        sum(value.numel() for name, value in weights.items() if name.split(".")[0] in common)
        for weights in (targets, sources)
    ]
    return sum(targets[name].numel() for name in (*match.pairs, *match.other_channels)) / max(*sizes, 1)
