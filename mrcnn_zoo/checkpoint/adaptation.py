"""Weights adapted to another number of input channels or to other classes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mrcnn_zoo.checkpoint.report import Shape
from mrcnn_zoo.checkpoint.sources import WeightsFile
from mrcnn_zoo.interop.coco_classes import COCO_CLASSES

STEM = re.compile(r"(^|\.)stem\.conv1\.weight$")


def differs_in_input_channels(name: str, theirs: Shape, ours: Shape, *, input_channels: int) -> bool:
    """Whether a weight is the one that looks at the image, and fits but for the number of its channels.

    Args:
        name: of the weight in the model.
        theirs: its shape in the file.
        ours: its shape in the model.
        input_channels: of the images that the model takes; 0 when unknown, then it is told by the name of the stem.
    """
    looks_at_image = STEM.search(name) or ("backbone" in name and ours[1:2] == (input_channels,))
    if not looks_at_image or len(theirs) != 4 or len(ours) != 4:
        return False
    return theirs[1] != ours[1] and (theirs[0], *theirs[2:]) == (ours[0], *ours[2:])


def with_input_channels(weight: Tensor, channels: int) -> Tensor:
    """The same filters for images with another number of channels.

    More channels: they repeat the old ones in turn, and an old channel's weight is shared out evenly among its copies.
    Fewer: the weights of the old channels that fall together are added. Either way a grey image, equal in all channels,
    gets the same response as before.

    Args:
        weight: (D, C, h, w).
        channels: at least 1.
    """
    old = weight.shape[1]
    if channels <= old:
        result = weight.new_zeros((len(weight), channels, *weight.shape[2:]))
        return result.index_add_(1, torch.arange(old) % channels, weight)
    origin = torch.arange(channels) % old
    copies = torch.bincount(origin, minlength=old).to(weight.dtype)
    return (weight / copies[:, None, None])[:, origin]


NO_ROW = -1  # a row of a class that the file does not have
DETECTRON2_ZOO = "Detectron2 Model Zoo"  # "__author__" of its files; those of 80 classes are COCO's
REGION_SCORES = re.compile(r"(^|\.)box_predictor(\.\d+)?\.cls_score\.(weight|bias)$")  # K + 1 rows
ANCHOR_SCORES = re.compile(r"(^|\.)head\.cls_score\.(weight|bias)$")  # A K rows, the classes of an anchor together
BOX_DELTAS = re.compile(r"(^|\.)box_predictor(\.\d+)?\.bbox_pred\.(weight|bias)$")  # 4 K rows, or 4 for all classes
# K maps, 1 for all classes, or K + 1 that compete.
MASKS = re.compile(r"(^|\.)mask_head\.(predictor|coarse_head\.prediction)\.(weight|bias)$")
# PointRend's point head: layers that see K logits of the coarse mask after their other inputs.
POINTS = re.compile(r"(^|\.)mask_head\.point_head\.\w+\.(weight|bias)$")
MASK_IOUS = re.compile(r"(^|\.)mask_iou_head\.predictor\.(weight|bias)$")  # K rows


@dataclass(frozen=True)
class ClassNames:
    """The classes of a file and of a model, by class index."""

    file: tuple[str, ...]
    model: tuple[str, ...]

    @property
    def shared(self) -> list[str]:
        """The classes of the model that the file has."""
        return [name for name in self.model if name in self.file]

    def rows(self) -> Tensor:
        """(K,) int64: the class of the file for each class of the model, NO_ROW where there is none."""
        return torch.tensor([self.file.index(name) if name in self.file else NO_ROW for name in self.model])


def stored_class_names(file: WeightsFile) -> tuple[str, ...]:
    """The class names in a file, or those that are known of its source; empty where neither tells."""
    names = file.meta.get("class_names")
    if isinstance(names, list | tuple) and names:
        return tuple(str(name).strip() for name in names)
    if file.meta.get("__author__") == DETECTRON2_ZOO:
        is_keypoint_model = any(name.startswith("roi_heads.keypoint_head.") for name in file.weights)
        known = {len(COCO_CLASSES): COCO_CLASSES} | ({1: ("person",)} if is_keypoint_model else {})
        return known.get(stored_class_count(file.weights) or 0, ())
    return ()


def stored_class_count(weights: Mapping[str, Tensor]) -> int | None:
    """The number of classes of region heads under our names, which are Detectron2's; None where there are none."""
    for name, tensor in weights.items():
        if REGION_SCORES.search(name):
            return len(tensor) - 1
    scores, deltas = weights.get("head.cls_score.bias"), weights.get("head.bbox_pred.bias")
    return None if scores is None or deltas is None else len(scores) // (len(deltas) // 4)


def rows_by_class(name: str, theirs: Tensor, ours: Tensor, *, classes: ClassNames, model: nn.Module) -> Tensor | None:
    """For each row of a layer of the model the row of the file's layer of the same class.

    Args:
        name: of the layer's weight or bias.
        theirs: of the file.
        ours: of the model.
        classes: by which the rows are found.
        model: asked how many masks its mask head predicts.

    Returns:
        (rows of `ours`,) int64, NO_ROW for classes that the file does not have; None for a layer that all classes share
        or that has another layout.
    """
    num_theirs, num_ours = len(classes.file), len(classes.model)
    shapes = (len(theirs), len(ours))
    rows = classes.rows()
    if POINTS.search(name):
        is_predicted = ".predictor." in name and shapes == (num_theirs, num_ours) != (1, 1)
        return rows if is_predicted else None
    if theirs.shape[1:] != ours.shape[1:]:
        return None
    if REGION_SCORES.search(name):
        background = torch.tensor([num_theirs])
        return torch.cat([rows, background]) if shapes == (num_theirs + 1, num_ours + 1) else None
    if ANCHOR_SCORES.search(name):
        return _rows_of_anchors(rows, shapes, num_theirs)
    if BOX_DELTAS.search(name):
        is_shared = num_theirs == num_ours == 1
        return _in_blocks(rows, 4) if shapes == (4 * num_theirs, 4 * num_ours) and not is_shared else None
    if MASK_IOUS.search(name):
        return rows if shapes == (num_theirs, num_ours) else None
    if MASKS.search(name):
        return _rows_of_masks(rows, shapes, num_theirs, model.get_submodule(name.rsplit(".", 2)[0]))
    return None


def columns_by_class(
    name: str, theirs: Tensor, ours: Tensor, *, classes: ClassNames, model: nn.Module
) -> Tensor | None:
    """For each input of a layer of the model the input of the file's layer of the same class; see `rows_by_class`.

    Returns:
        (inputs of `ours`,) int64, NO_ROW for classes that the file does not have; None where no input is of a class.
    """
    num_theirs, num_ours = len(classes.file), len(classes.model)
    if not POINTS.search(name) or ours.dim() < 2 or num_theirs == num_ours == 1:
        return None
    head_name, layer, _ = name.rsplit(".", 2)
    num_others = ours.shape[1] - num_ours
    num_coarse = getattr(model.get_submodule(head_name), "num_coarse_inputs", {}).get(layer, 0)
    if num_coarse != num_ours or theirs.shape[1] - num_theirs != num_others:
        return None
    rows = classes.rows()
    return torch.cat([torch.arange(num_others), torch.where(rows == NO_ROW, NO_ROW, rows + num_others)])


def filled_by_class(theirs: Tensor, ours: Tensor, rows: Tensor | None, columns: Tensor | None = None) -> Tensor:
    """A model's layer with what the file has; see `rows_by_class` and `columns_by_class`."""
    rows = torch.arange(len(ours)) if rows is None else rows
    filled = ours.detach().clone()
    known_rows = (rows != NO_ROW).nonzero().flatten()
    if columns is None:
        filled[known_rows.to(filled.device)] = theirs[rows[known_rows]].to(filled)
        return filled
    known = (columns != NO_ROW).nonzero().flatten()
    copied = theirs[rows[known_rows]][:, columns[known]]
    filled[known_rows[:, None].to(filled.device), known.to(filled.device)] = copied.to(filled)
    return filled


def _rows_of_anchors(rows: Tensor, shapes: Sequence[int], num_theirs: int) -> Tensor | None:
    num_anchors = shapes[0] // num_theirs
    if (num_anchors * num_theirs, num_anchors * len(rows)) != tuple(shapes):
        return None
    starts = torch.arange(num_anchors)[:, None] * num_theirs
    return torch.where(rows == NO_ROW, NO_ROW, rows + starts).flatten()


def _rows_of_masks(rows: Tensor, shapes: Sequence[int], num_theirs: int, head: nn.Module) -> Tensor | None:
    num_maps = getattr(head, "num_maps", len(rows))
    if num_maps != len(rows) or num_theirs == len(rows) == 1:
        return None  # one mask for all classes
    values = getattr(head, "mask_side", 1) ** 2  # of a map: fully connected layers have a row for each of its pixels
    num_others = shapes[1] // values - len(rows)  # the background's map, last, where the maps compete
    if num_others not in (0, 1) or shapes[0] != values * (num_theirs + num_others):
        return None
    return _in_blocks(torch.cat([rows, torch.arange(num_theirs, num_theirs + num_others)]), values)


def _in_blocks(rows: Tensor, size: int) -> Tensor:
    """Each row as `size` rows that follow each other."""
    return torch.where(rows[:, None] == NO_ROW, NO_ROW, rows[:, None] * size + torch.arange(size)).flatten()
