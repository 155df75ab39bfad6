"""Precedence of the lengths of training, and warnings about schedules."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from mrcnn_zoo.checkpoint import load_checkpoint
from mrcnn_zoo.config import CfgNode, config_from_text, load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.training import run
from mrcnn_zoo.training.lengths import (
    check_remaining_length,
    choose_length,
    fit_to_epochs,
    fit_warmup,
    warn_of_early_stopping,
    warn_of_schedule,
)
from mrcnn_zoo.training.lr_schedule import LRSchedule, Warmup, build_lr_schedule

TinyConfig = Callable[..., CfgNode]
QUICKSTART = "Quickstart/mask_rcnn_R_18_FPN_digits.yaml"
NUCLEI = "Nuclei/mask_rcnn_R_18_FPN_cpu.yaml"


@pytest.fixture
def config_files(tmp_path: Path) -> Path:
    """`base.yaml` with minutes, `derived.yaml` on it with iterations, `both.yaml` with iterations and epochs."""
    (tmp_path / "base.yaml").write_text("SOLVER: {MAX_MINUTES: 12.0}\n")
    (tmp_path / "derived.yaml").write_text("_BASE_: base.yaml\nSOLVER: {MAX_ITER: 700}\n")
    (tmp_path / "both.yaml").write_text("SOLVER: {MAX_ITER: 700, MAX_EPOCHS: 3.0}\n")
    return tmp_path


def lengths_of(cfg: CfgNode) -> tuple[float, float, int]:
    chosen = choose_length(cfg).SOLVER
    return chosen.MAX_MINUTES, chosen.MAX_EPOCHS, chosen.MAX_ITER


@pytest.mark.parametrize(
    ("file", "typed", "expected"),
    [
        ("base.yaml", [], (12.0, 0.0, 40000)),
        ("base.yaml", ["SOLVER.MAX_ITER", "20"], (0.0, 0.0, 20)),
        ("base.yaml", ["SOLVER.MAX_EPOCHS", "2"], (0.0, 2.0, 40000)),
        ("derived.yaml", [], (0.0, 0.0, 700)),
        ("derived.yaml", ["SOLVER.MAX_MINUTES", "5"], (5.0, 0.0, 700)),
        ("both.yaml", [], (0.0, 3.0, 700)),
        ("both.yaml", ["SOLVER.MAX_ITER", "20"], (0.0, 0.0, 20)),
        ("both.yaml", ["SOLVER.MAX_MINUTES", "5"], (5.0, 0.0, 700)),
        ("both.yaml", ["SOLVER.MAX_EPOCHS", "0"], (0.0, 0.0, 700)),
        ("both.yaml", ["SOLVER.MAX_ITER", "20", "SOLVER.MAX_MINUTES", "5"], (5.0, 0.0, 20)),
    ],
)
def test_the_closest_length_counts(
    file: str, typed: list[str], expected: tuple[float, float, int], config_files: Path
) -> None:
    assert lengths_of(load_config(config_files / file, typed)) == expected


def test_the_length_that_does_not_count_is_named_with_its_line(
    config_files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        choose_length(load_config(config_files / "base.yaml", ["SOLVER.MAX_ITER", "20"]))
    (message,) = caplog.messages
    assert "the length of training is SOLVER.MAX_ITER = 20 (command line)" in message
    assert "SOLVER.MAX_MINUTES = 12.0 (" in message
    assert "base.yaml:1) does not count" in message


def test_single_length_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        cfg = load_config(QUICKSTART, ["SOLVER.MAX_ITER", "20"])
        assert choose_length(cfg) is cfg
    assert caplog.messages == []


def test_the_recorded_config_holds_the_chosen_length_alone(config_files: Path) -> None:
    chosen = choose_length(load_config(config_files / "both.yaml", ["SOLVER.MAX_ITER", "20"]))
    again = config_from_text(chosen.dump())
    assert lengths_of(again) == (0.0, 0.0, 20)


def test_typed_warmup_is_not_scaled_with_the_epochs() -> None:
    cfg = load_config(NUCLEI, ["SOLVER.MAX_EPOCHS", "2", "SOLVER.WARMUP_ITERS", "7"])
    fitted = fit_to_epochs(choose_length(cfg), 400)
    assert (fitted.SOLVER.MAX_ITER, fitted.SOLVER.WARMUP_ITERS) == (200, 7)


def test_a_warmup_is_not_scaled_to_nothing_by_a_length_that_is_never_reached(caplog: pytest.LogCaptureFixture) -> None:
    nuclei = choose_length(load_config(NUCLEI, ["SOLVER.MAX_EPOCHS", "1"]))  # 12 minutes, MAX_ITER 100000
    with caplog.at_level(logging.INFO):
        assert fit_to_epochs(nuclei, 400).SOLVER.WARMUP_ITERS == 5  # of 100 iterations; 50 / 100000 of them is none
        assert fit_to_epochs(nuclei, 40_000).SOLVER.WARMUP_ITERS == 50
    assert "1 epoch of 400 images: 100 iterations of 4 images; warm-up 5" in caplog.messages
    typed = ["SOLVER.MAX_EPOCHS", "12", "SOLVER.MAX_ITER", "900", "SOLVER.WARMUP_ITERS", "90"]
    assert fit_to_epochs(load_config(None, typed), 1200).SOLVER.WARMUP_ITERS == 90


# --- schedules --------------------------------------------------------------------------------------------------------


def warnings_of(caplog: pytest.LogCaptureFixture, cfg: CfgNode) -> Sequence[str]:
    with caplog.at_level(logging.INFO):
        warn_of_schedule(cfg, build_lr_schedule(cfg))
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_typed_iterations_give_the_quickstart_a_whole_schedule(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        cfg = fit_warmup(load_config(QUICKSTART, ["SOLVER.MAX_ITER", "40"]))
    assert cfg.SOLVER.WARMUP_ITERS == 8
    assert "SOLVER.WARMUP_ITERS 50" in caplog.text
    factors = [build_lr_schedule(cfg).factor(iteration) for iteration in range(40)]
    assert max(factors) == pytest.approx(0.9045, abs=1e-4)  # half a cosine after a fifth of it
    assert factors[39] < 0.01
    assert warnings_of(caplog, cfg) == []


@pytest.mark.parametrize(
    "typed",
    [
        ["SOLVER.MAX_ITER", "40", "SOLVER.WARMUP_ITERS", "50"],
        ["SOLVER.MAX_ITER", "1000"],
        ["SOLVER.MAX_ITER", "60", "SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR"],
    ],
)
def test_a_warmup_that_was_typed_or_fits_is_kept(typed: list[str]) -> None:
    cfg = load_config(QUICKSTART, typed)
    assert fit_warmup(cfg) is cfg


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        # The warm-up is squeezed into the training, as in Detectron2: 0.001 * (0.001 + 0.999 * 39 / 40).
        (["SOLVER.STEPS", "[]"], "reaches 0.00098 only at the end, in iteration 40 of 40"),
        # Two steps have passed by its end: it climbs to a hundredth only.
        (["SOLVER.STEPS", "[20,30]"], "at most 9.8e-06, in iteration 40"),
        # A cosine has come down to 0 by then: the first iteration of the warm-up is the best, 0.001 of the rate.
        (["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"], "at most 1e-06, in iteration 1 of 40"),
        (["SOLVER.LR_SCHEDULER_NAME", "WarmupStepWithFixedGammaLR"], "at most 1e-06, in iteration"),
    ],
)
def test_learning_rate_that_is_never_reached_is_warned_of_with_numbers_and_advice(
    typed: list[str], expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    typed = ["SOLVER.MAX_ITER", "40", *typed]
    (message,) = warnings_of(caplog, load_config(None, typed))
    assert expected in message
    assert "SOLVER.WARMUP_ITERS = 1000 (default)" in message
    advice = message.split("Set, for example, ")[1].split()
    caplog.clear()
    assert warnings_of(caplog, load_config(None, [*typed, *advice])) == []
    caplog.clear()
    shortened = fit_warmup(load_config(None, typed)).SOLVER.WARMUP_ITERS
    assert shortened == 8


def test_steps_beyond_the_end_are_named_with_advice_that_works(caplog: pytest.LogCaptureFixture) -> None:
    typed = ["SOLVER.MAX_ITER", "300", "SOLVER.WARMUP_ITERS", "0"]
    (message,) = warnings_of(caplog, load_config(None, typed))
    assert "SOLVER.STEPS [30000] (default) do not lie within SOLVER.MAX_ITER = 300" in message
    advice = message.split("Set, for example, ")[1].split()
    assert advice == ["SOLVER.STEPS", "[200,267]"]
    caplog.clear()
    assert warnings_of(caplog, load_config(None, [*typed, *advice])) == []


def test_learning_rate_of_zero_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    (message,) = warnings_of(caplog, load_config(None, ["SOLVER.BASE_LR", "0"]))
    assert message == "SOLVER.BASE_LR = 0: nothing is learned"


def test_schedule_that_ends_before_the_training_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    cfg = load_config(None, ["SOLVER.MAX_ITER", "100", "SOLVER.WARMUP_ITERS", "0", "SOLVER.STEPS", "[]"])
    ended = LRSchedule(lambda progress: float(progress < 0.5), warmup=Warmup(fraction=0.0, start=1.0), length=100)
    with caplog.at_level(logging.INFO):
        warn_of_schedule(cfg, ended)
    (message,) = caplog.messages
    assert "the learning rate is 0 from iteration 51 of 100 on" in message


@pytest.mark.parametrize("iterations", [40, 50])
def test_a_typed_length_within_the_default_warmup_leaves_it(iterations: int, caplog: pytest.LogCaptureFixture) -> None:
    typed = ["SOLVER.MAX_ITER", iterations, "SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", "SOLVER.STEPS", "[]"]
    cfg = fit_warmup(load_config(QUICKSTART, typed))
    assert iterations // 5 == cfg.SOLVER.WARMUP_ITERS
    assert warnings_of(caplog, cfg) == []


def test_minutes_with_a_typed_shape_leave_the_warmup() -> None:
    cfg = choose_length(load_config(QUICKSTART, ["SOLVER.MAX_ITER", "40", "SOLVER.MAX_MINUTES", "3"]))
    assert fit_warmup(cfg).SOLVER.WARMUP_ITERS == 8


@pytest.mark.parametrize(
    ("typed", "cause"),
    [
        (
            ["LR_SCHEDULER_NAME=WarmupStepWithFixedGammaLR", "NUM_DECAYS=200", "MAX_ITER=100"],
            "it decays before it is reached. Check SOLVER.LR_SCHEDULER_NAME = WarmupStepWithFixedGammaLR with "
            "SOLVER.GAMMA = 0.1 (default), SOLVER.NUM_DECAYS = 200 (command line)",
        ),
        (
            ["STEPS=[5,5]", "MAX_ITER=1000", "WARMUP_ITERS=100"],
            "Set, for example, SOLVER.WARMUP_ITERS 3",
        ),
        (["STEPS=[]", "MAX_ITER=100", "WARMUP_ITERS=100"], "reaches 0.00099 only at the end, in iteration 100 of 100"),
    ],
)
def test_a_low_rate_has_the_cause_that_holds(typed: list[str], cause: str, caplog: pytest.LogCaptureFixture) -> None:
    cfg = fit_warmup(load_config(None, [f"SOLVER.{item}" for item in typed]))
    (message,) = warnings_of(caplog, cfg)
    assert cause in message


def test_a_low_rate_is_that_of_the_batch(caplog: pytest.LogCaptureFixture) -> None:
    scaled = ["IMS_PER_BATCH=2", "ACCUMULATE_STEPS=3", "SCALE_LR_TO_BATCH=2", "BASE_LR=0.01"]
    typed = [*scaled, "MAX_ITER=2", "WARMUP_ITERS=1", "LR_SCHEDULER_NAME=WarmupCosineLR"]
    (message,) = warnings_of(caplog, load_config(None, [f"SOLVER.{item}" for item in typed]))
    # Half a cosine after one of two iterations, of three times the rate.
    assert "at most 0.015, in iteration 2 of 2, where SOLVER.BASE_LR = 0.01, times 3 for" in message


def test_a_warmup_is_never_made_longer() -> None:
    cfg = load_config(None, ["SOLVER.MAX_ITER", "1000", "SOLVER.STEPS", "[5,6]", "SOLVER.WARMUP_ITERS", "20"])
    assert fit_warmup(cfg).SOLVER.WARMUP_ITERS == 20
    default = load_config(None, ["SOLVER.MAX_ITER", "9000", "SOLVER.STEPS", "[5,6]"])
    assert fit_warmup(default).SOLVER.WARMUP_ITERS == 1000


@pytest.mark.parametrize(("iterations", "advice"), [(100, "[67,89]"), (2, "[1]"), (1, "[]")])
def test_advice_on_steps_works_when_typed(iterations: int, advice: str, caplog: pytest.LogCaptureFixture) -> None:
    typed = ["SOLVER.MAX_ITER", iterations, "SOLVER.WARMUP_ITERS", 0]
    (message,) = warnings_of(caplog, load_config(None, typed))
    assert message.endswith(f"Set, for example, SOLVER.STEPS {advice}")
    caplog.clear()
    assert warnings_of(caplog, load_config(None, [*typed, "SOLVER.STEPS", advice])) == []


def test_typed_key_that_the_schedule_does_not_read_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    (message,) = warnings_of(caplog, load_config(QUICKSTART, ["SOLVER.STEPS", "[100]"]))
    assert "SOLVER.STEPS = [100] (command line) has no effect: SOLVER.LR_SCHEDULER_NAME = WarmupCosineLR" in message


@pytest.mark.parametrize("config", [QUICKSTART, NUCLEI, "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"])
def test_published_schedules_give_no_warning(config: str, caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of(caplog, choose_length(load_config(config))) == []


def test_patience_without_evaluations_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    patience = ("SOLVER.EARLY_STOPPING.PATIENCE", 3, "DATASETS.TEST", ["digits_val"])
    warn_of_early_stopping(load_config(None, ["TEST.EVAL_PERIOD", 10, *patience]))
    assert caplog.messages == []
    warn_of_early_stopping(load_config(None, ["TEST.EVAL_PERIOD", 0, *patience]))
    warn_of_early_stopping(load_config(None, ["TEST.EVAL_PERIOD", 10, *patience, "DATASETS.TEST", []]))
    assert "TEST.EVAL_PERIOD = 0 evaluates only at the end" in caplog.messages[0]
    assert "DATASETS.TEST is empty" in caplog.messages[1]
    ends_first = ["TEST.EVAL_PERIOD", 10, "SOLVER.MAX_ITER", 39, *patience]
    warn_of_early_stopping(load_config(None, ends_first))
    assert "TEST.EVAL_PERIOD = 10 gives 3 evaluations in 39 iterations" in caplog.messages[2]
    warn_of_early_stopping(load_config(None, [*ends_first, "SOLVER.MAX_ITER", 41]))
    assert len(caplog.messages) == 3


# --- resuming ---------------------------------------------------------------------------------------------------------


def state_of(cfg: CfgNode, *, iteration: int, minutes: float = 0.0) -> dict[str, Any]:
    return {"iteration": iteration, "elapsed_seconds": 60 * minutes, "config": cfg.dump()}


@pytest.mark.parametrize(
    ("typed", "advice"),
    [
        (["SOLVER.MAX_ITER", "20"], "SOLVER.MAX_ITER 320"),
        (["SOLVER.MAX_MINUTES", "5"], "SOLVER.MAX_MINUTES 13"),
    ],
)
def test_fewer_iterations_than_are_done_are_refused(typed: list[str], advice: str) -> None:
    state = state_of(load_config(), iteration=300, minutes=7.5)
    with pytest.raises(UserError, match="nothing is left to train") as caught:
        check_remaining_length(load_config(None, typed), state)
    assert f"type for instance {advice}" in str(caught.value)
    check_remaining_length(load_config(None, advice.split()), state)


def test_fewer_epochs_than_are_done_are_refused() -> None:
    cfg = load_config(None, ["SOLVER.MAX_EPOCHS", "2", "SOLVER.IMS_PER_BATCH", "4"])
    state = state_of(cfg, iteration=300)
    with pytest.raises(UserError, match=r"MAX_EPOCHS = 2.0 \(command line\), which are 50 iterations.*MAX_EPOCHS 14"):
        check_remaining_length(fit_to_epochs(cfg, 100), state)


def test_minutes_of_a_short_training_are_not_rounded_away() -> None:
    state = state_of(load_config(), iteration=300, minutes=0.0345)
    with pytest.raises(UserError, match=r"trained for 0.0345 minutes, longer than SOLVER.MAX_MINUTES = 0.01"):
        check_remaining_length(load_config(None, ["SOLVER.MAX_MINUTES", "0.01"]), state)


@pytest.mark.parametrize("typed", [["SOLVER.MAX_ITER", "300"], ["SOLVER.MAX_MINUTES", "7"]])
def test_complete_training_is_logged(typed: list[str], caplog: pytest.LogCaptureFixture) -> None:
    cfg = load_config(None, typed)
    with caplog.at_level(logging.INFO):
        check_remaining_length(cfg, state_of(cfg, iteration=300, minutes=7.01))
    (message,) = caplog.messages
    assert "the training is complete. To go on, type for instance SOLVER.MAX_" in message


def test_incomplete_training_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    cfg = load_config(None, ["SOLVER.MAX_ITER", "301"])
    with caplog.at_level(logging.INFO):
        check_remaining_length(cfg, state_of(cfg, iteration=300))
    assert caplog.messages == []


def test_run_has_the_typed_length_and_logs_its_data(tiny_config: TinyConfig, tmp_path: Path) -> None:
    config = tmp_path / "minutes.yaml"
    config.write_text(tiny_config("DATASETS.TEST=[]").dump().replace("MAX_MINUTES: 0.0", "MAX_MINUTES: 12.0"))
    out = ("OUTPUT_DIR", str(tmp_path / "output"))
    run(load_config(config, [*out, "SOLVER.MAX_ITER", "2", "SOLVER.WARMUP_ITERS", "0"]))
    state = load_checkpoint(tmp_path / "output" / "model_final.pth")
    assert state["iteration"] == 2
    assert state["scheduler"]["learning_rates"][0] == pytest.approx(0.01)
    log = (tmp_path / "output" / "log.txt").read_text()
    assert "the length of training is SOLVER.MAX_ITER = 2 (command line)" in log
    assert "train shapes_train: 8 images," in log
    assert "objects, 3 classes" in log
    before = torch.load(tmp_path / "output" / "model_final.pth", weights_only=True)["model"]
    with pytest.raises(UserError, match=r"trained for 2 iterations, longer than SOLVER.MAX_ITER = 1"):
        run(load_config(config, [*out, "SOLVER.MAX_ITER", "1"]), resume=True)
    after = torch.load(tmp_path / "output" / "model_final.pth", weights_only=True)["model"]
    assert all(torch.equal(before[name], after[name]) for name in before)
