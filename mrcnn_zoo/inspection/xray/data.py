"""The recording of one image as plain data for the page of `page.py`: boxes of all stages, and how they follow.

All boxes are in hundredths of pixels of the resized image. A stage has a part of the rows of its report; `suppressedBy`
and `kept` are rows of this part, `sources` are places in `kept` of the stage before.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrcnn_zoo.inspection.canvas import Picture
from mrcnn_zoo.inspection.xray.maps import AnchorLevel, anchor_levels, feature_maps, score_maps
from mrcnn_zoo.inspection.xray.objects import XrayObject
from mrcnn_zoo.modeling.recording import Fate, Recording, StageReport, StageValues
from mrcnn_zoo.ops.rle import Rle
from mrcnn_zoo.ops.rle import area as rle_area
from mrcnn_zoo.ops.roi_pooling import rounded_to_cells
from mrcnn_zoo.structures import Detections, ImageSize
from mrcnn_zoo.structures.masks import ProbabilityMasks

PROPOSALS, BOXES, ORIGINAL = "proposals", "boxes", "original size"
MAX_ROWS = 6000  # of a stage
MAX_UNUSED_ROWS = 300  # of those that no later stage gets, because their score is too low
CLASSES_PER_REGION = 10
MASK_BYTES = 1 << 20  # of all mask probabilities
HUNDREDTHS = 100

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class XrayImage:
    """One image with the record of its prediction.

    Args:
        name: of the image file.
        picture: (H, W, 3) the resized image in RGB.
        original_size: (height, width) of the image file.
        recording: of a `predict` with this image alone.
        detections: its result, in pixels of the image file.
        class_names: of the model, by class index.
        objects: ground truth.
    """

    name: str
    picture: Picture
    original_size: ImageSize
    recording: Recording
    detections: Detections
    class_names: Sequence[str]
    objects: Sequence[XrayObject] = ()


def xray_data(image: XrayImage) -> dict[str, Any]:
    """All that the page shows of one image, as JSON-able values; see the module.

    Args:
        image: with a recording that has a report.
    """
    reports, values = image.recording.of_image(0), image.recording.values_of_image(0)
    ordered = list(reports.values())
    levels = anchor_levels(values) if "anchors" in values and ordered[0].stage in (PROPOSALS, BOXES) else []
    wanted = _wanted_rows(image.objects)
    parts = [_shown_rows(report, wanted.get(report.stage, set())) for report in ordered]
    scale = _scale(ordered[0].image_size, image.original_size)
    stages = [_stage_data(report, rows, scale) for report, rows in zip(ordered, parts, strict=True)]
    return {
        "image": _image_data(image),
        "classes": list(image.class_names),
        "levels": [level.as_data() for level in levels],
        "features": feature_maps(values["features"]) if "features" in values else [],
        "scoreMaps": score_maps(levels, _score_per_anchor(ordered[0], values)) if levels else [],
        "anchors": _anchor_data(ordered[0], parts[0], values, levels) if levels else None,
        "stages": stages,
        "regions": _region_data(values) if "class scores" in values else None,
        "detections": _detection_data(image),
        "masks": _mask_data(image.detections),
        "objects": [_object_data(item, ordered, parts, scale) for item in image.objects],
    }


def hundredths(boxes: Tensor) -> list[int]:
    """Boxes (R, 4) in pixels as a flat list of hundredths of pixels.

    Args:
        boxes: those that are not finite become 0.
    """
    rounded: list[int] = (
        (boxes.detach().cpu().double().nan_to_num(0, 0, 0) * HUNDREDTHS).round().long().flatten().tolist()
    )
    return rounded


def _scale(image_size: ImageSize, original_size: ImageSize) -> tuple[float, float]:
    """Pixels of the resized image per pixel of the image file: x, y."""
    return image_size[1] / original_size[1], image_size[0] / original_size[0]


def _wanted_rows(objects: Sequence[XrayObject]) -> dict[str, set[int]]:
    wanted: dict[str, set[int]] = {}
    for item in objects:
        for stage, rows in item.rows.items():
            wanted.setdefault(stage, set()).update(rows)
    return wanted


def _shown_rows(report: StageReport, wanted: set[int]) -> Rows:
    """The rows that are shown, best scores first: kept rows and their suppressors always, of others the best."""
    fates, scores = report.fates.cpu(), _finite(report.scores)
    order = scores.argsort(descending=True, stable=True)
    is_unused = ((fates == Fate.NOT_IN_TOP_K) | (fates == Fate.BELOW_THRESHOLD))[order]
    best = torch.cat((order[~is_unused][:MAX_ROWS], order[is_unused][:MAX_UNUSED_ROWS]))
    by = report.suppressed_by.cpu()[best]
    needed = torch.cat((best, report.kept.cpu(), by[by >= 0], torch.tensor(sorted(wanted), dtype=torch.int64)))
    is_shown = torch.zeros(len(fates), dtype=torch.bool)
    is_shown[needed] = True
    return order[is_shown[order]].numpy()


def _finite(scores: Tensor) -> Tensor:
    return scores.detach().cpu().double().nan_to_num(-1e9, 1e9, -1e9)


def _local(rows: Rows, count: int) -> Tensor:
    """Row of a report -> row of the shown part, or -1."""
    places = torch.full((count + 1,), -1, dtype=torch.int64)  # the last is the place of -1
    places[torch.from_numpy(rows)] = torch.arange(len(rows))
    return places


def _stage_data(report: StageReport, shown: Rows, scale: tuple[float, float]) -> dict[str, Any]:
    rows, local = torch.from_numpy(shown), _local(shown, len(report.fates))
    boxes = report.boxes.detach().cpu()[rows]
    if report.stage == ORIGINAL:
        boxes = boxes * torch.tensor(scale * 2)
    scores = _finite(report.scores)
    data = {
        "name": report.stage,
        "boxes": hundredths(boxes),
        "scores": [round(score, 4) for score in _probabilities(report, scores)[rows].tolist()],
        "classes": report.classes.cpu()[rows].tolist(),
        "sources": report.sources.cpu()[rows].tolist(),
        "fates": report.fates.cpu()[rows].tolist(),
        "suppressedBy": local[report.suppressed_by.cpu()[rows]].tolist(),
        "kept": local[report.kept.cpu()].tolist(),
        "counts": report.counts(),
        "total": len(report.fates),
    }
    if report.stage == PROPOSALS:
        data["ranks"] = _ranks(scores, report.classes.cpu())[rows].tolist()
    return data


def _probabilities(report: StageReport, scores: Tensor) -> Tensor:
    return scores.sigmoid() if report.stage == PROPOSALS else scores


def _ranks(scores: Tensor, levels: Tensor) -> Tensor:
    """Rank of each score within its level, from 1; the first of equal ones is the better."""
    ranks = torch.zeros_like(levels)
    for level in levels.unique():
        rows = (levels == level).nonzero().flatten()
        ranks[rows[scores[rows].argsort(descending=True, stable=True)]] = torch.arange(1, len(rows) + 1)
    return ranks


def _score_per_anchor(report: StageReport, values: Mapping[str, StageValues]) -> Tensor:
    """(A,) the objectness, or the highest class score, of each anchor."""
    count = len(values["anchors"].values["boxes"])
    scores = _probabilities(report, _finite(report.scores))
    return torch.zeros(count, dtype=torch.float64).scatter_reduce(0, report.sources.cpu(), scores, "amax")


def _anchor_data(
    report: StageReport, shown: Rows, values: Mapping[str, StageValues], levels: Sequence[AnchorLevel]
) -> dict[str, Any]:
    """The anchors of the shown rows of the first stage: boxes, levels, and cells as row, column, shape."""
    anchors = report.sources.cpu()[torch.from_numpy(shown)]
    of_levels = values["anchors"].values["levels"].cpu()[anchors]
    cells = [levels[level].cell_of(anchor) for anchor, level in zip(anchors.tolist(), of_levels.tolist(), strict=True)]
    return {
        "boxes": hundredths(values["anchors"].values["boxes"].cpu()[anchors]),
        "levels": of_levels.tolist(),
        "cells": [number for cell in cells for number in cell],
        "total": len(values["anchors"].values["boxes"]),
    }


def _region_data(values: Mapping[str, StageValues]) -> dict[str, Any]:
    """The regions of the box head: boxes, best classes with scores in 1/10,000, and what they are pooled from."""
    table = values["class scores"]
    scores = table.values["scores"].detach().cpu().double().nan_to_num(0, 0, 0)
    best = scores.topk(min(CLASSES_PER_REGION, scores.shape[1]), dim=1)
    pooling = values.get("box pooling")
    boxes = (pooling or table).values["boxes"]  # of a cascade: before the first stage
    return {
        "boxes": hundredths(boxes),
        "classes": best.indices.tolist(),
        "scores": (best.values * 10_000).round().long().tolist(),
        "threshold": table.settings["score_threshold"],
        "pooling": None if pooling is None else _pooling_data(pooling),
    }


def _pooling_data(pooling: StageValues) -> dict[str, Any]:
    levels = pooling.values["levels"].cpu()
    strides = torch.tensor(pooling.settings["strides"], dtype=torch.float64)
    operation = str(pooling.settings["operation"])
    areas = pooled_areas(pooling.values["boxes"].detach().cpu().double(), strides[levels], operation)
    return {
        "levels": levels.tolist(),
        "names": list(pooling.settings["names"]),
        "strides": list(pooling.settings["strides"]),
        "side": pooling.settings["side"],
        "areas": hundredths(areas),
        "operation": operation.removeprefix("FunctionPooling(").removesuffix(")"),
        "hasRoundedBins": "roi_pool" in operation,
    }


def pooled_areas(boxes: Tensor, strides: Tensor, operation: str) -> Tensor:
    """The part of the image that is divided into bins, which differs from the box where the operation rounds or shifts.

    Args:
        boxes: (R, 4) pixels.
        strides: (R,) pixels per cell of the map of each box.
        operation: text of the pooling operation.

    Returns:
        (R, 4) pixels.
    """
    cells = boxes / strides[:, None]
    if "roi_pool" in operation or "rounded" in operation:
        rounded = rounded_to_cells(torch.nn.functional.pad(cells, (1, 0)), scale=1.0)[:, 1:]
        return rounded * strides[:, None]
    if "to_last_pixel" in operation:
        cells = torch.cat((boxes[:, :2], boxes[:, 2:] - 1), dim=1) / strides[:, None]
    if "aligned=False" in operation or "to_last_pixel" in operation:  # half a cell to the right and down
        first = cells[:, :2] + 0.5
        return torch.cat((first, first + (cells[:, 2:] - cells[:, :2]).clamp(min=1)), dim=1) * strides[:, None]
    return boxes


def _detection_data(image: XrayImage) -> list[dict[str, Any]]:
    """The result in pixels of the image file, with the row of the last report."""
    last = list(image.recording.of_image(0).values())[-1]
    found = image.detections
    if last.stage == ORIGINAL:
        places = torch.arange(len(found))
    else:  # a proposal network, which drops empty boxes
        boxes = last.boxes[last.kept]
        places = ((boxes[:, 2:] > boxes[:, :2]).all(dim=1)).nonzero().flatten()[: len(found)].cpu()
    masks = [None] * len(found) if found.masks is None else found.masks.rles()
    columns = zip(places.tolist(), found.boxes.tolist(), found.scores.tolist(), found.classes.tolist(), strict=True)
    return [
        {
            "place": place,  # in `kept` of the last stage
            "box": [round(edge, 1) for edge in box],
            "score": round(score, 4),
            "class": index,
            "mask": None if rle is None else _rle_text(rle),
            "area": None if rle is None else int(rle_area(rle)),
        }
        for (place, box, score, index), rle in zip(columns, masks, strict=True)
    ]


def _rle_text(rle: Rle) -> str:
    counts = rle["counts"]
    return counts if isinstance(counts, str) else bytes(counts).decode("ascii")


def _mask_data(found: Detections) -> dict[str, Any] | None:
    """Mask probabilities of the best detections in 1/255, as base64 of M x M bytes each."""
    masks = found.masks
    if not isinstance(masks, ProbabilityMasks) or not len(masks):
        return None
    side = masks.probabilities.shape[-1]
    best = masks.probabilities[: max(1, MASK_BYTES // side**2)]
    pixels = (best.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    encoded = [base64.b64encode(mask.tobytes()).decode("ascii") for mask in pixels]
    return {"side": side, "threshold": masks.threshold, "values": encoded}


def _object_data(
    item: XrayObject, reports: Sequence[StageReport], parts: Sequence[Rows], scale: tuple[float, float]
) -> dict[str, Any]:
    rows = {
        report.stage: _local(part, len(report.fates))[list(item.rows[report.stage])].tolist()
        for report, part in zip(reports, parts, strict=True)
        if report.stage in item.rows
    }
    return {
        "name": item.name,
        "box": hundredths(torch.tensor([item.box]) * torch.tensor(scale * 2)),
        "mask": None if item.mask is None else _rle_text(item.mask),
        "crowd": item.is_crowd,
        "state": item.state,
        "text": item.text,
        "step": item.step,
        "detection": item.detection,
        "best": {name: round(value, 2) for name, value in item.best.items()},
        "rows": rows,
    }


def _image_data(image: XrayImage) -> dict[str, Any]:
    height, width = image.picture.shape[:2]
    return {
        "name": image.name,
        "width": width,
        "height": height,
        "originalHeight": image.original_size[0],
        "originalWidth": image.original_size[1],
    }
