# ruff: noqa: ARG002 - hooks and builders have fixed signatures
"""A loss that is not a number: it stops training, and leaves what is needed to look into it."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mrcnn_zoo.errors import NonFiniteLossError, UserError
from mrcnn_zoo.structures import BoxedBitmaps, Sample, Targets, TrainingOutput
from mrcnn_zoo.training import replay_batch
from mrcnn_zoo.training.hooks.nonfinite import StopOnNonFinite, find_nonfinite_losses, load_step, save_batches
from mrcnn_zoo.training.step import Updater
from mrcnn_zoo.training.trainer import Trainer
from support.tiny_trainer import TinyModel

BAD_IMAGE = "image_7.png"  # in the fourth batch of two


class Poisoned(nn.Module):
    """The tiny model with an absolute loss that is infinite or NaN for one image."""

    def __init__(self, tiny: nn.Module, value: float) -> None:
        super().__init__()
        self.tiny = tiny
        self.value = value
        self.squares: list[float] = []

    def forward(self, samples: list[Sample]) -> TrainingOutput:
        output = self.tiny(samples)
        self.squares.append(output.losses["loss_square"].item())
        if any(sample.file_name == BAD_IMAGE for sample in samples):
            output.losses["loss_absolute"] = output.losses["loss_absolute"] * self.value
        return output


@pytest.fixture
def skips_on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the fused optimizers of the CPU leave bad updates out, as those of accelerators do."""
    monkeypatch.setattr(Updater, "can_skip", True)


def use_optimizer(trainer: Trainer, kind: str) -> None:
    """Replace the optimizer of a trainer by a fused one, with the same settings."""
    groups = [{"params": trainer.updater.parameters, "lr": 0.1, "initial_lr": 0.1}]
    fused: dict[str, Any] = {"SGD": torch.optim.SGD, "AdamW": torch.optim.AdamW}
    settings = {"momentum": 0.9} if kind == "SGD" else {}
    trainer.updater.optimizer = fused[kind](groups, fused=True, **settings)


@pytest.fixture
def stopped(make_trainer: Any, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Trainer, str]:
    value = getattr(request, "param", math.nan)
    hook = StopOnNonFinite(tmp_path / "nonfinite")
    trainer = make_trainer(model=Poisoned(TinyModel(noise=1.0), value), hooks={"nonfinite": hook})
    with pytest.raises(NonFiniteLossError) as caught:
        trainer.train()
    return trainer, str(caught.value)


@pytest.mark.parametrize("stopped", [math.nan, math.inf], indirect=True)
def test_message_names_loss_iteration_and_images(stopped: tuple[Trainer, str]) -> None:
    _, message = stopped
    assert "iteration 3" in message
    assert "loss_absolute = nan" in message or "loss_absolute = inf" in message
    assert "loss_square" not in message
    assert "image_6.png, image_7.png" in message


def test_weights_are_those_before_the_step(stopped: tuple[Trainer, str], make_trainer: Any) -> None:
    trainer, _ = stopped
    until_then = make_trainer(model=TinyModel(noise=1.0), budget=3)
    until_then.train()
    assert trainer.iteration == 3
    assert torch.equal(trainer.model.tiny.linear.weight, until_then.model.linear.weight)


@pytest.mark.usefixtures("skips_on_device")
@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_device_skips_update_and_message_follows_one_step_later(make_trainer: Any, tmp_path: Path, kind: str) -> None:
    hook = StopOnNonFinite(tmp_path / "nonfinite")
    tiny = TinyModel(noise=1.0)
    trainer = make_trainer(model=Poisoned(copy.deepcopy(tiny), math.nan), hooks={"nonfinite": hook})
    until_then = make_trainer(model=tiny, budget=3)
    for each in (trainer, until_then):
        use_optimizer(each, kind)
    with pytest.raises(NonFiniteLossError, match=r"iteration 3.\n.*loss_absolute = nan; images: image_6.png, image_7"):
        trainer.train()
    until_then.train()
    assert trainer.iteration == 4
    assert len(trainer.model.squares) == 5
    assert torch.equal(trainer.model.tiny.linear.weight, until_then.model.linear.weight)
    outputs = replay_batch(tmp_path / "nonfinite" / "iter_0000003_rank_0.pt", model=trainer.model)
    assert outputs[0].losses["loss_square"].item() == trainer.model.squares[3]


@pytest.mark.usefixtures("skips_on_device")
def test_delayed_check_names_the_parameters_of_the_former_step(make_trainer: Any, tmp_path: Path) -> None:
    class OnceSteep(nn.Module):
        """The gradient of one of two parameters is infinite in the first step only."""

        def __init__(self) -> None:
            super().__init__()
            self.good, self.bad = nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(2))
            self.steps = 0

        def forward(self, samples: list[Sample]) -> TrainingOutput:
            self.steps += 1
            bad = self.bad.sqrt() if self.steps == 1 else self.bad
            return TrainingOutput({"loss_root": bad.sum() + self.good.sum()})

    trainer = make_trainer(model=OnceSteep(), hooks={"nonfinite": StopOnNonFinite(tmp_path / "bad")})
    use_optimizer(trainer, "SGD")
    with pytest.raises(NonFiniteLossError, match=r"iteration 0.\n.*not the gradients of bad; images: image_0.png"):
        trainer.train()
    assert trainer.model.good.tolist() == [1, 1]


@pytest.mark.usefixtures("skips_on_device")
@pytest.mark.parametrize("budget", [4, 10])
def test_delayed_check_precedes_checkpoints_and_the_end(make_trainer: Any, tmp_path: Path, budget: int) -> None:
    hook = StopOnNonFinite(tmp_path / "nonfinite")
    model = Poisoned(TinyModel(noise=1.0), math.nan)
    trainer = make_trainer(model=model, hooks={"nonfinite": hook}, budget=budget, checkpoint_period=2)
    use_optimizer(trainer, "SGD")
    with pytest.raises(NonFiniteLossError, match="iteration 3"):
        trainer.train()
    assert trainer.iteration == len(model.squares) == 4
    assert [path.name for path in tmp_path.rglob("model_*.pth")] == ["model_0000001.pth"]


def test_only_fused_optimizers_of_accelerators_skip_updates(make_trainer: Any) -> None:
    trainer = make_trainer()
    assert not trainer.updater.can_skip
    use_optimizer(trainer, "SGD")
    assert not trainer.updater.can_skip  # on the CPU there is no wait to save


def test_saved_batch_gives_the_same_losses_again(stopped: tuple[Trainer, str], tmp_path: Path) -> None:
    path = tmp_path / "nonfinite" / "iter_0000003_rank_0.pt"
    assert str(path) in stopped[1]
    outputs = replay_batch(path, model=Poisoned(TinyModel(noise=1.0), math.nan))
    assert outputs[0].losses["loss_absolute"].isnan()
    assert outputs[0].losses["loss_square"].item() == stopped[0].model.squares[3]
    assert load_step(path)["what"] == "loss_absolute = nan"


def test_non_finite_gradients_of_a_finite_loss_stop_too(make_trainer: Any, tmp_path: Path) -> None:
    class SquareRootAtZero(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tiny = TinyModel()

        def forward(self, samples: list[Sample]) -> TrainingOutput:
            return TrainingOutput({"loss_root": (self.tiny.linear.weight * 0).sum().sqrt()})

    trainer = make_trainer(model=SquareRootAtZero(), hooks={"nonfinite": StopOnNonFinite(tmp_path / "bad")})
    with pytest.raises(NonFiniteLossError, match=r"gradients of tiny.linear.weight"):
        trainer.train()


def test_gradients_that_only_overflow_together_name_the_largest_loss(make_trainer: Any, tmp_path: Path) -> None:
    class Steep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tiny = TinyModel()

        def forward(self, samples: list[Sample]) -> TrainingOutput:
            weight = self.tiny.linear.weight
            return TrainingOutput({"loss_flat": weight.abs().sum(), "loss_steep": 1e30 * weight.abs().sum()})

    trainer = make_trainer(model=Steep(), hooks={"nonfinite": StopOnNonFinite(tmp_path / "bad")})
    with pytest.raises(NonFiniteLossError, match=r"norm of all gradients overflows; the largest loss is loss_steep = "):
        trainer.train()


def test_model_that_finds_it_itself_is_treated_alike(make_trainer: Any, tmp_path: Path) -> None:
    class Refusing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tiny = TinyModel()

        def forward(self, samples: list[Sample]) -> TrainingOutput:
            if samples[0].file_name == "image_4.png":
                raise FloatingPointError("the proposals are not finite")
            return self.tiny(samples)

    trainer = make_trainer(model=Refusing(), hooks={"nonfinite": StopOnNonFinite(tmp_path / "bad")})
    with pytest.raises(NonFiniteLossError, match=r"iteration 2.\n.*the proposals are not finite; images: image_4.png"):
        trainer.train()
    with pytest.raises(FloatingPointError):
        replay_batch(tmp_path / "bad" / "iter_0000002_rank_0.pt", model=Refusing())


def test_losses_that_only_overflow_together_are_named_total_loss() -> None:
    large = torch.tensor(3e38)
    assert find_nonfinite_losses([TrainingOutput({"a": large, "b": large})]) == {"total_loss": math.inf}
    assert find_nonfinite_losses([TrainingOutput({"a": large})]) == {}
    assert find_nonfinite_losses([]) == {}


def test_samples_with_targets_and_masks_survive(tmp_path: Path) -> None:
    targets = Targets(
        image_size=(8, 8),
        boxes=torch.tensor([[1.0, 2.0, 4.0, 5.0]]),
        classes=torch.tensor([1]),
        masks=BoxedBitmaps.from_windows([(1, 2)], [torch.ones(3, 3, dtype=torch.uint8)], (8, 8)),
    )
    sample = Sample(torch.zeros(3, 8, 8, dtype=torch.uint8), 5, (8, 8), targets=targets, file_name="a.png")
    save_batches(tmp_path / "step.pt", [[sample]], {"iteration": 1})
    loaded = load_step(tmp_path / "step.pt")["batches"][0][0]
    assert loaded.file_name == "a.png"
    assert torch.equal(loaded.targets.masks.bitmaps(), targets.masks.bitmaps())


def test_files_that_are_no_steps_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("hello")
    torch.save({"model": {}}, tmp_path / "model.pth")
    for name in ("text.pt", "model.pth", "missing.pt"):
        with pytest.raises(UserError, match=name):
            load_step(tmp_path / name)
