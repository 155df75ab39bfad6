"""Prediction on large images by overlapping tiles."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.choices import MIN_TILE
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.images.pixels import (
    CHANNELS_WITH_ALPHA,
    COLORS,
    DepthReduction,
    RangeScaling,
    channels_fit,
    stretch,
)
from mrcnn_zoo.data.images.windows import WindowedImage, open_windows
from mrcnn_zoo.data.loading.mapper import PixelReader
from mrcnn_zoo.data.records import ImageSource
from mrcnn_zoo.data.tiles import Tiling, Window, windows_of
from mrcnn_zoo.data.transforms.resize import shortest_edge_size
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inference.tile_merging import TileDetections, merge_tiles, place_tile
from mrcnn_zoo.progress import ProgressLine, show_progress
from mrcnn_zoo.structures import Detections

OVERLAP_SHARE = 8  # of the side of a tile: an eighth
MIN_OVERLAP = 64  # pixels, by default
WITHOUT_OBJECTS = ("Classifier", "ProposalNetwork")  # values of MODEL.META_ARCHITECTURE
SAMPLED_VALUES = 1 << 24  # of an image of more than 8 bits, of which its darkest and brightest are found

Pixels = NDArray[np.generic] | WindowedImage
# Detections of each array (h, w, C) of a forward pass, in its pixels; with the names of the tiles.
DetectAll = Callable[[Sequence[NDArray[np.generic]], Sequence[str]], list[Detections]]


def open_pixels(source: ImageSource, reader: PixelReader) -> Pixels:
    """The pixels of an image, read by windows where the file allows that, else decoded once.

    Args:
        source: of the image.
        reader: of the model.

    Raises:
        UserError: an image that cannot be read, or has another number of channels than the model.
    """
    windows = open_windows(source, with_alpha=reader.num_channels in CHANNELS_WITH_ALPHA)
    if windows is None or not channels_fit(windows.shape[2], reader.num_channels):
        return reader.open(source)
    return windows


def tiling_of(size: int, overlap: float | None = None, *, option: str = "tiles") -> Tiling:
    """The tiles of a prediction.

    Args:
        size: of a tile in pixels, both sides.
        overlap: of neighbours, in pixels, or below 1 as a share of the size; by default an eighth of the size, at least
            64 pixels and at most half of the size. An object that is larger than it can be cut in all tiles; its parts
            are united then.
        option: name of the size in messages.

    Raises:
        UserError: a size below 32, or an overlap that is negative or not below the size.
    """
    if not isinstance(size, int) or size < MIN_TILE:
        raise UserError(f"{option} {size!r}: the side of a tile must be a whole number of at least {MIN_TILE} pixels.")
    if overlap is None:
        return Tiling(size, min(max(size // OVERLAP_SHARE, MIN_OVERLAP), size // 2))
    is_number = isinstance(overlap, int | float) and 0 <= overlap < size  # not NaN
    pixels = round(overlap * size if overlap < 1 else overlap) if is_number else size
    if pixels >= size:
        raise UserError(
            f"{option} {size}: the overlap {overlap!r} must be at least 0 and below the size, or a share below 1."
        )
    return Tiling(size, pixels)


def check_predicts_tiles(cfg: CfgNode, *, has_given_boxes: bool, option: str = "tiles") -> None:
    """Refuse models whose predictions cannot be merged.

    Args:
        cfg: of the model.
        has_given_boxes: whether the model predicts in given boxes.
        option: name of the tiles in messages.

    Raises:
        UserError: given boxes, or MODEL.META_ARCHITECTURE does not detect objects.
    """
    kind = cfg.MODEL.META_ARCHITECTURE
    if has_given_boxes:
        raise UserError(
            f"{option}: masks in given boxes are predicted on whole images. Leave out the tiles or the boxes."
        )
    if kind in WITHOUT_OBJECTS:
        raise UserError(f"{option}: a {kind} (MODEL.META_ARCHITECTURE) detects no objects, which could be merged.")


def build_tile_notes(cfg: CfgNode, tiling: Tiling) -> list[str]:
    """A note on tiles that the model resizes, for the log.

    Args:
        cfg: INPUT.MIN_SIZE_TEST, MAX_SIZE_TEST, TEST.AUG.
        tiling: of the images.
    """
    size = (tiling.size, tiling.size)
    resized = shortest_edge_size(size, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)[0]
    if cfg.TEST.AUG.ENABLED or resized == tiling.size:
        return []
    return [
        f"tiles of {tiling.size} pixels are resized to {resized}, as images of their size are (INPUT.MIN_SIZE_TEST "
        f"{cfg.INPUT.MIN_SIZE_TEST}, MAX_SIZE_TEST {cfg.INPUT.MAX_SIZE_TEST}): objects are seen at "
        f"{resized / tiling.size:.3g} of their size in the file. INPUT.MIN_SIZE_TEST 0 keeps it."
    ]


def predict_tiles(
    image: Pixels,
    tiling: Tiling,
    detect: DetectAll,
    *,
    name: str,
    reduce_depth: DepthReduction | None = None,
    batch_size: int = 1,
    add: Callable[[str, Detections], None] | None = None,
) -> Detections:
    """The detections of an image by overlapping tiles; an object in several tiles is found once.

    A tile is predicted as an image of its size is, including INPUT.MIN_SIZE_TEST and TEST.DETECTIONS_PER_IMAGE. Tiles
    are read one after the other.

    Args:
        image: (H, W, C).
        tiling: size and overlap of the tiles.
        detect: predicts on a batch of tiles.
        name: of the image.
        reduce_depth: of the model; a range that it finds in each image is found in the whole image, not in each tile.
        batch_size: tiles per forward pass.
        add: called with the name and the detections of each tile.

    Returns:
        In descending order of score, on the CPU, with `BoxedBitmaps`.
    """
    image_size = (int(image.shape[0]), int(image.shape[1]))
    windows = list(windows_of(image_size, tiling))
    scale = whole_image_scaling(image, reduce_depth)
    line, remaining, tiles = ProgressLine("tiles", total=len(windows)), iter(windows), list[TileDetections]()
    with show_progress(line) as display:
        while batch := list(islice(remaining, batch_size)):
            names = [f"{name} [{', '.join(map(str, window))}]" for window in batch]
            pixels = [_read(image, window, scale) for window in batch]
            for window, tile, found in zip(batch, names, detect(pixels, names), strict=True):
                if add is not None:
                    add(tile, found)
                tiles.append(place_tile(found, window, image_size))
            line.done += len(batch)
            if display is not None:
                display.refresh()
    return merge_tiles(tiles, image_size)


def _read(image: Pixels, window: Window, scale: DepthReduction | None) -> NDArray[np.generic]:
    left, top, right, bottom = window
    pixels = image[top:bottom, left:right]
    return pixels if scale is None else scale(pixels)


def whole_image_scaling(image: Pixels, reduce_depth: DepthReduction | None) -> DepthReduction | None:
    """INPUT.SIXTEEN_BIT stretch with the darkest and brightest values of a whole image instead of those of each tile.

    Args:
        image: (H, W, C).
        reduce_depth: of the model.

    Returns:
        None where the values of a tile do not depend on its image.
    """
    if image.dtype == np.uint8 or not isinstance(reduce_depth, partial) or reduce_depth.func is not stretch:
        return None
    percentiles = reduce_depth.keywords["percentiles"]
    rows = list(_sampled_rows(image))
    values = np.concatenate([row.reshape(-1, row.shape[-1]) for row in rows]).astype(np.float32)
    channels = [values] if values.shape[1] == COLORS else list(values.T)  # as in `stretch`
    bounds: list[float] = []
    for channel in channels:
        low, high = (float(bound) for bound in np.percentile(channel, percentiles))
        if high <= low:
            low, high = float(channel.min()), max(float(channel.max()), float(channel.min()) + 1.0)
        bounds += [low, high]
    return RangeScaling(tuple(bounds))


def _sampled_rows(image: Pixels) -> Iterator[NDArray[np.generic]]:
    """Evenly spaced rows of an image with about SAMPLED_VALUES values; all rows of a smaller one."""
    height, width, channels = image.shape
    step = max(1, height * width * channels // SAMPLED_VALUES)
    for row in range(step // 2, height, step):
        yield image[row : row + 1, 0:width]
