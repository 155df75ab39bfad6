"""Sizes of PNG and JPEG files from their headers, without Pillow: several times as fast for 100,000 files."""

import os
import struct
from typing import BinaryIO

from mrcnn_zoo.structures import ImageSize

PNG_MAGIC = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
PNG_START = 33  # bytes of the signature and the header
PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
PNG_KEYWORD = 79  # bytes, with which a text begins: "Raw profile type exif", "XML:com.adobe.xmp"
JPEG_MAGIC = b"\xff\xd8\xff"
JPEG_TAGS = 0xE1  # segment of EXIF or XMP, which may turn the image
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # segments with the size
JPEG_SCAN = 0xDA  # the pixels
BITS = 8  # per channel of a JPEG that Pillow reads


def size_from_header(path: str) -> ImageSize | None:
    """(height, width) of a PNG or JPEG without tags that may turn it; None for other, damaged and missing files.

    Args:
        path: of the file.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(PNG_START)
            if start.startswith(PNG_MAGIC) and len(start) == PNG_START:
                return _size_of_png(file, start)
            if start.startswith(JPEG_MAGIC):
                file.seek(2)
                return _size_of_jpeg(file)
    except (OSError, struct.error):  # struct.error: the file ends too early
        pass
    return None


def _size_of_png(file: BinaryIO, start: bytes) -> ImageSize | None:
    """Reads all chunks: Pillow would decode the pixels in search of tags behind them."""
    width, height = struct.unpack(">II", start[16:24])
    while len(chunk := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", chunk)
        if kind == b"IEND":
            return height, width
        text = file.read(min(length, PNG_KEYWORD)) if kind in PNG_TEXTS else b""
        if kind == b"eXIf" or b"exif" in text.lower() or b"xmp" in text.lower():
            return None
        file.seek(length + 4 - len(text), os.SEEK_CUR)  # the content and its checksum
    return None


def _size_of_jpeg(file: BinaryIO) -> ImageSize | None:
    """Reads all segments before the pixels."""
    size: ImageSize | None = None
    while True:
        mark, kind, length = struct.unpack(">BBH", file.read(4))
        if mark != 0xFF or length < 2 or kind == JPEG_TAGS:
            return None
        if kind == JPEG_SCAN:
            return size
        if kind in JPEG_FRAMES and size is None:
            bits, height, width = struct.unpack(">BHH", file.read(5))
            if bits != BITS or not height or not width:
                return None
            size, length = (height, width), length - 5
        file.seek(length - 2, os.SEEK_CUR)
