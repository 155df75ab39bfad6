"""Row selection with at most one host synchronisation per batch, and constant tensors cached per device.

The number of selected rows decides the shape of the result, so the host needs it, and on an accelerator this is a
synchronisation with all work launched before. Here the counts of all images are one copy.
"""

import itertools
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def constant(values: tuple[float, ...], *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of constants, which is shared on accelerators to avoid copies from the host; do not modify it.

    Args:
        values: the constants.
        dtype: of the result.
        device: of the result.

    Returns:
        (len(values),).
    """
    if device.type == "cpu":
        return torch.tensor(values, dtype=dtype)
    return _shared_constant(values, dtype, device)


@lru_cache(maxsize=256)
def _shared_constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # inference tensors cannot be used in training
        return torch.tensor(values, dtype=dtype, device=device)


WITHOUT_STATIC_NONZERO = ("cpu", "mps")  # no synchronisation to avoid, or `nonzero_static` is not implemented


def rows_where(masks: Sequence[Tensor]) -> list[Tensor]:
    """The rows where each mask is True, in order, with one host synchronisation for all masks.

    Args:
        masks: (R_i,) bool.

    Returns:
        (P_i,) int64 per mask.
    """
    if not masks or masks[0].device.type in WITHOUT_STATIC_NONZERO:
        return [mask.nonzero().flatten() for mask in masks]
    counts = torch.stack([mask.sum() for mask in masks]).tolist()
    return [known_rows(mask, count) for mask, count in zip(masks, counts, strict=True)]


def rows_in_parts(masks: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
    """The rows where the concatenated masks are True, with one host synchronisation.

    Args:
        masks: (R_i,) bool, at least one.

    Returns:
        (sum of P_i,) int64 rows of the concatenated masks, and P_i per mask.
    """
    rows = rows_where(masks)
    return rows_of_all(rows, [*map(len, masks)]), [*map(len, rows)]


def rows_of_all(rows: Sequence[Tensor], lengths: Sequence[int]) -> Tensor:
    """Rows of several tables as rows of the concatenated tables.

    Args:
        rows: (P_i,) int64 of each table.
        lengths: of each table.

    Returns:
        (sum of P_i,) int64.
    """
    firsts = itertools.accumulate([0, *lengths[:-1]])
    return torch.cat([of_table + first for of_table, first in zip(rows, firsts, strict=True)])


def known_rows(mask: Tensor, count: int) -> Tensor:
    """The rows where a mask is True, in order, without host synchronisation.

    Args:
        mask: (R,) bool.
        count: the number of True values.

    Returns:
        (count,) int64.
    """
    if mask.device.type in WITHOUT_STATIC_NONZERO:
        return mask.nonzero().flatten()
    return torch.nonzero_static(mask, size=count).flatten()


def counts_of_images(images: Tensor, num_images: int) -> list[int]:
    """The number of rows of each image, with one host synchronisation.

    Args:
        images: (R,) int64 in [0, num_images).
        num_images: N.

    Returns:
        N counts.
    """
    numbers = torch.arange(num_images, device=images.device)
    counts: list[int] = (images == numbers[:, None]).sum(dim=1).tolist()
    return counts


def image_numbers(counts: Sequence[int], device: torch.device) -> Tensor:
    """The image of each row.

    Args:
        counts: rows of each image.
        device: of the result.

    Returns:
        (sum of the counts,) int64, ascending.
    """
    return torch.cat([torch.full((count,), number, device=device) for number, count in enumerate(counts)])
