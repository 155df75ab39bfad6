import pytest
import torch

from mrcnn_zoo.ops.rows import (
    constant,
    counts_of_images,
    image_numbers,
    known_rows,
    rows_in_parts,
    rows_of_all,
    rows_where,
)

MASKS = [torch.tensor([True, False, True]), torch.tensor([False]), torch.zeros(0, dtype=torch.bool)]


def test_rows_where_gives_rows_per_mask() -> None:
    assert [rows.tolist() for rows in rows_where(MASKS)] == [[0, 2], [], []]
    assert rows_where([]) == []
    assert known_rows(MASKS[0], 2).tolist() == [0, 2]


def test_rows_in_parts_count_through_all_masks() -> None:
    rows, counts = rows_in_parts([*MASKS, torch.tensor([False, True])])
    assert rows.tolist() == [0, 2, 5]
    assert counts == [2, 0, 0, 1]
    assert rows_of_all([torch.tensor([1]), torch.tensor([0, 2])], [4, 3]).tolist() == [1, 4, 6]


@pytest.mark.parametrize("counts", [[2, 0, 3], [0], [0, 0, 1]])
def test_image_numbers_and_counts_are_inverse(counts: list[int]) -> None:
    numbers = image_numbers(counts, torch.device("cpu"))
    assert numbers.tolist() == [number for number, count in enumerate(counts) for _ in range(count)]
    assert counts_of_images(numbers, len(counts)) == counts


def test_constant_has_values_and_dtype() -> None:
    made = constant((1, 0.5), dtype=torch.float64, device=torch.device("cpu"))
    assert made.tolist() == [1.0, 0.5]
    assert made.dtype == torch.float64
