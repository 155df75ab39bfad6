"""Frozen parameters, parameter groups and optimizers."""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.layers.norm import freeze_batch_norms
from mrcnn_zoo.registries import OPTIMIZERS
from mrcnn_zoo.training.parts import NOTHING, parameters_in_parts

NORM_LAYERS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


@dataclass(frozen=True)
class GroupSettings:
    """Settings that all parameters of a group share.

    Args:
        lr: learning rate.
        weight_decay: at least 0.
    """

    lr: float
    weight_decay: float


@dataclass(frozen=True)
class GroupRule:
    """Settings of a parameter by the kind of layer that owns it; the last that applies wins: norm, then bias.

    Args:
        lr: learning rate of all parameters but biases.
        weight_decay: of all parameters but those of norm layers and biases.
        norm_weight_decay: of the parameters of norm layers, biases included; None is `weight_decay`.
        bias_lr_factor: the learning rate of biases over `lr`.
        bias_weight_decay: of every bias, those of norm layers too; None keeps the values above.
    """

    lr: float
    weight_decay: float
    norm_weight_decay: float | None = None
    bias_lr_factor: float = 1.0
    bias_weight_decay: float | None = None

    def settings(self, module: nn.Module, name: str) -> GroupSettings:
        """The settings of a parameter.

        Args:
            module: that owns it.
            name: of the parameter in the module, e.g. "bias".
        """
        lr, weight_decay = self.lr, self.weight_decay
        if self.norm_weight_decay is not None and isinstance(module, NORM_LAYERS):
            weight_decay = self.norm_weight_decay
        if name == "bias":
            lr *= self.bias_lr_factor
            if self.bias_weight_decay is not None:
                weight_decay = self.bias_weight_decay
        return GroupSettings(lr, weight_decay)


def freeze_parameters(model: nn.Module, patterns: Sequence[str], *, train: Sequence[str] = ()) -> list[str]:
    """Freeze the parameters of some parts, and all but those of the parts to train.

    A batch norm frozen as a whole becomes a FrozenBatchNorm2d: else its statistics would keep changing.

    Args:
        model: changed in place.
        patterns: parts that are not trained, see `parts.names_in_part`, e.g. "backbone.bottom_up.*".
        train: parts that are trained as far as the patterns do not name them; none for all, (NOTHING,) for nothing.

    Returns:
        The names of the frozen parameters.

    Raises:
        UserError: a pattern that matches nothing.
    """
    parameters = dict(model.named_parameters())
    frozen = dict.fromkeys(parameters_in_parts(model, patterns, key="SOLVER.FREEZE"))
    if train:
        wanted = [part for part in train if part != NOTHING]
        trained = parameters_in_parts(model, wanted, key="SOLVER.TRAIN")
        frozen |= dict.fromkeys(name for name in parameters if name not in trained)
    for name in frozen:
        parameters[name].requires_grad_(False)
    _freeze_statistics(model, frozen)
    return list(frozen)


def parameter_groups(model: nn.Module, rule: GroupRule) -> list[dict[str, Any]]:
    """The trainable parameters, those of equal settings in one group, in the order of the model.

    Args:
        model: with frozen parameters marked.
        rule: of the settings.

    Returns:
        Dicts with params, lr, weight_decay, and initial_lr, which the schedule scales.
    """
    groups: dict[GroupSettings, list[nn.Parameter]] = {}
    for module, name, parameter in _owned_parameters(model):
        groups.setdefault(rule.settings(module, name), []).append(parameter)
    return [
        {"params": parameters, "lr": own.lr, "initial_lr": own.lr, "weight_decay": own.weight_decay}
        for own, parameters in groups.items()
    ]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    """Freeze what SOLVER.FREEZE and SOLVER.TRAIN do not train; the optimizer SOLVER.OPTIMIZER over the others.

    With SOLVER.TRAIN [none] it has no parameters.

    Args:
        cfg: SOLVER.
        model: on its device; changed in place.

    Raises:
        UserError: a pattern that matches nothing, or no parameter to train.
    """
    freeze_parameters(model, cfg.SOLVER.FREEZE, train=cfg.SOLVER.TRAIN)
    rule = GroupRule(
        lr=cfg.SOLVER.BASE_LR * build_batch_scale(cfg),
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        norm_weight_decay=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        bias_weight_decay=cfg.SOLVER.WEIGHT_DECAY_BIAS,
    )
    groups = parameter_groups(model, rule)
    if not groups and NOTHING in cfg.SOLVER.TRAIN:
        groups = [{"params": [], "lr": rule.lr, "initial_lr": rule.lr, "weight_decay": rule.weight_decay}]
    if not groups:
        raise UserError(
            f"SOLVER.FREEZE = {list(cfg.SOLVER.FREEZE)} leaves no parameter to train"
            + (f" of SOLVER.TRAIN = {list(cfg.SOLVER.TRAIN)}." if cfg.SOLVER.TRAIN else ".")
        )
    optimizer: Optimizer = OPTIMIZERS.get(cfg.SOLVER.OPTIMIZER)(cfg, groups)
    return optimizer


@OPTIMIZERS.register("SGD")
def build_sgd(cfg: CfgNode, groups: list[dict[str, Any]]) -> torch.optim.SGD:
    return torch.optim.SGD(
        groups,
        lr=cfg.SOLVER.BASE_LR,
        momentum=cfg.SOLVER.MOMENTUM,
        nesterov=cfg.SOLVER.NESTEROV,
        fused=_fusable(groups),
    )


@OPTIMIZERS.register("AdamW")
def build_adamw(cfg: CfgNode, groups: list[dict[str, Any]]) -> torch.optim.AdamW:
    first, second = cfg.SOLVER.BETAS
    return torch.optim.AdamW(groups, lr=cfg.SOLVER.BASE_LR, betas=(first, second), fused=_fusable(groups))


def build_batch_scale(cfg: CfgNode) -> float:
    """The factor of SOLVER.SCALE_LR_TO_BATCH on SOLVER.BASE_LR; 1 without it."""
    reference = cfg.SOLVER.SCALE_LR_TO_BATCH
    return cfg.SOLVER.IMS_PER_BATCH * cfg.SOLVER.ACCUMULATE_STEPS / reference if reference > 0 else 1.0


def _freeze_statistics(model: nn.Module, frozen: Container[str]) -> None:
    for prefix, parent in list(model.named_modules()):
        for name, child in list(parent.named_children()):
            path = f"{prefix}.{name}" if prefix else name
            own = [f"{path}.{leaf}" for leaf, _ in child.named_parameters(recurse=False)]
            if isinstance(child, nn.BatchNorm2d | nn.SyncBatchNorm) and own and all(leaf in frozen for leaf in own):
                setattr(parent, name, freeze_batch_norms(child))


def _fusable(groups: list[dict[str, Any]]) -> bool | None:
    # One pass over memory instead of several. R50-FPN, SGD, one CPU core: 0.036 s fused, 0.096 s one by one, 0.107 s
    # with foreach.
    parameters = [parameter for group in groups for parameter in group["params"]]
    is_supported = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    return True if is_supported else None


def _owned_parameters(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                yield module, name, parameter
