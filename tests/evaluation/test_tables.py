"""The tables as people read them."""

import math

from mrcnn_zoo.evaluation.tables import category_table, footnote, markdown_report, summary_table

RESULTS = {
    "bbox": {"AP": 71.2, "AP50": 90.0, "APl": math.nan, "AP-7": 71.2, "AP-cat": math.nan},
    "segm": {"AP": 65.04, "AP50": 88.0, "APl": math.nan, "AP-7": 65.04, "AP-cat": math.nan},
}


def test_summary_has_a_dash_where_there_is_nothing_to_find() -> None:
    assert summary_table(RESULTS).splitlines() == [
        "| task   |    AP |   AP50 |   APl |",
        "|:-------|------:|-------:|------:|",
        "| bbox   | 71.20 |  90.00 |     - |",
        "| segm   | 65.04 |  88.00 |     - |",
    ]


def test_summary_shows_the_change_of_ap_to_the_last_evaluation() -> None:
    lines = summary_table(RESULTS, previous={"bbox": {"AP": 69.8, "AP50": 1.0}, "segm": {"AP": 65.5}}).splitlines()
    assert "71.20 (+1.40) |  90.00" in lines[2]
    assert "65.04 (-0.46) |  88.00" in lines[3]


def test_no_change_is_shown_to_what_was_not_measured() -> None:
    previous = {"bbox": {"AP": math.nan}, "keypoints": {"AP": 1.0}}
    assert summary_table(RESULTS, previous=previous) == summary_table(RESULTS)


def test_classes_that_look_like_numbers_stay_names() -> None:
    assert category_table(RESULTS).splitlines()[2:] == [
        "| 7          |     71.20 |     65.04 |",
        "| cat        |         - |         - |",
    ]


def test_the_dash_is_explained_once_and_only_where_it_stands() -> None:
    assert markdown_report("val", RESULTS).count("-: the dataset has no such objects") == 1
    assert "nan" not in markdown_report("val", RESULTS)
    assert footnote({"bbox": {"AP": 1.0}}) == ""


def test_tables_of_nothing() -> None:
    assert summary_table({}) == summary_table({}, previous={})
    assert "task" in summary_table({"bbox": {}})
    assert footnote({}) == ""
