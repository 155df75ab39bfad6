"""Records and samples as bytes, for worker processes."""

import contextlib
import io
import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrcnn_zoo.data.records import ImageRecord
from mrcnn_zoo.structures import Sample
from mrcnn_zoo.structures.samples import round_up

ALIGNMENT = 64  # bytes
MIN_SHARED = 1 << 16  # bytes; less goes through the pipe


class PackedRecords(Sequence[ImageRecord]):
    """Records as bytes in one array.

    Changing reference counts copies the memory pages of Python objects that forked processes share; an array has one
    reference count. Source: Detectron2, `DatasetFromList`.

    Args:
        records: picklable.
    """

    def __init__(self, records: Sequence[ImageRecord]) -> None:
        packed = [pickle.dumps(record, protocol=5) for record in records]
        self._ends = np.cumsum([len(item) for item in packed], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(packed), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: Any) -> Any:
        """The record of a row, an int; slices are not supported."""
        start = int(self._ends[row - 1]) if row else 0
        return pickle.loads(self._bytes[start : int(self._ends[row])].data)


@dataclass(frozen=True)
class Failure:
    """A `UserError` raised in a worker process, to be raised again in the training process."""

    message: str


class _TensorPickler(pickle.Pickler):
    """Pickles tensors by value.

    torch sends tensors between processes in shared memory with a file descriptor each, and both run out: containers
    have 64 MB of /dev/shm, processes 1,024 descriptors.
    """

    def reducer_override(self, item: Any) -> Any:
        if isinstance(item, Tensor):
            return torch.from_numpy, (item.contiguous().numpy(),)
        return NotImplemented


class Parcel:
    """A pickled item and the bytes of its arrays, which another process reads from one anonymous file.

    A pipe would copy them several times, 64 KB at a time. The file is memory without a name: /dev/shm does not limit
    it, and nothing is left when a process is killed. Its descriptor is sent as torch sends those of tensors.

    Args:
        data: the item without its arrays, pickled.
        buffers: of the arrays, contiguous.
    """

    def __init__(self, data: bytes, buffers: Sequence[Any]) -> None:
        self.data = data
        self.buffers = [memoryview(buffer).cast("B") for buffer in buffers]

    def __reduce__(self) -> Any:
        if sum(map(len, self.buffers)) >= MIN_SHARED and hasattr(os, "memfd_create"):
            # An error here would be lost in the thread that sends, and the training process would keep waiting.
            with contextlib.suppress(OSError):  # not allowed here, or too many files
                return self._in_file()
        return Parcel, (self.data, [bytearray(buffer) for buffer in self.buffers])

    def _in_file(self) -> Any:
        places = list(accumulate((round_up(len(buffer), ALIGNMENT) for buffer in self.buffers), initial=0))
        bounds = [(place, place + len(buffer)) for place, buffer in zip(places, self.buffers, strict=False)]
        with open(os.memfd_create("samples"), "wb", buffering=0) as file:
            file.truncate(places[-1])
            for (start, _), buffer in zip(bounds, self.buffers, strict=True):
                file.seek(start)
                _write_all(file, buffer)
            return _receive, (self.data, bounds, DupFd(file.fileno()))


def _write_all(file: io.FileIO, buffer: memoryview) -> None:
    while len(buffer):  # the system writes at most 2 GiB at once
        buffer = buffer[file.write(buffer) :]


def _receive(data: bytes, bounds: Sequence[tuple[int, int]], descriptor: Any) -> Parcel:
    with open(descriptor.detach(), "rb", buffering=0) as file:
        content = np.empty(os.fstat(file.fileno()).st_size, dtype=np.uint8).data
        file.seek(0)
        rest = content
        while len(rest):
            rest = rest[file.readinto(rest) :]
    return Parcel(data, [content[start:end] for start, end in bounds])


def pack(item: Any) -> Parcel:
    """Serialise samples or a `Failure` for another process."""
    buffers: list[pickle.PickleBuffer] = []
    data = io.BytesIO()
    _TensorPickler(data, protocol=5, buffer_callback=buffers.append).dump(item)
    return Parcel(data.getvalue(), [buffer.raw() for buffer in buffers])


def unpack(parcel: Parcel) -> Any:
    """The inverse of `pack`; only for parcels from this run's own worker processes."""
    return pickle.loads(parcel.data, buffers=parcel.buffers)


@dataclass(frozen=True)
class PackedForGPU:
    """Packed samples that torch's thread for page-locked memory unpacks, while the training process goes on."""

    parcel: Parcel

    @classmethod
    def pack(cls, item: Any) -> "PackedForGPU":
        """Serialise samples or a `Failure` for another process."""
        return cls(pack(item))

    def pin_memory(self) -> "list[Sample] | Failure":
        """The samples with their images in page-locked memory, which a GPU reads without a wait of the host."""
        item = unpack(self.parcel)
        return item if isinstance(item, Failure) else [replace(s, image=s.image.pin_memory()) for s in item]
