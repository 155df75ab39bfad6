"""Nuclei written in annotation formats, and the losses of training on them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data import Dataset, build_train_loader
from mrcnn_zoo.data.formats.dsb2018 import load_dsb2018
from mrcnn_zoo.data.paths import image_file_size
from mrcnn_zoo.modeling import build_model
from support.references import shared_folder
from support.round_trips import read_back, write_as

EXACT = ("cityscapes", "coco", "labels", "masks", "rle_csv", "voc")  # formats that keep masks pixel by pixel
SMALL = (
    *("MODEL.DEVICE", "cpu", "INPUT.CROP.SIZE", [128, 128], "SOLVER.IMS_PER_BATCH", 2, "MODEL.RESNETS.NORM", "LN"),
    *("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8),
    *("MODEL.FPN.OUT_CHANNELS", 16, "MODEL.ROI_BOX_HEAD.FC_DIM", 32, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8),
)
MAX_PIXELS = 256 * 320
CLASS_OF_CITYSCAPES = "person"  # its classes have instance ids, which keep masks and their order


def nuclei(folder: Path, number: int) -> Dataset:
    """The first images without overlapping masks, as a dataset of the original format.

    Args:
        folder: empty; gets links to the folders of the images.
        number: of images.
    """
    root = shared_folder() / "data" / "dsb2018" / "stage1_train"
    chosen, alone = folder / "chosen", folder / "alone"
    chosen.mkdir()
    for path in sorted(root.iterdir()):
        masks, images = list((path / "masks").iterdir()), list((path / "images").iterdir())
        height, width = image_file_size(images[0])
        if len(masks) < 2 or height * width > MAX_PIXELS:
            continue
        link = alone / path.name / path.name
        link.parent.mkdir(parents=True)
        link.symlink_to(path)
        if not load_dsb2018("nuclei", link.parent).notes:
            (chosen / path.name).symlink_to(path)
        if len(list(chosen.iterdir())) == number:
            break
    return load_dsb2018("nuclei", chosen)


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
