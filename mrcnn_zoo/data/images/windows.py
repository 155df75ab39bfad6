"""Windows of large image files, read without the rest of the file: NumPy arrays, and most TIFF files."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.images.arrays import ALPHA, TIFF_ORIENTATION, as_pixels, channels_last, tifffile_errors
from mrcnn_zoo.data.images.problems import read_head
from mrcnn_zoo.data.images.reading import NUMPY_MAGIC, TIFF_MAGIC, UPRIGHT, FileImage
from mrcnn_zoo.data.records import ImageSource

Window = tuple[int, int, int, int]  # x1 y1 x2 y2, whole pixels of the image

CACHED_BYTES = 256 << 20  # of decoded strips and tiles of a TIFF; neighbouring windows share them
PLANES, STACKED_PLANES = ("YX", "YXS"), ("SYX", "CYX")  # axes of TIFF files that are read by windows


@dataclass(frozen=True)
class WindowedImage:
    """An image that is read window by window; an array of all its pixels where one is needed.

    Args:
        name: of the file.
        shape: (H, W, C) of the pixels.
        dtype: uint8 or uint16.
        read: the pixels (h, w, C) of a window.
    """

    name: str
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    read: Callable[[Window], NDArray[np.generic]]

    def __getitem__(self, place: tuple[slice, slice]) -> NDArray[np.generic]:
        """The pixels (h, w, C) in rows and columns, two slices without steps."""
        (top, bottom, _), (left, right, _) = place[0].indices(self.shape[0]), place[1].indices(self.shape[1])
        return self.read((left, top, max(right, left), max(bottom, top)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[np.generic]:
        """All pixels."""
        return np.asarray(self[:, :], dtype=dtype)


def open_windows(source: ImageSource, *, with_alpha: bool = False) -> WindowedImage | None:
    """An image whose windows can be read alone: 8 or 16 bits in an `.npy` file, or in a TIFF of one plane.

    The windows equal those of `FileImage.read`. Compressed TIFF files are read by their strips and tiles.

    Args:
        source: of the image.
        with_alpha: whether an alpha channel is kept.

    Returns:
        None for all other images, which are read as a whole.

    Raises:
        UserError: a file that is missing, empty or damaged.
    """
    if not isinstance(source, FileImage):
        return None
    head = read_head(source.path)
    if head.startswith(NUMPY_MAGIC):
        return _array_windows(source.path)
    return _tiff_windows(source.path, with_alpha=with_alpha) if head[:4] in TIFF_MAGIC else None


def _array_windows(path: str) -> WindowedImage | None:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None  # whose reading reports the error
    return _windows_of(array, path) if array.ndim in (2, 3) else None


def _windows_of(array: NDArray[Any], path: str, *, num_channels: int | None = None) -> WindowedImage | None:
    """Windows of a mapped array (H, W) or (H, W, C), of its first channels."""
    if 0 in array.shape or not _is_of_integers(array.dtype):
        return None

    def read(window: Window) -> NDArray[np.generic]:
        left, top, right, bottom = window
        part = array[top:bottom, left:right]
        return as_pixels(np.array(part if num_channels is None else part[..., :num_channels]), path)

    return _probed(path, (array.shape[0], array.shape[1]), read)


def _is_of_integers(dtype: np.dtype[Any]) -> bool:
    return dtype.newbyteorder("=") in (np.uint8, np.uint16)


def _probed(path: str, size: tuple[int, int], read: Callable[[Window], NDArray[np.generic]]) -> WindowedImage:
    pixel = read((0, 0, 1, 1))
    return WindowedImage(path, (*size, pixel.shape[2]), pixel.dtype, read)


def _tiff_windows(path: str, *, with_alpha: bool) -> WindowedImage | None:
    try:
        import tifffile
    except ImportError:
        return None
    photometric = tifffile.PHOTOMETRIC
    with tifffile_errors(path), tifffile.TiffFile(path) as file:
        series, page = file.series[0], file.pages.first
        is_plain = (
            page.tags.valueof(TIFF_ORIENTATION, UPRIGHT) == UPRIGHT
            and page.photometric in (photometric.MINISBLACK, photometric.RGB, photometric.YCBCR)
            and _is_of_integers(series.dtype)
        )
        if not is_plain or series.axes not in (*PLANES, *STACKED_PLANES):
            return None
        sides = dict(zip(series.axes, series.shape, strict=True))
        has_alpha = "S" in sides and len(page.extrasamples) == 1 and int(page.extrasamples[0]) in ALPHA
        num_channels = sides["S"] - 1 if has_alpha and not with_alpha else None
        if series.dataoffset is not None and page.photometric != photometric.YCBCR:
            array = tifffile.memmap(path, mode="r")
            return _windows_of(channels_last(array, series.axes, path), path, num_channels=num_channels)
        if series.axes not in PLANES or len(series.pages) != 1:
            return None
        is_tiled, width = page.is_tiled, page.imagewidth
        segment = (page.tilelength, page.tilewidth) if is_tiled else (page.rowsperstrip, width)
        segments = _Segments(
            path, segment, -(-width // segment[1]), page.samplesperpixel, np.dtype(page.dtype).newbyteorder("=")
        )
    return _probed(path, (sides["Y"], sides["X"]), partial(segments.read, num_channels=num_channels))


@dataclass
class _Segments:
    """The strips or tiles of the first page of a TIFF."""

    path: str
    size: tuple[int, int]  # (height, width) of a segment
    columns: int  # segments per row
    num_channels: int
    dtype: np.dtype[Any]
    decoded: OrderedDict[int, NDArray[np.generic]] = field(default_factory=OrderedDict)  # the last ones used
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, window: Window, *, num_channels: int | None) -> NDArray[np.generic]:
        """The pixels of a window.

        Args:
            window: inside the image.
            num_channels: the first channels that are kept; None for all.
        """
        left, top, right, bottom = window
        height, width = self.size
        rows, columns = range(top // height, -(-bottom // height)), range(left // width, -(-right // width))
        places = {row * self.columns + column: (column * width, row * height) for row in rows for column in columns}
        pixels = np.zeros((bottom - top, right - left, self.num_channels), dtype=self.dtype)
        with self.lock:
            for index, segment in self._segments(list(places)):
                x, y = places[index]
                inside = segment[max(top - y, 0) : bottom - y, max(left - x, 0) : right - x]
                x, y = max(x - left, 0), max(y - top, 0)
                pixels[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
        return as_pixels(pixels if num_channels is None else pixels[..., :num_channels], self.path)

    def _segments(self, indices: list[int]) -> Iterator[tuple[int, NDArray[np.generic]]]:
        """Decoded strips or tiles (h, w, C), by index; the file is opened if one of them is not in memory."""
        missing = []
        for index in indices:
            if index in self.decoded:
                self.decoded.move_to_end(index)
                yield index, self.decoded[index]
            else:
                missing.append(index)
        if not missing:
            return
        import tifffile

        with tifffile_errors(self.path), tifffile.TiffFile(self.path) as file:
            page = file.pages.first
            for index in missing:
                segment = _decoded(page, index)
                yield index, segment
                self.decoded[index] = segment
                while len(self.decoded) > 1 and len(self.decoded) * segment.nbytes > CACHED_BYTES:
                    self.decoded.popitem(last=False)


def _decoded(page: Any, index: int) -> NDArray[np.generic]:
    handle = page.parent.filehandle
    handle.seek(page.dataoffsets[index])
    data = handle.read(page.databytecounts[index]) if page.databytecounts[index] else None
    tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if page.jpegtables is not None else {}
    segment, _, shape = page.decode(data, index, **tables)
    if segment is None:  # a tile without data
        segment = np.full(shape, page.nodata, dtype=page.dtype)
    return segment.reshape(segment.shape[-3:])
