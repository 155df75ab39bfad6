"""Gradient clipping, and norms of gradients."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode, choice_of

Clipper = Callable[[Sequence[nn.Parameter]], None]


def clip_by_value(parameters: Sequence[nn.Parameter], *, limit: float) -> None:
    """Clamp every entry of every gradient to [-limit, limit].

    Args:
        parameters: those without gradient are left out.
        limit: above 0.
    """
    gradients = gradients_of(parameters)
    if gradients:
        torch._foreach_clamp_min_(gradients, -limit)
        torch._foreach_clamp_max_(gradients, limit)


def clip_each_norm(parameters: Sequence[nn.Parameter], *, limit: float, norm_type: float) -> None:
    """Scale the gradient of each parameter to a norm of at most `limit`, as Detectron2's "norm" does.

    Args:
        parameters: those without gradient are left out.
        limit: above 0.
        norm_type: order of the norm; infinity is the maximum.
    """
    gradients = gradients_of(parameters)
    if not gradients:
        return
    norms = torch.stack(list(torch._foreach_norm(gradients, norm_type)))
    torch._foreach_mul_(gradients, list((limit / (norms + 1e-6)).clamp(max=1.0).unbind()))


def clip_total_norm(parameters: Sequence[nn.Parameter], *, limit: float, norm_type: float) -> None:
    """Scale all gradients by one factor, so that their joint norm is at most `limit`.

    Args:
        parameters: those without gradient are left out.
        limit: above 0.
        norm_type: order of the norm; infinity is the maximum.
    """
    nn.utils.clip_grad_norm_(parameters, limit, norm_type)


def gradients_of(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """The gradients that exist.

    Args:
        parameters: of a model.
    """
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Joint L2 norm of all gradients, a scalar on their device.

    Args:
        parameters: those without gradient are left out.
    """
    return nn.utils.get_total_norm(gradients_of(parameters)).detach()


def largest_gradients(parameters: Sequence[nn.Parameter]) -> Tensor:
    """The largest magnitude in each gradient, on their device; NaN where an entry is NaN, 0 without gradient.

    Args:
        parameters: at least one with a gradient.

    Returns:
        (P,) float32 in their order.
    """
    norms = iter(torch._foreach_norm(gradients_of(parameters), torch.inf))
    zero = torch.zeros((), device=parameters[0].device)
    return torch.stack([zero if parameter.grad is None else next(norms).float() for parameter in parameters])


def build_clipper(cfg: CfgNode) -> Clipper | None:
    """The clipping of SOLVER.CLIP_GRADIENTS; None where it is disabled."""
    settings = cfg.SOLVER.CLIP_GRADIENTS
    if not settings.ENABLED:
        return None
    limit, norm_type = float(settings.CLIP_VALUE), float(settings.NORM_TYPE)
    clippers: dict[str, Clipper] = {
        "value": lambda parameters: clip_by_value(parameters, limit=limit),
        "norm": lambda parameters: clip_each_norm(parameters, limit=limit, norm_type=norm_type),
        "full_model": lambda parameters: clip_total_norm(parameters, limit=limit, norm_type=norm_type),
    }
    return choice_of(cfg, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", clippers)
