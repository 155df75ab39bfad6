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

NO_ROW = -1  # for a class that the file does not have
DETECTRON2_ZOO = "Detectron2 Model Zoo"  # "__author__" in its files; those of 80 classes are trained on COCO
# Layers with rows per class, or in which the classes compete with the background:
REGION_SCORES = re.compile(r"(^|\.)(box_predictor(\.\d+)?|classifier)\.cls_score\.(weight|bias)$")  # K + 1 rows
ANCHOR_SCORES = re.compile(r"(^|\.)head\.cls_score\.(weight|bias)$")  # A * K rows, those of an anchor together
BOX_DELTAS = re.compile(r"(^|\.)box_predictor(\.\d+)?\.bbox_pred\.(weight|bias)$")  # 4 * K rows, or 4 for all classes
MASKS = re.compile(r"(^|\.)mask_head\.(predictor|coarse_head\.prediction)\.(weight|bias)$")  # K, K + 1 or 1 maps
POINTS = re.compile(r"(^|\.)mask_head\.point_head\.\w+\.(weight|bias)$")  # K coarse logits are their last inputs
MASK_IOUS = re.compile(r"(^|\.)mask_iou_head\.predictor\.(weight|bias)$")  # K rows


def differs_in_input_channels(name: str, theirs: Shape, ours: Shape, *, input_channels: int) -> bool:
    """Whether a weight is that of the first convolution and fits except in its number of input channels.

    Args:
        name: of the weight in the model.
        theirs: its shape in the file.
        ours: its shape in the model.
        input_channels: of the model's images; 0 where unknown, then only a stem's convolution counts as the first.
    """
    is_first = STEM.search(name) or ("backbone" in name and ours[1:2] == (input_channels,))
    if not is_first or len(theirs) != 4 or len(ours) != 4:
        return False
    return theirs[1] != ours[1] and (theirs[0], *theirs[2:]) == (ours[0], *ours[2:])


def with_input_channels(weight: Tensor, channels: int) -> Tensor:
    """The filters of a first convolution for images with another number of channels.

    New channels repeat the old ones in turn, and the weight of an old channel is divided evenly among its copies. For
    fewer channels the weights of the old channels are added in turn. Either way the response to a grey image, equal in
    all channels, stays the same.

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


@dataclass(frozen=True)
class ClassNames:
    """The class names of a file and of a model, by class index; empty where they are not known."""

    file: tuple[str, ...]
    model: tuple[str, ...]

    @property
    def shared(self) -> list[str]:
        """The classes of the model that the file has."""
        return [name for name in self.model if name in self.file]

    def rows(self) -> Tensor:
        """(K,) int64: for each class of the model its index in the file, or NO_ROW."""
        return torch.tensor([self.file.index(name) if name in self.file else NO_ROW for name in self.model])


def stored_class_names(file: WeightsFile) -> tuple[str, ...]:
    """The class names in a file, or COCO's for files of Detectron2's zoo.

    Args:
        file: of our own or of Detectron2.

    Returns:
        By class index; empty where they are not known.
    """
    names = file.meta.get("class_names")
    if isinstance(names, list | tuple) and names:
        return tuple(str(name).strip() for name in names)
    if file.meta.get("__author__") == DETECTRON2_ZOO:
        is_keypoint_model = any(name.startswith("roi_heads.keypoint_head.") for name in file.weights)
        known = {len(COCO_CLASSES): COCO_CLASSES} | ({1: ("person",)} if is_keypoint_model else {})
        return known.get(stored_class_count(file.weights) or 0, ())
    return ()


def stored_class_count(weights: Mapping[str, Tensor]) -> int | None:
    """The number of classes of the region heads or of a RetinaNet.

    Args:
        weights: under our names, which are Detectron2's.

    Returns:
        None where no layer depends on the classes.
    """
    for name, tensor in weights.items():
        if REGION_SCORES.search(name):
            return len(tensor) - 1
    scores, deltas = weights.get("head.cls_score.bias"), weights.get("head.bbox_pred.bias")
    return None if scores is None or deltas is None else len(scores) // (len(deltas) // 4)


def rows_by_class(name: str, theirs: Tensor, ours: Tensor, *, classes: ClassNames, model: nn.Module) -> Tensor | None:
    """For each row of a layer of the model the row of the same class in the file's layer.

    Args:
        name: of the layer's weight or bias.
        theirs: its value in the file.
        ours: its value in the model.
        classes: of the file and of the model.
        model: with the layer; its mask head gives the number of maps.

    Returns:
        (rows of `ours`,) int64, NO_ROW for classes that the file does not have; None where all classes share the layer,
        or where the layouts differ.
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
    """For each input of a layer of the model the input of the same class of the file's layer.

    Args:
        name: see `rows_by_class`, as for the other arguments.
        theirs: its value in the file.
        ours: its value in the model.
        classes: of the file and of the model.
        model: with the layer; its point head gives the number of coarse logits.

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


def fill_by_class(theirs: Tensor, ours: Tensor, rows: Tensor | None, columns: Tensor | None = None) -> Tensor:
    """A copy of a model's weight, filled with the rows and columns that the file has.

    Args:
        theirs: its value in the file.
        ours: its value in the model.
        rows: from `rows_by_class`; None takes all rows in order.
        columns: from `columns_by_class`; None takes all columns in order.
    """
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
    """Each row index as those of `size` consecutive rows."""
    return torch.where(rows[:, None] == NO_ROW, NO_ROW, rows[:, None] * size + torch.arange(size)).flatten()
