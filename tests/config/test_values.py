"""Conversion of values to the types of keys."""

from typing import Any

import pytest

from mrcnn_zoo.config.defaults import KEYS_BY_NAME
from mrcnn_zoo.config.keys import Assignment, Key, Origin
from mrcnn_zoo.config.values import coerce, literal, type_words
from mrcnn_zoo.errors import UserError

INTEGER = Key("A.INTEGER", 3, "")
NUMBER = Key("A.NUMBER", 0.5, "")
SWITCH = Key("A.SWITCH", False, "")
TEXT = Key("A.TEXT", "", "")
NAMES = Key("A.NAMES", [], "", element_types=(str,))
NUMBERS = Key("A.NUMBERS", [1.0, 2.0], "")
INTEGERS = Key("A.INTEGERS", [1], "")
NESTED = Key("A.NESTED", [[32, 64]], "", element_types=(int, float))
ANYTHING = Key("A.ANYTHING", [], "")
OPTIONAL = Key("A.OPTIONAL", None, "", other_types=(float,))
AUTOMATIC = Key("A.AUTOMATIC", 8, "", other_types=(str,))
CHOICE = Key("A.CHOICE", "sum", "", choices=("sum", "avg"))


def fit(value: object, key: Key) -> object:
    return coerce(Assignment(tuple(key.name.split(".")), value, Origin("x.yaml", 7)), key)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        (INTEGER, 5, 5),
        (INTEGER, "5", 5),
        (INTEGER, 90000.0, 90000),
        (INTEGER, "9e4", 90000),
        (NUMBER, 1, 1.0),
        (NUMBER, "1e-3", 0.001),
        (SWITCH, True, True),
        (SWITCH, "True", True),
        (SWITCH, "false", False),
        (TEXT, "3", "3"),
        (TEXT, "None", "None"),
        (TEXT, "'quoted'", "'quoted'"),
        (TEXT, "", ""),
        (NAMES, (), []),
        (NAMES, "('a',)", ["a"]),
        (NAMES, "[a, b]", ["a", "b"]),
        (NAMES, ("a", "b"), ["a", "b"]),
        (NUMBERS, "(1, 2.5)", [1.0, 2.5]),
        (INTEGERS, [], []),
        (NESTED, "[[32], [64.5]]", [[32], [64.5]]),
        (NESTED, [16, 32], [16, 32]),
        (ANYTHING, [["bbox", ("AP", 1)], 2], [["bbox", ["AP", 1]], 2]),
        (OPTIONAL, None, None),
        (OPTIONAL, "null", None),
        (OPTIONAL, 0, 0.0),
        (AUTOMATIC, "auto", "auto"),
        (AUTOMATIC, "16", 16),
        (CHOICE, "avg", "avg"),
    ],
)
def test_value_is_converted_to_the_type_of_its_key(key: Key, value: object, expected: object) -> None:
    result = fit(value, key)
    assert result == expected
    assert type(result) is type(expected)


def test_integers_in_a_list_of_numbers_become_numbers() -> None:
    assert [type(item) for item in fit([1, 2], NUMBERS)] == [float, float]


def test_value_does_not_share_its_list_with_the_config() -> None:
    given = ["a"]
    result = fit(given, NAMES)
    given.append("b")
    assert result == ["a"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (INTEGER, 1.5),
        (INTEGER, True),
        (INTEGER, "many"),
        (INTEGER, None),
        (INTEGER, [1]),
        (NUMBER, True),
        (NUMBER, "fast"),
        (SWITCH, 1),
        (SWITCH, "yes please"),
        (TEXT, 3),
        (TEXT, None),
        (TEXT, ["a"]),
        (NAMES, "none"),
        (NAMES, "[a"),
        (NAMES, [1]),
        (NAMES, [["a"]]),
        (NUMBERS, ["a"]),
        (INTEGERS, [1.5]),
        (INTEGERS, "(640)"),
        (OPTIONAL, "small"),
        (CHOICE, "mean"),
        (CHOICE, 1),
    ],
)
def test_wrong_type_names_place_key_and_value(key: Key, value: object) -> None:
    with pytest.raises(UserError) as caught:
        fit(value, key)
    message = str(caught.value)
    assert message.startswith(f"x.yaml:7: {key.name} ")
    assert repr(value) in message


@pytest.mark.parametrize(
    ("key", "typed", "expected"),
    [
        (NAMES, "a", ["a"]),
        (NAMES, "a,", ["a"]),
        (NAMES, "a, b", ["a", "b"]),
        (NAMES, "/data/own cells", ["/data/own cells"]),
        (NAMES, "7", ["7"]),
        (NAMES, "", []),
        (INTEGERS, "640", [640]),
        (INTEGERS, 640, [640]),
        (INTEGERS, "64 80", [64, 80]),
        (INTEGERS, "[64 80]", [64, 80]),
        (INTEGERS, "64,80", [64, 80]),
        (INTEGERS, "-64 80", [-64, 80]),
        (NUMBERS, "-1 2.5 -3e2", [-1.0, 2.5, -300.0]),
        (KEYS_BY_NAME["MODEL.ANCHOR_GENERATOR.SIZES"], "[[32 64] [128]]", [[32, 64], [128]]),
        (KEYS_BY_NAME["MODEL.ANCHOR_GENERATOR.SIZES"], "[32] [64]", [[32], [64]]),
        (KEYS_BY_NAME["MODEL.RESNETS.DEFORM_ON_PER_STAGE"], "true false true true", [True, False, True, True]),
    ],
)
def test_list_may_be_typed_without_brackets_quotes_or_commas(key: Key, typed: Any, expected: list[Any]) -> None:
    assert fit(typed, key) == expected


@pytest.mark.parametrize(
    ("key", "typed", "hint"),
    [
        (KEYS_BY_NAME["SOLVER.STEPS"], "soon", "Write it like [30000]."),
        (KEYS_BY_NAME["SOLVER.STEPS"], "10 x", "Write it like [30000]."),
        (NAMES, "none", "Write an empty list as []."),
    ],
)
def test_invalid_list_gets_a_valid_hint(key: Key, typed: str, hint: str) -> None:
    with pytest.raises(UserError) as refusal:
        fit(typed, key)
    assert str(refusal.value).endswith(hint)


def test_number_for_a_text_gets_a_hint_about_quotes() -> None:
    with pytest.raises(UserError, match=r"A\.TEXT takes a string, not 3\. Put it in quotes"):
        fit(3, TEXT)


def test_invalid_choice_lists_the_choices() -> None:
    with pytest.raises(UserError, match=r"A\.CHOICE = 'summ' is not one of 'sum', 'avg'\. Did you mean 'sum'\?"):
        fit("summ", CHOICE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1", 1), ("'1'", "1"), ("TRUE", True), ("none", None), ("{a: [1, x]}", {"a": [1, "x"]}), ("[broken", "[broken")],
)
def test_literal_parses_python_and_yaml_literals(text: str, expected: object) -> None:
    assert literal(text) == expected


@pytest.mark.parametrize("text", ["a/b c", "__import__('os')", "!!python/name:os", "(" * 9000, "[" * 3000, "-" * 20000])
def test_literal_returns_other_text_unchanged(text: str) -> None:
    assert literal(text) == text


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (INTEGER, "integer"),
        (OPTIONAL, "None or number"),
        (NAMES, "list of strings"),
        (NESTED, "list of lists of integers or numbers"),
        (ANYTHING, "list"),
        (Key("A.OPEN", {}, ""), "section of custom names"),
    ],
)
def test_type_in_words(key: Key, words: str) -> None:
    assert type_words(key) == words
