"""COCO run-length encodings of bitmaps that are known inside a window and 0 elsewhere."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def run_lengths(
    window: NDArray[np.bool_] | NDArray[np.uint8], origin: tuple[int, int], image_size: tuple[int, int]
) -> NDArray[np.int64]:
    """Lengths of the runs of 0 and 1, in turns and from 0 on, down the columns of an image.

    Args:
        window: (h, w) what is not 0 in the image.
        origin: x, y of the window's first pixel.
        image_size: (height, width); the window must lie inside.

    Returns:
        (runs,) whose sum is height * width; only the first may be 0.
    """
    height, width = image_size
    x, y = origin
    # A 0 above and below each column, so that every run of ones begins and ends in it and the edges come in pairs.
    columns = np.zeros((window.shape[1], window.shape[0] + 2), dtype=np.bool_)
    columns[:, 1:-1] = window.T
    flat = columns.reshape(-1)
    column, row = np.divmod(np.flatnonzero(flat[1:] != flat[:-1]), columns.shape[1])
    edges = (column + x) * height + (row + y)
    if window.shape[0] == height:
        # A run that reaches the bottom goes on at the top of the next column: its end is the next one's start.
        joins = np.flatnonzero(edges[1:-1:2] == edges[2::2])
        edges = np.delete(edges, np.concatenate((2 * joins + 1, 2 * joins + 2)))
    lengths = np.diff(edges, prepend=0, append=height * width)
    return lengths[:-1] if lengths[-1] == 0 and len(lengths) > 1 else lengths


def compress_runs(runs: Sequence[NDArray[np.int64]], image_size: tuple[int, int]) -> list[dict[str, Any]]:
    """COCO's compressed encodings, {"size": [H, W], "counts": str}, of several bitmaps of one size."""
    from pycocotools import mask as coco_mask

    if not runs:
        return []
    height, width = image_size
    uncompressed = [{"size": [height, width], "counts": lengths.tolist()} for lengths in runs]
    encoded = coco_mask.frPyObjects(uncompressed, height, width)
    return [{"size": [height, width], "counts": rle["counts"].decode("ascii")} for rle in encoded]
