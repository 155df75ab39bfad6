"""Small datasets on disk for one test."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.node import default_config

Document = dict[str, Any]


@pytest.fixture
def cfg() -> CfgNode:
    """A mutable config that loads small batches with masks in this process."""
    config = default_config()
    config.MODEL.MASK_ON = True
    config.DATALOADER.NUM_WORKERS = 0
    config.SOLVER.IMS_PER_BATCH = 2
    config.INPUT.MIN_SIZE_TRAIN = [0]
    config.INPUT.MIN_SIZE_TEST = 0
    return config


@pytest.fixture
def annotation() -> Callable[..., dict[str, Any]]:
    """Creates a COCO annotation, a 10 x 10 square at (10, 10) of image 1, with the given fields replaced."""

    def make(number: int = 1, **fields: Any) -> dict[str, Any]:
        square = [10, 10, 20, 10, 20, 20, 10, 20]
        default = {
            "id": number,
            "image_id": 1,
            "category_id": 7,
            "bbox": [10, 10, 10, 10],
            "segmentation": [square],
            "area": 100,
            "iscrowd": 0,
        }
        return {**default, **fields}

    return make


@pytest.fixture
def write_coco(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder with images of 40 x 60 (height x width) and `annotations.json`; returns the JSON's path."""

    def write(annotations: list[dict[str, Any]], /, *, num_images: int = 1, **sections: Any) -> Path:
        document: Document = {
            "images": [
                {"id": number, "file_name": f"{number:03d}.png", "height": 40, "width": 60}
                for number in range(1, num_images + 1)
            ],
            "annotations": annotations,
            "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        }
        document.update(sections)
        for number in range(1, num_images + 1):
            pixels = np.random.default_rng(number).integers(0, 256, (40, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{number:03d}.png")
        path = tmp_path / "annotations.json"
        path.write_text(json.dumps(document))
        return path

    return write
