"""Keypoints to heatmap cells of a region and back; coordinates are continuous: the first pixel's centre is at 0.5."""

import torch
from torch import Tensor
from torch.nn import functional as F

NO_CELL = -1  # of a keypoint that is not labelled or not inside the region

# Values of enlarged heatmaps in memory at a time: 64 MB. The 17 of a person in a 4000 x 8000 image would be 2 GB.
MAX_VALUES = 16_000_000


def heatmap_cells(keypoints: Tensor, boxes: Tensor, side: int) -> Tensor:
    """The cell of each keypoint on a heatmap that covers its region.

    Source: He et al. 2017 (Mask R-CNN), section 5, "one-hot" masks of one pixel.

    Args:
        keypoints: (R, J, 3) x, y in pixels and visibility, 0 for not labelled.
        boxes: (R, 4) pixels.
        side: M, cells along each side of a heatmap.

    Returns:
        (R, J) int64 in [0, M * M), row by row; `NO_CELL` for keypoints that are not labelled or not in their box. The
        right and bottom borders belong to the box.
    """
    start, end = boxes[:, None, :2], boxes[:, None, 2:]
    points = keypoints[..., :2]
    cells = ((points - start) * (side / (end - start))).floor()
    cells = torch.where(points == end, side - 1, cells)
    # In an empty box all cells are infinite or NaN, and all comparisons are False.
    is_inside = ((cells >= 0) & (cells < side)).all(dim=-1) & (keypoints[..., 2] > 0)
    columns, rows = torch.where(is_inside[..., None], cells, 0).long().unbind(-1)
    return torch.where(is_inside, rows * side + columns, NO_CELL)


def decode_heatmaps(logits: Tensor, boxes: Tensor) -> Tensor:
    """The maximum of each heatmap after enlarging it to the pixels of its region.

    The score is the value of the peak under the softmax of the heatmap before enlarging, so scores do not depend on the
    size of the region.

    Source: He et al. 2017 (Mask R-CNN), section 5; bicubic enlarging and score as in Detectron2.

    Args:
        logits: (R, J, M, M).
        boxes: (R, 4) pixels.

    Returns:
        (R, J, 3) float32: x and y of a pixel centre, and the positive score, which exceeds 1 if the enlarged peak is
        higher than all cells.
    """
    logits, boxes = logits.float(), boxes.float()
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    pixels = sides.ceil()
    sizes = pixels.long().tolist()  # of all regions at once: one host synchronisation
    peaks = [_peaks(maps, width, height) for maps, (width, height) in zip(logits, sizes, strict=True)]
    if not peaks:
        return logits.new_zeros((0, logits.shape[1], 3))
    values, places = (torch.stack(parts) for parts in zip(*peaks, strict=True))
    points = (places + 0.5) * (sides / pixels)[:, None] + boxes[:, None, :2]
    scores = torch.exp(logits.flatten(2) - values[..., None]).sum(dim=2).reciprocal()
    return torch.cat((points, scores[..., None]), dim=-1)


def _peaks(maps: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Maximum of each enlarged map, and its column and row: (J, M, M) -> (J,), (J, 2) float32."""
    values, places = [], []
    for part in maps.split(max(1, MAX_VALUES // (width * height))):
        enlarged = F.interpolate(part[None], size=(height, width), mode="bicubic", align_corners=False)[0]
        value, place = enlarged.flatten(1).max(dim=1)
        values.append(value)
        places.append(torch.stack((place % width, place.div(width, rounding_mode="floor")), dim=1))
    return torch.cat(values), torch.cat(places).float()
