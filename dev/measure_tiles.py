"""Prediction by tiles: peak memory on a large mosaic, and how far from the seams it differs from whole images.

python dev/measure_tiles.py memory --side 10000
python dev/measure_tiles.py borders
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mrcnn_zoo.config import load_config
from mrcnn_zoo.data import load_dataset
from mrcnn_zoo.inference import Prediction, Predictor
from mrcnn_zoo.structures import mask_windows

NUCLEI, DIGITS = "zoo://Nuclei/mask_rcnn_R_18_FPN_small", "zoo://Quickstart/mask_rcnn_R_18_FPN_digits"
LARGEST_IMAGE = 700  # pixels of a side of the images in the mosaic
DISTANCES = (0, 1, 8, 16, 32, 64, 10_000)  # pixels from a border of a tile
NO_LIMIT = 100_000


def nuclei_mosaic(side: int, folder: Path) -> NDArray[np.uint8]:
    """(side, side, 3) of the images of the 2018 Data Science Bowl in rows."""
    files = sorted(folder.glob("stage1_train/*/images/*.png"))
    np.random.default_rng(0).shuffle(files)
    remaining = _endless(files)
    mosaic, y = np.zeros((side, side, 3), dtype=np.uint8), 0
    while y < side:
        x, height = 0, 0
        while x < side:
            image = np.asarray(Image.open(next(remaining)).convert("RGB"))
            if max(image.shape) > LARGEST_IMAGE:
                continue
            part = image[: side - y, : side - x]
            mosaic[y : y + part.shape[0], x : x + part.shape[1]] = part
            x, height = x + image.shape[1], height or image.shape[0]
        y += height  # higher images are covered by the next row
    return mosaic


def _endless(files: list[Path]) -> Iterator[Path]:
    while True:
        yield from files


def measure_memory(arguments: argparse.Namespace) -> None:
    """Predict on a mosaic in a process of its own, and print its peak resident memory."""
    arguments.output.mkdir(parents=True, exist_ok=True)
    image = arguments.output / f"mosaic_{arguments.side}{arguments.suffix}"
    if not image.exists():
        pixels = nuclei_mosaic(arguments.side, arguments.images)
        if arguments.suffix == ".tif":
            import tifffile

            tifffile.imwrite(image, pixels, photometric="rgb", tile=(512, 512), compression="zlib")
        else:
            Image.fromarray(pixels).save(image)
    command = [sys.executable, "-m", "mrcnn_zoo", "predict", str(image), "--weights", NUCLEI, "--tiles", "1024"]
    command += ["--output", str(arguments.output / "result"), "--overwrite", "TEST.DETECTIONS_PER_IMAGE", "1000"]
    start = time.monotonic()
    subprocess.run(command + (["--format", arguments.format] if arguments.format else []), check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    print(f"{arguments.side} x {arguments.side}: {time.monotonic() - start:.0f} s, peak {peak:.2f} GB")


def measure_borders(arguments: argparse.Namespace) -> None:
    """Compare predictions by tiles with those on whole scenes of digits, by distance from the borders of the tiles."""
    side, tile, overlap = arguments.side, 256, 64
    scenes = ["DATASETS.SCENES.IMAGE_SIZE", [side, side], "DATASETS.SCENES.NUM_OBJECTS", [70, 70]]
    cfg = load_config("Quickstart/mask_rcnn_R_18_FPN_digits.yaml", [*scenes, "DATASETS.SCENES.NUM_VAL", 10])
    image = load_dataset(cfg, "digits_val").records[arguments.scene].source.read()
    limits = ["MODEL.RPN.PRE_NMS_TOPK_TEST", NO_LIMIT, "MODEL.RPN.POST_NMS_TOPK_TEST", NO_LIMIT]
    settings = ["INPUT.MIN_SIZE_TEST", 0, "TEST.DETECTIONS_PER_IMAGE", NO_LIMIT, *limits]
    settings += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.3]
    whole = Predictor(DIGITS, overrides=settings)(image)
    tiled = Predictor(DIGITS, overrides=settings, tiles=tile, tile_overlap=overlap)(image)
    pairs = matched(whole, tiled)
    print(f"{len(whole)} on the whole scene, {len(tiled)} by tiles, {len(pairs)} in both")
    starts = [*range(0, side - tile, tile - overlap), side - tile]
    borders = [start for start in starts if start] + [start + tile for start in starts if start + tile < side]
    distance = np.array([distance_from(borders, whole.boxes[row].tolist()) for row, _, _ in pairs])
    scores = np.array([abs(float(whole.scores[row] - tiled.scores[other])) for row, other, _ in pairs])
    overlaps = np.array([iou for *_, iou in pairs])
    for low, high in pairwise(DISTANCES):
        if (rows := (distance >= low) & (distance < high)).any():
            worst = (
                f"largest difference of scores {scores[rows].max():.1e}, least IoU of masks {overlaps[rows].min():.3f}"
            )
            print(f"{low:3} to {high} pixels from a border: {rows.sum()} objects, {worst}")


def distance_from(borders: list[int], box: list[float]) -> float:
    """Pixels between a box and the nearest vertical or horizontal border; 0 if it crosses one."""
    sides = ((box[0], box[2]), (box[1], box[3]))
    return min(max(low - border, border - high, 0) for low, high in sides for border in borders)


def matched(first: Prediction, second: Prediction) -> list[tuple[int, int, float]]:
    """Pairs of objects of one class with a mask IoU of 0.5 or more, best first, each object once."""
    windows, others = mask_windows(first.detections), mask_windows(second.detections)
    candidates = []
    for row, window in enumerate(windows):
        for other, second_window in enumerate(others):
            if first.names[row] != second.names[other]:
                continue
            pixels, second_pixels = ({*zip(*np.nonzero(w.bitmap), strict=True)} for w in (window, second_window))
            pixels = {(y + window.y, x + window.x) for y, x in pixels}
            second_pixels = {(y + second_window.y, x + second_window.x) for y, x in second_pixels}
            iou = len(pixels & second_pixels) / max(len(pixels | second_pixels), 1)
            if iou >= 0.5:
                candidates.append((iou, row, other))
    pairs: list[tuple[int, int, float]] = []
    for iou, row, other in sorted(candidates, reverse=True):
        if all(row != used and other != also_used for used, also_used, _ in pairs):
            pairs.append((row, other, iou))
    return pairs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(required=True)
    memory = actions.add_parser("memory")
    memory.add_argument("--side", type=int, default=10_000)
    memory.add_argument("--suffix", choices=(".png", ".tif"), default=".png")
    memory.add_argument("--format", default="")
    memory.add_argument("--images", type=Path, default=Path("../shared/data/dsb2018"))
    memory.add_argument("--output", type=Path, default=Path("output/measure_tiles"))
    memory.set_defaults(measure=measure_memory)
    near = actions.add_parser("borders")
    near.add_argument("--side", type=int, default=512)
    near.add_argument("--scene", type=int, default=0)
    near.set_defaults(measure=measure_borders)
    given = parser.parse_args()
    given.measure(given)
