"""An accelerator for tests: its tensors are in CPU memory, but an operation that mixes them with CPU tensors fails.

It finds without a GPU what a GPU would: tensors of two devices in one operation, arrays made of device tensors, and the
places where the host waits for the device or copies to it. Speed, autocast, streams and pinned memory are not imitated.

Needs torch >= 2.10, whose backends may be written in Python. Importing it registers the device for its process, which
must come before the first backward pass: gpu/test_pretend_device.py starts a process for that.
"""

import traceback
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "pretend"
PACKAGE = "/mrcnn_zoo/"
# Operations whose results have a shape or value that the host needs before the next operation.
WAITING = {
    *("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal"),
    *("bincount", "nms"),
}
CPU_INDICES_ALLOWED = {"index", "index_put", "_index_put_impl"}  # as on CUDA


class _Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


_setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
DEVICE = torch.device(NAME, 0)


class PretendTensor(torch.Tensor):
    """A tensor on the pretended device; its numbers are in `numbers`."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor) -> "PretendTensor":
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

    def __repr__(self, **_: Any) -> str:
        return f"PretendTensor({self.numbers})"

    def tolist(self) -> Any:
        _note("waits: tolist")
        return self.numbers.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError(f"numpy of a tensor on {DEVICE}: copy it to the CPU first")
        _note("waits: numpy")
        return self.numbers.numpy(force=True)

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


class PretendDevice(TorchDispatchMode):
    """While it is entered, tensors can be made on and moved to the device; it counts what happens meanwhile."""

    entered: "list[PretendDevice]" = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[str, str]] = Counter()  # (what, innermost line of the package) -> times

    @property
    def waits(self) -> int:
        """How often the host has waited for the device."""
        return sum(times for (what, _), times in self.counts.items() if what.startswith("waits"))

    def report(self) -> str:
        """One line for each place: times, what, file and line."""
        return "\n".join(f"{times:4} {what} in {where}" for (what, where), times in sorted(self.counts.items()))

    def __enter__(self) -> "PretendDevice":
        PretendDevice.entered.append(self)
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        PretendDevice.entered.pop()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


def move(model: nn.Module) -> nn.Module:
    """Put the parameters and buffers onto the device, in place."""
    for module in model.modules():
        for name, value in list(module._parameters.items()):
            if value is not None:
                moved = nn.Parameter(PretendTensor(value.data), requires_grad=value.requires_grad)
                module._parameters[name] = moved
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = PretendTensor(buffer)
    return model


def _note(what: str) -> None:
    if PretendDevice.entered:
        frames = [frame for frame in traceback.extract_stack() if PACKAGE in frame.filename]
        where = f"{frames[-1].filename.rsplit(PACKAGE, 1)[1]}:{frames[-1].lineno}" if frames else "the test"
        PretendDevice.entered[-1].counts[what, where] += 1


def _run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = operation._schema.name.split("::")[1].rstrip("_")
    tensors = [*_tensors(args), *_tensors(list(kwargs.values()))]
    ours = [tensor for tensor in tensors if isinstance(tensor, PretendTensor)]
    device = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
    if device:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if name == "copy":
        _note_copy(to_device=isinstance(tensors[0], PretendTensor), from_device=isinstance(tensors[1], PretendTensor))
        operation(*_map(_numbers, args), **_map(_numbers, kwargs))
        return tensors[0]
    if name == "_to_copy":
        to_device = (device or tensors[0].device.type) == NAME
        _note_copy(to_device=to_device, from_device=isinstance(tensors[0], PretendTensor))
        copy = operation(*_map(_numbers, args), **{k: v for k, v in kwargs.items() if k != "non_blocking"})
        return PretendTensor(copy) if to_device else copy
    if ours:
        _check_devices(name, tensors)
        _note_wait(name, args, kwargs)
    result = operation(*_map(_numbers, args), **_map(_numbers, kwargs))
    if name == "_local_scalar_dense" or not (ours or device == NAME):
        return result
    known = {id(tensor.numbers): tensor for tensor in ours}  # operations in place return their argument

    def wrap(value: Any) -> Any:
        return known.get(id(value), PretendTensor(value)) if isinstance(value, torch.Tensor) else value

    return _map(wrap, result)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for item in value for tensor in _tensors(item)] if isinstance(value, list | tuple) else []


def _map(function: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _map(function, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_map(function, item) for item in value])
    return function(value)


def _numbers(value: Any) -> Any:
    return value.numbers if isinstance(value, PretendTensor) else value


def _check_devices(name: str, tensors: list[Tensor]) -> None:
    strangers = [tuple(tensor.shape) for tensor in tensors if tensor.dim() and not isinstance(tensor, PretendTensor)]
    if not strangers:
        return
    if name not in CPU_INDICES_ALLOWED:
        raise RuntimeError(f"{name}: tensors of two devices, one of {strangers[0]} on the CPU")
    _note("copies to the device: index")


def _note_wait(name: str, args: Any, kwargs: dict[str, Any]) -> None:
    if name in WAITING:
        _note(f"waits: {name}")
    if name == "repeat_interleave" and isinstance(args[-1], torch.Tensor) and kwargs.get("output_size") is None:
        _note("waits: repeat_interleave without output_size")
    if name in CPU_INDICES_ALLOWED and any(
        isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
    ):
        _note(f"waits: {name} by a mask")


def _note_copy(*, to_device: bool, from_device: bool) -> None:
    if to_device and not from_device:
        _note("copies to the device")
    if from_device and not to_device:
        _note("waits: copy to the CPU")


def _empty(size: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return PretendTensor(torch.empty(size, dtype=dtype))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return PretendTensor(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:  # noqa: ARG001
    _note_copy(to_device=isinstance(target, PretendTensor), from_device=isinstance(source, PretendTensor))
    _numbers(target).copy_(_numbers(source))
    return target


_LIBRARY = torch.library.Library("aten", "IMPL")  # what torch calls past the mode, e.g. in `tensor.new_tensor([1])`
_LIBRARY.impl("empty.memory_format", _empty, "PrivateUse1")
_LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")
_LIBRARY.impl("_copy_from", _copy_from, "PrivateUse1")
