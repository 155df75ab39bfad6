"""The packaged configs."""

from typing import Any

import pytest

from mrcnn_zoo.config import CfgNode, default_config, load_config, packaged_names, resolve_config
from mrcnn_zoo.config.defaults import DETECTRON2_NAMES
from support.references import detectron2_values


def changed_values(config: CfgNode) -> dict[str, Any]:
    default = default_config()
    values = {name: config.value_of(name) for name in DETECTRON2_NAMES}
    return {name: value for name, value in values.items() if value != default.value_of(name)}


@pytest.mark.parametrize("name", packaged_names())
def test_every_config_loads_and_leaves_the_device_to_the_machine(name: str) -> None:
    assert load_config(name).MODEL.DEVICE == "auto"


def test_every_recorded_config_is_there() -> None:
    assert len(detectron2_values()) == 51
    assert {f"{name}.yaml" for name in detectron2_values()} <= set(packaged_names())


def test_configs_named_as_detectron2s_resolve_to_its_values() -> None:
    for name, values in detectron2_values().items():
        assert changed_values(resolve_config(name)) == values, name
