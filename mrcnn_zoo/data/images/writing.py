"""Pixels as image files: PNG where it stores them unchanged, else TIFF."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mrcnn_zoo.errors import UserError

RGB, GREY_AND_ALPHA = 3, 2  # channels


def write_pixels(pixels: NDArray[np.generic], folder: Path, stem: str) -> str:
    """Write an image without loss: 8-bit RGB and grey, and 16-bit grey as PNG, else as TIFF, which needs tifffile.

    Args:
        pixels: (H, W, C) uint8, uint16 or float32; grey repeated to 3 channels is written as one.
        folder: that exists.
        stem: the name without its ending.

    Returns:
        The name of the file.

    Raises:
        UserError: tifffile is needed and not installed.
    """
    channels = pixels.shape[2]
    is_grey = channels == RGB and bool((pixels == pixels[:, :, :1]).all())
    plane = np.ascontiguousarray(pixels[:, :, 0] if is_grey else pixels)
    if (plane.dtype == np.uint8 and channels == RGB) or (plane.dtype == np.uint16 and is_grey):
        Image.fromarray(plane).save(folder / f"{stem}.png", compress_level=1)
        return f"{stem}.png"
    try:
        import tifffile
    except ImportError as error:
        raise UserError(
            f"{stem} has {channels} channels of {pixels.dtype}, which need a TIFF instead of a PNG. Install its "
            "writer with `pip install tifffile`."
        ) from error
    if is_grey:
        tifffile.imwrite(folder / f"{stem}.tif", plane, photometric="minisblack")
    elif channels == GREY_AND_ALPHA:  # as samples of a pixel, the second channel would be read as alpha
        planes = np.moveaxis(plane, 2, 0)
        tifffile.imwrite(folder / f"{stem}.tif", planes, photometric="minisblack", metadata={"axes": "CYX"})
    else:
        photometric = "rgb" if channels == RGB else "minisblack"
        tifffile.imwrite(folder / f"{stem}.tif", plane, photometric=photometric, planarconfig="contig")
    return f"{stem}.tif"
