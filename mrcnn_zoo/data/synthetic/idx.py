"""Reader of IDX, the file format that MNIST is published in.

Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits": two zero bytes, a byte that says the type
of the numbers, a byte that says the number of axes, the length of each axis as big-endian 32-bit integers, the numbers.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.errors import UserError

GZIP_MAGIC = b"\x1f\x8b"
UNSIGNED_BYTE = 0x08


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes, compressed with gzip or not.

    Raises:
        UserError: an unreadable or truncated file, or one that is not IDX.
    """
    try:
        content = path.read_bytes()
        if content[:2] == GZIP_MAGIC:
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}). Download the file again.") from error
    if len(content) < 4 or content[:2] != b"\x00\x00":
        raise UserError(f"{path}: is not an IDX file; it starts with {content[:4].hex(' ') or 'nothing'}.")
    kind, num_axes = content[2], content[3]
    if kind != UNSIGNED_BYTE:
        raise UserError(f"{path}: holds numbers of IDX type 0x{kind:02x}; digits are unsigned bytes (0x08).")
    start = 4 + 4 * num_axes
    if len(content) < start:
        raise UserError(f"{path}: is truncated inside its header. Download the file again.")
    shape = struct.unpack(f">{num_axes}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise UserError(
            f"{path}: says it holds {' x '.join(map(str, shape))} bytes, but {len(content) - start} follow its header. "
            f"Download the file again."
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def find_idx(folder: Path, stem: str) -> Path:
    """The file of `stem`, e.g. "train-images", in a folder as MNIST's mirrors and torchvision lay it out.

    Raises:
        UserError: there is none, with the places looked at.
    """
    axes = 3 if stem.endswith("images") else 1
    names = [f"{stem}{dash}idx{axes}-ubyte{suffix}" for dash in "-." for suffix in ("", ".gz")]
    places = [folder, folder / "raw", folder / "MNIST" / "raw"]
    for place in places:
        for name in names:
            if (place / name).is_file():
                return place / name
    raise UserError(
        f"DATASETS.SCENES.DIGITS_SOURCE = {str(folder)!r}: no {names[0]} (or .gz) in it, nor in raw/ or MNIST/raw/ "
        f"under it. Name the folder with MNIST's four IDX files, or use 'embedded'."
    )
