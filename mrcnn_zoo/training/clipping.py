"""Gradient clipping by value, by the norm of each parameter, or by the norm of all gradients together."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registry import did_you_mean

Clipper = Callable[[Sequence[nn.Parameter]], None]


def clip_by_value(parameters: Sequence[nn.Parameter], *, limit: float) -> None:
    """Bring every entry of every gradient into [-limit, limit]."""
    gradients = gradients_of(parameters)
    if gradients:
        torch._foreach_clamp_min_(gradients, -limit)
        torch._foreach_clamp_max_(gradients, limit)


def clip_each_norm(parameters: Sequence[nn.Parameter], *, limit: float, norm_type: float) -> None:
    """Scale the gradient of each parameter on its own to a norm of at most `limit`, as Detectron2's "norm" does."""
    gradients = gradients_of(parameters)
    if not gradients:
        return
    norms = torch.stack(list(torch._foreach_norm(gradients, norm_type)))
    torch._foreach_mul_(gradients, list((limit / (norms + 1e-6)).clamp(max=1.0).unbind()))


def clip_total_norm(parameters: Sequence[nn.Parameter], *, limit: float, norm_type: float) -> None:
    """Scale all gradients by one factor, so that the norm of all of them together is at most `limit`."""
    nn.utils.clip_grad_norm_(parameters, limit, norm_type)


def gradients_of(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """The gradients that exist."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """L2 norm of all gradients together, a scalar on their device."""
    return nn.utils.get_total_norm(gradients_of(parameters)).detach()


def build_clipper(cfg: CfgNode) -> Clipper | None:
    """What SOLVER.CLIP_GRADIENTS asks for; None when it is off."""
    settings = cfg.SOLVER.CLIP_GRADIENTS
    if not settings.ENABLED:
        return None
    limit, norm_type = float(settings.CLIP_VALUE), float(settings.NORM_TYPE)
    clippers: dict[str, Clipper] = {
        "value": lambda parameters: clip_by_value(parameters, limit=limit),
        "norm": lambda parameters: clip_each_norm(parameters, limit=limit, norm_type=norm_type),
        "full_model": lambda parameters: clip_total_norm(parameters, limit=limit, norm_type=norm_type),
    }
    if settings.CLIP_TYPE not in clippers:
        raise UserError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE = {settings.CLIP_TYPE!r} is not one of {', '.join(clippers)}."
            f"{did_you_mean(settings.CLIP_TYPE, clippers)}"
        )
    return clippers[settings.CLIP_TYPE]
