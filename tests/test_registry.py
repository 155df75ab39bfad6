"""Registry: look-up, external builders, contracts and messages."""

import importlib
from collections.abc import Callable
from typing import Protocol

import pytest
import torch

from mrcnn_zoo import registries
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.contracts import Features
from mrcnn_zoo.modeling.roi_heads import RegionBranch
from mrcnn_zoo.registry import Registry, UnknownNameError, check_contract, did_you_mean
from mrcnn_zoo.structures import Detections


@pytest.fixture
def fruit() -> Registry:
    registry = Registry("FRUIT", key="KITCHEN.FRUIT")
    registry.register("Apple")(lambda: "an apple")
    registry.register("Pear")(lambda: "a pear")
    return registry


def test_get_returns_the_registered_builder(fruit: Registry) -> None:
    assert fruit.get("Pear")() == "a pear"


def test_registry_supports_iteration_length_and_membership(fruit: Registry) -> None:
    assert list(fruit) == ["Apple", "Pear"]
    assert len(fruit) == 2
    assert "Apple" in fruit
    assert "Plum" not in fruit


def test_unknown_name_raises_with_key_known_names_and_suggestion(fruit: Registry) -> None:
    with pytest.raises(UnknownNameError, match=r"KITCHEN\.FRUIT = 'Aple'.*Apple, Pear.*Did you mean 'Apple'"):
        fruit.get("Aple")


def test_unknown_name_is_a_user_error(fruit: Registry) -> None:
    with pytest.raises(UserError):
        fruit.get("Plum")


def test_registering_a_name_twice_raises(fruit: Registry) -> None:
    with pytest.raises(ValueError, match="already has a builder named 'Pear'"):
        fruit.register("Pear")(lambda: None)


def test_external_builder_is_imported_without_registration(fruit: Registry) -> None:
    assert fruit.get("os.path:join")("a", "b") == "a/b"


@pytest.mark.parametrize(
    ("name", "problem"),
    [("no_such_package:f", "no_such_package"), ("os.path:no_such", "no_such"), ("os:sep", "not a function")],
)
def test_external_builder_that_cannot_be_imported_raises_with_cause(fruit: Registry, name: str, problem: str) -> None:
    with pytest.raises(UnknownNameError, match=problem):
        fruit.get(name)


def test_did_you_mean_ignores_case_and_is_empty_without_close_match() -> None:
    assert did_you_mean("roialign", ["ROIAlign", "ROIPool"]) == " Did you mean 'ROIAlign'?"
    assert did_you_mean("zebra", ["ROIAlign"]) == ""


class Peeled(Protocol):
    """Contract of a fruit."""

    @property
    def weight(self) -> float: ...

    def peel(self) -> str: ...

    def __call__(self) -> str: ...


class Orange:
    weight = 0.2

    def peel(self) -> str:
        return "peeled"

    def __call__(self) -> str:
        return "an orange"


class Stone:
    peel = "no method"


@pytest.fixture
def checked() -> Registry:
    registry = Registry("FRUIT", key="KITCHEN.FRUIT", contract=f"{__name__}:Peeled")
    registry.register("Orange")(Orange)
    registry.register("Stone")(Stone)
    registry.register("Nothing")(lambda: None)
    registry.register("Of two")(lambda size, color: (size, color))
    return registry


def test_component_that_satisfies_contract_is_returned(checked: Registry) -> None:
    assert checked.get("Orange")()() == "an orange"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Stone", r"^KITCHEN\.FRUIT = 'Stone' makes a Stone without weight, peel, __call__\. .* Peeled in .*\.py\.$"),
        ("Nothing", r"makes nothing \(None\) without weight"),
    ],
)
def test_component_without_required_member_raises(checked: Registry, name: str, message: str) -> None:
    builder = checked.get(name)
    with pytest.raises(UserError, match=message):
        builder()


class Lemon(Orange):
    def peel(self, knife: str) -> str:
        return knife


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (Lemon, r"makes a Lemon whose peel takes \(knife: str\) -> str and is called with \(\)\. .* Peeled in "),
        (lambda: Orange, "makes the class Orange itself, not an instance of it; see Peeled in "),
        (Orange, r"makes a Orange, which is no torch\.nn\.Module"),
    ],
)
def test_component_with_wrong_signature_or_base_raises(builder: Callable[..., object], message: str) -> None:
    registry = Registry("FRUIT", key="KITCHEN.FRUIT", contract=f"{__name__}:Peeled", base="torch.nn:Module")
    registry.register("Fruit")(builder)
    with pytest.raises(UserError, match=message):
        registry.get("Fruit")()


@pytest.mark.parametrize("forward", [lambda _self, *_anything: None, lambda _self, pooled, scale=1: pooled * scale])
def test_methods_may_have_additional_optional_arguments(forward: Callable[..., object]) -> None:
    members = {"forward": forward, "output_spec": None}
    # raises nothing
    check_contract(type("Head", (torch.nn.Module,), members)(), "mrcnn_zoo.modeling.contracts:BoxHead", source="X")


def test_forward_with_wrong_arguments_raises() -> None:
    members = {"forward": lambda _self: None, "output_spec": None}
    with pytest.raises(UserError, match=r"whose __call__ takes \(\) and is called with \(pooled\)"):
        check_contract(type("Head", (torch.nn.Module,), members)(), "mrcnn_zoo.modeling.contracts:BoxHead", source="X")


def test_builder_with_wrong_arguments_raises_with_its_signature(checked: Registry) -> None:
    with pytest.raises(UserError, match=r"takes \(size, color\) and is called with \(int\).*registries\.py"):
        checked.get("Of two")(3)


def test_module_without_forward_raises() -> None:
    with pytest.raises(UserError, match="makes a Module without output_spec, __call__"):
        check_contract(torch.nn.Module(), "mrcnn_zoo.modeling.contracts:BoxHead", source="X = 'a:b'")


def test_abstract_method_of_base_class_counts_as_missing() -> None:
    class Half(RegionBranch):
        name = "half"

        def predict(self, _features: Features, detections: list[Detections]) -> list[Detections]:
            return detections

    with pytest.raises(UserError, match="makes a Half without losses"):
        check_contract(Half(), "mrcnn_zoo.modeling.contracts:NamedBranch", source="X = 'a:b'")


def test_contracts_of_registries_can_be_imported() -> None:
    contracts = [value._contract for value in vars(registries).values() if isinstance(value, Registry)]
    for contract in filter(None, contracts):
        module, _, name = contract.partition(":")
        assert isinstance(getattr(importlib.import_module(module), name), type)
