"""Image files of any kind as RGB, or with all their channels."""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, ImageSequence, UnidentifiedImageError

from mrcnn_zoo.data.images.arrays import (
    ARRAY_SUFFIXES,
    MissingCodecError,
    MissingTiffReaderError,
    as_pixels,
    check_num_pixels,
    finite_pixels,
    read_array,
    read_tiff,
    tiff_pages,
    upright,
)
from mrcnn_zoo.data.images.problems import cannot_decode, no_image, note_once, read_head
from mrcnn_zoo.errors import UserError

IMAGE_SUFFIXES = (  # of the files that are images where folders are searched
    *(".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".jp2", ".gif", ".tga"),
    *(".ppm", ".pgm", ".pbm", ".pnm", *ARRAY_SUFFIXES),
)
EXIF_ORIENTATION = 0x0112
UPRIGHT, TURNED = 1, range(2, 9)
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
UINT8_MAX, MAX_16_BIT = 255, 65535
MAX_PIXELS = 178_956_970  # per image; Pillow's own limit
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
NUMPY_MAGIC = b"\x93NUMPY"
ZIP_MAGIC = b"PK"
TIFF_BITS, TIFF_SAMPLE_FORMAT = 258, 339  # tags
SIGNED = 2  # of the sample format
ALPHA_MODES = {"LA": "LA", "La": "LA", "PA": "RGBA", "RGBA": "RGBA", "RGBa": "RGBA", "P": "RGBA", "CMYK": "CMYK"}
# Raw modes of PNGs with 16 bits per channel, of which Pillow keeps the upper 8, and the modes of the lower 8.
LOWER_BYTES = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}
GREY_ALPHA_16 = "LA;16B"
DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
# Warnings of Pillow about tags and palettes that are not read.
HARMLESS = "Corrupt EXIF data|Palette images with Transparency|Image appears to be a malformed MPO|Metadata Warning"
warnings.filterwarnings("ignore", message=HARMLESS, category=UserWarning, module=r"PIL\.")


@dataclass(frozen=True)
class FileImage:
    """An image file: of a kind that Pillow reads, a TIFF, or a NumPy array. Its content selects the reader."""

    path: str

    @property
    def name(self) -> str:
        """The path."""
        return self.path

    def read(self, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.generic]:
        """(H, W, 3) RGB uint8, upright; uint16 or float32 for files of more than 8 bits.

        Grey is repeated to 3 channels, and alpha dropped. Arrays and TIFF files keep any other number of channels.

        Args:
            max_pixels: the largest allowed number of pixels; 0 for no limit.

        Raises:
            UserError: a file that is missing, truncated, too large or not an image.
        """
        return self._read(max_pixels, with_alpha=False)

    def read_with_alpha(self, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.generic]:
        """As `read`, with alpha as a fourth channel, or as a second channel of grey.

        Args:
            max_pixels: the largest allowed number of pixels; 0 for no limit.
        """
        return self._read(max_pixels, with_alpha=True)

    def is_array_or_tiff(self) -> bool:
        """Whether it is a NumPy array or a TIFF, whose shape needs the whole file to be read.

        Raises:
            UserError: a file that is missing or empty.
        """
        return self._is_array(head := read_head(self.path)) or head[:4] in TIFF_MAGIC

    def is_turned(self) -> bool:
        """Whether an EXIF tag rotates or mirrors the image."""
        try:
            with open_image(self.path, max_pixels=0) as image:
                return image.getexif().get(EXIF_ORIENTATION) in TURNED
        except UserError:
            return False

    def pages(self) -> str:
        """The pages of a TIFF that are read as channels, e.g. "5 pages (axes ZYX)"; else empty."""
        return tiff_pages(self.path) if read_head(self.path)[:4] in TIFF_MAGIC else ""

    def _is_array(self, head: bytes) -> bool:
        is_archive = head.startswith(ZIP_MAGIC) and Path(self.path).suffix.lower() == ".npz"
        return is_archive or head.startswith(NUMPY_MAGIC)

    def _read(self, max_pixels: int, *, with_alpha: bool) -> NDArray[np.generic]:
        head = read_head(self.path)
        if self._is_array(head):
            return read_array(self.path)
        if head[:4] in TIFF_MAGIC:
            return _read_tiff(self.path, max_pixels, with_alpha=with_alpha)
        with open_image(self.path, max_pixels=max_pixels) as image:
            if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
                text = f"is animated; the first of its {image.n_frames} frames is read."  # type: ignore[attr-defined]
                note_once(self.path, text, kind="Animated files")
            if _has_16_bits_per_colour(image):
                note_once(self.path, "is read with 8 of its 16 bits; write it as PNG or TIFF.", kind="Colour PPM")
            return decode_with_alpha(image) if with_alpha else decode(image)


def _has_16_bits_per_colour(image: Image.Image) -> bool:
    """Whether an image is a colour PPM of 16 bits, of which Pillow keeps 8."""
    arguments = image.tile[0][3] if image.format == "PPM" and image.mode == "RGB" else ()  # type: ignore[attr-defined]
    return isinstance(arguments, tuple) and len(arguments) > 1 and arguments[-1] > UINT8_MAX


def read_bitmap(path: str) -> NDArray[np.bool_]:
    """(H, W) true for the pixels of a mask file that are not black.

    Raises:
        UserError: see `open_image`.
    """
    with open_image(path, max_pixels=0) as image:
        if image.mode in ("1", "L", *DEEP_MODES):
            return np.asarray(image) != 0
        deep = _sixteen_bits(image)
        pixels = np.asarray(image.convert("RGB")) if deep is None else deep
        return np.logical_or.reduce(pixels[..., : 1 if pixels.shape[-1] == 2 else 3] != 0, axis=2)


@contextmanager
def open_image(path: str, *, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Open an image file; errors while it is decoded are turned into `UserError`, too.

    Args:
        path: of the file.
        max_pixels: the largest allowed number of pixels; 0 for no limit.

    Raises:
        UserError: a file that is missing, truncated, too large or not an image.
    """
    head = read_head(path)
    try:
        with open(path, "rb") as file:
            image = _identify(file, path, head[:16])
            check_num_pixels(path, image.height, image.width, max_pixels=max_pixels)
            yield image
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise no_image(path, head) from error
    except DECODING_ERRORS as error:
        raise cannot_decode(path, error) from error


def _identify(file: BinaryIO, path: str, prefix: bytes) -> ImageFile.ImageFile:
    """Image.open without its limit of pixels, which is global and warns from half of it on.

    Raises:
        UnidentifiedImageError: no reader supports the file.
    """
    for initialise in (Image.preinit, Image.init):  # the common readers, then all
        initialise()
        for kind in Image.ID:
            factory, accepts = Image.OPEN[kind]
            try:
                accepted = accepts is None or accepts(prefix)  # text if the reader's library is missing
                if accepted and not isinstance(accepted, str):
                    file.seek(0)
                    return factory(file, path)
            except (SyntaxError, IndexError, TypeError, struct.error):
                continue  # a file of another reader
    raise UnidentifiedImageError(path)


def decode(image: Image.Image) -> NDArray[np.generic]:
    """The pixels of an opened image, upright: (H, W, 3) RGB; alpha is dropped, grey is repeated.

    Returns:
        uint8; for files of more than 8 bits uint16, or float32 if the values do not fit into that.
    """
    image, deep = _transposed(image)
    if deep is not None:
        return deep[..., :3] if deep.shape[2] > 2 else _repeat_grey(deep[..., 0])
    if image.mode in DEEP_MODES:
        return _repeat_grey(_deep_pixels(image))
    if image.mode in ("1", "L", "LA", "La"):
        return _repeat_grey(np.array(image.convert("L")))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def decode_with_alpha(image: Image.Image) -> NDArray[np.generic]:
    """As `decode`, with alpha: (H, W, 4), or (H, W, 2) of grey; (H, W, 3) without alpha. CMYK keeps its four inks."""
    if image.mode not in ALPHA_MODES or (image.mode == "P" and "transparency" not in image.info):
        return decode(image)
    image, deep = _transposed(image)
    return np.array(image.convert(ALPHA_MODES[image.mode])) if deep is None else deep


def _transposed(image: Image.Image) -> tuple[Image.Image, NDArray[np.generic] | None]:
    """The upright image, and its pixels if it is a PNG of several 16-bit channels."""
    deep = _sixteen_bits(image)  # first, because reading the tags decodes the image
    if image.getexif().get(EXIF_ORIENTATION, UPRIGHT) == UPRIGHT:
        return image, deep
    if image.format == "TIFF":
        image.filename = ""  # type: ignore[attr-defined]  # otherwise Pillow maps the file into memory and does not rotate it
    if deep is not None:
        deep = upright(deep, image.getexif()[EXIF_ORIENTATION])
    return ImageOps.exif_transpose(image), deep


def _sixteen_bits(image: Image.Image) -> NDArray[np.generic] | None:
    """(H, W, C) of a PNG with several 16-bit channels; None for others.

    Pillow decodes such a file to its upper bytes; with the raw mode of the other byte order, to the lower ones.
    """
    raw_mode: Any = image.tile[0].args if getattr(image, "tile", None) else None  # type: ignore[attr-defined]
    if image.format != "PNG" or raw_mode not in (*LOWER_BYTES, GREY_ALPHA_16):
        return None
    path = str(image.filename)  # type: ignore[attr-defined]
    with open(path, "rb") as file:
        again: Any = _identify(file, path, read_head(path)[:16])
        if raw_mode == GREY_ALPHA_16:  # two 16-bit channels have as many bytes as RGBA
            again._mode = "RGBA"
            again.tile = [again.tile[0]._replace(args="RGBA")]
            both = np.asarray(again).astype(np.uint16)
            return both[..., 0::2] << 8 | both[..., 1::2]
        again.tile = [again.tile[0]._replace(args=LOWER_BYTES[raw_mode])]
        lower = np.asarray(again)
    return np.asarray(image).astype(np.uint16) << 8 | lower


def _read_tiff(path: str, max_pixels: int, *, with_alpha: bool) -> NDArray[np.generic]:
    """A TIFF by Pillow if that reads all bits, else by tifffile."""

    def read_by_pillow() -> NDArray[np.generic]:
        with open_image(path, max_pixels=max_pixels) as image:
            return decode_with_alpha(image) if with_alpha else decode(image)

    is_simple = _pillow_reads_all_of(path)
    if is_simple:
        try:
            return read_by_pillow()
        except UserError as error:
            try:
                return read_tiff(path, with_alpha=with_alpha, max_pixels=max_pixels)
            except UserError:
                raise error from error.__cause__
    try:
        return read_tiff(path, with_alpha=with_alpha, max_pixels=max_pixels)
    except MissingCodecError:
        pixels = _read_pages(path, max_pixels)
        if pixels is not None:
            return pixels
        if is_simple is None:
            raise
        missing = "imagecodecs"
    except MissingTiffReaderError:
        if is_simple is None:
            raise
        missing = "tifffile"
    text = f"is read with 8 bits per channel; with `pip install {missing}` all bits are read."
    note_once(path, text, kind="TIFF files deeper than 8 bits")
    return read_by_pillow()


def _read_pages(path: str, max_pixels: int) -> NDArray[np.generic] | None:
    """The grey pages of a compressed TIFF as channels, by Pillow; None for one page, or for other pages."""
    try:
        with open_image(path, max_pixels=max_pixels) as image:
            if getattr(image, "n_frames", 1) == 1:
                return None
            pages = [np.array(page) for page in ImageSequence.Iterator(image)]
    except UserError:
        return None  # the missing codec is the better message
    if pages[0].ndim != 2 or any((page.shape, page.dtype) != (pages[0].shape, pages[0].dtype) for page in pages):
        return None
    return as_pixels(np.stack(pages, axis=2), path)


def _pillow_reads_all_of(path: str) -> bool | None:
    """Whether Pillow reads all bits of a TIFF; None if it does not read the file, or for several pages."""
    try:
        with open(path, "rb") as file:
            image: Any = _identify(file, path, file.read(16))
            if getattr(image, "n_frames", 1) > 1:
                return None
            tags = image.tag_v2
            bits, formats = tags.get(TIFF_BITS, (1,)), tags.get(TIFF_SAMPLE_FORMAT, (1,))
            is_upright = image.getexif().get(EXIF_ORIENTATION, UPRIGHT) == UPRIGHT
    except (UnidentifiedImageError, TypeError):  # TypeError: Pillow's for a truncated directory of pages
        return None
    except DECODING_ERRORS:
        return True  # Pillow reports the error
    if max(bits) > 8:
        return image.mode in DEEP_MODES and is_upright
    return SIGNED not in formats


def _deep_pixels(image: Image.Image) -> NDArray[np.generic]:
    pixels = np.array(image)
    if pixels.dtype.kind in "iu" and pixels.min() >= 0 and pixels.max() <= MAX_16_BIT:
        return pixels.astype(np.uint16)
    return finite_pixels(pixels, str(getattr(image, "filename", "") or "the image"))


def _repeat_grey(grey: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.repeat(grey[:, :, None], 3, axis=2)
