"""The YAML files that come with the package."""

import json
from pathlib import Path
from typing import Any

import pytest

from mrcnn_zoo.config import CfgNode, default_config, load_config, packaged_names, resolve_config
from mrcnn_zoo.config.defaults import DETECTRON2_NAMES

BUILT_FROM_DETECTRON2 = [
    "COCO-Detection/faster_rcnn_R_101_FPN_3x.yaml",
    "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
    "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml",
    "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x.yaml",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml",
]


def changed_values(config: CfgNode) -> dict[str, Any]:
    default = default_config()
    values = {name: config.value_of(name) for name in DETECTRON2_NAMES}
    return {name: value for name, value in values.items() if value != default.value_of(name)}


def test_the_first_configs_are_there() -> None:
    assert set(BUILT_FROM_DETECTRON2) <= set(packaged_names())


@pytest.mark.parametrize("name", packaged_names())
def test_every_config_loads(name: str) -> None:
    load_config(name)


def test_configs_named_as_detectron2s_resolve_to_its_values(shared_dir: Path) -> None:
    recorded = json.loads((shared_dir / "reference/detectron2/config_effective.json").read_text())
    ours = [name for name in packaged_names() if name.removesuffix(".yaml") in recorded]
    assert set(BUILT_FROM_DETECTRON2) <= set(ours)
    for name in ours:
        assert changed_values(resolve_config(name)) == recorded[name.removesuffix(".yaml")], name
