"""Loads the weights of a file into a model and reports the status of each."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from mrcnn_zoo.checkpoint.adaptation import NO_ROW, ClassNames, fill_by_class, stored_class_names, with_input_channels
from mrcnn_zoo.checkpoint.matching import (
    CLASS_LAYERS,
    Match,
    SourceWeights,
    match_classes,
    match_weights,
    require_equal_depth,
    require_fit,
)
from mrcnn_zoo.checkpoint.report import LoadReport
from mrcnn_zoo.checkpoint.sources import WeightsFile, read_weights
from mrcnn_zoo.errors import counted
from mrcnn_zoo.interop import BackboneConverter, Conversion, find_converter

# Counters and constants that are neither loaded nor reported: those of batch norms (a frozen one has no counter), and
# the pixel statistics and anchors in old files of Detectron2.
IGNORED_NAMES = re.compile(
    r"(^|\.)(num_batches_tracked|pixel_mean|pixel_std|cell_anchors\.\d+|anchor_generator\.cell_anchors)$"
)
NAMES_SHOWN = 20
logger = logging.getLogger(__name__)


def load_weights(model: nn.Module, path_or_url: str | Path) -> LoadReport:
    """Fill a model with the weights of a file as far as they fit.

    Files: our checkpoints and bare state dicts, Detectron2's `.pth` and `.pkl`, `.safetensors`, and those that
    CHECKPOINT_CONVERTERS recognise. A first convolution is adapted to the number of input channels of the model.

    Args:
        model: changed in place; weights that the file does not have, or has for other classes, keep their values.
        path_or_url: a local path, an http(s) URL, `detectron2://...` or `zoo://...`.

    Raises:
        UserError: the file cannot be read or is one of another model; the model is not changed then.
    """
    return load_weights_file(model, read_weights(path_or_url))


def load_weights_file(model: nn.Module, file: WeightsFile, *, class_names: Sequence[str] = ()) -> LoadReport:
    """Fill a model with weights that have been read, as `load_weights` does.

    Args:
        model: changed in place.
        file: the weights.
        class_names: of the model, by class index. Where the file has others, the rows of its last layers are copied by
            name, and the rows of new classes keep their values. Without names rows are copied in order.

    Raises:
        UserError: the weights are those of another model; the model is not changed then.
    """
    targets = _without_ignored(model.state_dict())
    source = _source_weights(file, targets)
    match = match_weights(targets, source, input_channels=len(getattr(model, "pixel_mean", ())))
    classes = ClassNames(file=source.class_names, model=tuple(class_names))
    if classes.file and classes.model and classes.file != classes.model:
        match_classes(match, targets, source, classes=classes, model=model)
    require_equal_depth(file.source, targets, source.our_names())
    require_fit(file.source, targets, source.weights, match)
    model.load_state_dict(_values(match, targets, source), strict=False)
    _warn_without_class_names(match, classes, file.source)
    return _report(file, targets, source, match, classes)


def convert_detector(file: WeightsFile) -> Conversion | None:
    """The detector in a file of another project as ours; None for files of ours, of Detectron2 and of backbones.

    Args:
        file: with its weights.

    Raises:
        UserError: ours cannot express the detector.
    """
    converter = find_converter(file.weights.keys())
    if converter is None or isinstance(converter, BackboneConverter):
        return None
    return converter.convert(file.weights, file.meta)


def _source_weights(file: WeightsFile, targets: Mapping[str, Tensor]) -> SourceWeights:
    weights = _without_ignored(file.weights)
    converter = find_converter(file.weights.keys())
    if converter is None:
        return SourceWeights(weights, class_names=stored_class_names(file))
    if isinstance(converter, BackboneConverter):
        if targets.keys() & weights.keys():
            return SourceWeights(weights)
        prepared = _without_ignored(converter.prepare(weights))
        settings = converter.settings(file.weights)
        return SourceWeights(prepared, converter, project=converter.source, settings=settings)
    conversion = converter.convert(file.weights, file.meta)
    return SourceWeights(
        _without_ignored(conversion.weights),
        leftovers=tuple(name for name in conversion.leftovers if not IGNORED_NAMES.search(name)),
        project=converter.source,
        settings=conversion.settings,
        notes=conversion.notes,
        class_names=stored_class_names(file) or conversion.class_names,
    )


def _without_ignored(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if not IGNORED_NAMES.search(name)}


def _values(match: Match, targets: Mapping[str, Tensor], source: SourceWeights) -> dict[str, Tensor]:
    """The values to load, by name in the model."""
    values = {target: source.weights[name] for target, name in match.pairs.items()}
    for target, name in match.other_channels.items():
        values[target] = with_input_channels(source.weights[name], targets[target].shape[1])
    for target, (rows, columns) in match.by_class.items():
        values[target] = fill_by_class(source.weights[target], targets[target], rows, columns)
    return values


def _report(
    file: WeightsFile, targets: Mapping[str, Tensor], source: SourceWeights, match: Match, classes: ClassNames
) -> LoadReport:
    return LoadReport(
        source=file.source,
        sizes={name: value.numel() for name, value in {**file.weights, **source.weights, **targets}.items()},
        loaded=() if source.project else tuple(match.pairs),
        converted=(*(match.pairs if source.project else ()), *match.other_channels),
        by_class={name: _num_copied(*places, targets[name]) for name, places in match.by_class.items()},
        reinitialized=match.reinitialized,
        mismatched=match.mismatched,
        missing=match.missing(targets),
        skipped=(*match.skipped(source.weights), *source.leftovers),
        converter=source.project,
        expected_settings=source.settings,
        notes=(*source.notes, *_class_notes(match, classes)),
    )


def _num_copied(rows: Tensor | None, columns: Tensor | None, target: Tensor) -> int:
    num_rows = len(target) if rows is None else int((rows != NO_ROW).sum())
    share = 1.0 if columns is None else (columns != NO_ROW).float().mean().item()
    return round(num_rows * target[0].numel() * share)


def _class_notes(match: Match, classes: ClassNames) -> tuple[str, ...]:
    if not match.by_class:
        return ()
    new = [name for name in classes.model if name not in classes.file]
    parts = [
        f"the rows of {_listed(names)} {status}"
        for names, status in ((classes.shared, "are copied by name"), (new, "are newly initialised"))
        if names
    ]
    return (f"The file is for {counted(len(classes.file), 'class')} ({_listed(classes.file)}); {', '.join(parts)}.",)


def _warn_without_class_names(match: Match, classes: ClassNames, source: str) -> None:
    if classes.model and not classes.file and any(map(CLASS_LAYERS.search, match.pairs)):
        logger.warning("%s has no class names: they are assumed to be those of the model, in the same order", source)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
