"""Small tensors of fixed values."""

from functools import lru_cache

import torch
from torch import Tensor


def constant(values: tuple[float, ...], *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of these values, (len(values),); it may be shared and must not be changed.

    On an accelerator the same tensor is returned again, because making one copies it from the host.
    """
    if device.type == "cpu":
        return torch.tensor(values, dtype=dtype)
    return _shared_constant(values, dtype, device)


@lru_cache(maxsize=256)
def _shared_constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # a tensor made in inference mode could not be used in training later
        return torch.tensor(values, dtype=dtype, device=device)
