"""Candidates in which no IoU threshold separates duplicates from objects, without images and without a detector.

Pairs of objects cover each other by an IoU of 0.5 to 0.7, and the boxes of each are within a few pixels of it. The
boxes of an isolated object are spread: most have an IoU of 0.45 to 0.75 with it. A low threshold removes the second
object of each pair, a high one keeps the duplicates of the isolated ones. The pattern of the boxes distinguishes them:
an object of a pair has boxes close to its own.
"""

import torch
from torch import Tensor

from mrcnn_zoo.modeling.contracts import Candidates
from mrcnn_zoo.structures import Targets

CELL = 110  # pixels; each pair or isolated object is in a cell of its own
CELLS_PER_SIDE = 3
IMAGE_SIZE = (CELL * CELLS_PER_SIDE, CELL * CELLS_PER_SIDE)
BOXES_PER_OBJECT = 6
PAIR_IOU = (0.5, 0.7)
SPREAD_IOU = (0.45, 0.75)
DEVIATION = 0.015  # of a side of a close box, as a share of the side


def constructed_scenes(count: int, *, seed: int) -> tuple[Candidates, list[Targets]]:
    """A batch of scenes.

    Args:
        count: number of scenes.
        seed: equal seeds give equal scenes.

    Returns:
        The candidates of all scenes, of one class and in random order in each, and the objects of each scene.
    """
    generator = torch.Generator().manual_seed(seed)
    scenes = [_scene(generator) for _ in range(count)]
    boxes, scores = torch.cat([scene[0] for scene in scenes]), torch.cat([scene[1] for scene in scenes])
    counts = [len(scene[0]) for scene in scenes]
    candidates = Candidates(
        boxes=boxes,
        scores=scores,
        classes=torch.zeros(len(boxes), dtype=torch.int64),
        images=torch.arange(count).repeat_interleave(torch.tensor(counts)),
        image_sizes=[IMAGE_SIZE] * count,
        counts=counts,
        num_classes=1,
    )
    targets = [Targets(IMAGE_SIZE, objects, torch.zeros(len(objects), dtype=torch.int64)) for _, _, objects in scenes]
    return candidates, targets


def _scene(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (R, 4) and scores (R,) of the candidates, and the objects (G, 4)."""
    boxes, scores, objects = [], [], []
    for cell in range(CELLS_PER_SIDE**2):
        corner = CELL * torch.tensor([cell % CELLS_PER_SIDE, cell // CELLS_PER_SIDE])
        sides = _uniform(generator, (2,), 30, 55)
        first = torch.cat((corner + 25, corner + 25 + sides))
        if torch.rand((), generator=generator) < 0.5:
            members = [first, _with_iou(first, PAIR_IOU, generator)]
            found = [_close(member, BOXES_PER_OBJECT, generator) for member in members]
        else:
            members = [first]
            spread = [_with_iou(first, SPREAD_IOU, generator) for _ in range(BOXES_PER_OBJECT - 1)]
            found = [torch.stack([_close(first, 1, generator)[0], *spread])]
        objects += members
        for of_object in found:
            best = _uniform(generator, (1,), 0.6, 0.95)
            boxes.append(of_object)
            scores.append(torch.cat((best, best - _uniform(generator, (len(of_object) - 1,), 0.01, 0.15))))
    order = torch.randperm(sum(map(len, boxes)), generator=generator)
    return torch.cat(boxes)[order], torch.cat(scores)[order], torch.stack(objects)


def _close(box: Tensor, count: int, generator: torch.Generator) -> Tensor:
    sides = (box[2:] - box[:2]).repeat(2)
    return box + torch.randn((count, 4), generator=generator) * DEVIATION * sides


def _with_iou(box: Tensor, bounds: tuple[float, float], generator: torch.Generator) -> Tensor:
    """A box of the same size, moved along a random direction until its IoU is a random one within the bounds."""
    iou = _uniform(generator, (), *bounds)
    share = 2 * iou / (1 + iou)  # of the area that both have in common
    exponent = torch.rand((), generator=generator)
    common = torch.stack((share**exponent, share ** (1 - exponent)))
    signs = 1 - 2 * torch.randint(0, 2, (2,), generator=generator)
    return box + (signs * (1 - common) * (box[2:] - box[:2])).repeat(2)


def _uniform(generator: torch.Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    return low + torch.rand(shape, generator=generator) * (high - low)
