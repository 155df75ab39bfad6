"""Values that other projects keep in another order or under another convention than ours."""

from collections.abc import Mapping

import torch
from torch import Tensor

OUR_EPS = 1e-5  # added to the variance by our batch norms
RPN_HEAD = "proposal_generator.rpn_head"


def background_last(rows: Tensor) -> Tensor:
    """Move the background from the first row, where most projects have it, to the last.

    Args:
        rows: (K + 1, ...), one per class.
    """
    return rows.roll(-1, dims=0)


def background_first(rows: Tensor) -> Tensor:
    """Move the background from the last row to the first; the inverse of `background_last`.

    Args:
        rows: (K + 1, ...), one per class.
    """
    return rows.roll(1, dims=0)


def variance_under_our_eps(variance: Tensor, *, eps: float) -> Tensor:
    """The variance with which our batch norm computes what another one computes.

    Args:
        variance: (C,) of the other norm.
        eps: that the other norm adds to its variance.

    Returns:
        (C,) of the same dtype.
    """
    return (variance.double() + (eps - OUR_EPS)).to(variance.dtype)


def scaled_for_our_eps(weights: Mapping[str, Tensor], *, eps: float) -> dict[str, Tensor]:
    """Scale the weights of frozen batch norms so that they compute with our eps what they do with another.

    The variance is unchanged: some channels have variances of 1e-12, in which the difference of the eps would be lost.

    Args:
        weights: under our names.
        eps: that the other project adds to the variance.
    """
    scaled = dict(weights)
    for name, variance in weights.items():
        if name.endswith(".running_var"):
            weight = name.removesuffix("running_var") + "weight"
            factor = ((variance.double() + OUR_EPS) / (variance.double() + eps)).sqrt()
            scaled[weight] = (weights[weight].double() * factor).to(weights[weight].dtype)
    return scaled


def fold_batch_norm(
    layer: tuple[Tensor, Tensor], norm: tuple[Tensor, Tensor, Tensor, Tensor], *, eps: float
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer that computes what a layer and its batch norm compute at inference.

    Args:
        layer: weight (C, ...) and bias (C,).
        norm: scale, shift, mean and variance, each (C,).
        eps: added to the variance.
    """
    weight, bias = (tensor.double() for tensor in layer)
    scale, shift, mean, variance = (tensor.double() for tensor in norm)
    factor = scale * torch.rsqrt(variance + eps)
    new_weight = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    return new_weight.to(layer[0].dtype), ((bias - mean) * factor + shift).to(layer[1].dtype)


def anchors_by_size(weights: Mapping[str, Tensor], *, num_sizes: int) -> dict[str, Tensor]:
    """The RPN's last layers with the anchors of a cell in our order: all shapes of the first size, then of the next.

    Args:
        weights: under our names, with the anchors ordered by shape: all sizes of the first shape, then of the next.
        num_sizes: anchors per shape in a cell; with 1, both orders are the same.
    """
    reordered = dict(weights)
    for layer, values in ((f"{RPN_HEAD}.objectness_logits", 1), (f"{RPN_HEAD}.anchor_deltas", 4)):
        for name in (f"{layer}.weight", f"{layer}.bias"):
            tensor = weights[name]
            anchors = torch.arange(len(tensor) // values).reshape(-1, num_sizes).T.flatten()
            reordered[name] = tensor.unflatten(0, (-1, values))[anchors].flatten(0, 1)
    return reordered
