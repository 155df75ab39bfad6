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
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))

from mrcnn_zoo.config import CfgNode, load_config  # noqa: E402
from mrcnn_zoo.data import Dataset, build_eval_loader, build_train_loader  # noqa: E402
from mrcnn_zoo.data.formats.dsb2018 import load_dsb2018  # noqa: E402
from mrcnn_zoo.evaluation.coco import build_coco_evaluator  # noqa: E402
from mrcnn_zoo.model_zoo import models  # noqa: E402
from mrcnn_zoo.modeling import build_model  # noqa: E402
from mrcnn_zoo.registries import ANNOTATION_FORMATS  # noqa: E402
from support.references import shared_folder  # noqa: E402
from support.round_trips import read_back, write_as  # noqa: E402

CONFIG = "Nuclei/mask_rcnn_R_18_FPN_small"
SMALL = (
    *("MODEL.DEVICE", "cpu", "INPUT.CROP.SIZE", [128, 128], "SOLVER.IMS_PER_BATCH", 2, "MODEL.RESNETS.NORM", "LN"),
    *("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8),
    *("MODEL.FPN.OUT_CHANNELS", 16, "MODEL.ROI_BOX_HEAD.FC_DIM", 32, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8),
)
EXACT = ("cityscapes", "coco", "labels", "masks", "rle_csv", "voc")
MAX_PIXELS = 256 * 320
LOSS_TOLERANCE, AP_TOLERANCE = 1e-6, 0.5
CLASS_OF_CITYSCAPES = "person"  # its classes have instance ids, which keep masks and their order


def nuclei(folder: Path, number: int) -> Dataset:
    """The first images without overlapping masks, as a dataset of the original format.

    Args:
        folder: empty; gets links to the folders of the images.
        number: of images.
    """
    root = shared_folder() / "data" / "dsb2018" / "stage1_train"
    whole = load_dsb2018("nuclei", root)
    for record in whole.records:
        height, width = record.image_size
        is_small = height * width <= MAX_PIXELS and len(record.instances) > 1
        if is_small and len(list(folder.iterdir())) < number:
            name = Path(record.source.name).relative_to(root).parts[0]
            (folder / name).symlink_to(root / name)
            if load_dsb2018("nuclei", folder).notes:
                (folder / name).unlink()
    return load_dsb2018("nuclei", folder)


def in_format(name: str, dataset: Dataset, folder: Path) -> Dataset:
    """The dataset, written in a format and read again.

    Args:
        name: of the format.
        dataset: to write.
        folder: new.
    """
    if name == "cityscapes":
        dataset = replace(dataset, class_names=(CLASS_OF_CITYSCAPES,))
    write_as(name, dataset, folder)
    detected, again = read_back(folder)
    assert detected == name
    if name == "cityscapes":  # the classes of Cityscapes without objects are left out
        records = [
            replace(record, instances=tuple(replace(item, class_index=0) for item in record.instances))
            for record in again.records
        ]
        again = replace(again, records=tuple(records), class_names=("nucleus",), category_ids=(1,))
    return again


def losses_of(dataset: Dataset, cfg: CfgNode, steps: int) -> list[dict[str, float]]:
    """The losses of each training step, from equal weights and with equal random numbers.

    Args:
        dataset: to train on.
        cfg: of the model and the data.
        steps: number of steps.
    """
    torch.manual_seed(0)
    model = build_model(cfg).train()
    optimizer = torch.optim.SGD([item for item in model.parameters() if item.requires_grad], lr=0.002, momentum=0.9)
    batches = iter(build_train_loader(cfg, [dataset], seed=1, is_first=False))
    found = []
    for step in range(steps):
        torch.manual_seed(1 + step)
        optimizer.zero_grad()
        output = model.losses(next(batches))
        output.total().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        found.append({name: loss.item() for name, loss in output.losses.items()})
    return found


def largest_difference(first: Sequence[dict[str, float]], second: Sequence[dict[str, float]]) -> float:
    """The largest relative difference of two lists of losses.

    Args:
        first: per step, by name.
        second: of as many steps.
    """
    pairs = [(one[name], other[name]) for one, other in zip(first, second, strict=True) for name in one]
    return max(abs(one - other) / max(abs(one), abs(other), 1e-6) for one, other in pairs)


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
