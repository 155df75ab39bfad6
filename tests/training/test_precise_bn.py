"""Batch-norm statistics of fixed weights, against fvcore's estimate and by hand."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from mrcnn_zoo.structures import Sample, TrainingOutput
from mrcnn_zoo.training.averaging import WeightsAverage
from mrcnn_zoo.training.hooks.precise_bn import PreciseBatchNorm, estimate_batch_norm_statistics
from support.tiny_trainer import batches_from


class NormalizedModel(nn.Module):
    """A convolution and a batch norm over the image, and a buffer that counts calls."""

    calls: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        self.norm = nn.BatchNorm2d(2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, samples: list[Sample]) -> TrainingOutput:
        self.calls += 1
        pixels = torch.stack([sample.image.float() / 255 for sample in samples])
        return TrainingOutput({"loss": self.norm(self.conv(pixels)).square().mean() + self.conv.weight.sum()})


def test_statistics_equal_fvcores() -> None:
    from fvcore.nn.precise_bn import update_bn_stats

    ours = NormalizedModel()
    theirs = copy.deepcopy(ours)
    estimate_batch_norm_statistics(ours, batches_from(0), num_batches=5)
    update_bn_stats(theirs, batches_from(0), 5)
    torch.testing.assert_close(ours.norm.running_mean, theirs.norm.running_mean)
    torch.testing.assert_close(ours.norm.running_var, theirs.norm.running_var)
    assert ours.calls == 0  # put back
    assert ours.norm.num_batches_tracked == 0


def test_a_norm_without_inputs_keeps_its_statistics() -> None:
    model = NormalizedModel()
    model.norm.running_mean.fill_(3.0)
    estimate_batch_norm_statistics(model, iter([]), num_batches=5)
    assert model.norm.running_mean.tolist() == [3.0, 3.0]


def test_model_without_trained_norms_is_not_called() -> None:
    model = NormalizedModel()
    model.norm.eval()
    estimate_batch_norm_statistics(model, batches_from(0), num_batches=1)
    assert model.norm.running_mean.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("decay", [None, 0.5])
def test_final_statistics_are_those_of_the_evaluated_weights(decay: float | None, make_trainer: Any) -> None:
    torch.manual_seed(0)
    model = NormalizedModel()
    hook = PreciseBatchNorm(lambda seed: batches_from(0), num_batches=3, period=2)  # noqa: ARG005
    trainer = make_trainer(budget=5, hooks={"PreciseBatchNorm": hook}, model=model)
    trainer.average = WeightsAverage(model, decay=decay) if decay else None
    trainer.train()
    with trainer.weights_to_evaluate():
        mixed = torch.cat([s.image.float() / 255 for batch, _ in zip(batches_from(0), range(3), strict=False)
                           for s in batch], dim=1)[None]  # fmt: skip
        outputs = model.conv(mixed).flatten(2)[0]
        torch.testing.assert_close(model.norm.running_mean, outputs.mean(dim=1))
        torch.testing.assert_close(model.norm.running_var, outputs.var(dim=1, correction=0))
