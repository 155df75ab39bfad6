"""Seconds of the first and the second start of an optimised model, each in a process of its own with the same cache.

python -m dev.second_start --config COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml --optimize compiled --side 480
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

STARTS = 2
prepared: dict[str, Any] = {}  # the model and an image


def measure(config: str, way: str, side: int) -> None:
    """Print what a start takes: imports and model, first prediction, next prediction."""
    print(f"imports and model {seconds_of(lambda: prepare(config, way, side))}")
    print(f"first prediction  {seconds_of(predict)}")
    print(f"next prediction   {seconds_of(predict)}")


def prepare(config: str, way: str, side: int) -> None:
    """Build the model with random weights, and an image."""
    import torch

    from mrcnn_zoo.config import load_config
    from mrcnn_zoo.inference.optimization import build_optimized
    from mrcnn_zoo.modeling import build_model
    from mrcnn_zoo.structures import Sample

    cfg = load_config(config, ["MODEL.DEVICE=cpu", "MODEL.WEIGHTS=", f"MODEL.OPTIMIZE={way}"])
    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, side, side + side // 2), dtype=torch.uint8)
    prepared["sample"] = Sample(image, 1, (side, side + side // 2))
    prepared["model"] = build_optimized(cfg, build_model(cfg).eval(), lambda: [prepared["sample"]])


def predict() -> None:
    """One prediction."""
    prepared["model"].predict([prepared["sample"]])


def seconds_of(work: Callable[[], None]) -> str:
    """On the clock, and of this process's processor time."""
    started, used = time.perf_counter(), time.process_time()
    work()
    return f"{time.perf_counter() - started:6.1f} s, processor {time.process_time() - used:6.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--optimize", default="compiled")
    parser.add_argument("--side", type=int, default=480)
    parser.add_argument("--is-start", action="store_true", help="one start, in this process")
    arguments = parser.parse_args()
    if arguments.is_start:
        measure(arguments.config, arguments.optimize, arguments.side)
        return
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, STARTS + 1):
            print(f"start {number}", flush=True)
            command = [sys.executable, "-m", "dev.second_start", *sys.argv[1:], "--is-start"]
            subprocess.run(command, check=True, env=os.environ | {"MRCNN_ZOO_CACHE": folder})


if __name__ == "__main__":
    main()
