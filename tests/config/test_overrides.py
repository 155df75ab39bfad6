"""`KEY VALUE` and `KEY=VALUE` lists."""

import shlex

import pytest

from mrcnn_zoo.config import load_config
from mrcnn_zoo.config.values import read_overrides, typed_list
from mrcnn_zoo.errors import UserError


def pairs(*items: object) -> list[tuple[str, object]]:
    return [(assignment.name, assignment.value) for assignment in read_overrides(items)]


def test_no_items_set_nothing() -> None:
    assert read_overrides([]) == []


def test_both_notations_can_be_mixed() -> None:
    assert pairs("A.B", "1", "C=2", "D", (1, 2), "E=x=y") == [("A.B", "1"), ("C", "2"), ("D", (1, 2)), ("E", "x=y")]


def test_value_may_contain_an_equals_sign_or_be_empty() -> None:
    assert pairs("A", "B=1", "C=", "D", "") == [("A", "B=1"), ("C", ""), ("D", "")]


def test_quotes_inside_the_shells_quotes_are_removed() -> None:
    assert pairs("A='text'", "B", '""', "C=it's") == [("A", "text"), ("B", ""), ("C", "it's")]


def test_mapping_is_flattened() -> None:
    assert pairs("A", {"b": {"C": 1}}, "D={e: {F: [x]}}") == [("A.b.C", 1), ("D.e.F", ["x"])]


def test_key_without_value_is_refused() -> None:
    with pytest.raises(UserError, match=r"the key SOLVER\.BASE_LR is given without a value"):
        read_overrides(["SOLVER.MAX_ITER", "5", "SOLVER.BASE_LR"])


@pytest.mark.parametrize("item", ["0.1", "--resume", "", "=3", 5, None])
def test_value_in_the_place_of_a_key_is_refused(item: object) -> None:
    with pytest.raises(UserError, match="is given where a KEY or KEY=VALUE is expected"):
        read_overrides([item, "1"])


def test_string_instead_of_a_list_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="are a list"):
        read_overrides("SOLVER.BASE_LR 0.1")


def test_list_split_by_the_shell_is_joined() -> None:
    cut = read_overrides(["A.B", "[64,", "80]", "C=[[1,", "2],", "[3]]", "D", "5"])
    assert [(assignment.name, assignment.value) for assignment in cut] == [
        ("A.B", "[64, 80]"),
        ("C", "[[1, 2], [3]]"),
        ("D", "5"),
    ]


@pytest.mark.parametrize(
    ("names", "typed"),
    [
        (["digits_train"], "digits_train"),
        (["a", "b"], "a,b"),
        (["/own data/cells"], "'/own data/cells'"),
        (["one,two"], """'["one,two"]'"""),
        (["it's"], None),
        (["none"], None),
        (["[x"], None),
        (["$HOME"], None),
        ([], "'[]'"),
        (["3"], "3"),
    ],
)
def test_printed_list_can_be_typed_in_a_shell(names: list[str], typed: str | None) -> None:
    assert typed is None or typed_list(names) == typed
    assert names == load_config(None, shlex.split(f"DATASETS.TRAIN {typed_list(names)}")).DATASETS.TRAIN


@pytest.mark.parametrize("value", ["MODEL.MASK_ON", "MODEL.MASK_ON=True"])
def test_key_in_the_place_of_a_value_is_refused(value: str) -> None:
    with pytest.raises(UserError, match=f"OUTPUT_DIR is given without a value before {value}; write OUTPUT_DIR=VALUE"):
        read_overrides(["OUTPUT_DIR", value])
