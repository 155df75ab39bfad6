"""How far results are from recorded ones."""

from torch import Tensor


def relative_error(ours: Tensor, recorded: Tensor) -> float:
    """The largest difference, as a fraction of the largest recorded number."""
    assert ours.shape == recorded.shape
    return ((ours - recorded).abs().max() / recorded.abs().max()).item()
