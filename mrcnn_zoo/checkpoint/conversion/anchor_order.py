"""The anchors of a cell in another order, and so the channels of an RPN that predict them."""

from collections.abc import Mapping

import torch
from torch import Tensor

HEAD = "proposal_generator.rpn_head"


def sizes_first(weights: Mapping[str, Tensor], *, num_sizes: int) -> dict[str, Tensor]:
    """The RPN's last layers, of anchors that go through all sizes of one shape and then of the next, for ours.

    Ours go through all shapes of one size, then of the next.

    Args:
        weights: under our names.
        num_sizes: anchors of one shape on a cell; with one, both orders are the same.
    """
    reordered = dict(weights)
    for layer, values in ((f"{HEAD}.objectness_logits", 1), (f"{HEAD}.anchor_deltas", 4)):
        for name in (f"{layer}.weight", f"{layer}.bias"):
            tensor = weights[name]
            anchors = torch.arange(len(tensor) // values).reshape(-1, num_sizes).T.flatten()
            reordered[name] = tensor.unflatten(0, (-1, values))[anchors].flatten(0, 1)
    return reordered
