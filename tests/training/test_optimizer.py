"""Parameter groups, freezing, and the optimizers themselves."""

import pytest
import torch
from torch import nn

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.layers.norm import FrozenBatchNorm2d
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.training.optimizer import GroupRule, build_optimizer, freeze_parameters, parameter_groups
from support.references import find_case


class SmallNet(nn.Module):
    """A convolution with batch norm, a group norm and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.norm = nn.GroupNorm(2, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.stem(pixels)).mean(dim=(2, 3)))


def config(*overrides: object) -> CfgNode:
    return load_config(overrides=["SOLVER.BASE_LR", 0.02, "SOLVER.WEIGHT_DECAY", 1e-4, *overrides])


def settings_by_name(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, tuple[float, float]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_norm_layers_have_their_own_weight_decay() -> None:
    model = SmallNet()
    settings = settings_by_name(model, build_optimizer(config(), model))
    assert settings == {
        "stem.0.weight": (0.02, 1e-4),
        "stem.0.bias": (0.02, 1e-4),
        "stem.1.weight": (0.02, 0.0),
        "stem.1.bias": (0.02, 0.0),
        "norm.weight": (0.02, 0.0),
        "norm.bias": (0.02, 0.0),
        "head.weight": (0.02, 1e-4),
        "head.bias": (0.02, 1e-4),
    }


def test_bias_settings_reach_every_bias() -> None:
    model = SmallNet()
    cfg = config("SOLVER.BIAS_LR_FACTOR", 2.0, "SOLVER.WEIGHT_DECAY_BIAS", 0.5)
    settings = settings_by_name(model, build_optimizer(cfg, model))
    assert {name: value for name, value in settings.items() if name.endswith("bias")} == dict.fromkeys(
        ["stem.0.bias", "stem.1.bias", "norm.bias", "head.bias"], (0.04, 0.5)
    )
    assert settings["norm.weight"] == (0.02, 0.0)
    assert settings["head.weight"] == (0.02, 1e-4)


def test_equal_settings_share_a_group() -> None:
    assert len(parameter_groups(SmallNet(), GroupRule(lr=1.0, weight_decay=0.1, norm_weight_decay=0.0))) == 2


def test_no_norm_weight_decay_takes_the_general_one() -> None:
    assert len(parameter_groups(SmallNet(), GroupRule(lr=1.0, weight_decay=0.1))) == 1


def test_a_shared_parameter_stands_in_one_group_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    groups = parameter_groups(model, GroupRule(lr=1.0, weight_decay=0.1))
    assert sum(len(group["params"]) for group in groups) == 3


def test_frozen_parameters_are_left_out() -> None:
    model = SmallNet()
    model.head.bias.requires_grad_(False)
    assert "head.bias" not in settings_by_name(model, build_optimizer(config(), model))


@pytest.mark.parametrize("pattern", ["stem.*", "stem", "stem.?.*"])
def test_freezing_by_pattern_takes_the_parameters_out(pattern: str) -> None:
    model = SmallNet()
    optimizer = build_optimizer(config("SOLVER.FREEZE", [pattern]), model)
    assert sorted(settings_by_name(model, optimizer)) == ["head.bias", "head.weight", "norm.bias", "norm.weight"]


def test_freezing_returns_the_names() -> None:
    assert freeze_parameters(SmallNet(), ["*.bias"]) == ["stem.0.bias", "stem.1.bias", "norm.bias", "head.bias"]


def test_statistics_of_a_frozen_batch_norm_stay() -> None:
    model = SmallNet()
    freeze_parameters(model, ["stem.*"])
    model.train()(torch.randn(2, 3, 8, 8))
    assert isinstance(model.stem[1], FrozenBatchNorm2d)
    assert torch.equal(model.stem[1].running_mean, torch.zeros(4))


def test_statistics_of_a_half_frozen_batch_norm_go_on() -> None:
    model = SmallNet()
    freeze_parameters(model, ["stem.1.bias"])
    assert isinstance(model.stem[1], nn.BatchNorm2d)


def test_nothing_to_freeze_changes_nothing() -> None:
    model = SmallNet()
    assert freeze_parameters(model, []) == []
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_pattern_without_match_suggests_another() -> None:
    with pytest.raises(UserError, match=r"SOLVER.FREEZE: 'steem.\*' matches no parameter.* Did you mean 'stem.\*'"):
        build_optimizer(config("SOLVER.FREEZE", ["steem.*"]), SmallNet())


def test_freezing_everything_is_refused() -> None:
    with pytest.raises(UserError, match="leaves no parameter to train"):
        build_optimizer(config("SOLVER.FREEZE", ["*"]), SmallNet())


def test_learning_rate_scales_with_the_images_of_a_step() -> None:
    model = SmallNet()
    cfg = config("SOLVER.IMS_PER_BATCH", 4, "SOLVER.ACCUMULATE_STEPS", 2, "SOLVER.SCALE_LR_TO_BATCH", 16)
    optimizer = build_optimizer(cfg, model)
    assert {group["lr"] for group in optimizer.param_groups} == {0.01}
    assert {group["initial_lr"] for group in optimizer.param_groups} == {0.01}


def test_sgd_steps_as_computed_by_hand() -> None:
    # v = g + wd w, w -= lr v; then v = m v + g + wd w.
    # With w 1, g 2, wd 0.5, m 0.9, lr 0.1: v 2.5, w 0.75; then v 2.25 + 2 + 0.375, w 0.2875.
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    cfg = config("SOLVER.BASE_LR", 0.1, "SOLVER.WEIGHT_DECAY", 0.5, "SOLVER.MOMENTUM", 0.9)
    optimizer = build_optimizer(cfg, model)
    weights = []
    for _ in range(2):
        model.weight.grad = torch.full((1, 1), 2.0)
        optimizer.step()
        weights.append(model.weight.item())
    assert weights == pytest.approx([0.75, 0.2875])


def test_nesterov_looks_ahead() -> None:
    # v = 2, w -= lr (g + m v) = 0.1 * (2 + 0.9 * 2).
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    cfg = config("SOLVER.BASE_LR", 0.1, "SOLVER.WEIGHT_DECAY", 0.0, "SOLVER.NESTEROV", True)
    model.weight.grad = torch.full((1, 1), 2.0)
    build_optimizer(cfg, model).step()
    assert model.weight.item() == pytest.approx(1 - 0.38)


def test_adamw_decays_apart_from_the_gradient() -> None:
    # The first step of Adam is lr * sign(g); the decay is lr * wd * w.
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    cfg = config("SOLVER.OPTIMIZER", "AdamW", "SOLVER.BASE_LR", 0.1, "SOLVER.WEIGHT_DECAY", 0.5)
    model.weight.grad = torch.full((1, 1), 2.0)
    build_optimizer(cfg, model).step()
    assert model.weight.item() == pytest.approx(1 - 0.05 - 0.1, rel=1e-5)


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(UserError, match=r"SOLVER\.MOMENTUM"):
        build_optimizer(config("SOLVER.NESTEROV", True, "SOLVER.MOMENTUM", 0.0), SmallNet())


def test_unknown_optimizer_is_named() -> None:
    with pytest.raises(UserError, match="Did you mean 'AdamW'"):
        build_optimizer(config("SOLVER.OPTIMIZER", "Adamw2"), SmallNet())


def test_detectron2_trains_the_same_parameters() -> None:
    # The recorded gradients name everything that Detectron2 trains in this model; FrozenBN leaves a single group.
    case = find_case("mask_rcnn_R_50_FPN")
    cfg = load_config(case.config, ["MODEL.DEVICE", "cpu"])
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    assert settings_by_name(model, optimizer).keys() == case.gradient_norms.keys()
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.02, 0.0001)]
