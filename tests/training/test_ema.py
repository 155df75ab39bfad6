"""The moving average of weights, by hand."""

import pytest
import torch
from torch import nn

from mrcnn_zoo.config import load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.training.averaging import WeightsAverage, build_weights_average


def linear(value: float) -> nn.Linear:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


def averaged(average: WeightsAverage, name: str = "weight") -> float:
    return average.state_dict()["weights"][name].item()


def test_first_updates_use_a_smaller_decay() -> None:
    # Decays (1 + n) / (10 + n): 2/11, then 3/12. 0 -> 9/11 * 11 = 9; then 0.25 * 9 + 0.75 * 1 = 3.
    model = linear(0.0)
    average = WeightsAverage(model, decay=0.999)
    nn.init.constant_(model.weight, 11.0)
    average.update(model)
    assert averaged(average) == pytest.approx(9.0)
    nn.init.constant_(model.weight, 1.0)
    average.update(model)
    assert averaged(average) == pytest.approx(3.0)


def test_decay_never_exceeds_the_given_one() -> None:
    model = linear(0.0)
    average = WeightsAverage(model, decay=0.1)
    nn.init.constant_(model.weight, 10.0)
    average.update(model)
    assert averaged(average) == pytest.approx(9.0)


def test_batch_norm_statistics_are_averaged_like_the_weights() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1))
    average = WeightsAverage(model, decay=0.1)
    for tensor, value in ((model[0].weight, 11.0), (model[0].running_mean, 10.0), (model[0].running_var, 21.0)):
        nn.init.constant_(tensor, value)
    model[0].num_batches_tracked.fill_(7)
    average.update(model)  # from a weight of 1, a mean of 0 and a variance of 1
    assert averaged(average, "0.weight") == pytest.approx(10.0)
    assert averaged(average, "0.running_mean") == pytest.approx(9.0)
    assert averaged(average, "0.running_var") == pytest.approx(19.0)
    assert averaged(average, "0.num_batches_tracked") == 7
    with average.applied_to(model):
        assert model[0].running_mean.item() == pytest.approx(9.0)
    assert model[0].running_mean.item() == 10.0


def test_averaged_statistics_fit_the_averaged_weights() -> None:
    # A convolution whose weight goes up and down: what its average makes has the averaged mean, not the latest.
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, momentum=1.0, affine=False))
    images = torch.linspace(1, 3, 64).reshape(1, 1, 8, 8)
    average = WeightsAverage(model, decay=0.9)
    for step in range(100):
        nn.init.constant_(model[0].weight, 10.0 if step % 2 else 2.0)
        model(images)
        average.update(model)
    with average.applied_to(model):
        assert model.eval()(images).mean().abs() < 0.05  # with the latest statistics: -1.4


def test_other_buffers_are_the_latest() -> None:
    model = linear(0.0)
    model.register_buffer("scale", torch.zeros(1))
    average = WeightsAverage(model, decay=0.9)
    model.scale.fill_(5.0)
    average.update(model)
    assert averaged(average, "scale") == 5.0


def test_frozen_parameters_are_the_latest() -> None:
    model = linear(0.0)
    model.weight.requires_grad_(False)
    average = WeightsAverage(model, decay=0.9)
    model.weight.fill_(4.0)
    average.update(model)
    assert averaged(average) == 4.0


def test_caches_that_are_not_saved_are_left_out() -> None:
    model = linear(0.0)
    model.register_buffer("cache", torch.zeros(2), persistent=False)
    average = WeightsAverage(model, decay=0.9)
    model.cache = torch.zeros(5)
    average.update(model)
    with average.applied_to(model):
        assert model.cache.shape == (5,)


def test_applied_average_is_taken_back() -> None:
    model = linear(2.0)
    average = WeightsAverage(model, decay=0.9)
    nn.init.constant_(model.weight, 3.0)
    with average.applied_to(model):
        assert model.weight.item() == 2.0
    assert model.weight.item() == 3.0


def test_applied_average_is_taken_back_after_an_error() -> None:
    model = linear(2.0)
    average = WeightsAverage(model, decay=0.9)
    nn.init.constant_(model.weight, 3.0)
    with pytest.raises(KeyError), average.applied_to(model):
        raise KeyError
    assert model.weight.item() == 3.0


def test_applying_keeps_the_parameters_the_same_objects() -> None:
    model = linear(2.0)
    parameter = model.weight
    average = WeightsAverage(model, decay=0.9)
    with average.applied_to(model):
        assert model.weight is parameter


def test_restored_average_goes_on_alike() -> None:
    model = linear(0.0)
    first = WeightsAverage(model, decay=0.999)
    nn.init.constant_(model.weight, 11.0)
    first.update(model)
    state = {"num_updates": 1, "weights": {"weight": first.state_dict()["weights"]["weight"].clone()}}
    second = WeightsAverage(linear(-5.0), decay=0.999)
    second.load_state_dict(state)
    first.update(model)
    second.update(model)
    assert averaged(second) == averaged(first)


def test_average_of_another_model_is_refused() -> None:
    average = WeightsAverage(linear(0.0), decay=0.9)
    with pytest.raises(UserError, match="another model"):
        average.load_state_dict({"num_updates": 1, "weights": {"other": torch.zeros(1)}})


def test_no_average_unless_asked_for() -> None:
    assert build_weights_average(load_config(), linear(0.0)) is None
