"""Image files, read to RGB whatever form they come in, or to more channels where they have them."""

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from mrcnn_zoo.data.array_images import is_array_file, read_array, read_tiff
from mrcnn_zoo.errors import UserError

EXIF_ORIENTATION = 0x0112
UPRIGHT = 1
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
MAX_16_BIT = 65535
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
TIFF_SUFFIXES = (".tif", ".tiff")
ALPHA_MODES = {"LA": "LA", "La": "LA", "PA": "RGBA", "RGBA": "RGBA", "RGBa": "RGBA", "P": "RGBA", "CMYK": "CMYK"}


@dataclass(frozen=True)
class FileImage:
    """An image in a file: of a kind that Pillow can read, a TIFF of any kind, or a NumPy array."""

    path: str

    @property
    def name(self) -> str:
        """The path."""
        return self.path

    def read(self) -> NDArray[np.generic]:
        """(H, W, 3) RGB uint8, turned upright; uint16 or float32 where the file is deeper than 8 bits.

        Arrays and TIFF files may have any other number of channels, but not one: grey is repeated, and alpha dropped.

        Raises:
            UserError: a file that is missing, cut off or no image.
        """
        return self._read(decode)

    def read_with_alpha(self) -> NDArray[np.generic]:
        """The same with the alpha channel, where there is one, as a fourth channel, or as a second one of grey."""
        return self._read(decode_with_alpha)

    def _read(self, decode_upright: Callable[[Image.Image], NDArray[np.generic]]) -> NDArray[np.generic]:
        if is_array_file(self.path):
            return read_array(self.path)
        if Path(self.path).suffix.lower() in TIFF_SUFFIXES and not _pillow_reads_all_of(self.path):
            return read_tiff(self.path)
        with open_image(self.path) as image:
            return decode_upright(image)


def read_bitmap(path: str) -> NDArray[np.bool_]:
    """(H, W), true where a mask in a file is not black.

    Raises:
        UserError: see `open_image`.
    """
    with open_image(path) as image:
        if image.mode in ("1", "L", *DEEP_MODES):
            return np.asarray(image) != 0
        return np.logical_or.reduce(np.asarray(image.convert("RGB")), axis=2)


@contextmanager
def open_image(path: str) -> Iterator[Image.Image]:
    """An image file, while it is opened and decoded.

    Raises:
        UserError: a file that is missing, cut off or no image.
    """
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError as error:
        raise UserError(f"{path}: the image file is missing. Was it moved since the dataset was listed?") from error
    except UnidentifiedImageError as error:
        raise UserError(
            f"{path} is not an image that can be read, or it is cut off at the start. "
            "Replace the file, or remove it from the annotations."
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise UserError(
            f"{path} cannot be decoded ({error}). The file is probably truncated: "
            "copy or download it again, or remove it from the annotations."
        ) from error


def decode(image: Image.Image) -> NDArray[np.generic]:
    """The pixels of an opened image, upright: (H, W, 3) RGB; alpha is dropped, grey is repeated.

    Returns:
        uint8; for files deeper than 8 bits uint16, or float32 where the values do not fit that.
    """
    if image.getexif().get(EXIF_ORIENTATION, UPRIGHT) != UPRIGHT:
        image = ImageOps.exif_transpose(image)
    if image.mode in DEEP_MODES:
        return _repeat_grey(_deep_pixels(image))
    if image.mode in ("1", "L", "LA", "La"):
        return _repeat_grey(np.array(image.convert("L")))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def decode_with_alpha(image: Image.Image) -> NDArray[np.generic]:
    """The same with alpha: (H, W, 4), or (H, W, 2) of grey; (H, W, 3) without alpha. CMYK keeps its four inks."""
    if image.mode not in ALPHA_MODES or (image.mode == "P" and "transparency" not in image.info):
        return decode(image)
    if image.getexif().get(EXIF_ORIENTATION, UPRIGHT) != UPRIGHT:
        image = ImageOps.exif_transpose(image)
    return np.array(image.convert(ALPHA_MODES[image.mode]))


def _pillow_reads_all_of(path: str) -> bool:
    """Whether a TIFF is one page of a kind that Pillow knows; a file that is no TIFF at all is Pillow's to refuse."""
    try:
        with Image.open(path) as image:
            return getattr(image, "n_frames", 1) == 1
    except UnidentifiedImageError:
        return not _is_tiff(path)
    except TypeError:  # Pillow's on a TIFF whose directory of pages is cut off
        return False
    except (OSError, SyntaxError, ValueError, EOFError, struct.error):
        return True


def _is_tiff(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(4) in TIFF_MAGIC


def _deep_pixels(image: Image.Image) -> NDArray[np.generic]:
    pixels = np.array(image)
    if pixels.dtype.kind in "iu" and pixels.min() >= 0 and pixels.max() <= MAX_16_BIT:
        return pixels.astype(np.uint16)
    return pixels.astype(np.float32)


def _repeat_grey(grey: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.repeat(grey[:, :, None], 3, axis=2)
