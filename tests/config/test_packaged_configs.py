"""The YAML files that come with the package."""

import json
from pathlib import Path
from typing import Any

import pytest

from mrcnn_zoo.config import CfgNode, default_config, load_config, packaged_names, resolve_config
from mrcnn_zoo.config.defaults import DETECTRON2_NAMES


def changed_values(config: CfgNode) -> dict[str, Any]:
    default = default_config()
    values = {name: config.value_of(name) for name in DETECTRON2_NAMES}
    return {name: value for name, value in values.items() if value != default.value_of(name)}


@pytest.mark.parametrize("name", packaged_names())
def test_every_config_loads_and_leaves_the_device_to_the_machine(name: str) -> None:
    assert load_config(name).MODEL.DEVICE == "auto"


def recorded_values(shared_dir: Path) -> dict[str, dict[str, Any]]:
    return json.loads((shared_dir / "reference/detectron2/config_effective.json").read_text())


def test_every_recorded_config_is_there(shared_dir: Path) -> None:
    assert {f"{name}.yaml" for name in recorded_values(shared_dir)} <= set(packaged_names())


def test_configs_named_as_detectron2s_resolve_to_its_values(shared_dir: Path) -> None:
    for name, values in recorded_values(shared_dir).items():
        assert changed_values(resolve_config(name)) == values, name
