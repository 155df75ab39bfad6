"""What to change against the largest loss of the recall funnel, with numbers of the objects that are lost."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.rules import section_of_boxes
from mrcnn_zoo.errors import counted
from mrcnn_zoo.evaluation.funnel.anchor_fit import fit_anchors, levels_overlaps
from mrcnn_zoo.evaluation.funnel.lost_reasons import ANCHORS, BOX_HEAD, FOUND, NMS, SUPPRESSION, TOP_K, Reason

MOST = 0.9  # share of the lost objects that a suggested limit lets pass
LARGEST_RISE = 4  # of a suggested limit, as a multiple of the present one
LOWER_THRESHOLD = 0.2  # a suggested score threshold, as a share of the present one
CONFUSIONS_SHOWN = 3
LEAST_GAIN = 0.02  # in the share of covered objects, for which anchors are suggested
GRIDS = ("DefaultAnchorGenerator", "RoundedAnchorGenerator", "TorchvisionAnchorGenerator")

DETECTIONS = "TEST.DETECTIONS_PER_IMAGE"


@dataclass(frozen=True, slots=True)
class TracedObject:
    """What the funnel keeps of one object."""

    image_id: int | str
    annotation_id: int
    class_name: str
    size: str  # "small", "medium" or "large", by the area of the annotation
    box: tuple[float, ...]  # x1 y1 x2 y2, pixels of the original image
    network_box: tuple[float, ...]  # the same in pixels of the resized image
    stage: str  # at which it is lost, or FOUND
    reason: Reason
    sentence: str
    ious: tuple[float, ...]  # of the best box of each stage
    predicted: str = ""  # class name of a misclassified box
    score: float = math.nan
    rank: int = -1

    @property
    def is_found(self) -> bool:
        """Whether no stage loses it."""
        return self.stage == FOUND


@dataclass(frozen=True)
class ModelSettings:
    """The present values of the keys that advice names.

    Args:
        values: by key.
        boxes: section of the thresholds of boxes, e.g. "MODEL.ROI_HEADS".
        proposals: section of the selection of proposals, e.g. "MODEL.RPN".
        in_features: names of the maps that have anchors.
        is_grid: whether anchors are sizes and ratios on a grid.
        sizes_per_level: number of anchor sizes.
        num_ratios: number of aspect ratios.
        offset: of the grid.
        iou: least overlap.
        across_levels: whether the top-k is that of all levels together; ranks are those within a level.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    boxes: str = "MODEL.ROI_HEADS"
    proposals: str = "MODEL.RPN"
    in_features: tuple[str, ...] = ()
    is_grid: bool = True
    sizes_per_level: int = 1
    num_ratios: int = 3
    offset: float = 0.0
    iou: float = 0.5
    across_levels: bool = False

    def now(self, key: str) -> str:
        """The key with its present value."""
        return f"{key} (now {self.values[key]})" if key in self.values else key


def build_model_settings(cfg: CfgNode) -> ModelSettings:
    """The keys that advice names, of a model's config."""
    boxes = section_of_boxes(cfg)
    proposals = "MULTIBOX" if cfg.MODEL.PROPOSAL_GENERATOR.NAME == "MultiBox" else "RPN"
    prefix = "" if proposals == "MULTIBOX" else "_TEST"
    box_keys, proposal_keys = cfg.MODEL[boxes], cfg.MODEL[proposals]
    anchors = cfg.MODEL.ANCHOR_GENERATOR
    return ModelSettings(
        values={
            f"MODEL.{proposals}.PRE_NMS_TOPK{prefix}": proposal_keys[f"PRE_NMS_TOPK{prefix}"],
            f"MODEL.{proposals}.POST_NMS_TOPK_TEST": proposal_keys.POST_NMS_TOPK_TEST,
            f"MODEL.{proposals}.NMS_THRESH": proposal_keys.NMS_THRESH,
            f"MODEL.{boxes}.NMS_THRESH_TEST": box_keys.NMS_THRESH_TEST,
            f"MODEL.{boxes}.SCORE_THRESH_TEST": box_keys.SCORE_THRESH_TEST,
            f"MODEL.{boxes}.SUPPRESSION": box_keys.SUPPRESSION,
            "MODEL.RETINANET.TOPK_CANDIDATES_TEST": cfg.MODEL.RETINANET.TOPK_CANDIDATES_TEST,
            "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION,
            DETECTIONS: cfg.TEST.DETECTIONS_PER_IMAGE,
        },
        boxes=f"MODEL.{boxes}",
        proposals=f"MODEL.{proposals}",
        in_features=tuple((cfg.MODEL.RETINANET if boxes == "RETINANET" else cfg.MODEL.RPN).IN_FEATURES),
        is_grid=anchors.NAME in GRIDS and proposals == "RPN",
        sizes_per_level=max(map(len, anchors.SIZES)),
        num_ratios=max(map(len, anchors.ASPECT_RATIOS)),
        offset=anchors.OFFSET,
        across_levels=proposals == "RPN" and cfg.MODEL.RPN.ACROSS_LEVELS,
    )


Lost = Sequence[TracedObject]


def advise(objects: Lost, settings: ModelSettings, strides: Mapping[str, int]) -> str:
    """The largest loss and what to change.

    Args:
        objects: of one task.
        settings: of the model.
        strides: of the maps of the backbone by name.
    """
    groups = Counter((item.stage, item.reason) for item in objects if not item.is_found)
    if not groups:
        return "No object is lost."
    (stage, reason), count = groups.most_common(1)[0]
    lost = [item for item in objects if (item.stage, item.reason) == (stage, reason)]
    share = 100 * count / len(objects)
    first = f"Largest loss: {count:,} of {counted(len(objects), 'object')} ({share:.1f} %) at {stage}: {reason.value}."
    if stage == ANCHORS:
        return f"{first} {_anchors(objects, lost, settings, [strides.get(name, 0) for name in settings.in_features])}"
    advice = OF_STAGE.get((stage, reason)) or OF_REASON.get(reason)
    text = f"{first} {advice(lost, settings)}" if advice else first
    if stage in (TOP_K, NMS) and any(item.reason == Reason.BEYOND_DETECTIONS for item in objects):
        text += f" Raise {settings.now(DETECTIONS)}, too: images reach it, and more proposals give more detections."
    return text


def _anchors(objects: Lost, lost: Lost, settings: ModelSettings, strides: Sequence[int]) -> str:
    if not settings.is_grid or not strides or not all(strides):
        return "The anchors do not fit these objects."
    boxes = torch.tensor([item.network_box for item in objects])
    fit = fit_anchors(
        boxes,
        strides,
        sizes_per_level=settings.sizes_per_level,
        num_ratios=settings.num_ratios,
        iou=settings.iou,
        offset=settings.offset,
    )
    now, now_lost = (
        _share(item.ious[0] >= settings.iou for item in objects),
        _share(i.ious[0] >= settings.iou for i in lost),
    )
    own = levels_overlaps(
        torch.tensor([item.network_box for item in lost]),
        fit.sizes,
        fit.ratios,
        strides=strides,
        offset=settings.offset,
    )
    then_lost = float((own >= settings.iou).float().mean())
    text = (
        f"With anchors fitted to all objects, {100 * fit.covered:.1f} % of the objects have an anchor of IoU "
        f"{settings.iou:g} (now {100 * now:.1f} %), and {100 * then_lost:.1f} % of those lost here "
        f"(now {100 * now_lost:.1f} %)."
    )
    if fit.covered - now < LEAST_GAIN and then_lost - now_lost < 0.5:
        sides = np.sqrt([(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (item.network_box for item in lost)])
        return (
            f"{text} Other sizes and ratios hardly help: half of the lost objects are smaller than "
            f"{np.median(sides):.0f} pixels, and the finest map has stride {min(strides)}. Enlarge the images "
            "(INPUT.MIN_SIZE_TRAIN, INPUT.MIN_SIZE_TEST)."
        )
    return f"{text} Train with\n\n```yaml\n{fit.yaml()}\n```"


def _share(values: Any) -> float:
    return float(np.mean(list(values)))


def _limit(lost: Lost, key: str, settings: ModelSettings) -> tuple[str, bool]:
    """A limit that lets most of the lost objects pass, by the ranks of their boxes, and whether it does."""
    ranks, now = np.array([item.rank for item in lost]), max(int(settings.values.get(key, 1)), 1)
    enough = math.ceil(float(np.quantile(ranks, MOST)) / 100) * 100
    limit = min(enough, LARGEST_RISE * now) if now > 1 else enough
    passing = int((ranks <= limit).sum())
    text = f"Set {key} {limit} (now {settings.values.get(key, '?')}): the boxes of {passing} of them are within it."
    return text, limit == enough


def _top_k(lost: Lost, settings: ModelSettings) -> str:
    key = next((name for name in settings.values if name.startswith(f"{settings.proposals}.PRE_NMS_TOPK")), "")
    if settings.across_levels:
        return f"Raise {settings.now(key)}, or train the RPN longer."
    text, is_enough = _limit(lost, key, settings)
    if is_enough:
        return text
    rank = int(np.median([item.rank for item in lost]))
    return f"{text} Half of them have a rank above {rank:,}: such low scores need a longer training of the RPN."


def _beyond_proposals(lost: Lost, settings: ModelSettings) -> str:
    return _limit(lost, f"{settings.proposals}.POST_NMS_TOPK_TEST", settings)[0]


def _beyond_detections(lost: Lost, settings: ModelSettings) -> str:
    return f"{_limit(lost, DETECTIONS, settings)[0]} The evaluation then counts as many."


def _suppressed_proposals(_lost: Lost, settings: ModelSettings) -> str:
    return f"Raise {settings.now(f'{settings.proposals}.NMS_THRESH')}."


def _suppressed(_lost: Lost, settings: ModelSettings) -> str:
    key, soft = settings.now(f"{settings.boxes}.NMS_THRESH_TEST"), f"{settings.boxes}.SUPPRESSION"
    return f"Raise {key}, or set {soft} soft_linear (now {settings.values.get(soft, '?')})."


def _retinanet_top_k(_lost: Lost, settings: ModelSettings) -> str:
    return f"Raise {settings.now('MODEL.RETINANET.TOPK_CANDIDATES_TEST')}."


def _scored_too_low(lost: Lost, settings: ModelSettings) -> str:
    key = f"{settings.boxes}.SCORE_THRESH_TEST"
    scores, threshold = np.array([item.score for item in lost]), float(settings.values.get(key, 0.0))
    lower = float(f"{threshold * LOWER_THRESHOLD:.1g}")
    text = f"Half of their scores are below {np.median(scores):.3f}."
    if threshold:
        passing = int((scores > lower).sum())
        text += f" {key} {lower:g} (now {threshold:g}) keeps {passing} of them, with low scores;"
    return f"{text} training longer, or with more objects like these, raises the scores."


def _misclassified(lost: Lost, _settings: ModelSettings) -> str:
    pairs = Counter((item.class_name, item.predicted) for item in lost).most_common(CONFUSIONS_SHOWN)
    shown = ", ".join(f"{own} as {taken} ({count})" for (own, taken), count in pairs)
    return f"Most often confused: {shown}. Check the labels of these classes, and train with more objects of them."


def _loose_proposals(_lost: Lost, _settings: ModelSettings) -> str:
    return "The proposal generator moves anchors away from the objects: train it longer."


def _loose(_lost: Lost, _settings: ModelSettings) -> str:
    return "Train the box head longer, or refine boxes in several stages: MODEL.ROI_HEADS.NAME CascadeROIHeads."


def _masks(_lost: Lost, settings: ModelSettings) -> str:
    key = settings.now("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION")
    return f"Raise {key}, or train with PointRend (configs/PointRend), for sharper masks; or train longer."


def _taken(_lost: Lost, settings: ModelSettings) -> str:
    return (
        "One detection covers two objects. If the second detection is suppressed, raise "
        f"{settings.now(f'{settings.boxes}.NMS_THRESH_TEST')}; otherwise train longer on crowded images."
    )


def _too_small(_lost: Lost, _settings: ModelSettings) -> str:
    return "Lower MODEL.PROPOSAL_GENERATOR.MIN_SIZE or MODEL.ROI_HEADS.MIN_SIZE_TEST."


def _not_finite(_lost: Lost, _settings: ModelSettings) -> str:
    return "The weights give predictions that are not finite: train again with a lower SOLVER.BASE_LR."


def _no_proposal(_lost: Lost, _settings: ModelSettings) -> str:
    return "Use more proposals (DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST) or others."


Advice = Callable[[Lost, ModelSettings], str]

OF_STAGE: dict[tuple[str, Reason], Advice] = {
    (TOP_K, Reason.CUT_BY_TOP_K): _top_k,
    (TOP_K, Reason.TOO_LOOSE): _loose_proposals,
    (NMS, Reason.SUPPRESSED): _suppressed_proposals,
    (SUPPRESSION, Reason.CUT_BY_TOP_K): _retinanet_top_k,
    (BOX_HEAD, Reason.TOO_LOOSE): _loose,
}
OF_REASON: dict[Reason, Advice] = {
    Reason.NO_PROPOSAL: _no_proposal,
    Reason.NOT_FINITE: _not_finite,
    Reason.TOO_SMALL: _too_small,
    Reason.SUPPRESSED: _suppressed,
    Reason.BEYOND_PROPOSALS: _beyond_proposals,
    Reason.BEYOND_DETECTIONS: _beyond_detections,
    Reason.MISCLASSIFIED: _misclassified,
    Reason.SCORED_TOO_LOW: _scored_too_low,
    Reason.TOO_LOOSE: _loose,
    Reason.TAKEN: _taken,
    Reason.MASK_TOO_LOOSE: _masks,
}
