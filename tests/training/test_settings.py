"""Clipping, precision, lengths, seeds: what a training is set up with."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mrcnn_zoo.config import load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.training.build import build_budget
from mrcnn_zoo.training.gradients import build_clipper
from mrcnn_zoo.training.lengths import fit_to_epochs, fit_to_processes
from mrcnn_zoo.training.preflight import plan_stages
from mrcnn_zoo.training.run_context import (
    changed_keys,
    choose_seed,
    derived_seed,
    describe_environment,
    generator_states,
    generators_aside,
    git_state,
    restore_generator_states,
    seed_step,
)
from mrcnn_zoo.training.step import Precision, build_precision
from mrcnn_zoo.training.stopping import IterationBudget, TimeBudget


def parameters_with_gradients(*gradients: list[float]) -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.zeros(len(values))) for values in gradients]
    for parameter, values in zip(parameters, gradients, strict=True):
        parameter.grad = torch.tensor(values)
    return parameters


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("value", [[1.0, 1.0], [0.0, 0.5]]),
        ("norm", [[0.6, 0.8], [0.0, 0.5]]),  # the first has norm 5, the second 0.5
        ("full_model", [[3 / 25.25**0.5, 4 / 25.25**0.5], [0.0, 0.5 / 25.25**0.5]]),
    ],
)
def test_gradients_are_clipped(kind: str, expected: list[list[float]]) -> None:
    cfg = load_config(None, ["SOLVER.CLIP_GRADIENTS.ENABLED=True", f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE={kind}"])
    clip = build_clipper(cfg)
    assert clip is not None
    parameters = parameters_with_gradients([3.0, 4.0], [0.0, 0.5])
    clip(parameters)
    for parameter, wanted in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, torch.tensor(wanted), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["value", "norm", "full_model"])
def test_clipping_without_gradients_does_nothing(kind: str) -> None:
    cfg = load_config(None, ["SOLVER.CLIP_GRADIENTS.ENABLED=True", f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE={kind}"])
    clip = build_clipper(cfg)
    assert clip is not None
    parameter = nn.Parameter(torch.zeros(2))
    clip([parameter])
    clip([])
    assert parameter.grad is None


def test_no_clipping_by_default() -> None:
    assert build_clipper(load_config()) is None


def test_forward_runs_in_bfloat16_under_amp() -> None:
    precision = build_precision(
        load_config(None, ["SOLVER.AMP.ENABLED=True", "SOLVER.AMP.DTYPE=bfloat16"]), torch.device("cpu")
    )
    with precision.autocast():
        assert nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == torch.bfloat16
    with Precision("cpu").autocast():
        assert nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == torch.float32
    assert not precision.scales_losses


def test_float16_on_the_cpu_is_refused() -> None:
    cfg = load_config(None, ["SOLVER.AMP.ENABLED=True", "SOLVER.AMP.DTYPE=float16"])
    with pytest.raises(UserError, match="float16 needs a CUDA device"):
        build_precision(cfg, torch.device("cpu"))


@pytest.mark.parametrize("fused", [True, False])
def test_momentum_begins_with_the_first_float16_step_that_is_not_left_out(fused: bool) -> None:
    precision = Precision("cpu", dtype=torch.float16)
    weight = nn.Parameter(torch.ones(1000))
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.5, fused=fused)
    kept = [torch.full((1000,), 1e30) for _ in range(20)]  # memory that a missing value would come from
    del kept
    for gradient, expected in ((torch.inf, 1.0), (0.25, 0.75), (0.25, 0.375)):  # 0.75 - (0.5 * 0.25 + 0.25)
        optimizer.zero_grad()
        precision.backward((weight * gradient).sum())
        precision.unscale(optimizer)
        precision.step(optimizer)
        torch.testing.assert_close(weight.detach(), torch.full((1000,), expected))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_float16_gradients_are_scaled_and_overflow_is_left_out() -> None:
    cfg = load_config(None, ["SOLVER.AMP.ENABLED=True", "SOLVER.AMP.DTYPE=float16"])
    precision = build_precision(cfg, torch.device("cuda"))
    weight = nn.Parameter(torch.ones(1, device="cuda"))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    for factor, expected in ((1e38, 1.0), (0.25, 0.75)):
        optimizer.zero_grad()
        precision.backward((weight * factor).sum())
        precision.unscale(optimizer)
        precision.step(optimizer)
        assert weight.item() == expected
    assert precision.state_dict()["scale"] < 65536


def test_settings_scale_with_the_number_of_processes() -> None:
    cfg = load_config(
        None,
        [
            *("SOLVER.REFERENCE_WORLD_SIZE", 8, "SOLVER.IMS_PER_BATCH", 16, "SOLVER.BASE_LR", 0.02),
            *("SOLVER.MAX_ITER", 9000, "SOLVER.STEPS", (6000, 8000), "SOLVER.WARMUP_ITERS", 100),
            *("TEST.EVAL_PERIOD", 500, "SOLVER.CHECKPOINT_PERIOD", 1000),
        ],
    )
    scaled = fit_to_processes(cfg, 2).SOLVER
    assert (scaled.IMS_PER_BATCH, scaled.BASE_LR, scaled.MAX_ITER) == (4, 0.005, 36000)
    assert (list(scaled.STEPS), scaled.WARMUP_ITERS) == ([24000, 32000], 400)
    assert (fit_to_processes(cfg, 2).TEST.EVAL_PERIOD, scaled.CHECKPOINT_PERIOD) == (2000, 4000)
    assert scaled.REFERENCE_WORLD_SIZE == 2
    assert fit_to_processes(cfg, 8) == cfg
    assert cfg.SOLVER.IMS_PER_BATCH == 16


def test_settings_do_not_scale_without_a_reference() -> None:
    cfg = load_config()
    assert fit_to_processes(cfg, 5) is cfg


def test_batch_that_the_reference_cannot_share_is_refused() -> None:
    cfg = load_config(None, ["SOLVER.REFERENCE_WORLD_SIZE=8", "SOLVER.IMS_PER_BATCH=12"])
    with pytest.raises(UserError, match=r"IMS_PER_BATCH = 12 .* 8 processes"):
        fit_to_processes(cfg, 2)


def test_epochs_become_iterations_and_steps_scale() -> None:
    cfg = load_config(
        None,
        [
            *("SOLVER.MAX_EPOCHS", 12, "SOLVER.IMS_PER_BATCH", 4, "SOLVER.ACCUMULATE_STEPS", 2),
            *("SOLVER.MAX_ITER", 900, "SOLVER.STEPS", (600, 800), "SOLVER.WARMUP_ITERS", 90),
        ],
    )
    scaled = fit_to_epochs(cfg, 121).SOLVER
    assert scaled.MAX_ITER == 182  # 12 * 121 / 8 = 181.5
    assert (list(scaled.STEPS), scaled.WARMUP_ITERS) == ([121, 162], 18)
    assert fit_to_epochs(load_config(), 121).SOLVER.MAX_ITER == 40000


def test_budget_is_time_or_iterations() -> None:
    assert isinstance(build_budget(load_config()), IterationBudget)
    budget = build_budget(load_config(None, ["SOLVER.MAX_MINUTES", 1.5, "SOLVER.WARMUP_ITERS", 7]))
    assert isinstance(budget, TimeBudget)
    assert (budget.seconds, budget.iterations, budget.warmup_iterations) == (90.0, 40000, 7)


def test_changed_keys_are_found() -> None:
    former = load_config(None, ["SOLVER.BASE_LR", 0.5]).dump()
    present = load_config(None, ["SOLVER.STEPS", (7,)]).dump()
    assert changed_keys(former, present) == {"SOLVER.BASE_LR": (0.5, 0.001), "SOLVER.STEPS": ([30000], [7])}
    assert changed_keys(present, present) == {}


def draws() -> tuple[Any, ...]:
    return random.random(), float(np.random.rand()), float(torch.rand(1))


def test_step_randomness_follows_from_seed_iteration_and_process() -> None:
    seen = {}
    for key in ((1, 2, 0), (1, 2, 1), (1, 3, 0), (2, 2, 0)):
        seed_step(*key)
        seen[key] = draws()
    assert len(set(seen.values())) == 4
    seed_step(1, 2, 0)
    assert draws() == seen[1, 2, 0]


def test_generator_states_are_restored() -> None:
    np.random.randn(1)  # leaves half of a pair of normal numbers in the state
    states = generator_states()
    first = draws()
    restore_generator_states(states)
    assert draws() == first


def test_generators_aside_leave_the_others_alone() -> None:
    states = generator_states()
    expected = draws()
    restore_generator_states(states)
    with generators_aside(5):
        inside = draws()
    assert draws() == expected
    with generators_aside(5):
        assert draws() == inside


def test_negative_seed_is_replaced_by_a_fresh_one() -> None:
    assert choose_seed(12) == 12
    assert choose_seed(0) == 0
    fresh = {choose_seed(-1) for _ in range(5)}
    assert len(fresh) == 5
    assert min(fresh) >= 0
    assert derived_seed(3, "a") != derived_seed(3, "b")


def test_environment_is_described(tmp_path: Any) -> None:
    described = describe_environment()
    assert described["versions"]["mrcnn_zoo"]
    assert described["devices"]["cpu_cores"] >= 1
    assert git_state(tmp_path) == {}


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_auto_precision_uses_bfloat16_only_where_the_processor_computes_it(
    has_bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mrcnn_zoo.training.step._processor_has_bfloat16", lambda: has_bfloat16)
    precision = build_precision(load_config(None, ["SOLVER.AMP.ENABLED", "True"]), torch.device("cpu"))
    with precision.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if has_bfloat16 else torch.float32)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "MODEL.OPTIMIZE=fused",
            "MODEL.OPTIMIZE = 'fused' is for inference: train with MODEL.OPTIMIZE none or compiled",
        ),
        ("MODEL.OPTIMIZE=int8", "MODEL.OPTIMIZE = 'int8' is for inference"),
        ("MODEL.DTYPE=bfloat16", "MODEL.DTYPE = 'bfloat16' is for inference.*SOLVER.AMP.ENABLED"),
    ],
)
def test_training_refuses_optimisations_of_inference(override: str, message: str, tmp_path: Path) -> None:
    cfg = load_config(None, [override, f"OUTPUT_DIR={tmp_path}"])
    with pytest.raises(UserError, match=message):
        plan_stages(cfg, resume=False, eval_only=False, overwrite=False)
    assert plan_stages(cfg, resume=False, eval_only=True, overwrite=False)
