# ruff: noqa: ARG001, ARG002, ARG005 - hooks and builders have fixed signatures
"""The training loop with a model of three weights."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from mrcnn_zoo.checkpoint import Checkpointer, load_checkpoint
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.structures import TrainingOutput
from mrcnn_zoo.training.hook import Hook
from mrcnn_zoo.training.stopping import IterationBudget, StopSignals, TimeBudget
from mrcnn_zoo.training.trainer import Trainer
from support.tiny_trainer import TinyModel, batches_from


def assert_equal_weights(first: Trainer, second: Trainer) -> None:
    for (name, a), (_, b) in zip(first.model.state_dict().items(), second.model.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_step_is_a_step_of_gradient_descent(make_trainer: Any) -> None:
    trainer = make_trainer(budget=1, momentum=0.0)
    before = trainer.model.linear.weight.detach().clone().requires_grad_()
    samples = next(batches_from(0))
    means = torch.stack([sample.image.float().mean(dim=(1, 2)) / 255 for sample in samples])
    errors = (means @ before.T).squeeze(1) - torch.tensor([float(sample.image_id) for sample in samples])
    (errors.square().mean() + errors.abs().mean()).backward()

    trainer.train()

    # The warm-up begins at half of the rate of 0.1.
    torch.testing.assert_close(trainer.model.linear.weight, before - 0.05 * before.grad)


def test_learning_rate_is_that_of_each_iteration(make_trainer: Any, recorder: Any) -> None:
    make_trainer(budget=8, hooks={"recorder": recorder}).train()
    assert recorder.rates == pytest.approx([0.05, 0.075, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05])


def test_training_of_no_iterations_leaves_the_weights(make_trainer: Any) -> None:
    trainer, untouched = make_trainer(budget=0), make_trainer()
    trainer.train()
    assert trainer.iteration == 0
    assert_equal_weights(trainer, untouched)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_n_and_n_steps_are_2n_steps(make_trainer: Any, tmp_path: Path, noise: float) -> None:
    whole = make_trainer(budget=10, noise=noise, folder=tmp_path / "whole")
    whole.train()
    make_trainer(budget=5, noise=noise).train()
    torch.rand(13)  # the state of the generators at the restart must not matter
    resumed = make_trainer(budget=10, noise=noise)
    resumed.load_state_dict(load_checkpoint(Checkpointer(tmp_path).last_path()))
    resumed.train()
    assert resumed.iteration == 10
    assert_equal_weights(whole, resumed)


def test_resumed_run_sees_the_samples_that_were_to_come(make_trainer: Any, recorder: Any, tmp_path: Path) -> None:
    make_trainer(budget=2, accumulate_steps=3).train()
    resumed = make_trainer(budget=3, accumulate_steps=3, hooks={"recorder": recorder})
    resumed.load_state_dict(load_checkpoint(Checkpointer(tmp_path).last_path()))
    resumed.train()
    assert recorder.names == [[f"image_{number}.png" for number in range(12, 18)]]


def test_checkpoint_carries_all_that_a_run_is(make_trainer: Any, tmp_path: Path) -> None:
    make_trainer(budget=4).train()
    state = load_checkpoint(tmp_path / "model_final.pth")
    assert state["iteration"] == 4
    assert state["sampler"] == {"global_batches": 4}
    assert state["seed"] == 7
    assert state["class_names"] == ["one"]
    assert state["scheduler"]["position"] == 4
    assert state["optimizer"]["state"][0]["momentum_buffer"].shape == (1, 3)
    assert set(state["generators"][0]) == {"python", "numpy", "torch", "cuda"}
    assert {"scaler", "ema", "config", "hooks"} <= state.keys()


def test_resume_keeps_the_configured_learning_rate(make_trainer: Any, recorder: Any, tmp_path: Path) -> None:
    make_trainer(budget=3).train()
    resumed = make_trainer(budget=4, hooks={"recorder": recorder})
    resumed.updater.optimizer.param_groups[0]["initial_lr"] = 0.01
    resumed.load_state_dict(load_checkpoint(tmp_path / "model_final.pth"))
    resumed.train()
    assert recorder.rates == pytest.approx([0.01])


def test_resume_with_another_model_is_refused(make_trainer: Any, tmp_path: Path) -> None:
    make_trainer(budget=1).train()
    other = make_trainer(model=torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match="another model"):
        other.load_state_dict(load_checkpoint(tmp_path / "model_final.pth"))


class Counter(torch.nn.Module):
    """Has a number beside its weights."""

    number = 0.0

    def training_state(self) -> dict[str, torch.Tensor]:
        return {"number": torch.tensor(self.number)}

    def load_training_state(self, state: dict[str, torch.Tensor]) -> None:
        self.number = float(state["number"])


def test_training_state_of_modules_is_resumed(make_trainer: Any, tmp_path: Path) -> None:
    first, second = TinyModel(), TinyModel()
    first.memory, second.memory = Counter(), Counter()
    first.memory.number = 3.0
    make_trainer(budget=1, model=first).train()
    resumed = make_trainer(model=second)
    state = load_checkpoint(tmp_path / "model_final.pth")
    resumed.load_state_dict(state)
    assert second.memory.number == 3.0
    for remembered in ({}, {"remembered": {}}, {"remembered": {"another": state["remembered"]["memory"]}}):
        former = {key: value for key, value in state.items() if key != "remembered"} | remembered
        with pytest.raises(UserError, match=r"lacks the training state of memory \(Counter\).*MODEL.WEIGHTS"):
            resumed.load_state_dict(former)


def test_checkpoint_of_a_former_version_is_resumed_where_nothing_is_remembered(
    make_trainer: Any, tmp_path: Path
) -> None:
    make_trainer(budget=1).train()
    state = load_checkpoint(tmp_path / "model_final.pth")
    del state["remembered"]
    resumed = make_trainer()
    resumed.load_state_dict(state)
    assert resumed.iteration == 1


class Silent(torch.nn.Module):
    """Returns given losses."""

    def __init__(self, losses: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.losses = losses

    def forward(self, samples: list[Any]) -> TrainingOutput:
        return TrainingOutput(self.losses)


def test_a_model_without_losses_is_refused_by_name(make_trainer: Any) -> None:
    with pytest.raises(UserError, match="Silent returned no losses in training"):
        make_trainer(model=Silent({})).train()
    with pytest.raises(UserError, match=r"no loss of Silent \(loss_a, loss_b\) depends on a parameter"):
        make_trainer(model=Silent({"loss_a": torch.tensor(1.0), "loss_b": torch.tensor(2.0)})).train()


def test_accumulated_batches_equal_the_larger_batch(make_trainer: Any) -> None:
    small = make_trainer(budget=4, accumulate_steps=3)
    large = make_trainer(budget=4, open_batches=lambda start: batches_from(start, size=6))
    small.train()
    large.train()
    torch.testing.assert_close(small.model.linear.weight, large.model.linear.weight)


def test_evaluation_in_between_changes_nothing(make_trainer: Any) -> None:
    class Disturb(Hook):
        def after_step(self, trainer: Trainer, report: Any) -> None:
            torch.rand(5)
            trainer.model.eval()
            trainer.model.train()

    plain, disturbed = make_trainer(noise=1.0), make_trainer(noise=1.0, hooks={"disturb": Disturb()})
    plain.train()
    disturbed.train()
    assert_equal_weights(plain, disturbed)


def test_a_hook_can_stop_training(make_trainer: Any, recorder: Any, tmp_path: Path) -> None:
    recorder.on_step = lambda trainer: trainer.stop("enough") if trainer.iteration == 3 else None
    trainer = make_trainer(hooks={"recorder": recorder})
    trainer.train()
    assert (trainer.iteration, trainer.stop_reason) == (3, "enough")
    assert (tmp_path / "model_final.pth").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_training_after_the_step_with_a_checkpoint(
    make_trainer: Any, recorder: Any, tmp_path: Path, number: int
) -> None:
    recorder.on_step = lambda trainer: os.kill(os.getpid(), number) if trainer.iteration == 4 else None
    trainer = make_trainer(hooks={"recorder": recorder})
    with StopSignals() as signals:
        trainer.train(signals=signals)
    assert (trainer.iteration, trainer.interrupted) == (4, number)
    assert Checkpointer(tmp_path).last_path().name == "model_0000003.pth"
    assert not (tmp_path / "model_final.pth").exists()


def test_second_ctrl_c_stops_at_once(make_trainer: Any, recorder: Any) -> None:
    def press_twice(trainer: Trainer) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    recorder.on_step = press_twice
    with pytest.raises(KeyboardInterrupt), StopSignals() as signals:
        make_trainer(hooks={"recorder": recorder}).train(signals=signals)


def test_signal_handlers_are_put_back() -> None:
    former = signal.getsignal(signal.SIGTERM)
    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) != former
    assert signal.getsignal(signal.SIGTERM) == former


class FakeClock:
    """Advances by the given time per step."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_time_budget_ends_training_and_stretches_the_schedule(make_trainer: Any, recorder: Any) -> None:
    clock = FakeClock()

    def take_ten_seconds(trainer: Trainer) -> None:
        clock.now += 10

    recorder.on_step = take_ten_seconds
    budget = TimeBudget(200.0, iterations=10, warmup_iterations=2)
    trainer = make_trainer(budget=budget, hooks={"recorder": recorder})
    trainer.train(clock=clock)
    assert trainer.iteration == 20
    assert trainer.elapsed == 200
    # The rate halves at 6 of 10 iterations: half way between the end of the warm-up, 2, and the end.
    assert recorder.rates == pytest.approx([0.05, 0.075] + [0.1] * 8 + [0.05] * 10)


def test_time_budget_counts_earlier_sittings(make_trainer: Any, recorder: Any, tmp_path: Path) -> None:
    clock = FakeClock()
    budget = TimeBudget(100.0, iterations=10)

    def take_ten_seconds(trainer: Trainer) -> None:
        clock.now += 10
        if trainer.iteration == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    recorder.on_step = take_ten_seconds
    first = make_trainer(budget=budget, hooks={"recorder": recorder})
    with StopSignals() as signals:
        first.train(signals=signals, clock=clock)
    clock.now += 5000
    second = make_trainer(budget=budget, hooks={"recorder": recorder})
    second.load_state_dict(load_checkpoint(Checkpointer(tmp_path).last_path()))
    recorder.on_step = lambda trainer: setattr(clock, "now", clock.now + 10)
    second.train(clock=clock)
    assert second.iteration == 10


def test_short_warmup_is_not_stretched_but_ends_in_time() -> None:
    budget = TimeBudget(100.0, iterations=1000, warmup_iterations=50)
    assert budget.position(10, 1.0) == 10
    assert budget.position(60, 10.0) == 50 + 0.1 * 950
    assert budget.position(3, 50.0) == 50 + 0.5 * 950  # so slow that the warm-up would take all the time
    assert budget.position(3, 500.0) == 1000


@pytest.mark.parametrize(
    ("budget", "iteration", "elapsed", "left"),
    [
        (IterationBudget(10), 4, 8.0, 12.0),
        (IterationBudget(10), 12, 8.0, 0.0),
        (TimeBudget(60.0, iterations=5), 4, 45.0, 15.0),
    ],
)
def test_seconds_left(budget: Any, iteration: int, elapsed: float, left: float) -> None:
    assert budget.seconds_left(iteration, elapsed, 2.0) == left


def test_out_of_memory_says_what_to_lower(make_trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer()

    def run_out(samples: list) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(trainer.model, "losses", run_out)
    with pytest.raises(UserError, match=r"iteration 0, with 2 images.*4 x 4.*SOLVER.IMS_PER_BATCH"):
        trainer.train()


def test_metrics_are_means_over_accumulated_batches(make_trainer: Any, recorder: Any) -> None:
    parts: list[list[float]] = []

    class Outputs(Hook):
        def after_backward(self, trainer: Trainer, batches: Any, outputs: Any) -> None:
            parts.append([float(output.total()) for output in outputs])

    make_trainer(budget=2, accumulate_steps=2, hooks={"outputs": Outputs(), "recorder": recorder}).train()
    assert recorder.losses == pytest.approx([sum(step) / 2 for step in parts])


def test_averaged_weights_are_evaluated_and_the_own_come_back(make_trainer: Any) -> None:
    from mrcnn_zoo.training.averaging import WeightsAverage

    trainer = make_trainer(budget=3)
    trainer.average = WeightsAverage(trainer.model, decay=0.5)
    start = trainer.model.linear.weight.detach().clone()
    trainer.train()
    own = trainer.model.linear.weight.detach().clone()
    with trainer.weights_to_evaluate():
        averaged = trainer.model.linear.weight.detach().clone()
    assert torch.equal(trainer.model.linear.weight, own)
    assert (averaged - own).norm() < (start - own).norm()
    assert not torch.equal(averaged, own)
