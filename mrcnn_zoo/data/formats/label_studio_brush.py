"""Label Studio's run lengths of brush masks: packed bits of the RGBA pixels of the image, row by row.

A header has the number of values (32 bits), the bits per value less 1 (5 bits), and four lengths of counts less 1 (4
bits each). Each segment begins with a bit that is 1 for a repeated value and 0 for single values, 2 bits that select
one of the four lengths, and the number of values less 1 in so many bits; then follow one or all values.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.structures import ImageSize

CHANNELS = 4
WORD_SIZE = 8
COUNT_SIZES = (3, 4, 8, 16)  # bits
OPAQUE = 255


class _Bits:
    """Reads whole numbers of any number of bits."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def read(self, size: int) -> int:
        start, end = self.position, self.position + size
        if end > 8 * len(self.data):
            raise ValueError("it is cut off")
        self.position = end
        last = (end + 7) // 8
        return int.from_bytes(self.data[start // 8 : last], "big") >> (8 * last - end) & ((1 << size) - 1)

    def read_bytes(self, count: int) -> NDArray[np.uint8]:
        """(count,) numbers of 8 bits."""
        start, end = self.position, self.position + 8 * count
        if end > 8 * len(self.data):
            raise ValueError("it is cut off")
        self.position = end
        part = np.frombuffer(self.data[start // 8 : (end + 7) // 8], dtype=np.uint8)
        return np.packbits(np.unpackbits(part)[start % 8 : start % 8 + 8 * count])


def decode_brush(numbers: Sequence[int], image_size: ImageSize) -> NDArray[np.bool_]:
    """The (H, W) mask of a brush: the pixels that are not transparent.

    Args:
        numbers: bytes, as in the field "rle".
        image_size: (height, width).

    Raises:
        ValueError: damaged data, or data of another size.
    """
    height, width = image_size
    bits = _Bits(bytes(numbers))
    total, word_size = bits.read(32), bits.read(5) + 1
    if total != height * width * CHANNELS:
        raise ValueError(f"it has {total} values, {height} x {width} pixels of {CHANNELS} channels have others")
    if word_size != WORD_SIZE:
        raise ValueError(f"it has {word_size} bits per value, not {WORD_SIZE}")
    sizes = [bits.read(4) + 1 for _ in COUNT_SIZES]
    values = np.zeros(total, dtype=np.uint8)
    start = 0
    while start < total:
        is_repeated = bits.read(1)
        count = bits.read(sizes[bits.read(2)]) + 1
        if start + count > total:
            raise ValueError("it has too many values")
        values[start : start + count] = bits.read(WORD_SIZE) if is_repeated else bits.read_bytes(count)
        start += count
    return values.reshape(height, width, CHANNELS)[..., -1] > 0


def encode_brush(mask: NDArray[np.bool_]) -> list[int]:
    """The bytes of a mask, as `decode_brush` reads them.

    Args:
        mask: (H, W).
    """
    flat = mask.reshape(-1)
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(starts, append=len(flat)) * CHANNELS
    parts = [f"{CHANNELS * len(flat):032b}{WORD_SIZE - 1:05b}", *(f"{size - 1:04b}" for size in COUNT_SIZES)]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        value = f"{OPAQUE if flat[start] else 0:08b}"
        remaining = length
        while remaining:
            index = next((place for place, size in enumerate(COUNT_SIZES) if remaining <= 1 << size), -1)
            size = COUNT_SIZES[index]
            count = min(remaining, 1 << size)
            parts.append(f"1{index % len(COUNT_SIZES):02b}{count - 1:0{size}b}{value}")
            remaining -= count
    text = "".join(parts)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))
