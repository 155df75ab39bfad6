"""Row selection with at most one host synchronisation per batch, and constant tensors cached per device.

The number of rows that a mask selects decides the shape of the result, so the host needs it before it can go on. On an
accelerator it then waits for all work that was launched before. The numbers of all images fit into one copy.
"""

import itertools
from collections.abc import Sequence
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


WITHOUT_STATIC_NONZERO = ("cpu", "mps")  # where `nonzero` waits for nothing, or there is no other way


def rows_where(masks: Sequence[Tensor]) -> list[Tensor]:
    """The rows of each mask that are True, in order; the host waits once for all masks.

    Args:
        masks: (R_i,) bool.

    Returns:
        (P_i,) int64 of each.
    """
    if not masks or masks[0].device.type in WITHOUT_STATIC_NONZERO:
        return [mask.nonzero().flatten() for mask in masks]
    counts = torch.stack([mask.sum() for mask in masks]).tolist()
    return [known_rows(mask, count) for mask, count in zip(masks, counts, strict=True)]


def rows_in_parts(masks: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
    """The rows that are True in several masks one after another, and how many of each; the host waits once.

    Args:
        masks: (R_i,) bool, at least one.

    Returns:
        (sum of P_i,) int64 rows counted through all masks, and P_i of each.
    """
    rows = rows_where(masks)
    return rows_of_all(rows, [*map(len, masks)]), [*map(len, rows)]


def rows_of_all(rows: Sequence[Tensor], lengths: Sequence[int]) -> Tensor:
    """Rows of several tables, counted through all tables: (P_i,) int64 each, and the length of each table."""
    firsts = itertools.accumulate([0, *lengths[:-1]])
    return torch.cat([of_table + first for of_table, first in zip(rows, firsts, strict=True)])


def known_rows(mask: Tensor, count: int) -> Tensor:
    """The rows of a mask that are True, in order, where the host knows how many there are: (R,) bool -> (count,)."""
    if mask.device.type in WITHOUT_STATIC_NONZERO:
        return mask.nonzero().flatten()
    return torch.nonzero_static(mask, size=count).flatten()


def counts_of_images(images: Tensor, num_images: int) -> list[int]:
    """How many rows each image has, in one copy to the host: (R,) int64 in [0, num_images) -> N counts."""
    numbers = torch.arange(num_images, device=images.device)
    counts: list[int] = (images == numbers[:, None]).sum(dim=1).tolist()
    return counts


def image_numbers(counts: Sequence[int], device: torch.device) -> Tensor:
    """The number of each row's image where image i has counts[i] rows: (sum of the counts,) int64."""
    return torch.cat([torch.full((count,), number, device=device) for number, count in enumerate(counts)])
