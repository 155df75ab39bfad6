"""Loaders of samples and their worker processes: endless and shuffled for training, in order for testing."""

import gc
import io
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.classes import merge_datasets
from mrcnn_zoo.data.loading.mapper import Mapper, build_eval_mapper, build_train_mapper, build_validation_mapper
from mrcnn_zoo.data.loading.samplers import (
    SAMPLE_STREAM,
    Batch,
    BatchStream,
    Draw,
    contiguous_share,
    generator,
    orientation_groups,
    share_of_rank,
)
from mrcnn_zoo.data.loading.selection import select_for_training, warn_of_selection
from mrcnn_zoo.data.proposals import build_proposal_mapper
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registries import DATA_SAMPLERS
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


PREFETCHED_BATCHES = 2  # a worker


class SampleLoader:
    """Lists of samples, read by loader processes ahead of time.

    Args:
        source: makes the samples of a batch.
        batches: called at each iteration, the batches to load in their order.
        num_workers: loader processes; 0 loads when a batch is asked for.
    """

    def __init__(self, source: SampleSource, *, batches: Callable[[], Iterator[Batch]], num_workers: int) -> None:
        self._source = source
        self._batches = batches
        self._num_workers = num_workers

    def __iter__(self) -> Iterator[list[Sample]]:
        if self._num_workers == 0:
            return raise_failures(self._source[batch] for batch in self._batches())
        return raise_failures(unpack(item) for item in self._start_workers())

    def _start_workers(self) -> Any:
        return DataLoader(
            self._source,  # type: ignore[arg-type]
            sampler=self._batches(),  # type: ignore[arg-type]
            batch_size=None,
            collate_fn=pack,
            num_workers=self._num_workers,
            prefetch_factor=PREFETCHED_BATCHES,
            worker_init_fn=prepare_worker,
        )


class TrainLoader(SampleLoader):
    """This process's share of every global batch, without end.

    `num_images` is the number of images in one pass over the data; `dataset` what is trained on, after images without
    objects have been left out.
    """

    def __init__(
        self, source: SampleSource, *, dataset: Dataset, batches: Callable[[], Iterator[Batch]], num_workers: int
    ) -> None:
        super().__init__(source, batches=batches, num_workers=num_workers)
        self.dataset = dataset
        self.num_images = len(dataset)


class EvalLoader(SampleLoader):
    """This process's share of a test set, in order; `len` is its number of batches."""

    def __init__(self, source: SampleSource, *, rows: range, batch_size: int, num_workers: int) -> None:
        starts = range(0, len(rows), batch_size)
        batches = [[Draw(row, row) for row in rows[start : start + batch_size]] for start in starts]
        super().__init__(source, batches=lambda: iter(batches), num_workers=min(num_workers, len(batches)))
        self.rows = rows
        self._length = len(batches)

    def __len__(self) -> int:
        return self._length


def build_train_loader(
    cfg: CfgNode,
    datasets: Sequence[Dataset],
    *,
    start_batch: int = 0,
    rank: int = 0,
    world_size: int = 1,
    seed: int = 0,
    is_first: bool = True,
) -> TrainLoader:
    """Training samples: shuffled, augmented, endless, and the same for the same seed.

    Args:
        cfg: INPUT, DATALOADER, SOLVER.IMS_PER_BATCH and the model's columns.
        datasets: taken together; their classes must agree.
        start_batch: the global batch to begin with; what comes is what an uninterrupted run would have seen.
        rank: of this process.
        world_size: number of processes, which share each global batch.
        seed: at least 0.
        is_first: log what of the data is not trained on; False for another loader of the same data.

    Raises:
        UserError: no image to train on, classes that differ, or a batch that cannot be shared evenly.
    """
    batch_size = cfg.SOLVER.IMS_PER_BATCH
    if batch_size < 1 or batch_size % world_size:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH = {batch_size} must be a multiple of the {world_size} process(es) that share it."
        )
    if seed < 0:
        raise ValueError(f"the seed of the data must be at least 0, got {seed}")
    merged = merge_datasets(datasets)
    dataset = select_for_training(cfg, merged)
    if is_first:
        warn_of_selection(cfg, merged, dataset)
    sampler = DATA_SAMPLERS.get(cfg.DATALOADER.SAMPLER_TRAIN)(cfg, dataset, seed)
    is_grouped = cfg.DATALOADER.ASPECT_RATIO_GROUPING
    groups = orientation_groups([record.image_size for record in dataset.records]) if is_grouped else None
    stream = BatchStream(sampler, batch_size=batch_size, groups=groups)

    def batches() -> Iterator[Batch]:
        return (share_of_rank(batch, rank, world_size) for batch in stream.batches(start_batch))

    num_workers = cfg.DATALOADER.NUM_WORKERS
    proposals = build_proposal_mapper(cfg, datasets, dataset.records, is_training=True)
    source = SampleSource(
        PackedRecords(dataset.records) if num_workers else dataset.records,
        mapper=build_train_mapper(cfg, dataset, proposals),
        seed=seed,
    )
    return TrainLoader(source, dataset=dataset, batches=batches, num_workers=num_workers)


def build_eval_loader(
    cfg: CfgNode,
    dataset: Dataset,
    *,
    rank: int = 0,
    world_size: int = 1,
    with_targets: bool = False,
    start: int = 0,
    batch_size: int | None = None,
) -> EvalLoader:
    """Test samples in the dataset's order, each process a contiguous share.

    Args:
        cfg: INPUT, DATALOADER.NUM_WORKERS, TEST.BATCH_SIZE and TEST.NUM_IMAGES.
        dataset: what to load.
        rank: of this process.
        world_size: number of processes.
        with_targets: add targets in pixels of the resized image, for the validation loss.
        start: images of this process's share to leave out at its beginning.
        batch_size: instead of TEST.BATCH_SIZE.

    Raises:
        UserError: a dataset without images, or a batch size below 1.
    """
    if len(dataset) == 0:
        raise UserError(f"dataset {dataset.name!r} has no images to evaluate on.")
    batch_size = cfg.TEST.BATCH_SIZE if batch_size is None else batch_size
    if batch_size < 1:
        raise UserError(f"TEST.BATCH_SIZE = {batch_size} must be at least 1.")
    count = min(len(dataset), cfg.TEST.NUM_IMAGES) if cfg.TEST.NUM_IMAGES > 0 else len(dataset)
    num_workers = cfg.DATALOADER.NUM_WORKERS
    records = dataset.records[:count]
    proposals = build_proposal_mapper(cfg, [dataset], records, is_training=False)
    mapper = build_validation_mapper(cfg, dataset, proposals) if with_targets else build_eval_mapper(cfg, proposals)
    source = SampleSource(PackedRecords(records) if num_workers else records, mapper=mapper, seed=0)
    rows = contiguous_share(count, rank, world_size)[start:]
    return EvalLoader(source, rows=rows, batch_size=batch_size, num_workers=num_workers)
