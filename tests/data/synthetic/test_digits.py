import gzip
import math
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mrcnn_zoo.config.defaults import KEYS_BY_NAME
from mrcnn_zoo.data.synthetic.digits import (
    DigitStamps,
    cubic_matrix,
    load_digit_stamps,
    make_glyph,
    read_idx,
    render_glyph,
    sample_linearly,
)
from mrcnn_zoo.data.synthetic.layout import INK_THRESHOLD
from mrcnn_zoo.errors import UserError


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def write_mnist(folder: Path, *, suffix: str = "", per_class: int = 2) -> None:
    """A folder with MNIST's layout; image n of a split has n + 1 bright rows, test images five more."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, offset in (("train", 0), ("t10k", 5)):
        labels = np.arange(10 * per_class, dtype=np.uint8) % 10
        images = np.zeros((len(labels), 28, 28), dtype=np.uint8)
        for row, label in enumerate(labels):
            images[row, 4 : 6 + label + offset, 10:18] = 255
        for kind, axes, array in (("images", 3, images), ("labels", 1, labels)):
            content = idx_bytes(array)
            path = folder / f"{stem}-{kind}-idx{axes}-ubyte{suffix}"
            path.write_bytes(gzip.compress(content) if suffix else content)


def flat(stamps: DigitStamps) -> list[bytes]:
    return [glyph.tobytes() for glyphs in stamps.glyphs for glyph in glyphs]


def test_every_embedded_digit_is_used_once() -> None:
    train, val = load_digit_stamps("embedded", "train"), load_digit_stamps("embedded", "val")
    assert len(flat(train)) + len(flat(val)) == 1797
    # Four fifths of each class, rounded up: scikit-learn's load_digits has 178, 182, 177, ... per class.
    assert [len(glyphs) for glyphs in train.glyphs] == [143, 146, 142, 147, 145, 146, 145, 144, 140, 144]


def test_no_embedded_digit_is_in_both_splits() -> None:
    assert not set(flat(load_digit_stamps("embedded", "train"))) & set(flat(load_digit_stamps("embedded", "val")))


def test_embedded_digits_equal_scikit_learn() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    zeros = digits.images[digits.target == 0].astype(np.uint8)
    # The fifth of each class is the first one for validation.
    np.testing.assert_array_equal(load_digit_stamps("embedded", "train").glyphs[0][4], make_glyph(zeros[5]))
    np.testing.assert_array_equal(load_digit_stamps("embedded", "val").glyphs[0][0], make_glyph(zeros[4]))


def test_enlarging_keeps_a_constant_and_a_ramp_inside() -> None:
    matrix = cubic_matrix(9, 4)
    assert matrix.shape == (36, 9)
    np.testing.assert_allclose((matrix @ np.ones(9))[8:-8], 1.0)
    # Pixel centres: (k + 0.5) / 4 - 0.5 in units of the original pixels.
    np.testing.assert_allclose((matrix @ np.arange(9.0))[8:-8], (np.arange(36)[8:-8] + 0.5) / 4 - 0.5)


def test_sampling_at_pixel_centres_returns_the_pixels_and_zero_outside() -> None:
    image = np.array([[1.0, 3.0], [5.0, 7.0]])
    x, y = np.array([[0.5, 1.5, 1.0, -2.0, 9.0]]), np.array([[0.5, 1.5, 1.0, 0.5, 0.5]])
    np.testing.assert_allclose(sample_linearly(image, x=x, y=y), [[1.0, 7.0, 4.0, 0.0, 0.0]])


def test_rendered_glyph_has_the_given_side() -> None:
    bar = np.ones((60, 20))
    mask = render_glyph(bar, side=30, angle=0.0, shear=0.0, stretch=1.0) >= INK_THRESHOLD
    assert (np.count_nonzero(mask.any(axis=1)), np.count_nonzero(mask.any(axis=0))) == (30, 10)


def test_quarter_turn_swaps_height_and_width() -> None:
    bar = np.ones((60, 20))
    mask = render_glyph(bar, side=30, angle=math.pi / 2, shear=0.0, stretch=1.0) >= INK_THRESHOLD
    assert (np.count_nonzero(mask.any(axis=1)), np.count_nonzero(mask.any(axis=0))) == (10, 30)


def test_stretch_increases_the_width() -> None:
    square = np.ones((40, 40))
    mask = render_glyph(square, side=30, angle=0.0, shear=0.0, stretch=0.6) >= INK_THRESHOLD
    assert (np.count_nonzero(mask.any(axis=1)), np.count_nonzero(mask.any(axis=0))) == (30, 18)


def test_every_digit_covers_pixels_at_the_smallest_size() -> None:
    sizes = KEYS_BY_NAME["DATASETS.SCENES.OBJECT_SIZE"].range
    assert sizes is not None
    for split in ("train", "val"):
        for glyphs in load_digit_stamps("embedded", split).glyphs:
            for glyph in glyphs:
                coverage = render_glyph(glyph, side=sizes.low, angle=0.3, shear=0.15, stretch=0.85)
                assert (coverage >= INK_THRESHOLD).sum() >= 5


@pytest.mark.parametrize("layout", ["", "raw", "MNIST/raw"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_files_are_found_and_read(tmp_path: Path, layout: str, suffix: str) -> None:
    write_mnist(tmp_path / layout, suffix=suffix)
    train, val = load_digit_stamps(str(tmp_path), "train"), load_digit_stamps(str(tmp_path), "val")
    assert [len(glyphs) for glyphs in train.glyphs] == [2] * 10
    # Test images have five rows more than training images: 2 x 8 pixels of "0" against 7 x 8, enlarged twice.
    assert train.glyphs[0][0].shape == (4, 16)
    assert val.glyphs[0][0].shape == (14, 16)


def test_empty_mnist_image_is_left_out(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    images = read_idx(path).copy()
    images[3] = 0
    path.write_bytes(idx_bytes(images))
    assert [len(glyphs) for glyphs in load_digit_stamps(str(tmp_path), "train").glyphs] == [2, 2, 2, 1] + [2] * 6


def test_missing_folder_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"DIGITS_SOURCE.*nowhere.*neither 'embedded' nor a folder"):
        load_digit_stamps(str(tmp_path / "nowhere"), "train")
    with pytest.raises(UserError, match="no train-images-idx3-ubyte"):
        load_digit_stamps(str(tmp_path), "train")


def test_images_and_labels_of_different_number_are_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(3, dtype=np.uint8)))
    with pytest.raises(UserError, match=r"train-images.*\(20, 28, 28\).*train-labels.*\(3,\)"):
        load_digit_stamps(str(tmp_path), "train")


def test_class_without_digits_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(20, dtype=np.uint8)))
    with pytest.raises(UserError, match="no digit 1 for train scenes"):
        load_digit_stamps(str(tmp_path), "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an IDX file; it starts with nothing"),
        (b"\x89PNG....", "is not an IDX file; it starts with 89 50 4e 47"),
        (bytes([0, 0, 13, 1, 0, 0, 0, 1]) + bytes(4), "IDX type 0x0d"),
        (bytes([0, 0, 8, 3, 0, 0]), "truncated inside its header"),
        (idx_bytes(np.zeros((3, 4), dtype=np.uint8))[:-1], "its header gives 3 x 4 bytes, but 11 follow"),
        (gzip.compress(idx_bytes(np.zeros((3, 4), dtype=np.uint8)), mtime=0)[:-9], "cannot be read"),
    ],
)
def test_damaged_idx_file_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken-idx"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"broken-idx: .*{message}"):
        read_idx(path)
