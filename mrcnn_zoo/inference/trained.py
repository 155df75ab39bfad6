"""A trained model from its checkpoint: weights, config and class names."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from mrcnn_zoo.checkpoint import LoadReport, WeightsFile, convert_detector, load_weights_file, read_weights
from mrcnn_zoo.checkpoint.adaptation import stored_class_count, stored_class_names
from mrcnn_zoo.checkpoint.sources import find_weights
from mrcnn_zoo.config import CfgNode, changed_config, config_from_settings, config_from_text, load_config
from mrcnn_zoo.config.rules import class_count
from mrcnn_zoo.config.values import read_overrides
from mrcnn_zoo.data.classes import check_class_count, distinct_names
from mrcnn_zoo.data.images.pixels import RANGE
from mrcnn_zoo.data.records import ImageSource
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.export.programs import is_program
from mrcnn_zoo.inference.calibration import build_calibration_samples
from mrcnn_zoo.inference.exported import build_exported_detector, open_exported
from mrcnn_zoo.inference.optimization import build_optimized
from mrcnn_zoo.interop import coco_classes
from mrcnn_zoo.model_zoo import index
from mrcnn_zoo.modeling import build_model

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedFile:
    """A file with a trained model."""

    file: WeightsFile
    class_names: tuple[str, ...]  # by class index; empty where the file has none
    category_ids: tuple[int, ...]  # of the training data, by class index; 1, 2, ... where the file has none
    report: LoadReport  # of loading its weights


def load_trained(
    weights: str | Path = "",
    *,
    config: str | Path | None = None,
    overrides: Sequence[Any] = (),
    trust: Iterable[str] = (),
) -> tuple[nn.Module, CfgNode, tuple[str, ...]]:
    """Build the model of a checkpoint and load its weights.

    Args:
        weights: a file or another source of `load_weights`; empty for MODEL.WEIGHTS of the config.
        config: a YAML file or the name of a packaged config. By default the config in the file, the equivalent one of
            a detector of another project, or that of the zoo for `zoo://NAME`.
        overrides: `KEY VALUE` or `KEY=VALUE`.
        trust: modules whose code the config in the file may name, e.g. ("my_lab",) for "my_lab.heads:build_head".

    Returns:
        The model in evaluation mode on MODEL.DEVICE, its config, and its class names by class index (empty if the file
        has none).

    Raises:
        UserError: no weights, no config, a config that names code of an untrusted module, or weights that do not fill
            the model.
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
    check: Callable[[CfgNode, WeightsFile], None] | None = None,
    takes_programs: bool = False,
    images: Sequence[ImageSource] = (),
) -> tuple[nn.Module, CfgNode, TrainedFile]:
    """As `load_trained`, but returns the file with the report of its weights.

    Args:
        weights: see `load_trained`.
        config: see `load_trained`.
        overrides: see `load_trained`.
        trust: see `load_trained`.
        meta: added to the metadata of the file.
        check: called with the config and the file before the model is built; raises UserError to refuse it.
        takes_programs: whether a file of `mrcnn-zoo export` will do, which has only `predict`.
        images: to be predicted on; MODEL.OPTIMIZE int8 may be calibrated on them.
    """
    cfg = None if config is None else load_config(config, overrides)
    weights = weights or (_typed_weights(overrides) if cfg is None else cfg.MODEL.WEIGHTS)
    if not weights:
        shipped = ", ".join(index.PREFIX + name for name, entry in index.read_index().items() if entry.is_shipped)
        if cfg is not None:
            text = "no weights to load: give --weights, or MODEL.WEIGHTS in the config."
        else:
            text = "no weights are given: name a checkpoint with --weights, or a config that does with --config-file."
        raise UserError(f"{text} These need no download: {shipped}.")
    if takes_programs and is_program(weights):
        return _open_program(weights, config=config, overrides=overrides, trust=trust, check=check)
    file = read_weights(weights)
    file = replace(file, meta={**file.meta, **(meta or {})})
    cfg = with_value_range_of(cfg, file) if cfg else _config_of(file, overrides, trust)
    if check is not None:
        check(cfg, file)
    model, trained = fill_model(cfg, file, images)
    _warn_of_other_settings(trained.report, cfg)
    return model, cfg, trained


def _open_program(
    weights: str | Path,
    *,
    config: str | Path | None,
    overrides: Sequence[Any],
    trust: Iterable[str],
    check: Callable[[CfgNode, WeightsFile], None] | None,
) -> tuple[nn.Module, CfgNode, TrainedFile]:
    """As `open_trained`, of a file of `mrcnn-zoo export`."""
    cfg, file, program = open_exported(find_weights(str(weights)), config=config, overrides=overrides, trust=trust)
    if check is not None:
        check(cfg, file)
    names = class_names_of(file)
    if names:
        check_class_count(cfg, len(names), f"{file.source} has", names)
    ids = category_ids_of(file, names, count=len(names) or class_count(cfg) or 1)
    return build_exported_detector(cfg, program), cfg, TrainedFile(file, names, ids, LoadReport(file.source))


def _typed_weights(overrides: Sequence[Any]) -> str:
    """The value of MODEL.WEIGHTS among overrides; "" without it."""
    values = [item.value for item in read_overrides(overrides) if ".".join(item.path) == "MODEL.WEIGHTS"]
    return str(values[-1]) if values else ""


def fill_model(cfg: CfgNode, file: WeightsFile, images: Sequence[ImageSource] = ()) -> tuple[nn.Module, TrainedFile]:
    """Build the model of a config in evaluation mode, load all of its weights, and optimise it as MODEL.OPTIMIZE says.

    Args:
        cfg: of the model.
        file: with its weights.
        images: see `open_trained`.

    Raises:
        UserError: the file has another number of classes, lacks weights of the model, or see `build_optimized`.
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
    model = build_optimized(cfg, model, lambda: build_calibration_samples(cfg, images))
    return model, TrainedFile(file, class_names, ids, report)


def config_of_weights(weights: str | Path, overrides: Sequence[Any] = (), *, trust: Iterable[str] = ()) -> CfgNode:
    """The config of a file with a trained model, without building the model.

    Args:
        weights: a file or another source of `load_weights`.
        overrides: `KEY VALUE` or `KEY=VALUE`.
        trust: see `load_trained`.

    Raises:
        UserError: no config is known for the weights, or it names code of an untrusted module.
    """
    return _config_of(read_weights(weights), overrides, trust)


def refuse_gaps(report: LoadReport) -> None:
    """Refuse weights that do not fill the model; log the number of loaded weights otherwise.

    Args:
        report: of loading them.

    Raises:
        UserError: with the names of the missing weights and the report.
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
    """Distinct class names by class index; empty if unknown.

    Args:
        file: weights with metadata.
    """
    names = stored_class_names(file)
    if not names:
        conversion = convert_detector(file)
        return conversion.class_names if conversion else ()
    if len({*names} - {coco_classes.UNUSED_ID}) == len([name for name in names if name != coco_classes.UNUSED_ID]):
        return names
    return distinct_names(names, category_ids_of(file, (), count=len(names)))[0]


def category_ids_of(file: WeightsFile, class_names: Sequence[str], *, count: int) -> tuple[int, ...]:
    """Category ids of the training data by class index: those of the file, COCO's for COCO's classes, or 1, 2, ...

    Args:
        file: whose metadata may have category ids.
        class_names: of the file; may be empty.
        count: number of classes.
    """
    ids = file.meta.get("category_ids")
    if isinstance(ids, list | tuple) and len(ids) == count and all(type(value) is int for value in ids):
        return tuple(ids)
    if tuple(class_names) == coco_classes.COCO_CLASSES:
        return coco_classes.COCO_CATEGORY_IDS
    return tuple(range(1, count + 1))


def with_value_range_of(cfg: CfgNode, file: WeightsFile) -> CfgNode:
    """The config with the INPUT.VALUE_RANGE that was computed for the weights, where it is needed and empty.

    Args:
        cfg: INPUT.SIXTEEN_BIT, VALUE_RANGE.
        file: the weights, whose metadata may have a config.
    """
    if cfg.INPUT.SIXTEEN_BIT != RANGE or cfg.INPUT.VALUE_RANGE:
        return cfg
    settings = yaml.safe_load(file.meta["config"]) if isinstance(file.meta.get("config"), str) else {}
    bounds = settings.get("INPUT", {}).get("VALUE_RANGE", [])
    return changed_config(cfg, {"INPUT.VALUE_RANGE": bounds}, source=file.source) if bounds else cfg


def _warn_of_other_settings(report: LoadReport, cfg: CfgNode) -> None:
    """Warn of settings that differ from those that the weights of another project were trained with."""
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
    """The config in the file, the equivalent of another project's detector, or that of the zoo."""
    text = file.meta.get("config")
    if isinstance(text, str):
        # In the file they are those of the training and of its machine.
        overrides = ["MODEL.DEVICE", "auto", "MODEL.OPTIMIZE", "none", *overrides]
        return config_from_text(text, source=f"the config in {file.source}", overrides=overrides, trust=trust)
    entry = index.find_entry(file.source) if file.source.startswith(index.PREFIX) else None
    extra = entry.overrides if entry else ()
    conversion = convert_detector(file)
    if conversion is not None:
        settings = [*(item for setting in conversion.settings.items() for item in setting), *extra]
        return config_from_settings(settings, source=f"the settings of {file.source}", overrides=overrides, trust=trust)
    if entry is not None:
        return config_from_settings(
            extra,
            source=f"the zoo's entry {entry.name}",
            path=index.config_name(entry),
            overrides=overrides,
            trust=trust,
        )
    raise UserError(
        f"{file.source} contains no config: name one with --config-file (config=... in Python, and behind the weights "
        "in --proposals)."
    )
