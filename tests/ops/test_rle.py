import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mrcnn_zoo.ops.rle import compress_runs, run_lengths

SIZE = (5, 7)


def encode(window: np.ndarray, origin: tuple[int, int], size: tuple[int, int] = SIZE) -> dict:
    return compress_runs([run_lengths(window, origin, size)], size)[0]


def reference(window: np.ndarray, origin: tuple[int, int], size: tuple[int, int] = SIZE) -> dict:
    full = np.zeros(size, dtype=np.uint8, order="F")
    full[origin[1] : origin[1] + window.shape[0], origin[0] : origin[0] + window.shape[1]] = window
    rle = coco_mask.encode(full)
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def test_runs_go_down_the_columns() -> None:
    window = np.array([[1, 0], [1, 1]], dtype=bool)
    # Column 2 begins at 10, its row 1 at 11: two ones, then column 3, row 2 at 17.
    assert run_lengths(window, (2, 1), SIZE).tolist() == [11, 2, 4, 1, 17]


def test_runs_join_over_full_columns() -> None:
    assert run_lengths(np.ones((5, 2), dtype=bool), (3, 0), SIZE).tolist() == [15, 10, 10]


def test_mask_at_the_first_and_the_last_pixel() -> None:
    assert run_lengths(np.ones(SIZE, dtype=bool), (0, 0), SIZE).tolist() == [0, 35]
    assert run_lengths(np.ones((1, 1), dtype=bool), (6, 4), SIZE).tolist() == [34, 1]


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (2, 0), (2, 2), SIZE])
def test_empty_mask_is_one_run_of_zeros(shape: tuple[int, int]) -> None:
    window = np.zeros(shape, dtype=bool)
    assert run_lengths(window, (0, 0), SIZE).tolist() == [35]
    assert encode(window, (0, 0)) == reference(window, (0, 0))


@pytest.mark.parametrize("seed", range(40))
def test_random_windows_encode_as_in_pycocotools(seed: int) -> None:
    random = np.random.default_rng(seed)
    size = tuple(random.integers(1, 12, size=2).tolist())
    height, width = random.integers(1, size[0] + 1), random.integers(1, size[1] + 1)
    if seed % 2:
        height = size[0]  # the whole height, where runs join from column to column
    origin = (int(random.integers(0, size[1] - width + 1)), int(random.integers(0, size[0] - height + 1)))
    window = random.random((height, width)) < 0.6
    assert encode(window, origin, size) == reference(window, origin, size)


def test_no_masks() -> None:
    assert compress_runs([], SIZE) == []
