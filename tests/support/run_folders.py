"""Output folders of runs, written by hand, with values that are known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mrcnn_zoo.config import load_config
from mrcnn_zoo.ops.rle import encode

SIDE = 60  # pixels of an image
# x, y, side of the square in each image: a is category 1, b category 2.
SQUARES = {1: [(5, 5, 20, 1), (35, 30, 20, 2)], 2: [(10, 10, 30, 1)], 3: [(20, 5, 12, 2)]}
# x, y, side, category, score. Image 1: both found, and a false a. Image 2: found. Image 3: its b is detected as a.
FOUND = {1: [(5, 5, 20, 1, 0.9), (35, 30, 20, 2, 0.8), (40, 2, 10, 1, 0.7)], 2: [(10, 11, 30, 1, 0.95)]}
FOUND[3] = [(20, 5, 12, 1, 0.6), (2, 40, 9, 2, 0.3)]
RESULTS = {
    "bbox": {"AP": 61.25, "AP50": 75.5, "AR100": 66.0, "APs": 61.25, "APm": None, "AP-a": 72.5, "AP-b": 50.0},
    "segm": {"AP": 58.75, "AP50": 75.5, "AR100": 64.0, "APs": 58.75, "APm": None, "AP-a": 70.0, "AP-b": 47.5},
}
LOG = """\
[2026-01-01 10:00:00] INFO mrcnn_zoo.training.preflight: train squares: 3 images, 4 objects, 2 classes
[2026-01-01 10:00:10] INFO mrcnn_zoo.training.build: seed 17
[2026-01-01 10:00:10] INFO mrcnn_zoo.training.run: output folder: here
[2026-01-01 10:01:00] INFO mrcnn_zoo.training.hooks.checkpoints: saved model_0000019.pth
[2026-01-01 12:00:00] INFO mrcnn_zoo.training.preflight: train squares: 3 images, 4 objects, 2 classes
[2026-01-01 12:00:10] INFO mrcnn_zoo.training.build: seed 17
[2026-01-01 12:00:10] WARNING mrcnn_zoo.training.build: SOLVER.BASE_LR = 0.1 since resume
[2026-01-01 12:00:50] INFO mrcnn_zoo.evaluation.evaluator: squares: 3 images, 2.000 s per image
[2026-01-01 12:01:00] INFO mrcnn_zoo.training.hooks.pictures: plots: here
"""


def write_squares(folder: Path, *, num_copies: int = 1, side: int = SIDE, seed: int | None = None) -> None:
    """Images of squares with COCO annotations: `images/`, `squares.json`; with a seed the images are noise."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    factor = side // SIDE
    rng = np.random.default_rng(seed)
    for number in range(1, 3 * num_copies + 1):
        pixels = rng.integers(0, 255, (side, side, 3), dtype=np.uint8)
        pixels = pixels if seed is not None else np.full((side, side, 3), 40, dtype=np.uint8)
        for x, y, width, category in SQUARES[(number - 1) % 3 + 1]:
            x, y, width = x * factor, y * factor, width * factor
            pixels[y : y + width, x : x + width] = (200, 60, 60) if category == 1 else (60, 60, 200)
            polygon = [x, y, x + width, y, x + width, y + width, x, y + width]
            fields = {"bbox": [x, y, width, width], "area": width**2, "iscrowd": 0, "segmentation": [polygon]}
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": category, **fields})
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": side, "width": side})
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "squares.json").write_text(json.dumps(content))


def squares_rows(*, num_copies: int = 1, side: int = SIDE) -> list[dict[str, Any]]:
    """The rows of `FOUND`."""
    rows, factor = [], side // SIDE
    for number in range(1, 3 * num_copies + 1):
        for x, y, width, category, score in FOUND[(number - 1) % 3 + 1]:
            box = [value * factor for value in (x, y, width, width)]
            mask = np.zeros((side, side), dtype=bool)
            mask[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = True
            rows.append(
                {"image_id": number, "category_id": category, "bbox": box, "score": score, "segmentation": encode(mask)}
            )
    return rows


def write_run(folder: Path, data: Path, *, num_copies: int = 1, side: int = SIDE) -> Path:
    """The output folder of a finished training on the squares in `data`."""
    inference = folder / "inference"
    inference.mkdir(parents=True)
    definition = {"FORMAT": "coco", "IMAGES": str(data / "images"), "ANNOTATIONS": str(data / "squares.json")}
    settings = ["DATASETS.TEST", "[squares]", "DATASETS.TRAIN", "[squares]", "MODEL.ROI_HEADS.NUM_CLASSES", "2"]
    settings += ["SOLVER.MAX_ITER", "40", "DATASETS.DEFINITIONS.squares", definition]
    (folder / "config.yaml").write_text(load_config(None, settings).dump())
    lines = [
        {"iteration": 19, "total_loss": 2.0, "loss_cls": 1.5, "lr": 0.01, "time": 0.5, "data_time": 0.1},
        {"iteration": 19, "bbox/AP": 65.0, "segm/AP": 60.0},
        {"iteration": 39, "total_loss": 1.0, "loss_cls": 0.5, "lr": 0.001, "time": 1.0, "data_time": 0.2},
        {"iteration": 39, "val/total_loss": 1.25, "memory_mb": 2048.0},
        {"iteration": 39, "bbox/AP": 61.25, "segm/AP": 58.75},
    ]
    (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "log.txt").write_text(LOG)
    environment = {
        "versions": {"mrcnn_zoo": "0.0.9"},
        "devices": {"platform": "Linux", "cpu_cores": 2, "torch_threads": 1, "gpus": ["NVIDIA X"]},
        "git": {"commit": "0123456789abcdef", "branch": "trunk", "is_changed": True},
        "command": ["train", "--config-file", "/nowhere/squares_config.yaml"],
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    (inference / "results.json").write_text(json.dumps(RESULTS))
    (inference / "results.md").write_text("# squares\n")
    (inference / "coco_instances_results.json").write_text(json.dumps(squares_rows(num_copies=num_copies, side=side)))
    precision = np.tile(np.linspace(1, 0, 101, dtype=np.float32)[None, :, None], (10, 1, 2))
    np.savez_compressed(inference / "precision_recall.npz", bbox=precision, class_names=np.array(["a", "b"]))
    return folder
