"""Trains ten steps on nuclei written in each annotation format, and evaluates the packaged model on each.

python dev/check_nuclei_formats.py [--images 40] [--steps 10] [--formats coco yolo]

The losses of formats that keep masks pixel by pixel must be those of the original files within 1e-6, the AP of all
within 0.5. The images are the first of ../shared/data/dsb2018 without overlapping masks, at most 256 x 320 pixels.
"""

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))

from mrcnn_zoo.config import CfgNode, load_config  # noqa: E402
from mrcnn_zoo.data import Dataset, build_eval_loader  # noqa: E402
from mrcnn_zoo.evaluation.coco import build_coco_evaluator  # noqa: E402
from mrcnn_zoo.model_zoo import models  # noqa: E402
from mrcnn_zoo.registries import ANNOTATION_FORMATS  # noqa: E402
from support.nuclei_formats import EXACT, SMALL, in_format, largest_difference, losses_of, nuclei  # noqa: E402

CONFIG = "Nuclei/mask_rcnn_R_18_FPN_small"
LOSS_TOLERANCE, AP_TOLERANCE = 1e-6, 0.5


def predictions_of(dataset: Dataset, cfg: CfgNode, model: torch.nn.Module) -> list[Any]:
    """Samples and detections of the packaged model.

    Args:
        dataset: of the original format.
        cfg: of the model.
        model: in evaluation mode.
    """
    found = []
    with torch.no_grad():
        for samples in build_eval_loader(cfg, dataset):
            found.append((samples, model.predict(samples)))
    return found


def ap_of(dataset: Dataset, cfg: CfgNode, predictions: Sequence[Any]) -> tuple[float, float]:
    """AP of boxes and of masks.

    Args:
        dataset: with the annotations that count.
        cfg: of the evaluation.
        predictions: see `predictions_of`.
    """
    evaluator = build_coco_evaluator(cfg, dataset)
    for samples, detections in predictions:
        evaluator.process(samples, detections)
    results = evaluator.evaluate()
    return results["bbox"]["AP"], results["segm"]["AP"]


def main() -> int:
    """Print the table; the number of formats beyond a tolerance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--formats", nargs="*", default=ANNOTATION_FORMATS.names())
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "original")
        folder.mkdir()
        original = nuclei(folder, arguments.images)
        small, cfg = load_config(f"{CONFIG}.yaml", SMALL), load_config(f"{CONFIG}.yaml", ["MODEL.DEVICE", "cpu"])
        losses = losses_of(original, small, arguments.steps)
        predictions = predictions_of(original, cfg, models.get(CONFIG, trained=True).eval())
        expected = ap_of(original, cfg, predictions)
        rows, failures = [["original", "", *expected, ""]], 0
        for name in arguments.formats:
            dataset = in_format(name, original, Path(place, name))
            difference = largest_difference(losses_of(dataset, small, arguments.steps), losses)
            found = ap_of(dataset, cfg, predictions)
            is_far = max(abs(one - other) for one, other in zip(found, expected, strict=True)) > AP_TOLERANCE
            is_wrong = is_far or (name in EXACT and difference > LOSS_TOLERANCE)
            rows.append([name, f"{difference:.1e}", *found, "beyond the tolerance" if is_wrong else ""])
            failures += is_wrong
    headers = ["format", "largest relative difference of a loss", "box AP", "mask AP", ""]
    print(f"{original.summary()}; {arguments.steps} steps")
    print(tabulate(rows, headers, floatfmt=".2f", disable_numparse=[1]))
    return failures


if __name__ == "__main__":
    sys.exit(main())
