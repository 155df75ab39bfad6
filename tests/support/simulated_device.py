"""A simulated accelerator: its tensors are in CPU memory, but an operation that mixes them with CPU tensors fails.

Detects device errors without a GPU: operations on tensors of two devices, NumPy arrays made of device tensors, and
where the host synchronises with the device or copies to it. It does not simulate speed, autocast, streams or pinned
memory.

Needs torch >= 2.10, which supports backends written in Python. Importing this module registers the device, which must
precede the first backward pass of the process: gpu/test_simulated_device.py starts a new process for it.
"""

import sys
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "simulated"
PACKAGE = "/mrcnn_zoo/"
# Operations whose result has a shape or value that depends on the data, so that the host has to synchronise.
SYNCHRONIZING = {
    *("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal"),
    *("bincount", "nms"),
}
CPU_INDICES_ALLOWED = {"index", "index_put", "_index_put_impl"}  # as on CUDA


class _Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


_setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
DEVICE = torch.device(NAME, 0)


class SimulatedTensor(torch.Tensor):
    """A tensor on the simulated device; `host_tensor` holds its data."""

    host_tensor: Tensor

    @staticmethod
    def __new__(cls, host_tensor: Tensor) -> "SimulatedTensor":
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            host_tensor.shape,
            strides=host_tensor.stride(),
            storage_offset=host_tensor.storage_offset(),
            dtype=host_tensor.dtype,
            layout=host_tensor.layout,
            device=DEVICE,
        )
        tensor.host_tensor = host_tensor
        return tensor

    def __repr__(self, **_: Any) -> str:
        return f"SimulatedTensor({self.host_tensor})"

    def tolist(self) -> Any:
        _count("synchronizes: tolist")
        return self.host_tensor.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError(f"numpy of a tensor on {DEVICE}: copy it to the CPU first")
        _count("synchronizes: numpy")
        return self.host_tensor.numpy(force=True)

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


class SimulatedDevice(TorchDispatchMode):
    """Context in which tensors can be created on and moved to the device; counts synchronisations and copies."""

    entered: "list[SimulatedDevice]" = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[str, str]] = Counter()  # (event, innermost line of the package) -> number

    @property
    def synchronizations(self) -> int:
        """Number of times the host synchronised with the device."""
        return sum(count for (event, _), count in self.counts.items() if event.startswith("synchronizes"))

    def copies_in(self, *files: str) -> int:
        """Number of copies to the device in some files of the package."""
        counts = self.counts.items()
        return sum(n for (event, where), n in counts if "to the device" in event and where.startswith(files))

    def report(self) -> str:
        """One line per location: number, event, file and line."""
        return "\n".join(f"{count:4} {event} in {where}" for (event, where), count in sorted(self.counts.items()))

    def __enter__(self) -> "SimulatedDevice":
        SimulatedDevice.entered.append(self)
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        SimulatedDevice.entered.pop()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


def move_to_device(model: nn.Module) -> nn.Module:
    """Move parameters and buffers to the device, in place."""
    for module in model.modules():
        for name, value in list(module._parameters.items()):
            if value is not None:
                moved = nn.Parameter(SimulatedTensor(value.data), requires_grad=value.requires_grad)
                module._parameters[name] = moved
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = SimulatedTensor(buffer)
    return model


def _count(event: str) -> None:
    if SimulatedDevice.entered:
        frame = sys._getframe(1)  # traceback.extract_stack takes ten times as long
        while frame.f_back is not None and PACKAGE not in frame.f_code.co_filename:
            frame = frame.f_back
        path = frame.f_code.co_filename
        where = f"{path.rsplit(PACKAGE, 1)[1]}:{frame.f_lineno}" if PACKAGE in path else "the test"
        SimulatedDevice.entered[-1].counts[event, where] += 1


def _run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = operation._schema.name.split("::")[1].rstrip("_")
    tensors = [*_tensors(args), *_tensors(list(kwargs.values()))]
    on_device = [tensor for tensor in tensors if isinstance(tensor, SimulatedTensor)]
    device = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
    if device:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if name == "copy":
        _count_copy(
            to_device=isinstance(tensors[0], SimulatedTensor), from_device=isinstance(tensors[1], SimulatedTensor)
        )
        operation(*_map(_on_host, args), **_map(_on_host, kwargs))
        return tensors[0]
    if name == "_to_copy":
        to_device = (device or tensors[0].device.type) == NAME
        _count_copy(to_device=to_device, from_device=isinstance(tensors[0], SimulatedTensor))
        copy = operation(*_map(_on_host, args), **{k: v for k, v in kwargs.items() if k != "non_blocking"})
        return SimulatedTensor(copy) if to_device else copy
    if on_device:
        _check_devices(name, tensors)
        _count_synchronization(name, args, kwargs)
    result = operation(*_map(_on_host, args), **_map(_on_host, kwargs))
    if name == "_local_scalar_dense" or not (on_device or device == NAME):
        return result
    known = {id(tensor.host_tensor): tensor for tensor in on_device}  # in-place operations return their argument

    def wrap(value: Any) -> Any:
        return known.get(id(value), SimulatedTensor(value)) if isinstance(value, torch.Tensor) else value

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


def _on_host(value: Any) -> Any:
    return value.host_tensor if isinstance(value, SimulatedTensor) else value


def _check_devices(name: str, tensors: list[Tensor]) -> None:
    cpu_tensors = [
        tuple(tensor.shape) for tensor in tensors if tensor.dim() and not isinstance(tensor, SimulatedTensor)
    ]
    if not cpu_tensors:
        return
    if name not in CPU_INDICES_ALLOWED:
        raise RuntimeError(f"{name}: tensors on two devices, one of shape {cpu_tensors[0]} on the CPU")
    _count("copies to the device: index")


def _count_synchronization(name: str, args: Any, kwargs: dict[str, Any]) -> None:
    if name in SYNCHRONIZING:
        _count(f"synchronizes: {name}")
    if name == "repeat_interleave" and isinstance(args[-1], torch.Tensor) and kwargs.get("output_size") is None:
        _count("synchronizes: repeat_interleave without output_size")
    if name in CPU_INDICES_ALLOWED and any(
        isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
    ):
        _count(f"synchronizes: {name} by a mask")


def _count_copy(*, to_device: bool, from_device: bool) -> None:
    if to_device and not from_device:
        _count("copies to the device")
    if from_device and not to_device:
        _count("synchronizes: copy to the CPU")


def _empty(size: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return SimulatedTensor(torch.empty(size, dtype=dtype))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return SimulatedTensor(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:  # noqa: ARG001
    _count_copy(to_device=isinstance(target, SimulatedTensor), from_device=isinstance(source, SimulatedTensor))
    _on_host(target).copy_(_on_host(source))
    return target


_LIBRARY = torch.library.Library(
    "aten", "IMPL"
)  # calls that bypass the dispatch mode, e.g. in `tensor.new_tensor([1])`
_LIBRARY.impl("empty.memory_format", _empty, "PrivateUse1")
_LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")
_LIBRARY.impl("_copy_from", _copy_from, "PrivateUse1")
