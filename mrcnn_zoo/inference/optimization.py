"""MODEL.OPTIMIZE and MODEL.DTYPE: a detector in evaluation mode made faster, with equal or nearly equal results."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inference.fused_layers import fuse_layers

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PREDICTING_METHODS = ("predict", "predict_in_boxes", "propose")  # of detectors

logger = logging.getLogger(__name__)


def build_optimized(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """The detector as MODEL.OPTIMIZE and MODEL.DTYPE say; changed in place, and no longer to be trained or saved.

    Args:
        cfg: of the model.
        model: with its weights, in evaluation mode.

    Raises:
        UserError: a type that the device does not have.
    """
    way, dtype = cfg.MODEL.OPTIMIZE, DTYPES[cfg.MODEL.DTYPE]
    device = next(model.parameters()).device
    if dtype == torch.float16 and device.type == "cpu":
        raise UserError("MODEL.DTYPE float16 needs a GPU: use bfloat16 or float32 on the CPU.")
    if way != "none":
        with torch.no_grad():
            fuse_layers(model, dtype)
    if dtype != torch.float32:
        _warn_of_slow_type(device, dtype)
        for name in PREDICTING_METHODS:
            if hasattr(model, name):
                setattr(model, name, layers_in(device.type, dtype)(getattr(model, name)))
    return model


@contextmanager
def layers_in(device_type: str, dtype: torch.dtype) -> Iterator[None]:
    """Convolutions and products in another type; as a decorator it is entered anew by each call of each thread.

    Args:
        device_type: cpu, cuda, ...
        dtype: bfloat16 or float16.
    """
    with torch.no_grad(), torch.autocast(device_type, dtype):
        yield


def _warn_of_slow_type(device: torch.device, dtype: torch.dtype) -> None:
    if device.type != "cpu" or dtype != torch.bfloat16:
        return
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported() or not _computes_bfloat16():
        logger.warning(
            "MODEL.DTYPE bfloat16: this processor computes it by way of float32 (no avx512_bf16 or amx_bf16), which is "
            "slower than MODEL.DTYPE float32."
        )


def _computes_bfloat16() -> bool:
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check() for check in checks if check is not None)
