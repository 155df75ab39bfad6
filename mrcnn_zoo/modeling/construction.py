"""Builds a model from a config, on its device."""

import functools
import logging
import os

import torch
from torch import nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.rules import check_values
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.registries import DETECTORS

logger = logging.getLogger(__name__)


def build_model(cfg: CfgNode) -> nn.Module:
    """The detector that `MODEL.META_ARCHITECTURE` names, with initial weights, on `MODEL.DEVICE`.

    Sets FLOAT32_PRECISION and DETERMINISTIC for the whole process, and makes a numbered GPU torch's current one.

    Returns:
        A module with `losses(samples)` and `predict(samples)`; `forward` is one of them by training mode.

    Raises:
        UserError: invalid settings.
    """
    # Functions import torchvision where they call it, which would fail inside a trace, e.g. of the count of operations.
    import torchvision  # noqa: F401

    check_values(cfg)
    device = resolve_device(cfg.MODEL.DEVICE)
    _set_up_torch(cfg, device)
    model = DETECTORS.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    # With weights in channels-last order, convolutions return feature maps in it: the dense stage takes a third less
    # time on two CPU cores, and GPUs need it for half precision. Numbers and checkpoints are the same.
    return model.to(device=device, memory_format=torch.channels_last)


def resolve_device(name: str) -> torch.device:
    """The device of a config value; the CPU, with one log message, if CUDA is set but not available.

    Args:
        name: cpu, cuda, cuda:1, ...; auto is CUDA if available, else the CPU.

    Raises:
        UserError: not a device name, or a device that this machine does not have.
    """
    device = check_device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        if logger.isEnabledFor(logging.INFO):  # the message is logged once: not before it can be seen
            _note_no_cuda(name)
        return torch.device("cpu")
    return device


def check_device(name: str) -> torch.device:
    """The device of a config value, which is not used here: CUDA need not be available.

    Args:
        name: cpu, cuda, cuda:1, ..., or auto.

    Raises:
        UserError: not a device name, or a device that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"MODEL.DEVICE = {name!r} is not a device. Use auto, cpu, cuda, cuda:1, ...") from error
    if device.type == "cuda" and torch.cuda.is_available() and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"MODEL.DEVICE = {name!r}: this machine has {counted(torch.cuda.device_count(), 'GPU')}, numbered from 0. "
            "Use cuda:0."
        )
    if device.type not in ("cpu", "cuda") and not _is_available(device.type):
        raise UserError(f"MODEL.DEVICE = {name!r} is not available here. Use auto, cpu, cuda, cuda:1, ...")
    return device


def _set_up_torch(cfg: CfgNode, device: torch.device) -> None:
    if cfg.FLOAT32_PRECISION:
        torch.set_float32_matmul_precision(cfg.FLOAT32_PRECISION)
        # cuDNN has a separate switch for convolutions; its default is TF32.
        torch.backends.cudnn.allow_tf32 = cfg.FLOAT32_PRECISION != "highest"
    if cfg.DETERMINISTIC:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first matrix product is computed
        torch.use_deterministic_algorithms(True, warn_only=True)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # memory statistics and generator states are those of the current device


def _is_available(kind: str) -> bool:
    module = getattr(torch, kind, None) or getattr(torch.backends, kind, None)
    return bool(module is not None and hasattr(module, "is_available") and module.is_available())


@functools.cache
def _note_no_cuda(name: str) -> None:
    logger.info("MODEL.DEVICE is %s, but there is no GPU here: running on the CPU", name)
