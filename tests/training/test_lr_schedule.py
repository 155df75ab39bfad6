"""Learning-rate schedules against numbers by hand and fvcore, which Detectron2 uses."""

import math

import pytest
import torch
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
    StepWithFixedGammaParamScheduler,
)

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.training.lr_schedule import build_lr_schedule

SETTINGS = {
    "MAX_ITER": 100,
    "STEPS": [60, 80],
    "GAMMA": 0.1,
    "WARMUP_ITERS": 10,
    "WARMUP_FACTOR": 0.1,
    "BASE_LR": 0.02,
}


def config(**changes: object) -> CfgNode:
    settings = SETTINGS | changes
    return load_config(overrides=[part for name, value in settings.items() for part in (f"SOLVER.{name}", value)])


def factor(iteration: float, *, max_iterations: float | None = None, **changes: object) -> float:
    return build_lr_schedule(config(**changes)).factor(iteration, max_iterations)


@pytest.mark.parametrize(
    ("iteration", "expected"),
    [(0, 0.1), (1, 0.19), (5, 0.55), (9, 0.91), (10, 1.0), (59, 1.0), (60, 0.1), (79, 0.1), (80, 0.01), (100, 0.01)],
)
def test_multi_step_with_linear_warmup(iteration: int, expected: float) -> None:
    assert factor(iteration) == pytest.approx(expected, rel=1e-12)


def test_a_step_is_taken_on_time_in_spite_of_rounding() -> None:
    # 29 / 100 * 100 is 28.999999999999996.
    assert [factor(iteration, STEPS=[29]) for iteration in (28, 29)] == pytest.approx([1.0, 0.1])


def test_constant_warmup_stays_until_it_ends() -> None:
    assert [factor(iteration, WARMUP_METHOD="constant") for iteration in (0, 9, 10)] == pytest.approx([0.1, 0.1, 1.0])


def test_no_warmup_begins_at_the_full_rate() -> None:
    assert factor(0, WARMUP_ITERS=0) == 1.0


def test_warmup_longer_than_training_never_ends() -> None:
    assert factor(50, WARMUP_ITERS=1000, STEPS=[]) == pytest.approx(0.1 + 0.9 * 0.5)


def test_no_steps_keep_the_rate() -> None:
    assert factor(99, STEPS=[]) == 1.0


def test_cosine_runs_under_the_warmup() -> None:
    # Half of the way: 1/2; at the end of warm-up the cosine has already gone 10 % of its way, and warm-up aims there.
    after_warmup = 0.5 * (1 + math.cos(0.1 * math.pi))
    values = [factor(iteration, LR_SCHEDULER_NAME="WarmupCosineLR") for iteration in (0, 5, 10, 50, 100)]
    assert values == pytest.approx([0.1, (0.1 + after_warmup) / 2, after_warmup, 0.5, 0.0], abs=1e-12)


def test_cosine_ends_at_the_final_rate() -> None:
    assert factor(100, LR_SCHEDULER_NAME="WarmupCosineLR", BASE_LR_END=0.005) == pytest.approx(0.25)


def test_rescaled_interval_begins_the_decay_after_the_warmup() -> None:
    values = [
        factor(iteration, LR_SCHEDULER_NAME="WarmupCosineLR", RESCALE_INTERVAL=True) for iteration in (10, 55, 100)
    ]
    assert values == pytest.approx([1.0, 0.5, 0.0], abs=1e-12)


def test_even_steps_divide_the_training_equally() -> None:
    # Three decays: four parts of 25 iterations.
    values = [
        factor(iteration, LR_SCHEDULER_NAME="WarmupStepWithFixedGammaLR", NUM_DECAYS=3)
        for iteration in (24, 25, 50, 75, 100)
    ]
    assert values == pytest.approx([1.0, 0.1, 0.01, 0.001, 0.001])


def test_fractional_iterations_lie_between_their_neighbours() -> None:
    assert factor(4.5) == pytest.approx((factor(4) + factor(5)) / 2)


def test_another_length_stretches_steps_and_warmup() -> None:
    assert [factor(iteration, max_iterations=200) for iteration in (0, 10, 20, 119, 120, 160)] == pytest.approx(
        [0.1, 0.55, 1.0, 1.0, 0.1, 0.01]
    )


def test_iterations_beyond_the_end_keep_the_last_rate() -> None:
    assert factor(150) == factor(100)


def test_apply_scales_the_initial_rate_of_each_group() -> None:
    first, second = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD(
        [{"params": [first], "lr": 1.0, "initial_lr": 1.0}, {"params": [second], "lr": 2.0, "initial_lr": 2.0}]
    )
    build_lr_schedule(config()).apply(optimizer, 60)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.2])


def fvcore_scheduler(name: str, *, rescaled: bool) -> ParamScheduler:
    decay: ParamScheduler = {
        "WarmupMultiStepLR": MultiStepParamScheduler([1, 0.1, 0.01], milestones=[60, 80], num_updates=100),
        "WarmupCosineLR": CosineParamScheduler(1, 0.25),
        "WarmupStepWithFixedGammaLR": StepWithFixedGammaParamScheduler(1.0, 3, 0.1, 100),
    }[name]
    warmup = LinearParamScheduler(0.1 * decay(0.0), decay(0.0) if rescaled else decay(0.1))
    return CompositeParamScheduler(
        [warmup, decay], lengths=[0.1, 0.9], interval_scaling=["rescaled", "rescaled" if rescaled else "fixed"]
    )


@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("name", ["WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"])
def test_every_iteration_equals_fvcore(name: str, rescaled: bool) -> None:
    schedule = build_lr_schedule(config(LR_SCHEDULER_NAME=name, RESCALE_INTERVAL=rescaled, BASE_LR_END=0.005))
    expected = fvcore_scheduler(name, rescaled=rescaled)
    for iteration in range(100):
        assert schedule.factor(iteration) == pytest.approx(expected(iteration / 100), rel=1e-9), iteration


def test_steps_beyond_the_end_are_ignored() -> None:
    assert factor(99, STEPS=[60, 120]) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"STEPS": [80, 60]}, "SOLVER.STEPS"),
        ({"WARMUP_METHOD": "sine"}, "WARMUP_METHOD"),
        ({"LR_SCHEDULER_NAME": "WarmupCosineLR", "BASE_LR_END": 0.5}, "BASE_LR_END"),
        ({"LR_SCHEDULER_NAME": "WarmupCosinLR"}, "Did you mean 'WarmupCosineLR'"),
        ({"MAX_ITER": 0}, "MAX_ITER"),
    ],
)
def test_impossible_settings_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_lr_schedule(config(**changes))
