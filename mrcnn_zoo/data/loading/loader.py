"""Sample loaders with worker processes: endless and shuffled for training, in order for evaluation."""

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any

import torch
from torch.utils.data import DataLoader

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.classes import merge_datasets
from mrcnn_zoo.data.loading.mapper import Mapper, build_eval_mapper, build_train_mapper, build_validation_mapper
from mrcnn_zoo.data.loading.packing import Failure, PackedForGPU, PackedRecords, pack, unpack
from mrcnn_zoo.data.loading.proposals import build_proposal_mapper
from mrcnn_zoo.data.loading.samplers import (
    SAMPLE_STREAM,
    BatchDraws,
    BatchStream,
    Draw,
    contiguous_share,
    generator,
    orientation_groups,
    share_of_rank,
)
from mrcnn_zoo.data.loading.selection import select_for_training, warn_of_selection
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registries import DATA_SAMPLERS
from mrcnn_zoo.structures import Sample

PREFETCHED_BATCHES = 2  # per worker


class SampleSource:
    """A map-style dataset of torch whose items are batches of samples.

    Args:
        records: of the dataset.
        mapper: record and generator -> sample.
        seed: seeds the augmentation of a sample together with its position, so that it is the same in any process.
    """

    def __init__(self, records: Sequence[ImageRecord], *, mapper: Mapper, seed: int) -> None:
        self.records = records
        self.mapper = mapper
        self.seed = seed

    def __getitem__(self, batch: BatchDraws) -> list[Sample] | Failure:
        try:
            return [
                self.mapper(self.records[draw.row], generator(self.seed, SAMPLE_STREAM, draw.position))
                for draw in batch
            ]
        except UserError as error:
            return Failure(str(error))


def raise_failures(loaded: Generator[list[Sample] | Failure, None, None]) -> Iterator[list[Sample]]:
    """The samples; a `Failure` is raised.

    Args:
        loaded: one batch or failure at a time.

    Raises:
        UserError: the message of a failure.
    """
    # Closed explicitly: the traceback of a failure would keep the worker processes alive.
    with closing(loaded):
        for item in loaded:
            if isinstance(item, Failure):
                raise UserError(item.message)
            yield item


def prepare_worker(worker_number: int) -> None:  # noqa: ARG001
    """Set the signals and the garbage collection of a worker process.

    Ctrl-C and a cluster's SIGTERM reach all processes, and a worker that exits stops the training process before it
    saves. Workers therefore ignore both; the training process ends its workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_on_sigterm_of, args=(_parent_id(),), daemon=True).start()
    gc.freeze()  # a collection would touch, and thereby copy, all objects inherited from the training process


def _parent_id() -> int:
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert parent.pid is not None
    return parent.pid  # os.getppid() may be a fork server's


def _exit_on_sigterm_of(parent: int) -> None:
    while True:
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == parent:
            os._exit(0)


class SampleLoader:
    """An iterable of lists of samples, prefetched by worker processes.

    Args:
        source: batch -> samples.
        batches: called per iteration; the batches in their order.
        num_workers: worker processes; 0 loads in the calling process.
        pins: whether images are in page-locked memory, for a CUDA device; only with worker processes.
    """

    def __init__(
        self,
        source: SampleSource,
        *,
        batches: Callable[[], Iterator[BatchDraws]],
        num_workers: int,
        pins: bool = False,
    ) -> None:
        self._source = source
        self._batches = batches
        self._num_workers = num_workers
        self._pins = pins

    def __iter__(self) -> Iterator[list[Sample]]:
        if self._num_workers == 0:
            return raise_failures(self._source[batch] for batch in self._batches())
        if self._pins:
            return raise_failures(item for item in self._start_workers())
        return raise_failures(unpack(item) for item in self._start_workers())

    def _start_workers(self) -> Any:
        return DataLoader(
            self._source,  # type: ignore[arg-type]
            sampler=self._batches(),  # type: ignore[arg-type]
            batch_size=None,
            collate_fn=PackedForGPU.pack if self._pins else pack,
            pin_memory=self._pins,
            num_workers=self._num_workers,
            prefetch_factor=PREFETCHED_BATCHES,
            worker_init_fn=prepare_worker,
        )


class TrainLoader(SampleLoader):
    """An endless loader of this process's share of every global batch.

    Args:
        source: batch -> samples.
        dataset: the selected training data; `num_images` is its length.
        batches: called per iteration; the batches of this process in their order.
        num_workers: worker processes; 0 loads in the calling process.
        pins: see `SampleLoader`.
    """

    def __init__(
        self,
        source: SampleSource,
        *,
        dataset: Dataset,
        batches: Callable[[], Iterator[BatchDraws]],
        num_workers: int,
        pins: bool = False,
    ) -> None:
        super().__init__(source, batches=batches, num_workers=num_workers, pins=pins)
        self.dataset = dataset
        self.num_images = len(dataset)


class EvalLoader(SampleLoader):
    """A loader of this process's share of a dataset, in order; `len` is its number of batches.

    Args:
        source: batch -> samples.
        rows: of the dataset.
        batch_size: samples per batch; the last one may be smaller.
        num_workers: worker processes, at most one per batch; 0 loads in the calling process.
        pins: see `SampleLoader`.
    """

    def __init__(
        self, source: SampleSource, *, rows: range, batch_size: int, num_workers: int, pins: bool = False
    ) -> None:
        starts = range(0, len(rows), batch_size)
        batches = [[Draw(row, row) for row in rows[start : start + batch_size]] for start in starts]
        super().__init__(source, batches=lambda: iter(batches), num_workers=min(num_workers, len(batches)), pins=pins)
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
    """The loader of training samples: shuffled, augmented, endless, and determined by the seed.

    Args:
        cfg: INPUT, DATALOADER, SOLVER.IMS_PER_BATCH, and MODEL for the columns of targets.
        datasets: concatenated; their classes must agree.
        start_batch: number of the first global batch; the sequence equals that of an uninterrupted run.
        rank: of this process.
        world_size: number of processes, which share each global batch.
        seed: at least 0.
        is_first: whether omitted images and objects are logged; False for further loaders of the same data.

    Raises:
        UserError: no image to train on, classes that differ, or a batch size that is no multiple of `world_size`.
    """
    batch_size = cfg.SOLVER.IMS_PER_BATCH
    if isinstance(batch_size, str):
        raise UserError(f"SOLVER.IMS_PER_BATCH = {batch_size} is for training on a GPU: give a number here.")
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

    def batches() -> Iterator[BatchDraws]:
        return (share_of_rank(batch, rank, world_size) for batch in stream.batches(start_batch))

    num_workers = cfg.DATALOADER.NUM_WORKERS
    proposals = build_proposal_mapper(cfg, datasets, dataset.records, is_training=True)
    source = SampleSource(
        PackedRecords(dataset.records) if num_workers else dataset.records,
        mapper=build_train_mapper(cfg, dataset, proposals),
        seed=seed,
    )
    return TrainLoader(source, dataset=dataset, batches=batches, num_workers=num_workers, pins=_uses_cuda(cfg))


def _uses_cuda(cfg: CfgNode) -> bool:
    return cfg.MODEL.DEVICE.startswith(("cuda", "auto")) and torch.cuda.is_available()


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
    """The loader of evaluation samples, in the order of the dataset, a contiguous share per process.

    Args:
        cfg: INPUT, DATALOADER.NUM_WORKERS, TEST.BATCH_SIZE and TEST.NUM_IMAGES.
        dataset: to evaluate on.
        rank: of this process.
        world_size: number of processes.
        with_targets: whether samples have targets, in pixels of the resized image, for the validation loss.
        start: number of images to skip at the start of this process's share.
        batch_size: overrides TEST.BATCH_SIZE.

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
    return EvalLoader(source, rows=rows, batch_size=batch_size, num_workers=num_workers, pins=_uses_cuda(cfg))
