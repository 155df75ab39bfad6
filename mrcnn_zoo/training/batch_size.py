"""SOLVER.IMS_PER_BATCH auto: the largest batch that fits into the memory of the GPU, and lengths that fit the batch."""

import logging
from collections.abc import Callable, Sequence
from itertools import islice

import torch

from mrcnn_zoo import data
from mrcnn_zoo.config import CfgNode, changed_config, config_from_text
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.distributed.processes import maximum_over_processes, world_size
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.modeling.construction import resolve_device
from mrcnn_zoo.structures import Sample
from mrcnn_zoo.training.lengths import scaled_lengths
from mrcnn_zoo.training.optimizer import build_optimizer
from mrcnn_zoo.training.step import Updater, build_precision

AUTO = "auto"
REFERENCE_BATCH = 16  # images that BASE_LR and the lengths of Detectron2's configs are for
MOST_IMAGES = 256  # per process
SHARE_OF_MEMORY = 0.9  # that a step may use: other images have more objects
NUM_EXAMINED = 32  # images, of which the largest is used for the trial steps

logger = logging.getLogger(__name__)


def fit_batch(cfg: CfgNode, datasets: Sequence[Dataset], *, former: str = "") -> CfgNode:
    """The config with a number for SOLVER.IMS_PER_BATCH auto, and learning rate and lengths for this number.

    The rate and the lengths are those of a batch of SOLVER.SCALE_LR_TO_BATCH images, or of 16 where that is 0: the rate
    is multiplied by the images of a step divided by these, the lengths are divided by the same factor.

    Args:
        cfg: of the training.
        datasets: to train on.
        former: the config in the checkpoint that is resumed, which has the number; empty in a new training.

    Raises:
        UserError: auto without a CUDA device, or a GPU on which not even one image fits.
    """
    if cfg.SOLVER.IMS_PER_BATCH != AUTO:
        return cfg
    if former:
        batch = config_from_text(former, source="the checkpoint").SOLVER.IMS_PER_BATCH
    elif resolve_device(cfg.MODEL.DEVICE).type != "cuda":
        raise UserError(
            "SOLVER.IMS_PER_BATCH = auto tries batches on a GPU, and this training runs on the CPU, whose memory the "
            "system shares: give a number, e.g. SOLVER.IMS_PER_BATCH 2 with SOLVER.SCALE_LR_TO_BATCH 16, which fits "
            "the learning rate to it."
        )
    else:
        sample = _largest_sample(changed_config(cfg, {"SOLVER.IMS_PER_BATCH": world_size()}), datasets)
        batch = largest_batch(lambda count: _step_fits(cfg, [sample] * count)) * world_size()
    return with_batch(cfg, batch)


def largest_batch(fits: Callable[[int], bool], *, most: int = MOST_IMAGES) -> int:
    """The number of images per process that fits on every process, to an eighth: doubled while it fits, then bisected.

    Args:
        fits: whether a number of images does; tried with few numbers, ascending at first.
        most: largest number tried.

    Raises:
        UserError: not even one image fits.
    """

    def fits_everywhere(count: int) -> bool:
        return maximum_over_processes([0.0 if fits(count) else 1.0]) == [0.0]

    low, high = 0, 1
    while high <= most and fits_everywhere(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > max(1, low // 8):
        middle = (low + high) // 2
        low, high = (middle, high) if fits_everywhere(middle) else (low, middle)
    if low == 0:
        raise UserError(
            "not even one image fits into the memory of the GPU: lower INPUT.MIN_SIZE_TRAIN and INPUT.MAX_SIZE_TRAIN, "
            "or MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE, or set SOLVER.AMP.ENABLED True."
        )
    return low


def with_batch(cfg: CfgNode, batch: int) -> CfgNode:
    """The config for a batch, with the learning rate and the lengths of as many images; see `fit_batch`.

    Args:
        cfg: of the training.
        batch: images over all processes.
    """
    reference = cfg.SOLVER.SCALE_LR_TO_BATCH or REFERENCE_BATCH
    scale = batch * cfg.SOLVER.ACCUMULATE_STEPS / reference
    periods = {
        name: round(cfg.value_of(name) / scale) or min(1, cfg.value_of(name))
        for name in ("TEST.EVAL_PERIOD", "SOLVER.CHECKPOINT_PERIOD")
    }
    settings = {"SOLVER.IMS_PER_BATCH": batch, "SOLVER.SCALE_LR_TO_BATCH": reference, **periods}
    cfg = changed_config(cfg, {**settings, **scaled_lengths(cfg, 1 / scale)})
    logger.info(
        "SOLVER.IMS_PER_BATCH auto: %d images; for %g times the %d images that the settings are for: BASE_LR %g, "
        "MAX_ITER %d, STEPS %s, WARMUP_ITERS %d",
        batch,
        scale,
        reference,
        cfg.SOLVER.BASE_LR * scale,
        cfg.SOLVER.MAX_ITER,
        list(cfg.SOLVER.STEPS),
        cfg.SOLVER.WARMUP_ITERS,
    )
    return cfg


def _largest_sample(cfg: CfgNode, datasets: Sequence[Dataset]) -> Sample:
    """The augmented training image with the most pixels among the first ones, and of these with the most objects."""
    loader = data.build_train_loader(cfg, datasets, world_size=world_size(), is_first=False)
    samples = [sample for samples in islice(iter(loader), NUM_EXAMINED) for sample in samples]
    return max(samples, key=lambda sample: (sample.image.numel(), len(sample.targets or ())))


def _step_fits(cfg: CfgNode, samples: list[Sample]) -> bool:
    """Whether two training steps of a new model stay within the share of the memory that is free now."""
    device = resolve_device(cfg.MODEL.DEVICE)
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info(device)[0]
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_reserved(device)
    try:
        model = build_model(changed_config(cfg, {"SOLVER.IMS_PER_BATCH": 1, "MODEL.WEIGHTS": ""})).train()
        updater = Updater(build_optimizer(cfg, model), precision=build_precision(cfg, device))
        for _ in range(2):  # the second has the state of the optimizer
            updater.compute_gradients(model, [samples])
            updater.apply_gradients()
    except torch.OutOfMemoryError:
        return False
    return torch.cuda.max_memory_reserved(device) - before <= SHARE_OF_MEMORY * free
