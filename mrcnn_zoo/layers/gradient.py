"""Layers that change the gradient and nothing else."""

from typing import Any

import torch
from torch import Tensor


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor, factor: float) -> Tensor:
        context.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient * context.factor, None


def scale_gradient(values: Tensor, factor: float) -> Tensor:
    """The same values; the gradient that flows back through them is multiplied by `factor`."""
    return _ScaledGradient.apply(values, factor)
