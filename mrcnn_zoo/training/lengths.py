"""The length of a training: which key counts, fitted to the number of processes and images, with its schedule."""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from mrcnn_zoo.config import CfgNode, changed_config
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.training.lr_schedule import LRSchedule, build_lr_schedule
from mrcnn_zoo.training.optimizer import build_batch_scale
from mrcnn_zoo.training.stopping import LONGEST_WARMUP

MINUTES, EPOCHS, ITERATIONS = "SOLVER.MAX_MINUTES", "SOLVER.MAX_EPOCHS", "SOLVER.MAX_ITER"
LENGTHS = (MINUTES, EPOCHS, ITERATIONS)  # of two that are set equally close the first counts
WARMUP = "SOLVER.WARMUP_ITERS"
STEPS = "SOLVER.STEPS"
SCALED_WARMUP = 0.05  # of the training: least warm-up after scaling with the epochs
LEAST_SHARE = 0.5  # of the learning rate; a run that reaches less gets a shorter warm-up, unless that was set closer
NEAR_SHARE = 0.75  # of the learning rate; a run that reaches less is warned of
STEPS_OF_1X = (2 / 3, 8 / 9)  # of the training, where Detectron2's 1x schedule has its steps
# Schedules that read a key; others do not.
READ_BY = {
    STEPS: ("WarmupMultiStepLR",),
    "SOLVER.GAMMA": ("WarmupMultiStepLR", "WarmupStepWithFixedGammaLR"),
    "SOLVER.NUM_DECAYS": ("WarmupStepWithFixedGammaLR",),
    "SOLVER.BASE_LR_END": ("WarmupCosineLR",),
}
BUILT_IN_SCHEDULES = ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR")

logger = logging.getLogger(__name__)


def fit_lengths(
    cfg: CfgNode, *, num_processes: int, count_images: Callable[[], int], state: Mapping[str, Any] | None = None
) -> CfgNode:
    """The config with one length of training, and warm-up, steps, batch and periods that fit it; warns of mistakes.

    Args:
        cfg: of the training.
        num_processes: that train together.
        count_images: number of training images; called where the length is in epochs.
        state: of the checkpoint that is resumed.

    Raises:
        UserError: a batch that the processes cannot share, a schedule that cannot be built, or a length that the
            checkpoint has passed already.
    """
    cfg = fit_to_processes(choose_length(cfg), num_processes)
    if cfg.SOLVER.IMS_PER_BATCH % num_processes:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH = {cfg.SOLVER.IMS_PER_BATCH} must be a multiple of the {num_processes} processes "
            f"that share it, e.g. {math.ceil(cfg.SOLVER.IMS_PER_BATCH / num_processes) * num_processes}."
        )
    if cfg.SOLVER.MAX_EPOCHS > 0:
        cfg = fit_to_epochs(cfg, count_images())
    cfg = fit_warmup(cfg)
    warn_of_schedule(cfg, build_lr_schedule(cfg))
    warn_of_early_stopping(cfg)
    if state is not None:
        check_remaining_length(cfg, state)
    return cfg


def choose_length(cfg: CfgNode) -> CfgNode:
    """The config with one length: of MAX_MINUTES, MAX_EPOCHS and MAX_ITER the one that was set closest to the user.

    What is typed counts before what stands in a file, a file before its base, and that before the default; at equal
    distance MAX_MINUTES counts before MAX_EPOCHS, and that before MAX_ITER. The others are logged.
    """
    given = [name for name in LENGTHS if name == ITERATIONS or cfg.value_of(name) > 0]
    chosen = max(given, key=cfg.closeness_of)
    others = [name for name in given if name != chosen and cfg.closeness_of(name) > 0]
    if not others:
        return cfg
    left_out = [_with_origin(cfg, name) for name in others if name != ITERATIONS]
    words = f"{' and '.join(left_out)} {'does' if len(left_out) == 1 else 'do'} not count" if left_out else ""
    shape = f"{_with_origin(cfg, ITERATIONS)} only gives the shape of the schedule" if ITERATIONS in others else ""
    logger.info("the length of training is %s; %s", _with_origin(cfg, chosen), "; ".join(filter(None, (words, shape))))
    return changed_config(cfg, {name: 0.0 for name in (MINUTES, EPOCHS) if name != chosen})


def fit_warmup(cfg: CfgNode) -> CfgNode:
    """The config with a shorter warm-up, where a length that was set closer is too short for it.

    The decay runs during the warm-up: one that takes nearly all of the training ends at a rate that has decayed.
    """
    length = EPOCHS if cfg.SOLVER.MAX_EPOCHS > 0 else ITERATIONS
    if cfg.closeness_of(length) <= cfg.closeness_of(WARMUP):
        return cfg
    iterations, warmup = cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS
    share, _ = build_lr_schedule(cfg).highest_factor(iterations)
    shortened = int(LONGEST_WARMUP * iterations)
    if shortened >= warmup or (share >= LEAST_SHARE and iterations > warmup):
        return cfg
    logger.info(
        "the warm-up takes %s, as %s leaves too little time for %s; to keep it, type %s %d",
        counted(shortened, "iteration"),
        _with_origin(cfg, length),
        _with_origin(cfg, WARMUP),
        WARMUP,
        cfg.SOLVER.WARMUP_ITERS,
    )
    return changed_config(cfg, {WARMUP: shortened})


def warn_of_schedule(cfg: CfgNode, schedule: LRSchedule) -> None:
    """Warn of a learning rate that never reaches its value or ends too early, and of keys that have no effect.

    Args:
        cfg: with lengths fitted to the data.
        schedule: of the run.
    """
    iterations, rate = cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR
    share, best = schedule.highest_factor(iterations)
    if rate == 0:
        logger.warning("SOLVER.BASE_LR = 0: nothing is learned")
    elif share < NEAR_SHARE or iterations <= cfg.SOLVER.WARMUP_ITERS:
        logger.warning("%s", _low_rate_message(cfg, share=share, best=best))
    first_zero = schedule.first_zero(iterations)
    if rate > 0 and first_zero < iterations:
        logger.warning(
            "the learning rate is 0 from iteration %d of %d on: nothing is learned after it. Check "
            "SOLVER.LR_SCHEDULER_NAME = %s",
            first_zero + 1,
            iterations,
            cfg.SOLVER.LR_SCHEDULER_NAME,
        )
    name = cfg.SOLVER.LR_SCHEDULER_NAME
    beyond = [step for step in cfg.SOLVER.STEPS if step >= iterations]
    if beyond and name in READ_BY[STEPS]:
        logger.warning(
            "%s %s (%s) do not lie within SOLVER.MAX_ITER = %d: no effect. Set, for example, %s %s",
            STEPS,
            beyond,
            cfg.origin_of(STEPS),
            iterations,
            STEPS,
            str(sorted({round(iterations * place) for place in STEPS_OF_1X} - {0, iterations})).replace(" ", ""),
        )
    for key in READ_BY:
        is_set_for_this_run = cfg.closeness_of(key) > cfg.closeness_of("SOLVER.LR_SCHEDULER_NAME")
        if not _reads(cfg, key) and is_set_for_this_run:
            logger.warning(
                "%s has no effect: SOLVER.LR_SCHEDULER_NAME = %s does not read it", _with_origin(cfg, key), name
            )


def _low_rate_message(cfg: CfgNode, *, share: float, best: int) -> str:
    """The cause of a low learning rate: too long a warm-up, or else the decay."""
    iterations, scale = cfg.SOLVER.MAX_ITER, build_batch_scale(cfg)
    reached = f"{cfg.SOLVER.BASE_LR * scale * share:.2g}"
    where = f"in iteration {best + 1} of {iterations}"
    target = f"where SOLVER.BASE_LR = {cfg.SOLVER.BASE_LR:g}"
    if scale != 1:
        target += f", times {scale:g} for SOLVER.SCALE_LR_TO_BATCH = {cfg.SOLVER.SCALE_LR_TO_BATCH}"
    shorter = _shorter_warmup(cfg)
    if shorter is None:
        values = ", ".join(_with_origin(cfg, key) for key in READ_BY if _reads(cfg, key))
        return (
            f"the learning rate is at most {reached}, {where}, {target}: it decays before it is reached. Check "
            f"SOLVER.LR_SCHEDULER_NAME = {cfg.SOLVER.LR_SCHEDULER_NAME}{f' with {values}' if values else ''}"
        )
    advice = f"the warm-up takes {_with_origin(cfg, WARMUP)}. Set, for example, {WARMUP} {shorter}"
    if share >= NEAR_SHARE:
        return f"the learning rate reaches {reached} only at the end, {where}: {advice}"
    return f"the learning rate is at most {reached}, {where}, {target}: {advice}"


def _shorter_warmup(cfg: CfgNode) -> int | None:
    """A shorter warm-up with which the rate is nearly reached, if there is one."""
    if cfg.SOLVER.WARMUP_ITERS == 0:
        return None
    longest = min(int(LONGEST_WARMUP * cfg.SOLVER.MAX_ITER), cfg.SOLVER.WARMUP_ITERS - 1)
    for warmup in (longest >> halvings for halvings in range(max(1, longest.bit_length()))):
        reached, _ = build_lr_schedule(changed_config(cfg, {WARMUP: warmup})).highest_factor(cfg.SOLVER.MAX_ITER)
        if reached >= NEAR_SHARE:
            return warmup
    return None


def _reads(cfg: CfgNode, key: str) -> bool:
    """Whether the schedule reads a key; True for schedules that are not built in."""
    name = cfg.SOLVER.LR_SCHEDULER_NAME
    return name not in BUILT_IN_SCHEDULES or name in READ_BY[key]


def warn_of_early_stopping(cfg: CfgNode) -> None:
    """Warn where SOLVER.EARLY_STOPPING.PATIENCE has no effect."""
    patience = cfg.SOLVER.EARLY_STOPPING.PATIENCE
    if patience <= 0:
        return
    if not cfg.DATASETS.TEST:
        logger.warning("SOLVER.EARLY_STOPPING.PATIENCE = %d has no effect: DATASETS.TEST is empty", patience)
    elif cfg.TEST.EVAL_PERIOD <= 0:
        logger.warning(
            "SOLVER.EARLY_STOPPING.PATIENCE = %d has no effect: TEST.EVAL_PERIOD = %d evaluates only at the end",
            patience,
            cfg.TEST.EVAL_PERIOD,
        )
    elif cfg.SOLVER.MAX_MINUTES == 0 and patience >= cfg.SOLVER.MAX_ITER // cfg.TEST.EVAL_PERIOD:
        logger.warning(
            "SOLVER.EARLY_STOPPING.PATIENCE = %d has no effect: TEST.EVAL_PERIOD = %d gives %s in %s",
            patience,
            cfg.TEST.EVAL_PERIOD,
            counted(cfg.SOLVER.MAX_ITER // cfg.TEST.EVAL_PERIOD, "evaluation"),
            counted(cfg.SOLVER.MAX_ITER, "iteration"),
        )


def fit_to_processes(cfg: CfgNode, num_processes: int) -> CfgNode:
    """The config for another number of processes than SOLVER.REFERENCE_WORLD_SIZE, as Detectron2 scales it.

    The number of images per process stays; the learning rate grows with the batch and the lengths shrink with it.

    Args:
        cfg: of the training.
        num_processes: that train together.

    Raises:
        UserError: IMS_PER_BATCH is no multiple of SOLVER.REFERENCE_WORLD_SIZE.
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
    scaled = {
        "SOLVER.REFERENCE_WORLD_SIZE": num_processes,
        "SOLVER.IMS_PER_BATCH": round(cfg.SOLVER.IMS_PER_BATCH * scale),
        "SOLVER.BASE_LR": cfg.SOLVER.BASE_LR * scale,
        "SOLVER.BASE_LR_END": cfg.SOLVER.BASE_LR_END * scale,
        "TEST.EVAL_PERIOD": round(cfg.TEST.EVAL_PERIOD / scale),
        "SOLVER.CHECKPOINT_PERIOD": round(cfg.SOLVER.CHECKPOINT_PERIOD / scale),
    }
    cfg = changed_config(cfg, {**scaled, **scaled_lengths(cfg, 1 / scale)})
    logger.info(
        "%s, settings for %d: IMS_PER_BATCH %d, BASE_LR %g, MAX_ITER %d, STEPS %s, WARMUP_ITERS %d",
        counted(num_processes, "process"),
        reference,
        cfg.SOLVER.IMS_PER_BATCH,
        cfg.SOLVER.BASE_LR,
        cfg.SOLVER.MAX_ITER,
        list(cfg.SOLVER.STEPS),
        cfg.SOLVER.WARMUP_ITERS,
    )
    return cfg


def fit_to_epochs(cfg: CfgNode, num_images: int) -> CfgNode:
    """The config with MAX_ITER, STEPS and WARMUP_ITERS for SOLVER.MAX_EPOCHS passes over `num_images` images.

    The warm-up shrinks to no less than SCALED_WARMUP of the training: MAX_ITER may be far above the real length, where
    it only gives the shape of a schedule of minutes.

    Args:
        cfg: of the training.
        num_images: in the training data.
    """
    if cfg.SOLVER.MAX_EPOCHS <= 0:
        return cfg
    images_per_step = cfg.SOLVER.IMS_PER_BATCH * cfg.SOLVER.ACCUMULATE_STEPS
    iterations = max(1, math.ceil(cfg.SOLVER.MAX_EPOCHS * num_images / images_per_step))
    former = cfg.SOLVER.MAX_ITER
    least_warmup = min(cfg.SOLVER.WARMUP_ITERS, int(SCALED_WARMUP * iterations))
    scaled = scaled_lengths(cfg, iterations / former)
    scaled[WARMUP] = max(scaled[WARMUP], least_warmup)
    # Values set closer than MAX_ITER do not refer to its length.
    kept = [name for name in (STEPS, WARMUP) if cfg.closeness_of(name) > cfg.closeness_of(ITERATIONS)]
    changed = {name: value for name, value in scaled.items() if name not in kept}
    cfg = changed_config(cfg, {**changed, ITERATIONS: iterations})
    steps = f"steps at {list(cfg.SOLVER.STEPS)}, " if _reads(cfg, STEPS) else ""
    logger.info(
        "%s of %s: %s of %s; %swarm-up %d",
        f"{cfg.SOLVER.MAX_EPOCHS:g} {'epoch' if cfg.SOLVER.MAX_EPOCHS == 1 else 'epochs'}",
        counted(num_images, "image"),
        counted(iterations, "iteration"),
        counted(images_per_step, "image"),
        steps,
        cfg.SOLVER.WARMUP_ITERS,
    )
    return cfg


def check_remaining_length(cfg: CfgNode, state: Mapping[str, Any]) -> None:
    """Log that the training of a checkpoint is complete, or refuse a length that it has passed already.

    Args:
        cfg: with lengths fitted to the data.
        state: of the checkpoint.

    Raises:
        UserError: the length was changed to one that is over, so that nothing would be trained.
    """
    done, minutes = state["iteration"], state["elapsed_seconds"] / 60
    if cfg.SOLVER.MAX_MINUTES > 0:
        name, past, is_over = MINUTES, f"{minutes:.3g} minutes", minutes >= cfg.SOLVER.MAX_MINUTES
        more = f"{MINUTES} {math.ceil(minutes + cfg.SOLVER.MAX_MINUTES)}"
        former = (yaml.safe_load(state["config"]) or {}).get("SOLVER", {}).get("MAX_MINUTES")
        is_passed = is_over and former != cfg.SOLVER.MAX_MINUTES
    else:
        name = EPOCHS if cfg.SOLVER.MAX_EPOCHS > 0 else ITERATIONS
        past, is_over, is_passed = counted(done, "iteration"), done >= cfg.SOLVER.MAX_ITER, done > cfg.SOLVER.MAX_ITER
        epochs = cfg.SOLVER.MAX_EPOCHS * (1 + done / cfg.SOLVER.MAX_ITER)
        more = f"{EPOCHS} {math.ceil(epochs)}" if name == EPOCHS else f"{name} {done + cfg.SOLVER.MAX_ITER}"
    length = _with_origin(cfg, name)
    if name == EPOCHS:
        length += f", which are {counted(cfg.SOLVER.MAX_ITER, 'iteration')}"
    if is_passed:
        raise UserError(
            f"the checkpoint in OUTPUT_DIR = {cfg.OUTPUT_DIR} has been trained for {past}, longer than {length}: "
            f"nothing is left to train. To go on, type for instance {more}; to evaluate the checkpoint, add "
            f"--eval-only to --resume."
        )
    if is_over:
        logger.info("%s of %s are done: the training is complete. To go on, type for instance %s", past, length, more)


def _with_origin(cfg: CfgNode, name: str) -> str:
    return f"{name} = {cfg.value_of(name)} ({cfg.origin_of(name)})"


def scaled_lengths(cfg: CfgNode, factor: float) -> dict[str, Any]:
    """MAX_ITER, STEPS and WARMUP_ITERS times a factor."""
    return {
        ITERATIONS: max(1, round(cfg.SOLVER.MAX_ITER * factor)),
        STEPS: [round(step * factor) for step in cfg.SOLVER.STEPS],
        WARMUP: round(cfg.SOLVER.WARMUP_ITERS * factor),
    }
