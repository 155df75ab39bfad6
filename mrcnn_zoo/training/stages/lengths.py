"""How the stages of a ready-made schedule share the length of the run."""

from collections.abc import Mapping, Sequence
from typing import Any

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.keys import Origin
from mrcnn_zoo.config.values import flattened
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.training.lengths import (
    BUILT_IN_SCHEDULES,
    EPOCHS,
    ITERATIONS,
    MINUTES,
    READ_BY,
    SCALED_WARMUP,
    STEPS,
    WARMUP,
    choose_length,
)

SHARES, RATES, BATCH = "SOLVER.STAGE_SHARES", "SOLVER.STAGE_RATES", "SOLVER.IMS_PER_BATCH"
OVERRIDES = "SOLVER.STAGE_OVERRIDES"
RATE_KEYS = ("SOLVER.BASE_LR", "SOLVER.BASE_LR_END")


def with_lengths(
    cfg: CfgNode, items: Sequence[Mapping[str, Any]], *, rates: Sequence[float] = ()
) -> list[dict[str, Any]]:
    """Stages with their shares of the length of the run, so that all together train on as many images as one stage.

    A stage that has another batch by SOLVER.STAGE_OVERRIDES has the number of iterations of as many images.

    Args:
        cfg: of the run: its length, SOLVER.STAGE_SHARES, SOLVER.STAGE_OVERRIDES.
        items: as SOLVER.STAGES; those that train nothing have no share.
        rates: factor of the learning rate of each stage that trains; none for 1.

    Raises:
        UserError: shares or rates for another number of stages, or fewer iterations than stages.
    """
    if isinstance(cfg.SOLVER.IMS_PER_BATCH, str):
        raise UserError(
            f"{BATCH} = {cfg.SOLVER.IMS_PER_BATCH} is for a run of one stage, not for SOLVER.TRAINING_SCHEDULE = "
            f"{cfg.SOLVER.TRAINING_SCHEDULE}: give a number."
        )
    cfg = choose_length(cfg)
    trained = [item for item in items if item.get("TRAIN") != "none"]
    names = [str(item["NAME"]) for item in trained]
    shares = _one_per_stage(list(cfg.SOLVER.STAGE_SHARES) or [1.0] * len(trained), names, key=SHARES)
    factors = _one_per_stage(list(rates) or [1.0] * len(trained), names, key=RATES)
    parts = [share / sum(shares) for share in shares]
    iterations = split_iterations(cfg.SOLVER.MAX_ITER, shares)
    if min(iterations) == 0:
        raise UserError(
            f"{ITERATIONS} = {cfg.SOLVER.MAX_ITER} leaves no iteration for stage {names[iterations.index(0)]!r} of "
            f"{counted(len(names), 'stage')}: set it higher, or other {SHARES}."
        )
    batches = [_batch_of(cfg, name) for name in names]
    settings = {
        name: _lengths_of(cfg, part, round(count * cfg.SOLVER.IMS_PER_BATCH / batch) or 1) | _rates_of(cfg, factor)
        for name, part, count, batch, factor in zip(names, parts, iterations, batches, factors, strict=True)
    }
    return [{**item, "OVERRIDES": {**item.get("OVERRIDES", {}), **settings.get(item["NAME"], {})}} for item in items]


def split_iterations(total: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers that add up to a number of iterations, nearest to some shares.

    Args:
        total: number of iterations.
        shares: positive, in any unit.
    """
    exact = [total * share / sum(shares) for share in shares]
    counts = [int(value) for value in exact]
    # The remaining iterations are for the largest fractions that were rounded down; of equal ones for the first.
    order = sorted(range(len(exact)), key=lambda row: counts[row] - exact[row])
    for row in order[: total - sum(counts)]:
        counts[row] += 1
    return counts


def _one_per_stage(values: list[float], names: Sequence[str], *, key: str) -> list[float]:
    if len(values) != len(names):
        raise UserError(
            f"{key} = {values} must hold one value for each of the {len(names)} stages that are trained: "
            f"{', '.join(names)}."
        )
    return values


def _lengths_of(cfg: CfgNode, part: float, iterations: int) -> dict[str, Any]:
    """The keys of a part of the run's length, in the unit that counts."""
    solver = cfg.SOLVER
    for key, value in ((MINUTES, solver.MAX_MINUTES), (EPOCHS, solver.MAX_EPOCHS)):
        if value > 0:
            # With MAX_ITER: of lengths that are set together, epochs and minutes have priority.
            return {key: round(value * part, 6), ITERATIONS: solver.MAX_ITER}
    scale = iterations / solver.MAX_ITER
    # As with SOLVER.MAX_EPOCHS; else the warm-up of a joint training would take most of a short stage.
    warmup = max(round(solver.WARMUP_ITERS * scale), int(SCALED_WARMUP * iterations))
    lengths = {ITERATIONS: iterations, WARMUP: min(warmup, solver.WARMUP_ITERS)}
    name = solver.LR_SCHEDULER_NAME
    if name in BUILT_IN_SCHEDULES and name not in READ_BY[STEPS]:
        return lengths
    steps = {round(step * scale) for step in solver.STEPS}
    return {**lengths, STEPS: sorted(step for step in steps if 0 < step < iterations)}


def _rates_of(cfg: CfgNode, factor: float) -> dict[str, Any]:
    if factor == 1:
        return {}
    return {key: cfg.value_of(key) * factor for key in RATE_KEYS if cfg.value_of(key) > 0}


def _batch_of(cfg: CfgNode, stage: str) -> int:
    """Images per batch of a stage."""
    own = cfg.SOLVER.STAGE_OVERRIDES.get(stage, {})
    batches = [assignment.value for assignment in flattened((), own, Origin(OVERRIDES)) if assignment.name == BATCH]
    # Other values are refused where the overrides are checked.
    return batches[-1] if batches and isinstance(batches[-1], int) and batches[-1] > 0 else cfg.SOLVER.IMS_PER_BATCH
