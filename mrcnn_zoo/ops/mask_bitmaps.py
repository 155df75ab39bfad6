"""Masks of boxes as full-image bitmaps, computed on their device."""

import torch
from torch import Tensor

# Values of one temporary tensor: 256 MB of float32.
MAX_VALUES = 64_000_000


def paste_bitmaps(probabilities: Tensor, boxes: Tensor, image_size: tuple[int, int], *, threshold: float) -> Tensor:
    """The pixels where each mask reaches the threshold, without host synchronisation; `masks.paste_masks` on a device.

    Args:
        probabilities: (R, M, M) in [0, 1].
        boxes: (R, 4) pixels of the image, which may extend outside.
        image_size: (height, width).
        threshold: least probability of a mask pixel, above 0.

    Returns:
        (R, H, W) bool.
    """
    height, width = image_size
    bitmaps = torch.zeros((len(boxes), height, width), dtype=torch.bool, device=boxes.device)
    masks_at_a_time = max(1, MAX_VALUES // (height * width))
    padded = torch.nn.functional.pad(probabilities.float(), (1, 1, 1, 1))
    for part, masks, corners in zip(
        bitmaps.split(masks_at_a_time), padded.split(masks_at_a_time), boxes.split(masks_at_a_time), strict=True
    ):
        rows = _stretch(masks, corners[:, 1], corners[:, 3], height)  # (P, H, M + 2)
        pasted = _stretch(rows.transpose(1, 2), corners[:, 0], corners[:, 2], width)  # (P, W, H)
        has_area = (corners[:, 2:] > corners[:, :2]).all(dim=1)
        part.copy_((pasted >= threshold).transpose(1, 2) & has_area[:, None, None])
    return bitmaps


def _stretch(values: Tensor, starts: Tensor, ends: Tensor, length: int) -> Tensor:
    """Rows placed evenly from starts[r] to ends[r], interpolated at the centres of `length` pixels.

    Args:
        values: (R, M + 2, n), the first and last row are 0.
        starts: (R,) image coordinate of the upper edge of row 1.
        ends: (R,) image coordinate of the lower edge of row M.
        length: pixels along this axis of the image.

    Returns:
        (R, length, n).
    """
    side = values.shape[1] - 2
    starts, ends = starts.double()[:, None], ends.double()[:, None]
    pixels = torch.arange(length, device=values.device)
    positions = (pixels + 0.5 - starts) / (ends - starts) * side + 0.5
    positions = positions.nan_to_num(0.0).clamp(0, side + 1)  # NaN in empty boxes
    lower = positions.long().clamp(max=side)
    fraction = (positions - lower).to(values.dtype)[:, :, None]
    places = lower[:, :, None].expand(-1, -1, values.shape[2])
    above = values.gather(1, places)
    return above + fraction * (values.gather(1, places + 1) - above)
