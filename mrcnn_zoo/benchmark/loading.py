"""Data loading with masks beside torchvision's reference pipeline: processor time per image of one process."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import cycle, islice

import numpy as np
import torch

from mrcnn_zoo.benchmark.models import OURS, TORCHVISION, Steps
from mrcnn_zoo.benchmark.report import BenchmarkReport, make_rows
from mrcnn_zoo.benchmark.separate import Entrant, ratios_of_rounds, time_in_turns
from mrcnn_zoo.benchmark.torchvision_loading import build_torchvision_pipeline
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.loading import config_from_text
from mrcnn_zoo.data.catalog import load_dataset
from mrcnn_zoo.data.loading.mapper import build_train_mapper
from mrcnn_zoo.data.loading.selection import select_for_training
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.detectors.input_output import Collation
from mrcnn_zoo.ops.memory import keep_freed_memory

FLIP_PROBABILITY = 0.5  # of both
SIZE_DIVISIBILITY = 32  # of both: FPN's stride, and torchvision's constant
LOADER_ALONE = ", loader alone"
NOTES = (
    "Seconds are processor time of the whole process with one thread, so images / s are those of a core. 'Produced' "
    "counts objects. The processes take turns, in alternating order.",
    "From files to the network's input: decoded, mirrored at random, resized, normalised, padded; targets with masks. "
    "torchvision resizes, normalises and pads in its model (GeneralizedRCNNTransform), ours resizes in the loader.",
    "'Loader alone': without that stage of torchvision's model, so without any resizing of its images and masks; ours "
    "without normalisation and padding, but resized.",
)


@dataclass(frozen=True)
class LoadingPlan:
    """What to measure; picklable, because each candidate runs in a process of its own.

    Args:
        config_text: YAML of the whole config.
        trust: modules whose code the config may name.
        images: name of a dataset or path of a folder with COCO annotations; empty for the first of DATASETS.TRAIN.
        num_batches: per round; the images are repeated where there are fewer.
        batch_size: images per batch.
        repeats: measured rounds.
        keeps_memory: whether the C library keeps freed memory, for all candidates.
        num_threads: of torch; 0 for one.
    """

    config_text: str
    trust: tuple[str, ...] = ()
    images: str = ""
    num_batches: int = 4
    batch_size: int = 2
    repeats: int = 5
    keeps_memory: bool = True
    num_threads: int = 0


@dataclass(frozen=True)
class LoadingJob:
    """One candidate that runs in a new process."""

    plan: LoadingPlan
    name: str  # OURS or TORCHVISION
    is_collated: bool  # whether images are normalised and padded, torchvision's also resized


def benchmark_loading_against_torchvision(plan: LoadingPlan) -> BenchmarkReport:
    """Processor time per image of our training samples and of torchvision's reference pipeline, with memory.

    Args:
        plan: what to measure.

    Raises:
        UserError: the dataset cannot be loaded, or torchvision's pipeline does not support a setting.
        RuntimeError: a process failed; with its traceback.
    """
    cfg = config_from_text(plan.config_text, trust=plan.trust)
    dataset = build_training_data(cfg, plan.images)
    build_torchvision_pipeline(cfg, dataset)  # refuses before any process starts
    jobs = [(name, plan, is_collated) for is_collated in (True, False) for name in (OURS, TORCHVISION)]
    if plan.keeps_memory:
        jobs.append((TORCHVISION, replace(plan, keeps_memory=False), True))
    entrants = []
    for name, own_plan, is_collated in jobs:
        shown = name if is_collated else name + LOADER_ALONE
        shown = shown if own_plan.keeps_memory == plan.keeps_memory else f"{name}, default allocator"
        entrants.append(
            Entrant(shown, partial(start_loading, LoadingJob(own_plan, name, is_collated)), time.process_time)
        )
    timings, memory = time_in_turns(entrants, repeats=plan.repeats)
    ours, theirs, ours_alone, theirs_alone, *default = timings
    pairs = [(ours, theirs), *((ours, timing) for timing in default), (ours_alone, theirs_alone)]
    ratios = {name: value for pair in pairs for name, value in ratios_of_rounds(*pair, memory).items()}
    settings = asdict(plan) | {"dataset": dataset.name, "num_threads": plan.num_threads or 1}
    del settings["config_text"]
    return BenchmarkReport(
        task="data",
        settings=settings | {"min_sizes": list(cfg.INPUT.MIN_SIZE_TRAIN), "max_size": cfg.INPUT.MAX_SIZE_TRAIN},
        rows=make_rows(timings, num_images=plan.num_batches * plan.batch_size, memory=memory),
        ratios=ratios,
        notes=NOTES,
    )


def build_training_data(cfg: CfgNode, images: str) -> Dataset:
    """The images that a training would use.

    Args:
        cfg: DATASETS, MODEL, DATALOADER.
        images: name of a dataset or path of a folder; empty for the first of DATASETS.TRAIN.

    Raises:
        UserError: no dataset, or one that cannot be loaded.
    """
    name = images or next(iter(cfg.DATASETS.TRAIN), "")
    if not name:
        raise UserError("no data to load: name a dataset with --images, or set DATASETS.TRAIN.")
    return select_for_training(cfg, load_dataset(cfg, name))


def start_loading(job: LoadingJob) -> Callable[[], Steps]:
    """Set up the process and read the annotations; the returned function makes the steps, one per batch.

    Args:
        job: the candidate.
    """
    plan = job.plan
    if plan.keeps_memory:
        keep_freed_memory()
    torch.set_num_threads(plan.num_threads or 1)
    cfg = config_from_text(plan.config_text, trust=plan.trust)
    dataset = build_training_data(cfg, plan.images)
    records = list(islice(cycle(dataset.records), plan.num_batches * plan.batch_size))
    build = build_our_step if job.name == OURS else build_torchvision_step
    step = build(cfg, dataset, is_collated=job.is_collated)
    starts = range(0, len(records), plan.batch_size)
    batches = [(start, records[start : start + plan.batch_size]) for start in starts]
    return lambda: [partial(step, start, batch) for start, batch in batches]


def build_our_step(cfg: CfgNode, dataset: Dataset, *, is_collated: bool) -> Callable[[int, list[ImageRecord]], int]:
    """A function of the place and the records of a batch that returns the number of objects; ours.

    Args:
        cfg: of a training.
        dataset: that the records are of.
        is_collated: whether images are normalised and padded.
    """
    mapper = build_train_mapper(cfg, dataset)
    collate = Collation(cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, size_divisibility=SIZE_DIVISIBILITY)

    def step(start: int, batch: list[ImageRecord]) -> int:
        samples = [mapper(record, np.random.default_rng(start + row)) for row, record in enumerate(batch)]
        if is_collated:
            collate(samples)
        return sum(len(sample.targets or ()) for sample in samples)

    return step


def build_torchvision_step(
    cfg: CfgNode, dataset: Dataset, *, is_collated: bool
) -> Callable[[int, list[ImageRecord]], int]:
    """As `build_our_step`, torchvision's.

    Args:
        cfg: of a training.
        dataset: that the records are of.
        is_collated: whether images and masks are resized, and images normalised and padded.

    Raises:
        UserError: see `build_torchvision_pipeline`.
    """
    pipeline = build_torchvision_pipeline(cfg, dataset)

    def step(start: int, batch: list[ImageRecord]) -> int:
        mirrored = np.random.default_rng(start).random(len(batch)) < FLIP_PROBABILITY
        samples = [
            pipeline.load(record.image_id, is_mirrored=bool(flip)) for record, flip in zip(batch, mirrored, strict=True)
        ]
        if is_collated:
            pipeline.collate(samples)
        return sum(len(target["boxes"]) for _, target in samples)

    return step
