"""The work that is measured: one step of inference or training for each batch."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mrcnn_zoo.structures import Sample

LEARNING_RATE = 1e-9  # the optimizer does all its work, and the weights stay what they are
MOMENTUM = 0.9
MASK_THRESHOLD = 0.5

Steps = list[Callable[[], int]]  # one a batch; each returns the number of instances it found or was trained on
TorchvisionInput = tuple[list[Tensor], list[dict[str, Tensor]]]  # images, targets


def our_steps(model: nn.Module, batches: Sequence[list[Sample]], *, task: str, mask_form: str) -> Steps:
    """Steps of our model.

    Args:
        model: with `losses(samples)` and `predict(samples)`.
        batches: one step each.
        task: "inference" or "train".
        mask_form: "bitmap" or "rle".
    """
    if task == "train":
        optimizer = _training_mode(model)
        return [partial(_our_training_step, model, optimizer, batch) for batch in batches]
    model.eval()
    return [partial(_our_inference, model, batch, mask_form) for batch in batches]


def torchvision_steps(model: nn.Module, inputs: Sequence[TorchvisionInput], *, task: str, mask_form: str) -> Steps:
    """Steps of torchvision's model; arguments as for `our_steps`."""
    if task == "train":
        optimizer = _training_mode(model)
        return [partial(_torchvision_training_step, model, optimizer, *batch) for batch in inputs]
    model.eval()
    return [partial(_torchvision_inference, model, images, mask_form) for images, _ in inputs]


def torchvision_inputs(batch: list[Sample]) -> TorchvisionInput:
    """Images as float tensors and targets with full-image masks, which torchvision's models are trained with."""
    targets: list[dict[str, Tensor]] = []
    for sample in batch:
        if sample.targets is None:
            continue
        columns = {"boxes": sample.targets.boxes, "labels": sample.targets.classes + 1}
        if sample.targets.masks is not None:
            columns["masks"] = sample.targets.masks.bitmaps().to(torch.uint8)
        has_area = (columns["boxes"][:, 2:] > columns["boxes"][:, :2]).all(dim=1)  # it refuses others
        targets.append({name: column[has_area] for name, column in columns.items()})
    return [sample.image.float() for sample in batch], targets


def _training_mode(model: nn.Module) -> torch.optim.Optimizer:
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.SGD(trained, lr=LEARNING_RATE, momentum=MOMENTUM)


def _our_training_step(model: Any, optimizer: torch.optim.Optimizer, batch: list[Sample]) -> int:
    optimizer.zero_grad()
    model.losses(batch).total().backward()
    optimizer.step()
    return sum(len(sample.targets) for sample in batch if sample.targets is not None)


def _torchvision_training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: list[Tensor], targets: list[dict[str, Tensor]]
) -> int:
    device = next(model.parameters()).device
    images = [image.to(device) for image in images]
    moved = [{name: column.to(device) for name, column in target.items()} for target in targets]
    optimizer.zero_grad()
    sum(model(images, moved).values()).backward()
    optimizer.step()
    return sum(len(target["boxes"]) for target in targets)


def _our_inference(model: Any, batch: list[Sample], mask_form: str) -> int:
    with torch.no_grad():
        detections = model.predict(batch)
        for table in detections:
            if table.masks is not None:
                table.masks.rles() if mask_form == "rle" else table.masks.bitmaps()
    return sum(len(table) for table in detections)


def _torchvision_inference(model: nn.Module, images: list[Tensor], mask_form: str) -> int:
    device = next(model.parameters()).device
    with torch.no_grad():
        detections = model([image.to(device) for image in images])
        for table in detections:
            if "masks" in table:
                bitmaps = table["masks"][:, 0] > MASK_THRESHOLD
                if mask_form == "rle":
                    _encode(bitmaps)
    return sum(len(table["boxes"]) for table in detections)


def _encode(bitmaps: Tensor) -> list[dict[str, Any]]:
    from pycocotools import mask as coco_mask

    return [coco_mask.encode(np.asfortranarray(bitmap)) for bitmap in bitmaps.cpu().numpy().astype(np.uint8)]
