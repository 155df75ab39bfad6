"""MODEL.OPTIMIZE and MODEL.DTYPE: a detector in evaluation mode made faster, with equal or nearly equal results."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inference.calibration import build_calibration_samples
from mrcnn_zoo.inference.dense_stages import keep_generated_code, stages_of
from mrcnn_zoo.inference.fused_layers import fuse_layers
from mrcnn_zoo.inference.int8 import quantize_stages
from mrcnn_zoo.structures import Sample

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PREDICTING_METHODS = ("predict", "predict_in_boxes", "propose")  # of detectors

logger = logging.getLogger(__name__)


def build_optimized(
    cfg: CfgNode, model: nn.Module, calibration: Callable[[], Sequence[Sample]] | None = None
) -> nn.Module:
    """The detector as MODEL.OPTIMIZE and MODEL.DTYPE say; changed in place, and no longer to be trained or saved.

    Args:
        cfg: of the model.
        model: with its weights, in evaluation mode.
        calibration: gives the images for int8; None for those of MODEL.INT8.

    Raises:
        UserError: a type that the device does not have; for int8, see `quantize_stages`.
    """
    way, dtype = cfg.MODEL.OPTIMIZE, DTYPES[cfg.MODEL.DTYPE]
    device = next(model.parameters()).device
    if dtype == torch.float16 and device.type == "cpu":
        raise UserError("MODEL.DTYPE float16 needs a GPU: use bfloat16 or float32 on the CPU.")
    if way == "int8":
        _check_int8(device, cfg.MODEL.DTYPE)
    if way == "compiled" and can_compile(device, cfg.MODEL.DTYPE):
        compile_dense_stages(model)
    elif way == "int8" and can_compile(device, way=way):
        quantize_stages(model, calibration or (lambda: build_calibration_samples(cfg)))
    elif way != "none":
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


def compile_dense_stages(model: nn.Module) -> None:
    """Compile the backbone and the head of its maps, at their first call, for all image sizes at once.

    Norms are folded into the weights beforehand, and the weights are inputs of the code: torch then finds the graphs in
    the cache folder, too, and not the code alone, as it would with constant weights.

    Args:
        model: in evaluation mode; its weights must not change any more.
    """
    keep_generated_code()
    model.requires_grad_(False)
    for stage in stages_of(model).values():
        fuse_layers(stage, uses_kernels=False)  # torch.compile does not know oneDNN's
        stage.compile(dynamic=True, fullgraph=True)


def can_compile(device: torch.device, dtype: str = "float32", *, way: str = "compiled", instead: str = "fused") -> bool:
    """Whether MODEL.OPTIMIZE compiled takes the type, and inductor finds what it needs; logs why not otherwise.

    Args:
        device: of the model.
        dtype: MODEL.DTYPE.
        way: MODEL.OPTIMIZE, compiled or int8.
        instead: the value of MODEL.OPTIMIZE that is used otherwise.
    """
    if dtype != "float32":
        logger.warning("MODEL.OPTIMIZE compiled is for MODEL.DTYPE float32, not %s: using %s.", dtype, instead)
        return False
    if device.type != "cpu":
        return True
    try:
        get_cpp_compiler()
    except Exception as error:  # of a private class of torch
        logger.warning(
            "MODEL.OPTIMIZE %s needs a C++ compiler, e.g. g++, and there is none (%s): using %s.",
            way,
            type(error).__name__,
            instead,
        )
        return False
    return True


def _check_int8(device: torch.device, dtype: str) -> None:
    if device.type != "cpu":
        raise UserError(f"MODEL.OPTIMIZE int8 is for the CPU, and the device is {device}: set MODEL.DEVICE cpu.")
    if dtype != "float32":
        raise UserError(
            f"MODEL.OPTIMIZE int8 with MODEL.DTYPE {dtype}: what is not int8 stays float32. Leave MODEL.DTYPE out."
        )


def get_cpp_compiler() -> str:
    """torch's choice of the C++ compiler; imported late, as it takes a second."""
    from torch._inductor import cpp_builder

    return cpp_builder.get_cpp_compiler()


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
