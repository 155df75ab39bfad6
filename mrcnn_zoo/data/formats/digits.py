"""Scenes of handwritten digits, generated."""

from collections.abc import Mapping
from typing import Any

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.data.synthetic.scenes import build_scenes
from mrcnn_zoo.data.synthetic.settings import build_scene_settings, build_scene_split
from mrcnn_zoo.registries import DATASET_FORMATS


@DATASET_FORMATS.register("digits")
def build_digit_scenes(cfg: CfgNode, name: str, definition: Mapping[str, Any]) -> Dataset:
    """Ten classes, "0" to "9"; fields: SPLIT (train or val), NUM_IMAGES, and any key of DATASETS.SCENES."""
    settings = build_scene_settings(cfg, definition, name=name)
    split, length = build_scene_split(cfg, definition, name=name)
    return build_scenes(name, settings, kind="digits", split=split, length=length)
