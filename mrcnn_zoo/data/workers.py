"""What loader processes do, and how records get into them and samples out of them."""

import gc
import io
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrcnn_zoo.data.batches import Batch
from mrcnn_zoo.data.mapper import Mapper
from mrcnn_zoo.data.records import ImageRecord
from mrcnn_zoo.data.samplers import SAMPLE_STREAM, generator
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.structures import Sample


class PackedRecords(Sequence[ImageRecord]):
    """Records as bytes in one array.

    Millions of Python objects shared by forked processes are copied page by page as soon as their reference counts
    change; one array is not. Source: Detectron2's issue on growing memory, and its answer.

    Args:
        records: what to pack.
    """

    def __init__(self, records: Sequence[ImageRecord]) -> None:
        packed = [pickle.dumps(record, protocol=5) for record in records]
        self._ends = np.cumsum([len(item) for item in packed], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(packed), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: Any) -> Any:
        """The record of a row; slices are not supported."""
        start = int(self._ends[row - 1]) if row else 0
        return pickle.loads(self._bytes[start : int(self._ends[row])].data)


@dataclass(frozen=True)
class Failure:
    """A user's mistake found in a loader process, on its way to the process that can report it."""

    message: str


class SampleSource:
    """The samples of a batch; the map-style dataset that torch's DataLoader asks.

    Args:
        records: of the dataset.
        mapper: makes a sample of a record.
        seed: with a draw's position, seeds the augmentation, so that it does not matter which process makes the sample.
    """

    def __init__(self, records: Sequence[ImageRecord], *, mapper: Mapper, seed: int) -> None:
        self.records = records
        self.mapper = mapper
        self.seed = seed

    def __getitem__(self, batch: Batch) -> list[Sample] | Failure:
        try:
            return [
                self.mapper(self.records[draw.row], generator(self.seed, SAMPLE_STREAM, draw.position))
                for draw in batch
            ]
        except UserError as error:
            return Failure(str(error))


class _TensorPickler(pickle.Pickler):
    """Pickles tensors by value, as bytes.

    torch's own way of sending tensors between processes takes a file descriptor each and shared memory, and both run
    out: /dev/shm has 64 MB in a container, and a process 1,024 descriptors.
    """

    def reducer_override(self, item: Any) -> Any:
        if isinstance(item, Tensor):
            return torch.from_numpy, (item.contiguous().numpy(),)
        return NotImplemented


def pack(item: Any) -> bytes:
    """The bytes of samples or a failure, to be sent to another process."""
    buffer = io.BytesIO()
    _TensorPickler(buffer, protocol=5).dump(item)
    return buffer.getvalue()


def unpack(item: bytes) -> Any:
    """What `pack` was given; only ever called on what an own loader process sent."""
    return pickle.loads(item)


def raise_failures(loaded: Generator[list[Sample] | Failure, None, None]) -> Iterator[list[Sample]]:
    """The samples; a failure is raised as the error that it was.

    Raises:
        UserError: the mistake that a loader process found.
    """
    # Closed at once, or the traceback of a failure would keep the loader processes alive.
    with closing(loaded):
        for item in loaded:
            if isinstance(item, Failure):
                raise UserError(item.message)
            yield item


def prepare_worker(worker_number: int) -> None:  # noqa: ARG001
    """Set a loader process up.

    Ctrl-C and a cluster's SIGTERM go to all processes, and a loader process that ends takes the training process with
    it before that can save. So they are left to the training process, which ends its loader processes itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_parent, args=(_parent_id(),), daemon=True).start()
    gc.freeze()  # collecting would touch, and so copy, every object inherited from the training process


def _parent_id() -> int:
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert parent.pid is not None
    return parent.pid  # os.getppid() may be a fork server's


def _obey_parent(parent: int) -> None:
    """End this process when its parent says so, and no other."""
    while True:
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == parent:
            os._exit(0)
