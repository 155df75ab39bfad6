"""Tables of results as text."""

import math

from mrcnn_zoo.evaluation.tables import category_table, footnote, markdown_report, summary_table

RESULTS = {
    "bbox": {"AP": 71.2, "AP50": 90.0, "APl": math.nan, "AP-7": 71.2, "AP-cat": math.nan},
    "segm": {"AP": 65.04, "AP50": 88.0, "APl": math.nan, "AP-7": 65.04, "AP-cat": math.nan},
}


def test_summary_has_a_dash_for_nan() -> None:
    assert summary_table(RESULTS).splitlines() == [
        "| task   |    AP |   AP50 |   APl |",
        "|:-------|------:|-------:|------:|",
        "| bbox   | 71.20 |  90.00 |     - |",
        "| segm   | 65.04 |  88.00 |     - |",
    ]


def test_summary_shows_the_change_of_ap() -> None:
    lines = summary_table(RESULTS, previous={"bbox": {"AP": 69.8, "AP50": 1.0}, "segm": {"AP": 65.5}}).splitlines()
    assert "71.20 (+1.40) |  90.00" in lines[2]
    assert "65.04 (-0.46) |  88.00" in lines[3]


def test_summary_shows_no_change_of_missing_results() -> None:
    previous = {"bbox": {"AP": math.nan}, "keypoints": {"AP": 1.0}}
    assert summary_table(RESULTS, previous=previous) == summary_table(RESULTS)


def test_numeric_class_names_are_aligned_like_names() -> None:
    assert category_table(RESULTS).splitlines()[2:] == [
        "| 7          |     71.20 |     65.04 |",
        "| cat        |         - |         - |",
    ]


def test_dash_is_explained_once_if_it_occurs() -> None:
    assert markdown_report("val", RESULTS).count("-: the dataset has no such objects") == 1
    assert "nan" not in markdown_report("val", RESULTS)
    assert footnote({"bbox": {"AP": 1.0}}) == ""


def test_tables_of_empty_results() -> None:
    assert summary_table({}) == summary_table({}, previous={})
    assert "task" in summary_table({"bbox": {}})
    assert footnote({}) == ""
