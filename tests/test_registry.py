"""The registry: look-up, foreign builders and messages."""

import pytest

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registry import Registry, UnknownNameError, did_you_mean


@pytest.fixture
def fruit() -> Registry:
    registry = Registry("FRUIT", key="KITCHEN.FRUIT")
    registry.register("Apple")(lambda: "an apple")
    registry.register("Pear")(lambda: "a pear")
    return registry


def test_get_returns_the_registered_builder(fruit: Registry) -> None:
    assert fruit.get("Pear")() == "a pear"


def test_names_are_sorted_and_countable(fruit: Registry) -> None:
    assert list(fruit) == ["Apple", "Pear"]
    assert len(fruit) == 2
    assert "Apple" in fruit
    assert "Plum" not in fruit


def test_unknown_name_tells_key_known_names_and_the_nearest(fruit: Registry) -> None:
    with pytest.raises(UnknownNameError, match=r"KITCHEN\.FRUIT = 'Aple'.*Apple, Pear.*Did you mean 'Apple'"):
        fruit.get("Aple")


def test_unknown_name_is_a_user_error(fruit: Registry) -> None:
    with pytest.raises(UserError):
        fruit.get("Plum")


def test_a_name_is_taken_only_once(fruit: Registry) -> None:
    with pytest.raises(ValueError, match="already has a builder named 'Pear'"):
        fruit.register("Pear")(lambda: None)


def test_foreign_builder_is_imported_without_registration(fruit: Registry) -> None:
    assert fruit.get("os.path:join")("a", "b") == "a/b"


@pytest.mark.parametrize(
    ("name", "problem"),
    [("no_such_package:f", "no_such_package"), ("os.path:no_such", "no_such"), ("os:sep", "not a function")],
)
def test_foreign_builder_that_cannot_be_had_says_why(fruit: Registry, name: str, problem: str) -> None:
    with pytest.raises(UnknownNameError, match=problem):
        fruit.get(name)


def test_did_you_mean_ignores_case_and_stays_silent_when_nothing_is_close() -> None:
    assert did_you_mean("roialign", ["ROIAlign", "ROIPool"]) == " Did you mean 'ROIAlign'?"
    assert did_you_mean("zebra", ["ROIAlign"]) == ""
