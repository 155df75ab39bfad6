"""Records and samples as bytes, for worker processes."""

import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrcnn_zoo.data.records import ImageRecord
from mrcnn_zoo.structures import Sample


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


def pack(item: Any) -> bytes:
    """Serialise samples or a `Failure` for another process."""
    buffer = io.BytesIO()
    _TensorPickler(buffer, protocol=5).dump(item)
    return buffer.getvalue()


def unpack(item: bytes) -> Any:
    """The inverse of `pack`; only for bytes from this run's own worker processes."""
    return pickle.loads(item)


@dataclass(frozen=True)
class PackedForGPU:
    """Packed samples that torch's thread for page-locked memory unpacks, while the training process goes on."""

    data: bytes

    @classmethod
    def pack(cls, item: Any) -> "PackedForGPU":
        """Serialise samples or a `Failure` for another process."""
        return cls(pack(item))

    def pin_memory(self) -> "list[Sample] | Failure":
        """The samples with their images in page-locked memory, which a GPU reads without a wait of the host."""
        item = unpack(self.data)
        return item if isinstance(item, Failure) else [replace(s, image=s.image.pin_memory()) for s in item]
