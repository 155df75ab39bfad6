"""The range of pixel values of a training set, by which images deeper than 8 bits are scaled alike."""

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.config import CfgNode, changed_config
from mrcnn_zoo.data.images.pixels import COLORS, RANGE, keep, num_channels_of
from mrcnn_zoo.data.loading.mapper import PixelReader
from mrcnn_zoo.data.records import ImageRecord
from mrcnn_zoo.errors import UserError, counted

NUM_IMAGES = 200  # of the sample
PIXELS_PER_IMAGE = 20_000
VALUE_RANGE = "INPUT.VALUE_RANGE"

logger = logging.getLogger(__name__)


def fit_value_range(cfg: CfgNode, records: Sequence[ImageRecord]) -> CfgNode:
    """The config with INPUT.VALUE_RANGE of the training images, where INPUT.SIXTEEN_BIT is range and it is empty.

    Each process computes the same range from the same images. 8-bit images are not scaled; if all are, it stays empty.

    Args:
        cfg: INPUT, MODEL.PIXEL_MEAN.
        records: of the training images.

    Raises:
        UserError: an image that cannot be read.
    """
    if cfg.INPUT.SIXTEEN_BIT != RANGE or cfg.INPUT.VALUE_RANGE:
        return cfg
    reader = PixelReader(keep, num_channels_of(cfg), cfg.INPUT.MAX_IMAGE_PIXELS)
    low, high = cfg.INPUT.PERCENTILES
    bounds, count = value_range(reader, records, (low, high))
    if not bounds:
        logger.info("%s stays empty: no training image is deeper than 8 bits", VALUE_RANGE)
        return cfg
    logger.info(
        "%s is %s: the percentiles %g and %g of %s", VALUE_RANGE, bounds, low, high, counted(count, "training image")
    )
    return changed_config(cfg, {VALUE_RANGE: bounds}, source="data")


def value_range(
    reader: PixelReader, records: Sequence[ImageRecord], percentiles: tuple[float, float]
) -> tuple[list[float], int]:
    """Low and high value of all channels together if they are grey or RGB, else of each channel in turn.

    Args:
        reader: that keeps the values.
        records: of which NUM_IMAGES at equal distances are read.
        percentiles: of low and high.

    Returns:
        The values, none if no image is deeper than 8 bits, and the number of images.

    Raises:
        UserError: an image that cannot be read.
    """
    count = min(NUM_IMAGES, len(records))
    chosen = [records[number * len(records) // count] for number in range(count)]
    samples = [_sample(reader.open(record.source)) for record in chosen]
    samples = [values for values in samples if values.dtype != np.uint8]
    if not samples:
        return [], 0
    values = np.concatenate([values.astype(np.float64) for values in samples])  # (P, C)
    if values.shape[1] == COLORS:
        values = values.reshape(-1, 1)
    bounds = np.percentile(values, percentiles, axis=0)
    is_flat = bounds[0] >= bounds[1]
    if is_flat.any():
        raise UserError(
            f"INPUT.SIXTEEN_BIT is {RANGE!r}, but the training images have one value, {bounds[0][is_flat][0]:g}, from "
            f"percentile {percentiles[0]:g} to {percentiles[1]:g}. Give {VALUE_RANGE} the lowest and the highest value."
        )
    return [float(f"{bound:.6g}") for bound in bounds.T.ravel()], len(samples)


def _sample(pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    """(P, C) every so many pixels of an image."""
    flat = pixels.reshape(-1, pixels.shape[2])
    return flat[:: max(1, len(flat) // PIXELS_PER_IMAGE)]
