"""An accelerator that exists only in tests: its tensors lie in CPU memory, and meet those of the CPU in no operation.

Needs torch >= 2.10, whose experimental backends may be written in Python. It changes torch for the whole process:
test_no_devices_mixed.py runs this file as a script, which trains, evaluates and predicts with four detectors.
"""

import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

from mrcnn_zoo.config import load_config
from mrcnn_zoo.experiments.benchmark.samples import generated_samples
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.training.clipping import clip_each_norm
from mrcnn_zoo.training.ema import WeightsAverage

NAME = "pretended"
CPU_INDICES_ALLOWED = {"index", "index_put", "_index_put_impl"}  # as on CUDA
SMALL = (
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 8, "MODEL.FPN.OUT_CHANNELS", 8, "MODEL.ROI_BOX_HEAD.FC_DIM", 16),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", 8, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [8], "TEST.DETECTIONS_PER_IMAGE", 10),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 50, "MODEL.RPN.POST_NMS_TOPK_TEST", 50),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "MODEL.RETINANET.SCORE_THRESH_TEST", 0.0),
)


class _Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


_setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
DEVICE = torch.device(NAME, 0)


class PretendedTensor(torch.Tensor):
    """A tensor on the pretended device; its numbers are in `numbers`."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor) -> "PretendedTensor":
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            numbers.shape,
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            layout=numbers.layout,
            device=DEVICE,
        )
        tensor.numbers = numbers
        return tensor

    def tolist(self) -> Any:
        return self.numbers.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError("a tensor of a device becomes an array by way of the CPU only")
        return self.numbers.numpy(force=True)

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


class PretendedDevice(TorchDispatchMode):
    """While it is entered, tensors are made on and moved to the device."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


def move(model: nn.Module) -> None:
    """Put the parameters and buffers onto the device, in place."""
    for module in model.modules():
        for name, value in list(module._parameters.items()):
            if value is not None:
                moved = nn.Parameter(PretendedTensor(value.data), requires_grad=value.requires_grad)
                module._parameters[name] = moved
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = PretendedTensor(buffer)


def _run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = operation._schema.name.split("::")[1].rstrip("_")
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    ours = [tensor for tensor in tensors if isinstance(tensor, PretendedTensor)]
    device = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
    if device:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if name == "copy":
        operation(*tree_map(_numbers, args), **tree_map(_numbers, kwargs))
        return tensors[0]
    if name == "_to_copy":
        copy = operation(*tree_map(_numbers, args), **{k: v for k, v in kwargs.items() if k != "non_blocking"})
        return PretendedTensor(copy) if (device or tensors[0].device.type) == NAME else copy
    if ours and name not in CPU_INDICES_ALLOWED:
        strangers = [tuple(t.shape) for t in tensors if t.dim() and not isinstance(t, PretendedTensor)]
        if strangers:
            raise RuntimeError(f"{name}: tensors of two devices, one of {strangers[0]} on the CPU")
    result = operation(*tree_map(_numbers, args), **tree_map(_numbers, kwargs))
    if name == "_local_scalar_dense" or not (ours or device == NAME):
        return result
    known = {id(tensor.numbers): tensor for tensor in ours}  # operations in place return their argument

    def wrap(value: Any) -> Any:
        return known.get(id(value), PretendedTensor(value)) if isinstance(value, torch.Tensor) else value

    return tree_map(wrap, result)


def _numbers(value: Any) -> Any:
    return value.numbers if isinstance(value, PretendedTensor) else value


def _empty(size: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return PretendedTensor(torch.empty(size, dtype=dtype))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return PretendedTensor(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:  # noqa: ARG001
    _numbers(target).copy_(_numbers(source))
    return target


_LIBRARY = torch.library.Library("aten", "IMPL")  # what torch calls past the mode, e.g. in `tensor.new_tensor([1])`
_LIBRARY.impl("empty.memory_format", _empty, "PrivateUse1")
_LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")
_LIBRARY.impl("_copy_from", _copy_from, "PrivateUse1")


def main(config: str) -> None:
    """A training step with clipping and averaged weights, the losses of evaluation, and predictions."""
    cfg = load_config(config, SMALL)
    keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS if cfg.MODEL.KEYPOINT_ON else 0
    num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    samples = generated_samples(2, image_size=(64, 96), num_classes=num_classes, num_keypoints=keypoints)
    torch.manual_seed(0)
    model: Any = build_model(cfg)
    move(model)
    with PretendedDevice():
        model.train()
        model.losses(samples).total().backward()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        assert all(isinstance(p.grad, PretendedTensor) for p in trained if p.grad is not None)
        clip_each_norm(trained, limit=1.0, norm_type=2.0)
        WeightsAverage(model, decay=0.9).update(model)
        model.eval()
        with torch.no_grad():
            assert all(loss.isfinite() for loss in model.losses(samples).losses.values())
        for table in model.predict(samples):
            assert len(table) > 0
            if table.masks is not None:
                assert len(table.masks.rles()) == len(table.masks.bitmaps()) == len(table)
    print("no devices were mixed")


if __name__ == "__main__":
    main(sys.argv[1])
