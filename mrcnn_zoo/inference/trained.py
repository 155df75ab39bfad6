"""A trained model from its checkpoint: weights, config and class names."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from mrcnn_zoo.checkpoint import LoadReport, WeightsFile, convert_detector, load_weights_file, read_weights
from mrcnn_zoo.checkpoint.adaptation import stored_class_count, stored_class_names
from mrcnn_zoo.config import CfgNode, config_from_settings, config_from_text, load_config
from mrcnn_zoo.config.rules import class_count
from mrcnn_zoo.data.classes import check_class_count, distinct_names
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.interop import coco_classes
from mrcnn_zoo.model_zoo import index as zoo_index
from mrcnn_zoo.modeling import build_model

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedFile:
    """What a file with a trained model holds."""

    file: WeightsFile
    class_names: tuple[str, ...]  # by class index; empty where the file has none
    category_ids: tuple[int, ...]  # of the training data, by class index; 1, 2, ... where the file has none
    report: LoadReport  # what became of its weights


def load_trained(
    weights: str | Path = "",
    *,
    config: str | Path | None = None,
    overrides: Sequence[Any] = (),
    trust: Iterable[str] = (),
) -> tuple[nn.Module, CfgNode, tuple[str, ...]]:
    """Build the model of a checkpoint and fill it.

    Args:
        weights: a file, or what else `load_weights` takes; empty takes MODEL.WEIGHTS of the config.
        config: a YAML file or the name of a config of the package; without it the one inside the file, or the one with
            which a detector of another project computes the same, or that of the zoo for `zoo://NAME`.
        overrides: `KEY VALUE` or `KEY=VALUE` on top.
        trust: modules whose code the config inside the file may name, e.g. ("my_lab",) for "my_lab.heads:build_head".

    Returns:
        The model in evaluation mode on MODEL.DEVICE, its config, and its class names by class index, which are empty
        where the file does not tell.

    Raises:
        UserError: no weights, no config, a config that names code of a module that is not trusted, or weights that do
            not fill the model.
    """
    model, cfg, trained = open_trained(weights, config=config, overrides=overrides, trust=trust)
    return model, cfg, trained.class_names


def open_trained(
    weights: str | Path = "",
    *,
    config: str | Path | None = None,
    overrides: Sequence[Any] = (),
    trust: Iterable[str] = (),
    meta: Mapping[str, Any] | None = None,
    check: Callable[[CfgNode], None] | None = None,
) -> tuple[nn.Module, CfgNode, TrainedFile]:
    """As `load_trained`, with the file and the account of its weights.

    Args:
        weights: see `load_trained`.
        config: see `load_trained`.
        overrides: see `load_trained`.
        trust: see `load_trained`.
        meta: adds to what the file tells of itself.
        check: is called with the config before the model is built, and raises what is wrong with it.
    """
    cfg = None if config is None else load_config(config, overrides)
    weights = weights or (cfg.MODEL.WEIGHTS if cfg is not None else "")
    if not weights and cfg is not None:
        raise UserError("no weights to load: give --weights, or MODEL.WEIGHTS in the config.")
    if not weights:
        raise UserError(
            "no weights are given: name a checkpoint with --weights, or a config that does with --config-file."
        )
    file = read_weights(weights)
    file = replace(file, meta={**file.meta, **(meta or {})})
    cfg = cfg or _config_of(file, overrides, trust)
    if check is not None:
        check(cfg)
    model, trained = fill_model(cfg, file)
    _warn_of_other_settings(trained.report, cfg)
    return model, cfg, trained


def fill_model(cfg: CfgNode, file: WeightsFile) -> tuple[nn.Module, TrainedFile]:
    """Build the model of a config, in evaluation mode, and fill all of it with the weights of a file.

    Raises:
        UserError: the file is for another number of classes, or leaves a part of the model as it was initialised.
    """
    class_names = class_names_of(file)
    stored_count = len(class_names) or stored_class_count(file.weights)
    if stored_count:
        check_class_count(cfg, stored_count, f"{file.source} was trained on", class_names)
    model = build_model(cfg).eval()
    report = load_weights_file(model, file)
    refuse_gaps(report)
    logger.info("%s on %s", type(model).__name__, next(model.parameters()).device)
    ids = category_ids_of(file, class_names, count=len(class_names) or class_count(cfg) or 1)
    return model, TrainedFile(file, class_names, ids, report)


def config_of_weights(weights: str | Path, overrides: Sequence[Any] = (), *, trust: Iterable[str] = ()) -> CfgNode:
    """The config that a file with a trained model brings along, as `load_trained` takes it; the model is not built.

    Args:
        weights: a file, or what else `load_weights` takes.
        overrides: `KEY VALUE` or `KEY=VALUE` on top.
        trust: as for `load_trained`.

    Raises:
        UserError: weights that tell no config, or one that names code of a module that is not trusted.
    """
    return _config_of(read_weights(weights), overrides, trust)


def refuse_gaps(report: LoadReport) -> None:
    """Stop when weights leave a part of the model as it was initialised; log how many were loaded otherwise.

    Raises:
        UserError: with the names and the whole report.
    """
    gaps = (*report.missing, *report.mismatched, *report.reinitialized)
    if gaps:
        some = ", ".join(gaps[:4]) + (", ..." if len(gaps) > 4 else "")
        raise UserError(
            f"{report.source} leaves {counted(len(gaps), 'parameter')} of the model untrained ({some}): it was trained "
            f"with another config or other classes, and its results would mean nothing.\n{report}"
        )
    logger.info("%s: %d weights loaded", report.source, len(report.loaded) + len(report.converted))


def class_names_of(file: WeightsFile) -> tuple[str, ...]:
    """The names of a file's classes by class index, each of them once; empty where they are not known."""
    names = stored_class_names(file)
    if not names:
        conversion = convert_detector(file)
        return conversion.class_names if conversion else ()
    if len({*names} - {coco_classes.UNUSED_ID}) == len([name for name in names if name != coco_classes.UNUSED_ID]):
        return names
    return distinct_names(names, category_ids_of(file, (), count=len(names)))[0]


def category_ids_of(file: WeightsFile, class_names: Sequence[str], *, count: int) -> tuple[int, ...]:
    """The category ids of the data that a file's model was trained on, by class index.

    Args:
        file: its own ids come first; COCO's classes have COCO's ids.
        class_names: of the file; may be empty.
        count: number of classes; their ids are 1, 2, ... where the file has none.
    """
    ids = file.meta.get("category_ids")
    if isinstance(ids, list | tuple) and len(ids) == count and all(type(value) is int for value in ids):
        return tuple(ids)
    if tuple(class_names) == coco_classes.COCO_CLASSES:
        return coco_classes.COCO_CATEGORY_IDS
    return tuple(range(1, count + 1))


def _warn_of_other_settings(report: LoadReport, cfg: CfgNode) -> None:
    """Log the settings that weights of another project were trained with, and that the config has otherwise."""
    for name, expected in report.expected_settings.items():
        if cfg.value_of(name) != expected:
            logger.warning(
                "%s: these weights were trained with %s = %s; here it is %s",
                report.source,
                name,
                expected,
                cfg.value_of(name),
            )


def _config_of(file: WeightsFile, overrides: Sequence[Any], trust: Iterable[str]) -> CfgNode:
    """The config inside a file, or the one that a detector of another project needs, or that of the zoo."""
    text = file.meta.get("config")
    if isinstance(text, str):
        # The device is that of this machine, not of the one it was trained on.
        overrides = ["MODEL.DEVICE", "auto", *overrides]
        return config_from_text(text, source=f"the config in {file.source}", overrides=overrides, trust=trust)
    entry = zoo_index.find_entry(file.source) if file.source.startswith(zoo_index.PREFIX) else None
    extra = entry.overrides if entry else ()
    conversion = convert_detector(file)
    if conversion is not None:
        settings = [*(item for setting in conversion.settings.items() for item in setting), *extra]
        return config_from_settings(settings, source=f"the settings of {file.source}", overrides=overrides, trust=trust)
    if entry is not None:
        return config_from_settings(
            extra,
            source=f"the zoo's entry {entry.name}",
            path=zoo_index.config_name(entry),
            overrides=overrides,
            trust=trust,
        )
    raise UserError(f"{file.source} holds no config: say what model it is with --config-file (config=... in Python).")
