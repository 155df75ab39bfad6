"""A trained model from its checkpoint: weights, config and class names."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from mrcnn_zoo.checkpoint import LoadReport, load_checkpoint, load_weights
from mrcnn_zoo.config import CfgNode, config_from_text, load_config
from mrcnn_zoo.config.unbuilt import refuse_unbuilt
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling import build_model

logger = logging.getLogger(__name__)


def load_trained(
    weights: str | Path = "", *, config: str | Path | None = None, overrides: Sequence[Any] = ()
) -> tuple[nn.Module, CfgNode, tuple[str, ...]]:
    """Build the model of a checkpoint and fill it.

    Args:
        weights: a file, or what else `load_weights` takes; empty takes MODEL.WEIGHTS of the config.
        config: a YAML file or the name of a config of the package; without it the one inside the checkpoint.
        overrides: `KEY VALUE` or `KEY=VALUE` on top.

    Returns:
        The model in evaluation mode on MODEL.DEVICE, its config, and its class names by class index, which are empty
        where the checkpoint does not tell.

    Raises:
        UserError: no weights, no config, or weights that do not fill the model.
    """
    state = load_checkpoint(weights) if Path(weights).suffix == ".pth" and "://" not in str(weights) else {}
    cfg = _config_of(state, weights, config=config, overrides=overrides)
    weights = weights or cfg.MODEL.WEIGHTS
    if not weights:
        raise UserError("no weights to load: give --weights, or MODEL.WEIGHTS in the config.")
    model = build_model(cfg).eval()
    report = load_weights(model, weights)
    _refuse_gaps(report)
    return model, cfg, tuple(state.get("class_names") or ())


def _config_of(
    state: dict[str, Any], weights: str | Path, *, config: str | Path | None, overrides: Sequence[Any]
) -> CfgNode:
    if config is not None:
        return load_config(config, overrides)
    text = state.get("config")
    if not isinstance(text, str):
        what = f"{weights} holds no config" if weights else "no config and no weights are given"
        raise UserError(f"{what}: say what model it is with --config-file.")
    cfg = config_from_text(text, source=f"the config in {weights}").clone()
    cfg.defrost()
    cfg.merge_from_list(list(overrides))
    refuse_unbuilt(cfg)
    cfg.freeze()
    return cfg


def _refuse_gaps(report: LoadReport) -> None:
    gaps = (*report.missing, *report.mismatched, *report.reinitialized)
    if gaps:
        some = ", ".join(gaps[:4]) + (", ..." if len(gaps) > 4 else "")
        raise UserError(
            f"{report.source} leaves {len(gaps)} parameters of the model untrained ({some}): it was trained with "
            f"another config or other classes, and its results would mean nothing.\n{report}"
        )
    logger.info("%s: %d weights loaded", report.source, len(report.loaded) + len(report.converted))
