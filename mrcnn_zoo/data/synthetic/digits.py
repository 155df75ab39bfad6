"""Stamps of handwritten digits, from IDX files or from the embedded digits of scikit-learn.

Source of the IDX format: LeCun, Cortes and Burges, "The MNIST database of handwritten digits". Two zero bytes, a byte
for the data type, a byte for the number of axes, the length of each axis as a big-endian 32-bit integer, the data.
"""

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.synthetic.layout import Stamp, crop_to_mask
from mrcnn_zoo.errors import UserError

GZIP_MAGIC = b"\x1f\x8b"
UNSIGNED_BYTE = 0x08
MNIST_STEMS = {"train": "train", "val": "t10k"}
EMBEDDED = "embedded"
VAL_PERIOD = 5  # every fifth embedded digit of a class is for validation scenes
GLYPH_SIDE = 56  # pixels; glyphs are enlarged to at least this, which makes them smooth enough for linear sampling
FULL_INK = 0.85  # share of a digit's darkest pixel that counts as full coverage
MAX_SHEAR = 0.15
MIN_STRETCH = 0.85  # of the width relative to the height
EDGE = 1.5  # pixels over which ink fades out


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes, also compressed with gzip.

    Raises:
        UserError: a file that is unreadable, truncated or not IDX.
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
            f"{path}: its header gives {' x '.join(map(str, shape))} bytes, but {len(content) - start} follow. "
            f"Download the file again."
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def find_idx(folder: Path, stem: str) -> Path:
    """The IDX file of a stem in a folder with the layout of MNIST's mirrors or of torchvision.

    Args:
        folder: of MNIST.
        stem: e.g. "train-images".

    Raises:
        UserError: there is none, with the searched folders.
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


@dataclass(frozen=True)
class DigitStamps:
    """Stamps of digits, with equal probabilities of the classes and of the digits of a class."""

    glyphs: tuple[tuple[NDArray[np.float64], ...], ...]  # per class, (h, w) coverage in [0, 1]
    class_names: tuple[str, ...] = tuple("0123456789")
    keypoint_names: tuple[str, ...] = ()

    def draw(self, rng: np.random.Generator, *, side: float, rotation: float) -> Stamp:
        """A random digit, slightly stretched, sheared and rotated; see `StampSource.draw`.

        Args:
            rng: the only source of randomness.
            side: longer side of the digit before shear and rotation, in pixels.
            rotation: largest angle in degrees, in either direction.
        """
        class_index = int(rng.integers(len(self.glyphs)))
        glyph = self.glyphs[class_index][int(rng.integers(len(self.glyphs[class_index])))]
        angle = math.radians(rng.uniform(-rotation, rotation))
        shear, stretch = rng.uniform(-MAX_SHEAR, MAX_SHEAR), rng.uniform(MIN_STRETCH, 1 / MIN_STRETCH)
        stamp = crop_to_mask(class_index, render_glyph(glyph, side=side, angle=angle, shear=shear, stretch=stretch))
        assert stamp is not None, "a glyph has a covered pixel at every allowed size"
        return stamp


def render_glyph(
    glyph: NDArray[np.float64], *, side: float, angle: float, shear: float, stretch: float
) -> NDArray[np.float64]:
    """A glyph, transformed about its centre, with sharp antialiased edges.

    Args:
        glyph: (h, w) coverage in [0, 1], cropped to its ink.
        side: longer side of the result before shear and rotation, in pixels.
        angle: radians.
        shear: horizontal shift of a row by this times its height.
        stretch: factor on the width.

    Returns:
        (H, W) coverage in [0, 1], with a margin.
    """
    height, width = glyph.shape
    scale = side / max(height, width * stretch)
    forward = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    forward = forward @ np.array([[stretch, shear], [0.0, 1.0]])
    extent = np.abs(forward) @ np.array([width, height]) / 2 + 1
    half_width, half_height = (math.ceil(value) for value in extent)
    x = np.arange(-half_width, half_width) + 0.5
    y = np.arange(-half_height, half_height)[:, None] + 0.5
    (a, b), (c, d) = np.linalg.inv(forward)
    values = sample_linearly(glyph, x=a * x + b * y + width / 2, y=c * x + d * y + height / 2)
    # The edge is about an eighth of the digit wide; it becomes EDGE pixels around the border of the mask.
    sharpness = max(1.0, side / (8 * EDGE))
    return np.clip(0.5 + (values - 0.5) * sharpness, 0.0, 1.0)


def sample_linearly(image: NDArray[np.float64], *, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray:
    """Bilinear samples of an image, which is 0 outside; the centre of pixel (0, 0) is at (0.5, 0.5).

    Args:
        image: (h, w).
        x: (...) positions in pixels.
        y: (...) positions in pixels.
    """
    padded = np.pad(image, 1)
    height, width = image.shape
    x, y = np.clip(x + 0.5, 0, width + 1), np.clip(y + 0.5, 0, height + 1)
    left, top = np.minimum(x.astype(np.intp), width), np.minimum(y.astype(np.intp), height)
    right, down = x - left, y - top
    upper_left = top * (width + 2) + left
    flat = padded.ravel()
    upper = flat[upper_left] * (1 - right) + flat[upper_left + 1] * right
    lower = flat[upper_left + width + 2] * (1 - right) + flat[upper_left + width + 3] * right
    return upper * (1 - down) + lower * down


@lru_cache(maxsize=4)
def load_digit_stamps(source: str, split: str) -> DigitStamps:
    """The digits of one split; the splits share no digit.

    Args:
        source: "embedded", or the folder of the MNIST IDX files.
        split: "train" or "val".

    Raises:
        UserError: a folder without the files, or images and labels of different number.
    """
    images, labels = _embedded_digits(split) if source == EMBEDDED else _mnist_digits(Path(source), split)
    missing = sorted(set(range(10)) - set(labels.tolist()))
    if missing:
        raise UserError(f"DATASETS.SCENES.DIGITS_SOURCE = {source!r}: no digit {missing[0]} for {split} scenes.")
    has_ink = images.reshape(len(images), -1).any(axis=1)
    return DigitStamps(
        tuple(tuple(make_glyph(image) for image in images[(labels == digit) & has_ink]) for digit in range(10))
    )


def make_glyph(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """A scanned digit as smooth coverage in [0, 1], enlarged and cropped to its mask.

    Args:
        image: (h, w) ink, 0 to 255.
    """
    ink = np.minimum(image / (FULL_INK * image.max()), 1.0)
    ink = np.pad(ink, 1)
    factor = math.ceil(GLYPH_SIDE / max(image.shape))
    rows, columns = (cubic_matrix(length, factor) for length in ink.shape)
    smooth = np.clip(rows @ ink @ columns.T, 0.0, 1.0)
    # Rounding removes differences between processors in the order of summation.
    stamp = crop_to_mask(0, np.round(smooth, 6))
    assert stamp is not None
    return stamp.coverage


@lru_cache
def cubic_matrix(length: int, factor: int) -> NDArray[np.float64]:
    """(factor * length, length) matrix of enlargement by cubic convolution, zero outside.

    Smoother kernels would fill the holes in 8 x 8 digits.
    Source: Keys 1981 (Cubic Convolution Interpolation for Digital Image Processing), eq. 15.

    Args:
        length: of the signal.
        factor: of the enlargement, a whole number.
    """
    target = (np.arange(factor * length) + 0.5) / factor - 0.5
    distance = np.abs(target[:, None] - np.arange(length))
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    return np.where(distance < 1, near, np.where(distance < 2, far, 0.0))


def _embedded_digits(split: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    resource = resources.files("mrcnn_zoo.data.synthetic") / "resources" / "digits.npz"
    with resources.as_file(resource) as path, np.load(path) as archive:
        images, labels = archive["images"], archive["labels"]
    is_val = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        is_val[np.flatnonzero(labels == digit)[VAL_PERIOD - 1 :: VAL_PERIOD]] = True
    chosen = is_val if split == "val" else ~is_val
    return images[chosen], labels[chosen]


def _mnist_digits(folder: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    if not folder.is_dir():
        raise UserError(
            f"DATASETS.SCENES.DIGITS_SOURCE = {str(folder)!r} is neither 'embedded' nor a folder. "
            f"Name the folder with MNIST's four IDX files."
        )
    stem = MNIST_STEMS[split]
    image_file, label_file = find_idx(folder, f"{stem}-images"), find_idx(folder, f"{stem}-labels")
    images, labels = read_idx(image_file), read_idx(label_file)
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise UserError(
            f"{image_file} holds an array of shape {images.shape} and {label_file} one of {labels.shape}; expected "
            f"(N, height, width) images and N labels."
        )
    if labels.max(initial=0) > 9:
        raise UserError(f"{label_file}: holds the label {labels.max()}; digits are 0 to 9.")
    return images, labels
