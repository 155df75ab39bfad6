"""Images that are arrays of any number of channels: NumPy's files and scientific TIFF."""

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.errors import UserError

ARRAY_SUFFIXES = (".npy", ".npz")
IMAGE_ENTRY = "image"  # of a .npz file with several arrays
TIFF_CHANNELS = "SCQIZT"  # samples, channels, and pages of whatever kind
TIFF_PLANE = "YX"
TIFF_STACK = "QYX"  # pages of unknown meaning


def read_array(path: str) -> NDArray[np.generic]:
    """The (H, W, C) image in a `.npy` or `.npz` file; grey, (H, W) or (H, W, 1), is repeated to 3 channels.

    Returns:
        uint8, uint16, or float32 of all other types.

    Raises:
        UserError: a file that is missing or cut off, or an array that is no image.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        array = _only_entry(path, loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else loaded
    except FileNotFoundError as error:
        raise UserError(f"{path}: the image file is missing. Was it moved since the dataset was listed?") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} cannot be read as a NumPy array ({reason}). It may be truncated, or hold Python objects: "
            "write it again with numpy.save."
        ) from error
    return as_pixels(array, path)


def read_tiff(path: str) -> NDArray[np.generic]:
    """The (H, W, C) image in a TIFF file; several pages are channels. Grey is repeated to 3 channels.

    Returns:
        uint8, uint16, or float32 of all other types.

    Raises:
        UserError: a file that is missing or cut off, pages that are no channels, or no tifffile to read it with.
    """
    try:
        import tifffile
    except ImportError as error:
        raise UserError(
            f"{path} is a TIFF of several pages, or of a kind that Pillow does not read. "
            "Install what reads it with `pip install tifffile`."
        ) from error
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            array, axes = series.asarray(), series.axes
    except FileNotFoundError as error:
        raise UserError(f"{path}: the image file is missing. Was it moved since the dataset was listed?") from error
    except Exception as error:  # of many kinds, on files that are cut off
        raise UserError(
            f"{path} cannot be decoded ({error}). The file is probably truncated: copy or download it again, or remove "
            "it from the annotations."
        ) from error
    return as_pixels(_channels_last(array, axes, path), path)


def as_pixels(array: NDArray[np.generic], name: str) -> NDArray[np.generic]:
    """An array from outside as an image: (H, W, C) of uint8, uint16 or float32, grey repeated to 3 channels.

    Args:
        array: (H, W) or (H, W, C) of any numbers.
        name: of its file, for messages.

    Raises:
        UserError: another shape, no numbers, or some that are not finite.
    """
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise UserError(
            f"{name} has the shape {array.shape}; an image is (height, width) or (height, width, channels)."
        )
    if array.dtype.kind not in "buif":
        raise UserError(f"{name} holds {array.dtype}; the pixels of an image are numbers.")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype not in (np.uint8, np.uint16):
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise UserError(
                f"{name} holds pixels that are NaN or infinite; replace them before training, by 0 for example."
            )
    pixels = array[:, :, None] if array.ndim == 2 else array
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def _only_entry(path: str, archive: np.lib.npyio.NpzFile) -> NDArray[np.generic]:
    with archive:
        names = archive.files
        if IMAGE_ENTRY in names or len(names) == 1:
            return archive[IMAGE_ENTRY if IMAGE_ENTRY in names else names[0]]
    raise UserError(
        f"{path} holds {len(names)} arrays ({', '.join(names)}); name the one that is meant {IMAGE_ENTRY!r}."
    )


def _channels_last(array: NDArray[np.generic], axes: str, path: str) -> NDArray[np.generic]:
    if axes == TIFF_STACK and array.shape[0] > array.shape[2]:
        # tifffile.imwrite of an (H, W, C) array that is not told what its axes are: H pages of W x C.
        return array
    others = [axis for axis in axes if axis not in TIFF_PLANE]
    if len(others) > 1 or not set(others) <= set(TIFF_CHANNELS) or not set(TIFF_PLANE) <= set(axes):
        raise UserError(
            f"{path} is a stack with the axes {axes} and shape {array.shape}; an image has height, width and, at most, "
            "channels or pages. Split the stack into one file an image."
        )
    return array.transpose([axes.index(axis) for axis in (*TIFF_PLANE, *others)])


def is_array_file(path: str) -> bool:
    """Whether NumPy and not an image library reads a file."""
    return Path(path).suffix.lower() in ARRAY_SUFFIXES
