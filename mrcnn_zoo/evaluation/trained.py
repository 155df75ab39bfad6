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
    if config is not None:
        cfg = load_config(config, overrides)
        weights = weights or cfg.MODEL.WEIGHTS
        if not weights:
            raise UserError("no weights to load: give --weights, or MODEL.WEIGHTS in the config.")
        state = _state_in(weights)
    else:
        state = _state_in(weights)
        cfg = _config_in(state, weights, overrides)
    model = build_model(cfg).eval()
    refuse_gaps(load_weights(model, weights))
    return model, cfg, tuple(state.get("class_names") or ())


def refuse_gaps(report: LoadReport) -> None:
    """Stop when weights leave a part of the model as it was initialised; log how many were loaded otherwise.

    Raises:
        UserError: with the names and the whole report.
    """
    gaps = (*report.missing, *report.mismatched, *report.reinitialized)
    if gaps:
        some = ", ".join(gaps[:4]) + (", ..." if len(gaps) > 4 else "")
        raise UserError(
            f"{report.source} leaves {len(gaps)} parameters of the model untrained ({some}): it was trained with "
            f"another config or other classes, and its results would mean nothing.\n{report}"
        )
    logger.info("%s: %d weights loaded", report.source, len(report.loaded) + len(report.converted))


def _state_in(weights: str | Path) -> dict[str, Any]:
    """What a checkpoint of ours holds besides weights; empty where only `load_weights` knows how to read the file."""
    return load_checkpoint(weights) if Path(weights).suffix == ".pth" and "://" not in str(weights) else {}


def _config_in(state: dict[str, Any], weights: str | Path, overrides: Sequence[Any]) -> CfgNode:
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
