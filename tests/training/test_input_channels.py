"""Images of any number of channels: train, evaluate, draw and predict."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from mrcnn_zoo.cli.main import main
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.training import run

SIDE = 64


def write_image(path: Path, pixels: np.ndarray) -> None:
    if path.suffix == ".npy":
        np.save(path, pixels)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, pixels.transpose(2, 0, 1), photometric="minisblack")  # one page per channel
    else:
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(path)


def write_dataset(folder: Path, *, channels: int, suffix: str) -> Path:
    """Two noisy images with a bright square each, in COCO's layout."""
    rng = np.random.default_rng(0)
    content: dict[str, list] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "square"}]}
    for number in (1, 2):
        pixels = rng.integers(0, 100, (SIDE, SIDE, channels), dtype=np.uint8)
        pixels[10:40, 10 * number : 10 * number + 30] = 220
        write_image(folder / f"{number}{suffix}", pixels)
        x = 10 * number
        corners = [x, 10, x + 30, 10, x + 30, 40, x, 40]
        content["images"].append({"id": number, "file_name": f"{number}{suffix}", "height": SIDE, "width": SIDE})
        content["annotations"].append(
            {
                **{"id": number, "image_id": number, "category_id": 1, "iscrowd": 0},
                **{"bbox": [x, 10, 30, 30], "area": 900, "segmentation": [corners]},
            }
        )
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(("channels", "suffix"), [(1, ".png"), (4, ".png"), (4, ".npy"), (16, ".tif")])
def test_any_number_of_channels_from_training_to_prediction(
    channels: int, suffix: str, tiny_config: Callable[..., CfgNode], tmp_path: Path
) -> None:
    folder = write_dataset(tmp_path, channels=channels, suffix=suffix)
    cfg = tiny_config(
        *("DATASETS.TRAIN", [str(folder)], "DATASETS.TEST", [str(folder)], "MODEL.ROI_HEADS.NUM_CLASSES", 1),
        *("MODEL.PIXEL_MEAN", [60.0] * channels, "MODEL.PIXEL_STD", [50.0] * channels),
        *(
            "INPUT.AUGMENTATIONS",
            ["RandomBrightness", "RandomContrast", "RandomRotate90"],
            "INPUT.MIN_SIZE_TRAIN",
            [48],
        ),
        *("SOLVER.MAX_ITER", 2, "VIS.NUM_IMAGES", 1, "VIS.NUM_BATCHES", 1),
    )
    images = {path: path.read_bytes() for path in folder.glob(f"*{suffix}")}
    results = run(cfg)
    assert {"bbox", "segm"} <= results.keys()
    output = tmp_path / "output"
    assert (output / "pictures" / "train_batch_0000000.png").is_file()
    assert {path: path.read_bytes() for path in images} == images  # pictures do not go where a path as name leads
    weights, predicted = output / "model_final.pth", tmp_path / "predicted"
    image = folder / f"1{suffix}"
    code = main(["predict", str(image), "--weights", str(weights), "--output", str(predicted), "--threshold", "0"])
    assert code == 0
    assert (predicted / "1.png").is_file()
    assert json.loads((predicted / "predictions.json").read_text())["images"][0]["height"] == SIDE
