"""Comparison of results with TEST.EXPECTED_RESULTS."""

import pytest

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation import UnexpectedResultsError, verify_expected_results

RESULTS = {"bbox": {"AP": 38.6, "APs": float("nan")}, "segm": {"AP": 35.2}}


def test_results_within_the_tolerance_pass() -> None:
    verify_expected_results(RESULTS, [["bbox", "AP", 38.5, 0.2], ["segm", "AP", 35.1, 0.2]])  # raises nothing


def test_no_expected_results_pass() -> None:
    verify_expected_results({}, [])  # raises nothing


def test_each_number_that_differs_or_is_missing_is_named() -> None:
    expected = [
        ["bbox", "AP", 40.0, 0.2],
        ["segm", "AP", 35.2, 0.1],
        ["segm", "AP50", 50, 1],
        ["keypoints", "AP", 1, 1],
    ]
    with pytest.raises(UnexpectedResultsError) as caught:
        verify_expected_results(RESULTS, expected)
    message = str(caught.value)
    assert "bbox/AP is 38.600, expected 40 +- 0.2" in message
    assert "segm/AP50 was not measured" in message
    assert "keypoints/AP was not measured" in message
    assert "segm/AP is" not in message


def test_nan_differs_from_each_expected_value() -> None:
    with pytest.raises(UnexpectedResultsError, match="bbox/APs is nan"):
        verify_expected_results(RESULTS, [["bbox", "APs", 20, 100]])


def test_rows_of_several_datasets_begin_with_the_name() -> None:
    several = {"val": RESULTS, "test": RESULTS}
    verify_expected_results(several, [["test", "bbox", "AP", 38.6, 0.01]])
    with pytest.raises(UnexpectedResultsError, match=r"val/bbox/AP is 38\.600"):
        verify_expected_results(several, [["val", "bbox", "AP", 1, 0.01]])


@pytest.mark.parametrize(
    "row", [["bbox", "AP", 38.5], ["bbox", "AP", "38.5", 0.2], "bbox AP 38.5 0.2", [1, "AP", 2, 3]]
)
def test_malformed_row_is_refused_with_an_example(row) -> None:
    with pytest.raises(UserError, match=r"TEST\.EXPECTED_RESULTS has the row .*\['bbox', 'AP', 38\.5, 0\.2\]"):
        verify_expected_results(RESULTS, [row])
