"""Weights from a file into a model, with an account of each."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from mrcnn_zoo.checkpoint.conversion import Converter, find_converter
from mrcnn_zoo.checkpoint.report import LoadReport, Shape, shape_text
from mrcnn_zoo.checkpoint.sources import read_weights
from mrcnn_zoo.errors import UserError

# Counters and constants that a model has or has not without being another one: those of batch norms (a frozen one
# counts nothing), and what old Detectron2 files keep of pixel statistics and anchors.
IGNORED = re.compile(
    r"(^|\.)(num_batches_tracked|pixel_mean|pixel_std|cell_anchors\.\d+|anchor_generator\.cell_anchors)$"
)
# Last layers, with one output (or four) for each class or keypoint.
CLASS_LAYERS = re.compile(r"(^|\.)(cls_score|bbox_pred|predictor|score_lowres)\.(weight|bias)$")
RESIDUAL_BLOCK = re.compile(r"(?:^|\.)(res[2-5])\.(\d+)\.")
MIN_FIT = 0.5  # of the values
MAX_MISMATCHED = 0.2  # of the tensors: a changed layer or two are fine, a wider network is another one


@dataclass
class Match:
    """Which weight of a file goes to which of a model."""

    pairs: dict[str, str] = field(default_factory=dict)  # name in the model -> name in the file
    reinitialized: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    mismatched: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)  # names in the file that the model has, in whatever shape

    def missing(self, targets: Iterable[str]) -> tuple[str, ...]:
        """The names of the model for which the file has nothing."""
        found = {*self.pairs, *self.reinitialized, *self.mismatched}
        return tuple(name for name in targets if name not in found)

    def skipped(self, offered: Iterable[str]) -> tuple[str, ...]:
        """The names of the file for which the model has no place."""
        return tuple(name for name in offered if name not in self.used)


def load_weights(model: nn.Module, path_or_url: str | Path) -> LoadReport:
    """Fill a model with the weights of a file as far as they fit.

    Sources: our checkpoints and bare state dicts, Detectron2's `.pth` and `.pkl`, `.safetensors`, and whatever
    CHECKPOINT_CONVERTERS recognises; local, at an http(s) URL, or `detectron2://...`.

    Args:
        model: changed in place; weights that the file has not, or has for another number of classes, stay as they are.
        path_or_url: of the file.

    Raises:
        UserError: the file cannot be read or is one of another model. The model is not changed then.
    """
    file = read_weights(path_or_url)
    targets = {name: value for name, value in model.state_dict().items() if not IGNORED.search(name)}
    offered = {name: value for name, value in file.weights.items() if not IGNORED.search(name)}
    converter = None if targets.keys() & offered.keys() else find_converter(file.weights.keys())
    match = _match(targets, offered, converter)
    _require_equal_depth(file.source, targets, [converter.rename(name) if converter else name for name in offered])
    _require_fit(file.source, targets, offered, match)
    model.load_state_dict({target: offered[source] for target, source in match.pairs.items()}, strict=False)
    filled = tuple(match.pairs)
    return LoadReport(
        source=file.source,
        sizes={name: value.numel() for name, value in {**offered, **targets}.items()},
        loaded=() if converter else filled,
        converted=filled if converter else (),
        reinitialized=match.reinitialized,
        mismatched=match.mismatched,
        missing=match.missing(targets),
        skipped=match.skipped(offered),
        converter=converter.source if converter else "",
        expected_settings=converter.settings(file.weights.keys()) if converter else {},
    )


def _match(targets: Mapping[str, Tensor], offered: Mapping[str, Tensor], converter: Converter | None) -> Match:
    sources = {name: name for name in targets if name in offered}
    if converter is not None:
        sources = _by_longest_ending(targets, {converter.rename(name): name for name in offered})
    match = Match(used=set(sources.values()))
    for name, source in sources.items():
        shapes = tuple(offered[source].shape), tuple(targets[name].shape)
        if shapes[0] == shapes[1]:
            match.pairs[name] = source
        elif CLASS_LAYERS.search(name) and _differ_in_one_side(*shapes):
            match.reinitialized[name] = shapes
        else:
            match.mismatched[name] = shapes
    return match


def _by_longest_ending(targets: Mapping[str, Tensor], renamed: Mapping[str, str]) -> dict[str, str]:
    sources = {}
    for target in targets:
        parts = target.split(".")
        endings = (".".join(parts[start:]) for start in range(len(parts)))
        ending = next((ending for ending in endings if ending in renamed), None)
        if ending is not None:
            sources[target] = renamed[ending]
    return sources


def _differ_in_one_side(first: Shape, second: Shape) -> bool:
    return len(first) == len(second) and sum(a != b for a, b in zip(first, second, strict=True)) == 1


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
    of_model = sum(value.numel() for name, value in targets.items() if name not in match.reinitialized)
    of_file = sum(value.numel() for name, value in offered.items() if name not in match.reinitialized)
    fitting = sum(targets[name].numel() for name in match.pairs)
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
