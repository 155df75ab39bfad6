"""Lengths and rates of a run, fitted to the number of processes and to the size of the data."""

import logging
import math

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError

logger = logging.getLogger(__name__)


def fit_to_processes(cfg: CfgNode, num_processes: int) -> CfgNode:
    """The config for another number of processes than SOLVER.REFERENCE_WORLD_SIZE, as Detectron2 scales it.

    The images of each process stay as many; the learning rate grows with the batch and the lengths shrink with it.
    """
    reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
    if reference in (0, num_processes):
        return cfg
    if cfg.SOLVER.IMS_PER_BATCH % reference:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH = {cfg.SOLVER.IMS_PER_BATCH} cannot be divided among "
            f"SOLVER.REFERENCE_WORLD_SIZE = {reference} processes; make it a multiple."
        )
    scale = num_processes / reference
    cfg, is_frozen = _thawed(cfg)
    cfg.SOLVER.REFERENCE_WORLD_SIZE = num_processes
    cfg.SOLVER.IMS_PER_BATCH = round(cfg.SOLVER.IMS_PER_BATCH * scale)
    cfg.SOLVER.BASE_LR = cfg.SOLVER.BASE_LR * scale
    cfg.SOLVER.BASE_LR_END = cfg.SOLVER.BASE_LR_END * scale
    _scale_lengths(cfg, 1 / scale)
    cfg.TEST.EVAL_PERIOD = round(cfg.TEST.EVAL_PERIOD / scale)
    cfg.SOLVER.CHECKPOINT_PERIOD = round(cfg.SOLVER.CHECKPOINT_PERIOD / scale)
    logger.info(
        "%d processes, settings for %d: IMS_PER_BATCH %d, BASE_LR %g, MAX_ITER %d, STEPS %s, WARMUP_ITERS %d",
        num_processes,
        reference,
        cfg.SOLVER.IMS_PER_BATCH,
        cfg.SOLVER.BASE_LR,
        cfg.SOLVER.MAX_ITER,
        list(cfg.SOLVER.STEPS),
        cfg.SOLVER.WARMUP_ITERS,
    )
    return _refrozen(cfg, is_frozen)


def fit_to_epochs(cfg: CfgNode, num_images: int) -> CfgNode:
    """The config with MAX_ITER, STEPS and WARMUP_ITERS for SOLVER.MAX_EPOCHS passes over `num_images` images."""
    if cfg.SOLVER.MAX_EPOCHS <= 0:
        return cfg
    images_per_step = cfg.SOLVER.IMS_PER_BATCH * cfg.SOLVER.ACCUMULATE_STEPS
    iterations = max(1, math.ceil(cfg.SOLVER.MAX_EPOCHS * num_images / images_per_step))
    former = cfg.SOLVER.MAX_ITER
    cfg, is_frozen = _thawed(cfg)
    _scale_lengths(cfg, iterations / former)
    cfg.SOLVER.MAX_ITER = iterations
    logger.info(
        "%g epochs of %d images are %d iterations of %d images; steps at %s, warm-up %d",
        cfg.SOLVER.MAX_EPOCHS,
        num_images,
        iterations,
        images_per_step,
        list(cfg.SOLVER.STEPS),
        cfg.SOLVER.WARMUP_ITERS,
    )
    return _refrozen(cfg, is_frozen)


def _scale_lengths(cfg: CfgNode, factor: float) -> None:
    cfg.SOLVER.MAX_ITER = max(1, round(cfg.SOLVER.MAX_ITER * factor))
    cfg.SOLVER.STEPS = [round(step * factor) for step in cfg.SOLVER.STEPS]
    cfg.SOLVER.WARMUP_ITERS = round(cfg.SOLVER.WARMUP_ITERS * factor)


def _thawed(cfg: CfgNode) -> tuple[CfgNode, bool]:
    is_frozen = cfg.is_frozen()
    copy = cfg.clone()
    copy.defrost()
    return copy, is_frozen


def _refrozen(cfg: CfgNode, is_frozen: bool) -> CfgNode:
    if is_frozen:
        cfg.freeze()
    return cfg
