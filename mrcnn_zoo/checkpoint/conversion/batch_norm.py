"""Batch norms of other projects, whose numbers mean the same here after a small change."""

import torch
from torch import Tensor

OUR_EPS = 1e-5  # that our norms add to the variance, and torchvision's new ones


def variance_under_our_eps(variance: Tensor, *, eps: float) -> Tensor:
    """The variance that our norm needs where another one adds `eps` to this one: (C,) -> (C,)."""
    return (variance.double() + (eps - OUR_EPS)).to(variance.dtype)


def folded(layer: tuple[Tensor, Tensor], norm: tuple[Tensor, Tensor, Tensor, Tensor], *, eps: float) -> tuple:
    """A layer that computes what it and the batch norm after it do at inference.

    Args:
        layer: weight (C, ...) and bias (C,).
        norm: scale, shift, mean and variance, each (C,).
        eps: that the norm adds to the variance.

    Returns:
        Weight and bias.
    """
    weight, bias = (tensor.double() for tensor in layer)
    scale, shift, mean, variance = (tensor.double() for tensor in norm)
    factor = scale * torch.rsqrt(variance + eps)
    new_weight = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    return new_weight.to(layer[0].dtype), ((bias - mean) * factor + shift).to(layer[1].dtype)
