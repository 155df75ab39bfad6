"""Perceptual hashes, and pairs of nearly equal pictures.

Candidates are pairs whose hashes differ in few bits. Of pictures without large structures, such as nuclei on a dark
ground, many hashes are alike, so each pair is confirmed by the correlation of the thumbnails and of their details.
Source of the hash: Zauner 2010 (Implementation and Benchmarking of Perceptual Image Hash Functions), section 3.2.1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HASH_SIDE, BITS = 8, 64  # frequencies per axis; bits of a hash
MAX_DISTANCE = 12  # bits of a candidate; two unrelated pictures differ in 32 +- 4
MIN_CORRELATION, MIN_DETAIL_CORRELATION = 0.95, 0.8  # of thumbnails; of them without their coarse structure
LEAST_CONTRAST = 0.004  # standard deviation of a thumbnail, of its largest value; flatter ones are not compared
ROWS_AT_A_TIME = 512
COARSE = 8  # pixels of a thumbnail that are averaged to its coarse structure
NUM_ORIENTATIONS = 8

Hashes = NDArray[np.uint64]
Grey = NDArray[np.float32]
BYTE_COUNTS = np.array([byte.bit_count() for byte in range(256)], dtype=np.uint8)


@dataclass(frozen=True)
class NearPair:
    """Two pictures that are nearly equal.

    Args:
        one: index of the first.
        other: index of the second.
        correlation: of the thumbnails.
        is_turned: whether one is a mirrored or turned copy of the other.
    """

    one: int
    other: int
    correlation: float
    is_turned: bool


def near_pairs(thumbnails: Sequence[Grey]) -> list[NearPair]:
    """All pairs of nearly equal pictures, also mirrored or turned by multiples of 90 degrees.

    Args:
        thumbnails: N of (S, S), S a multiple of COARSE.
    """
    usable = [
        index for index, image in enumerate(thumbnails) if image.std() > LEAST_CONTRAST * max(np.abs(image).max(), 1e-9)
    ]
    if len(usable) < 2:
        return []
    stack = np.stack([thumbnails[index] for index in usable])
    hashes = cosine_hashes(stack)
    found: dict[tuple[int, int], NearPair] = {}
    for number in range(NUM_ORIENTATIONS):
        turned = oriented(stack, number)
        for one, other in _candidates(cosine_hashes(turned), hashes):
            if (one, other) in found:
                continue
            correlation = similarity(turned[one], stack[other])
            if correlation > 0:
                found[one, other] = NearPair(usable[one], usable[other], correlation, is_turned=number > 0)
    return [found[key] for key in sorted(found)]


def cosine_hashes(thumbnails: Grey) -> Hashes:
    """(N,) hashes: one bit per low frequency, set where it is above their median.

    Args:
        thumbnails: (N, S, S).
    """
    side = thumbnails.shape[-1]
    position = (2 * np.arange(side) + 1) / (2 * side)
    basis = np.cos(np.pi * np.arange(1, HASH_SIDE + 1)[:, None] * position)  # (8, S); without the mean
    lowest = (basis @ thumbnails.astype(np.float64) @ basis.T).reshape(len(thumbnails), -1)
    bits = lowest > np.median(lowest, axis=1, keepdims=True)
    return (bits * (np.uint64(1) << np.arange(BITS, dtype=np.uint64))).sum(axis=1, dtype=np.uint64)


def oriented(thumbnails: Grey, number: int) -> Grey:
    """Pictures turned by `number % 4` quarters, and mirrored from 4 on; 0 leaves them as they are.

    Args:
        thumbnails: (N, S, S).
        number: 0 to 7.
    """
    turned = np.rot90(thumbnails, number % 4, axes=(1, 2))
    return turned[:, :, ::-1] if number >= 4 else turned


def hash_distances(one: Hashes, other: Hashes) -> NDArray[np.int64]:
    """(N, M) bits in which hashes differ.

    Args:
        one: (N,).
        other: (M,).
    """
    differing = np.ascontiguousarray(one[:, None] ^ other[None, :])
    return BYTE_COUNTS[differing.view(np.uint8).reshape(*differing.shape, 8)].sum(axis=2, dtype=np.int64)


def _candidates(hashes: Hashes, others: Hashes) -> Iterator[tuple[int, int]]:
    """Pairs one < other, of whose hashes few bits differ."""
    for start in range(0, len(hashes), ROWS_AT_A_TIME):
        distances = hash_distances(hashes[start : start + ROWS_AT_A_TIME], others)
        rows, columns = np.nonzero(distances <= MAX_DISTANCE)
        for one, other in zip((rows + start).tolist(), columns.tolist(), strict=True):
            if one < other:
                yield one, other


def similarity(one: Grey, other: Grey) -> float:
    """The correlation of two thumbnails; 0 where they or their details do not agree.

    Args:
        one: (S, S).
        other: (S, S).
    """
    whole = _correlation(one, other)
    if whole < MIN_CORRELATION or _correlation(_details(one), _details(other)) < MIN_DETAIL_CORRELATION:
        return 0.0
    return whole


def _details(thumbnail: Grey) -> Grey:
    """A thumbnail without its coarse structure, such as uneven light."""
    cells = thumbnail.shape[0] // COARSE
    coarse = thumbnail.reshape(cells, COARSE, cells, COARSE).mean(axis=(1, 3))
    return thumbnail - coarse.repeat(COARSE, axis=0).repeat(COARSE, axis=1)


def _correlation(one: Grey, other: Grey) -> float:
    one, other = one - one.mean(), other - other.mean()
    scale = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / scale if scale > 0 else 0.0
