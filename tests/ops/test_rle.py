import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mrcnn_zoo.ops import rle as rle_ops
from mrcnn_zoo.ops.label_images import encode_labels
from mrcnn_zoo.ops.masks import MaskWindow
from mrcnn_zoo.ops.rle import bounding_box, compress, decode_window, decode_windows, encode_windows, merge, read_runs

SIZE = (5, 7)


def run_lengths(window: np.ndarray, origin: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    return rle_ops.run_lengths(MaskWindow(*origin, window), size)


def encode(window: np.ndarray, origin: tuple[int, int], size: tuple[int, int] = SIZE) -> dict:
    return encode_windows([MaskWindow(*origin, window)], size)[0]


def reference(window: np.ndarray, origin: tuple[int, int], size: tuple[int, int] = SIZE) -> dict:
    full = np.zeros(size, dtype=np.uint8, order="F")
    full[origin[1] : origin[1] + window.shape[0], origin[0] : origin[0] + window.shape[1]] = window
    rle = coco_mask.encode(full)
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def test_runs_are_column_major() -> None:
    window = np.array([[1, 0], [1, 1]], dtype=bool)
    # Column 2 starts at 10, its row 1 at 11: two ones; then row 2 of column 3 at 17.
    assert run_lengths(window, (2, 1), SIZE).tolist() == [11, 2, 4, 1, 17]


def test_runs_continue_over_full_columns() -> None:
    assert run_lengths(np.ones((5, 2), dtype=bool), (3, 0), SIZE).tolist() == [15, 10, 10]


def test_runs_of_first_and_last_pixel() -> None:
    assert run_lengths(np.ones(SIZE, dtype=bool), (0, 0), SIZE).tolist() == [0, 35]
    assert run_lengths(np.ones((1, 1), dtype=bool), (6, 4), SIZE).tolist() == [34, 1]


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (2, 0), (2, 2), SIZE])
def test_empty_mask_is_one_run_of_zeros(shape: tuple[int, int]) -> None:
    window = np.zeros(shape, dtype=bool)
    assert run_lengths(window, (0, 0), SIZE).tolist() == [35]
    assert encode(window, (0, 0)) == reference(window, (0, 0))


@pytest.mark.parametrize("seed", range(40))
def test_encoded_windows_equal_pycocotools(seed: int) -> None:
    random = np.random.default_rng(seed)
    size = tuple(random.integers(1, 12, size=2).tolist())
    height, width = random.integers(1, size[0] + 1), random.integers(1, size[1] + 1)
    if seed % 2:
        height = size[0]  # full height, where runs continue in the next column
    origin = (int(random.integers(0, size[1] - width + 1)), int(random.integers(0, size[0] - height + 1)))
    window = random.random((height, width)) < 0.6
    assert encode(window, origin, size) == reference(window, origin, size)


def test_encoding_no_windows_is_empty() -> None:
    assert encode_windows([], SIZE) == []


def masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = [rng.random((rng.integers(1, 40), rng.integers(1, 40))) for _ in range(40)]
    random = [(shape < rng.random()).astype(np.uint8) for shape in shapes]
    corner, full = np.zeros((5, 7), np.uint8), np.ones((6, 3), np.uint8)
    corner[4, 6] = 1
    around_the_border = np.array([[0, 1], [1, 0]], np.uint8)  # columns 0 1 and 1 0: one run over two columns
    return [mask for mask in random if mask.any()] + [corner, full, around_the_border]


@pytest.mark.parametrize("mask", masks())
def test_decoded_window_equals_mask(mask: np.ndarray) -> None:
    rle = coco_mask.encode(np.asfortranarray(mask))
    window = decode_window(rle)
    assert window is not None
    full = np.zeros_like(mask)
    x1, y1, x2, y2 = window.box
    full[y1:y2, x1:x2] = window.bitmap
    assert np.array_equal(full, mask)


def test_masks_decoded_together_equal_each_alone() -> None:
    bitmaps = [np.zeros((4, 5), np.uint8), *masks(), np.zeros((2, 3), np.uint8)]
    for form in (lambda rle: rle, lambda rle: {"size": rle["size"], "counts": read_runs(rle).tolist()}):
        rles = [coco_mask.encode(np.asfortranarray(bitmap)) for bitmap in bitmaps]
        windows = decode_windows([form(rle) if row % 3 else rle for row, rle in enumerate(rles)])
        for bitmap, rle, window in zip(bitmaps, rles, windows, strict=True):
            box = [0, 0, 0, 0] if window is None else [window.x, window.y, *window.bitmap.shape[::-1]]
            assert box == coco_mask.toBbox(rle).tolist()
            if window is not None:
                x1, y1, x2, y2 = window.box
                assert np.array_equal(window.bitmap, bitmap[y1:y2, x1:x2])
    assert decode_windows([]) == []
    with pytest.raises(ValueError, match="cover 4 pixels, 3 x 2 has 6"):
        decode_windows([rles[1], {"size": [3, 2], "counts": "13"}])
    with pytest.raises(ValueError, match="cut off"):
        decode_windows([{"size": [3, 2], "counts": "1P"}, rles[1]])


@pytest.mark.parametrize("mask", masks())
def test_bounding_box_equals_pycocotools(mask: np.ndarray) -> None:
    rle = coco_mask.encode(np.asfortranarray(mask))
    x, y, width, height = coco_mask.toBbox(rle).tolist()
    assert bounding_box(rle) == (x, y, x + width, y + height)


def test_uncompressed_counts_are_accepted() -> None:
    # Columns of height 3: 0 1 1 | 1 0 0
    assert read_runs({"size": [3, 2], "counts": [1, 3, 2]}).tolist() == [1, 3, 2]
    compressed = coco_mask.frPyObjects({"size": [3, 2], "counts": [1, 3, 2]}, 3, 2)
    assert read_runs(compressed).tolist() == [1, 3, 2]


def test_counts_may_be_text_or_bytes() -> None:
    rle = coco_mask.frPyObjects({"size": [3, 2], "counts": [1, 3, 2]}, 3, 2)
    assert read_runs({"size": [3, 2], "counts": rle["counts"].decode()}).tolist() == [1, 3, 2]


def test_empty_mask_has_no_window() -> None:
    rle = coco_mask.encode(np.zeros((4, 5), np.uint8, order="F"))
    assert decode_window(rle) is None
    assert bounding_box(rle) is None


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([1, 3, 3], "cover 7 pixels, 3 x 2 has 6"),
        ([1, -1, 6], "negative"),
        ("13", "cover 4 pixels"),
        ("1\u00e9", "do not belong"),
        ("1P", "cut off"),
        ("P" * 20 + "0", "too large"),
    ],
)
def test_invalid_runs_raise(counts: list[int] | str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_window({"size": [3, 2], "counts": counts})


@pytest.mark.parametrize("mask", masks())
def test_encoding_and_area_equal_pycocotools(mask: np.ndarray) -> None:
    encoded = rle_ops.encode(mask != 0)
    assert encoded == {"size": list(mask.shape), "counts": coco_mask.encode(np.asfortranarray(mask))["counts"].decode()}
    assert rle_ops.area(encoded) == mask.sum()


def test_compress_accepts_lists_bytes_and_text() -> None:
    # Columns of height 3: 0 1 1 | 1 0 0
    expected = rle_ops.encode(np.array([[0, 1], [1, 0], [1, 0]]))
    as_bytes = {**expected, "counts": expected["counts"].encode()}
    for counts in ([1, 3, 2], as_bytes["counts"], expected["counts"]):
        assert compress({"size": [3, 2], "counts": counts}) == expected


def test_merge_is_union() -> None:
    first, second = np.array([[1, 1, 0, 0]]), np.array([[0, 1, 1, 0]])
    assert merge([rle_ops.encode(first), rle_ops.encode(second)]) == rle_ops.encode(first | second)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "uint64"])
@pytest.mark.parametrize("labels", [0, 1, 2, 9])
def test_labels_are_encoded_as_each_mask_alone(labels: int, dtype: str) -> None:
    rng = np.random.default_rng(labels)
    for _ in range(20):
        image = rng.integers(0, labels + 1, rng.integers(1, 12, 2))
        image = np.repeat(np.repeat(image, 3, axis=0), 5, axis=1).astype(dtype)[rng.integers(0, 3) :]
        found = encode_labels(image)
        assert found.labels == [label for label in np.unique(image).tolist() if label]
        for label, counts, box, area in zip(*found, strict=True):
            expected = coco_mask.encode(np.asfortranarray(image == label, dtype=np.uint8))
            x, y, width, height = coco_mask.toBbox(expected).tolist()
            assert counts == expected["counts"].decode()
            assert (box, area) == ([x, y, x + width, y + height], coco_mask.area(expected))


def test_image_without_pixels_has_no_labels() -> None:
    assert encode_labels(np.zeros((0, 5), np.uint8)).labels == []


def test_subtract_keeps_the_pixels_that_the_other_mask_lacks() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.random((2, 9, 11)) < 0.5).astype(np.uint8)
    for other in (second, np.zeros_like(second), np.ones_like(second), first):
        found = rle_ops.subtract(rle_ops.encode(first), rle_ops.encode(other))
        np.testing.assert_array_equal(coco_mask.decode(found), first & ~other & 1)
