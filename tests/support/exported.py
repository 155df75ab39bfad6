"""Exported programs in tests: comparison with the model's detections, and a program whose detections are known."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mrcnn_zoo.choices import PT2
from mrcnn_zoo.config import load_config
from mrcnn_zoo.export import programs, writing
from mrcnn_zoo.inference.exported import ExportedDetector
from mrcnn_zoo.structures import Detections, ImageSize, ProbabilityMasks
from support.small_models import DIGITS

TOLERANCES = {"boxes": 0.01, "scores": 1e-4, "masks": 1e-3}  # pixels, probabilities
SIZE = (64, 96)  # of `KnownDetections`


class Differences(NamedTuple):
    """The largest differences of two lists of detections."""

    boxes: float  # pixels
    scores: float
    masks: float  # probabilities
    unmatched: int  # detections of either list that the other lacks

    @property
    def are_small(self) -> bool:
        return self.unmatched == 0 and all(getattr(self, name) < limit for name, limit in TOLERANCES.items())


def differences(found: Detections, expected: Detections) -> Differences:
    """Detections of one class are paired by box and score, as equal scores have no order."""
    distances = (expected.boxes[:, None] - found.boxes).abs().amax(dim=2)
    score_distances = (expected.scores[:, None] - found.scores).abs()
    is_other = (expected.classes[:, None] != found.classes) | (distances > 0.1) | (score_distances > 1e-3)
    costs = (distances + 1000 * score_distances).masked_fill(is_other, torch.inf)
    pairs = [(row, int(costs[row].argmin())) for row in range(len(expected)) if not is_other[row].all()]
    if not pairs:
        return Differences(0, 0, 0, len(found) + len(expected))
    rows, columns = torch.tensor(pairs).unbind(dim=1)
    masks = 0.0
    if isinstance(found.masks, ProbabilityMasks) and isinstance(expected.masks, ProbabilityMasks):
        masks = float((found.masks.probabilities[columns] - expected.masks.probabilities[rows]).abs().max())
    return Differences(
        boxes=float(distances[rows, columns].max()),
        scores=float(score_distances[rows, columns].max()),
        masks=masks,
        unmatched=len(expected) - len(rows) + len(found) - len(columns.unique()),
    )


def static_detector(model: nn.Module, size: ImageSize, *, to: str = PT2) -> ExportedDetector:
    """The module of fixed shapes before it is exported, for samples of any size up to `size`."""
    static = writing.build_static_detector(model, size, to=to)

    def run(image: Tensor, image_size: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return list(static(image, image_size))

    return ExportedDetector(programs.Program("", size, {}, run), min_size=0, max_size=max(size))


class KnownDetections(nn.Module):
    """Two detections, whatever the image: the second box is the whole image without padding."""

    def forward(self, image: Tensor, image_size: Tensor) -> tuple[Tensor, ...]:
        height, width = image_size.float().unbind()
        zero = height * 0 + image.mean() * 0
        whole = torch.stack((zero, zero, width, height))
        first = torch.stack((zero + 8, zero + 16, zero + 24, zero + 48))
        boxes = torch.stack((first, whole, whole * 0))
        masks = torch.ones(3, 28, 28) + zero
        return boxes, boxes.new_tensor([0.9, 0.6, 0.0]), torch.tensor([1, 0, 0]), torch.tensor(2), masks


def write_known_program(path: Path, **meta: object) -> Path:
    """A `.pt2` file of `KnownDetections` with the metadata of a model of two classes."""
    cfg = load_config(DIGITS, ["INPUT.MIN_SIZE_TEST=64", "INPUT.MAX_SIZE_TEST=96", "MODEL.ROI_HEADS.NUM_CLASSES=2"])
    content = {
        "format_version": programs.FORMAT_VERSION,
        "input_size": list(SIZE),
        "config": cfg.dump(),
        "class_names": ["cat", "dog"],
        "category_ids": [7, 3],
        **meta,
    }
    inputs = torch.zeros(1, 3, *SIZE), torch.tensor(SIZE)
    return writing.write_graph(KnownDetections(), inputs, path, content)
