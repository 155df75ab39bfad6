"""Differences of two detectors' predictions, computed by hand."""

import torch

from mrcnn_zoo.interop.comparison import PlainDetections, compare

BOXES = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 40.0]])


def found(rows: list[int], *, shift: float = 0.0) -> PlainDetections:
    return PlainDetections(BOXES[rows] + shift, torch.tensor([0.9, 0.8])[rows], torch.tensor([1, 2])[rows])


def test_instances_are_paired_in_any_order() -> None:
    differences = compare([found([1, 0], shift=0.25)], [found([0, 1])])
    assert (differences.num_found, differences.num_expected, differences.num_paired) == (2, 2, 2)
    assert (differences.boxes, differences.scores) == (0.25, 0.0)
    assert "boxes 2.5e-01 px" in str(differences)


def test_unpaired_instances_are_counted() -> None:
    differences = compare([found([0])], [found([0, 1])])
    assert (differences.num_found, differences.num_expected, differences.num_paired) == (1, 2, 1)


def test_no_pairs_are_reported_as_nothing_to_compare() -> None:
    assert str(compare([found([])], [found([])])).startswith("nothing to compare (0 and 0 instances")
    assert str(compare([found([0])], [found([1])])).startswith("nothing to compare (1 and 1 instances")
