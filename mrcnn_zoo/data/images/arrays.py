"""Images as arrays with any number of channels: NumPy files and scientific TIFF."""

import logging
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.images.problems import cannot_decode, note_once
from mrcnn_zoo.errors import UserError, counted

ARRAY_SUFFIXES = (".npy", ".npz")
IMAGE_ENTRY = "image"  # the name in a .npz file with several arrays
TIFF_CHANNELS = "SCQIZT"  # axes of samples, channels and pages
TIFF_PLANE = "YX"
TIFF_STACK = "QYX"  # pages of unknown meaning
PAGE_AXES = "IQTZRPG"  # of pages that are no channels, as tifffile names them
STACK_AXES = {"Z": "slices", "T": "time points", "I": "pages", "Q": "pages"}  # axes of pages
TIFF_ORIENTATION = 274
SIDEWAYS = (5, 6, 7, 8)  # orientations with width and height exchanged
INKS = 4  # samples of CMYK
COLORS = 3  # pages of a stack that are read as red, green and blue
ALPHA = (1, 2)  # values of the TIFF tag ExtraSamples


class MissingTiffReaderError(UserError):
    """A TIFF that needs tifffile, which is not installed."""


class MissingCodecError(UserError):
    """A TIFF that needs the codecs of imagecodecs, which is not installed."""


def read_array(path: str) -> NDArray[np.generic]:
    """The (H, W, C) image in a `.npy` or `.npz` file; grey, (H, W) or (H, W, 1), is repeated to 3 channels.

    Returns:
        uint8, uint16, or float32 for all other types.

    Raises:
        UserError: a file that is missing or truncated, or an array that is not an image.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        names = loaded.files if isinstance(loaded, np.lib.npyio.NpzFile) else None
        if names is None:
            array = loaded
        elif IMAGE_ENTRY in names or len(names) == 1:
            with loaded:
                array = loaded[IMAGE_ENTRY if IMAGE_ENTRY in names else names[0]]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} cannot be read as a NumPy array ({reason}). It may be truncated or hold Python objects: "
            "write it again with numpy.save."
        ) from error
    if names is not None and IMAGE_ENTRY not in names and len(names) != 1:
        raise UserError(
            f"{path} holds {counted(len(names), 'array')} ({', '.join(names)}); name the image {IMAGE_ENTRY!r}."
        )
    return as_pixels(array, path)


def read_tiff(path: str, *, with_alpha: bool, max_pixels: int, page: int | None = None) -> NDArray[np.generic]:
    """The (H, W, C) image in a TIFF file; pages are channels, and grey is repeated to 3 channels.

    Args:
        path: of the file.
        with_alpha: whether an alpha channel is kept.
        max_pixels: see `check_num_pixels`.
        page: the only page that is read, see `count_pages`; None for all.

    Returns:
        uint8, uint16, or float32 for all other types.

    Raises:
        MissingTiffReaderError: tifffile is not installed.
        MissingCodecError: imagecodecs is not installed.
        UserError: a file that is truncated or too large, or axes that are not channels.
    """
    try:
        import tifffile
    except ImportError as error:
        raise MissingTiffReaderError(
            f"{path} is a TIFF of several pages, or of a kind that Pillow does not read. "
            "Install its reader with `pip install tifffile`."
        ) from error
    with tifffile_errors(path), tifffile.TiffFile(path) as file:
        series, first, count = file.series[0], file.pages.first, len(file.series)
        sides = dict(zip(series.axes, series.shape, strict=True))
        check_num_pixels(path, sides.get("Y", 1), sides.get("X", 1), max_pixels=max_pixels)
        array, axes = (series.asarray(), series.axes) if page is None else _read_page(series, page)
        orientation = first.tags.valueof(TIFF_ORIENTATION, 1)
        is_inverted = first.photometric == tifffile.PHOTOMETRIC.MINISWHITE and array.dtype.kind == "u"
        is_cmyk = first.photometric == tifffile.PHOTOMETRIC.SEPARATED and sides.get("S") == INKS
        has_alpha = "S" in axes and len(first.extrasamples) == 1 and int(first.extrasamples[0]) in ALPHA
    if is_inverted:
        array = np.iinfo(array.dtype).max - array
    if is_cmyk and not with_alpha and array.dtype.kind == "u":
        array = _rgb_of_inks(array, axes.index("S"))
    if has_alpha and not with_alpha:
        array = array.take(range(sides["S"] - 1), axis=axes.index("S"))
    if count > 1:
        text = f"holds {count} images of different sizes or kinds; the first is read."
        note_once(path, text, kind="Files of several images")
    if page is None:
        _note_stack(path, axes, sides)
    return upright(as_pixels(channels_last(array, axes, path), path), int(orientation))


def tiff_size(path: str) -> tuple[int, int] | None:
    """(height, width) that `read_tiff` gives, from the tags alone; None for a file that it refuses.

    Args:
        path: of the file.
    """
    try:
        import tifffile

        with tifffile.TiffFile(path) as file:
            series, orientation = file.series[0], file.pages.first.tags.valueof(TIFF_ORIENTATION, 1)
            without_memory = np.broadcast_to(np.zeros((), dtype=np.uint8), series.shape)
            height, width = channels_last(without_memory, series.axes, path).shape[:2]
    except Exception:  # no tifffile, or an unreadable TIFF, which `read_tiff` reports
        return None
    return (width, height) if int(orientation) in SIDEWAYS else (height, width)


def _rgb_of_inks(inks: NDArray[Any], axis: int) -> NDArray[Any]:
    """RGB of cyan, magenta, yellow and black along an axis, of the same unsigned dtype, as Pillow converts 8 bits."""
    largest = np.iinfo(inks.dtype).max
    light = np.moveaxis(largest - inks.astype(np.float64), axis, 0)
    return np.moveaxis(np.rint(light[:3] * light[3:] / largest).astype(inks.dtype), 0, axis)


def _read_page(series: Any, page: int) -> tuple[NDArray[np.generic], str]:
    """One page of a series with its channels, and their axes; the other pages are not read where that is possible."""
    if len(series.pages) == _num_pages(series) and series.pages[page] is not None:
        return series.pages[page].asarray(), series.pages[page].axes
    places = [place for place, axis in enumerate(series.axes) if axis in PAGE_AXES]
    array = np.moveaxis(series.asarray(), places, range(len(places)))
    axes = "".join(axis for axis in series.axes if axis not in PAGE_AXES)
    return array.reshape(-1, *array.shape[len(places) :])[page], axes


def _num_pages(series: Any) -> int:
    sides = [size for axis, size in zip(series.axes, series.shape, strict=True) if axis in PAGE_AXES]
    return math.prod(sides)


def count_pages(path: str) -> int:
    """The pages of a TIFF: its slices, time points or pages of unknown meaning, not its channels.

    Args:
        path: of the file.

    Returns:
        1 also for a file that cannot be read, which `read_tiff` reports.
    """
    try:
        import tifffile

        with tifffile.TiffFile(path) as file:
            return _num_pages(file.series[0])
    except Exception:  # an unreadable TIFF
        return 1


def tiff_pages(path: str) -> str:
    """The pages of a TIFF that are read as channels, e.g. "5 pages (axes ZYX)"; empty for one page."""
    try:
        import tifffile

        with tifffile.TiffFile(path) as file:
            axes, shape = file.series[0].axes, file.series[0].shape
    except Exception:  # an unreadable TIFF, which `read_tiff` reports
        return ""
    stacked = [size for axis, size in zip(axes, shape, strict=True) if axis not in (*TIFF_PLANE, "S", "C")]
    return f"{counted(stacked[0], 'page')} (axes {axes})" if len(stacked) == 1 else ""


def check_num_pixels(path: str, height: int, width: int, *, max_pixels: int) -> None:
    """Refuse an image that is too large, before it is decoded.

    Args:
        path: of its file.
        height: in pixels.
        width: in pixels.
        max_pixels: INPUT.MAX_IMAGE_PIXELS; 0 for no limit.

    Raises:
        UserError: with the size and the limit.
    """
    if 0 < max_pixels < height * width:
        raise UserError(
            f"{path} is {width} x {height} pixels (width x height), {height * width:,} in all, where "
            f"INPUT.MAX_IMAGE_PIXELS allows {max_pixels:,}: a small file that unpacks to a huge image can fill the "
            f"memory. If you trust the file, set INPUT.MAX_IMAGE_PIXELS to {height * width} or more (0 for any size), "
            "or cut the image into tiles."
        )


def as_pixels(array: NDArray[np.generic], name: str) -> NDArray[np.generic]:
    """An array as an image: (H, W, C) uint8, uint16 or float32, with grey repeated to 3 channels.

    Args:
        array: (H, W) or (H, W, C) of any real dtype.
        name: of its file, for messages.

    Raises:
        UserError: another shape or dtype, or no finite value.
    """
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise UserError(
            f"{name} has the shape {array.shape}; an image is (height, width) or (height, width, channels), each at "
            "least 1."
        )
    if array.dtype.kind not in "buif":
        raise UserError(f"{name} holds {array.dtype}; the pixels of an image are real numbers.")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype not in (np.uint8, np.uint16):
        array = finite_pixels(array, name)
    pixels = array[:, :, None] if array.ndim == 2 else array
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def finite_pixels(array: NDArray[np.generic], name: str) -> NDArray[np.float32]:
    """float32 pixels in which NaN and -infinity are the least finite value of their channel, infinity the greatest.

    Args:
        array: (H, W) or (H, W, C).
        name: of its file, for messages.

    Raises:
        UserError: no value is finite.
    """
    with np.errstate(over="ignore"):
        pixels = array.astype(np.float32)
    is_finite = np.isfinite(pixels)
    if is_finite.all():
        return pixels
    if not is_finite.any():
        raise UserError(f"{name} has only pixels that are NaN or infinite; write it again, or leave it out.")
    pixels = pixels.copy()
    channels, usable = (np.moveaxis(np.atleast_3d(values), 2, 0) for values in (pixels, is_finite))
    for channel, rows in zip(channels, usable, strict=True):
        low, high = (channel[rows].min(), channel[rows].max()) if rows.any() else (0.0, 0.0)
        np.nan_to_num(channel, copy=False, nan=low, neginf=low, posinf=high)
    text = (
        f"holds NaN or infinity in {pixels.size - int(is_finite.sum()):,} of {pixels.size:,} values; they are read as "
        "the least finite value of their channel, +infinity as the greatest."
    )
    note_once(name, text, kind="Pixels that are NaN or infinite")
    return pixels


@contextmanager
def tifffile_errors(path: str) -> Iterator[None]:
    """Turns errors of tifffile into `UserError`; its log messages about damaged files repeat the error.

    Args:
        path: of the file.

    Raises:
        MissingCodecError: imagecodecs is not installed.
        UserError: any other error.
    """
    log = logging.getLogger("tifffile")

    def drop(_record: logging.LogRecord) -> bool:  # one per call: several threads may read files at the same time
        return False

    log.addFilter(drop)
    try:
        yield
    except Exception as error:  # of many kinds, on files that are cut off
        if "imagecodecs" in str(error):
            raise MissingCodecError(str(cannot_decode(path, error))) from error
        raise cannot_decode(path, error) from error
    finally:
        log.removeFilter(drop)


def _note_stack(path: str, axes: str, sides: dict[str, int]) -> None:
    stacked = [axis for axis in axes if axis in STACK_AXES]
    if len(axes) == COLORS and len(stacked) == 1 and sides[stacked[0]] == COLORS:
        text = f"is a stack of {COLORS} {STACK_AXES[stacked[0]]}; they are read as red, green and blue."
        note_once(path, text, kind="Stacks read as colours")


def channels_last(array: NDArray[np.generic], axes: str, path: str) -> NDArray[np.generic]:
    """A view (H, W) or (H, W, C) of an array of a TIFF.

    Args:
        array: of the file.
        axes: of the array, as tifffile names them.
        path: of the file.

    Raises:
        UserError: axes that are not height, width and channels.
    """
    if axes == TIFF_STACK and array.shape[0] > array.shape[2]:
        # tifffile.imwrite without axes stores an (H, W, C) array as H pages of W x C.
        return array
    others = [axis for axis in axes if axis not in TIFF_PLANE]
    if len(others) > 1 or not set(others) <= set(TIFF_CHANNELS) or not set(TIFF_PLANE) <= set(axes):
        raise UserError(
            f"{path} is a stack with the axes {axes} and shape {array.shape}; an image has height, width and, at most, "
            "channels or pages. Set INPUT.PAGES images to read each page as an image, or write one file per image, "
            "e.g. with tifffile.imwrite."
        )
    return array.transpose([axes.index(axis) for axis in (*TIFF_PLANE, *others)])


def upright(pixels: NDArray[np.generic], orientation: int) -> NDArray[np.generic]:
    """The pixels rotated and mirrored to be upright.

    Args:
        pixels: (H, W, C).
        orientation: of EXIF and TIFF, 1 to 8.
    """
    if orientation in SIDEWAYS:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
