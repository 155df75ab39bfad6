"""The anchors of one image as training labels them: level, label and object of each, and their counts as tables."""

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn

from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.modeling.contracts import AnchorGenerator, Backbone, Features, Matches
from mrcnn_zoo.modeling.detectors.retinanet import RetinaNet
from mrcnn_zoo.modeling.proposal_generators.multibox import MultiBox
from mrcnn_zoo.modeling.proposal_generators.rpn import RPN
from mrcnn_zoo.modeling.proposal_generators.separate_rpn import SeparateRPN
from mrcnn_zoo.ops.boxes import iou
from mrcnn_zoo.structures import Batch, Sample, Targets

SAME = 0.01  # relative difference of sizes and ratios that are listed as one


class AnchorLabel(enum.IntEnum):
    """What an anchor is trained as; the first three are the labels of `Matches`."""

    POSITIVE = 1
    NEGATIVE = 0
    NEUTRAL = -1  # ignored, between the IoU thresholds
    CROSSING = -2  # left out before matching, as it crosses the border (BOUNDARY_THRESH)


# Maps of the backbone, anchors of all levels, a batch of one image -> matches, and whether each anchor is left out
Label = Callable[[Features, Tensor, Batch], tuple[Matches, Tensor]]


@dataclass(frozen=True)
class AnchoredStage:
    """The part of a detector that has anchors."""

    backbone: Backbone
    in_features: tuple[str, ...]
    generator: AnchorGenerator
    label: Label
    sample: Callable[[Tensor, Batch], tuple[int, int]] | None = None  # numbers of positives and negatives of a step


@dataclass(frozen=True)
class AnchorGroup:
    """Anchors that are drawn in one colour: those of one level, or of one size where there is a single level."""

    name: str  # e.g. "p3", "res4, size 64"
    stride: int  # pixels per cell
    rows: Tensor  # (H, W, A) int64 among all anchors
    sizes: tuple[float, ...]  # square roots of the areas, pixels
    ratios: tuple[float, ...]  # height over width

    def __str__(self) -> str:
        """For legends and titles."""
        sizes, ratios = (", ".join(f"{value:.3g}" for value in values) for values in (self.sizes, self.ratios))
        return f"{self.name}: stride {self.stride}, size {sizes}, height / width {ratios}"


@dataclass(frozen=True)
class AssignedAnchors:
    """The anchors of one image; without targets all are NEGATIVE."""

    targets: Targets  # of the image
    groups: tuple[AnchorGroup, ...]  # from fine to coarse
    boxes: Tensor  # (A, 4) pixels of the resized image
    labels: Tensor  # (A,) int8 values of `AnchorLabel`
    objects: Tensor  # (A,) int64 row of the object of each positive, -1 for the others
    num_sampled: tuple[int, int] | None = None  # positives and negatives of one step; None where all are trained

    def counts(self, rows: Tensor | None = None) -> dict[AnchorLabel, int]:
        """The number of anchors per label.

        Args:
            rows: of the counted anchors; None for all.
        """
        labels = self.labels if rows is None else self.labels[rows]
        return {label: int((labels == label).sum()) for label in AnchorLabel}

    def positives_of(self, row: int) -> Tensor:
        """(P,) int64 positive anchors of the object with this row."""
        return (self.objects == row).nonzero().flatten()

    def best_ious(self) -> Tensor:
        """(G,) the highest IoU of each object with an anchor that is not CROSSING."""
        usable = self.boxes[self.labels != AnchorLabel.CROSSING]
        if not len(usable):
            return torch.zeros(len(self.targets))
        return torch.stack([iou(box[None], usable).max() for box in self.targets.boxes] or [torch.zeros(0)]).flatten()


def find_anchored_stage(model: nn.Module, *, purpose: str) -> AnchoredStage:
    """The part of a detector that has anchors.

    Args:
        model: a detector.
        purpose: what the anchors are for, at the beginning of the message.

    Raises:
        UserError: a detector without anchors.
    """
    if isinstance(model, RetinaNet):
        matcher = model.supervision.matcher
        return AnchoredStage(
            model.backbone, tuple(model.in_features), model.anchor_generator, partial(_label_all, matcher.match)
        )
    part = getattr(model, "proposal_generator", None)
    backbone: Any = part.backbone if isinstance(part, SeparateRPN) else getattr(model, "backbone", None)
    part = part.rpn if isinstance(part, SeparateRPN) else part
    if isinstance(part, RPN):
        label, sample = partial(_label_by_rpn, part), partial(_sample_by_rpn, part)
        return AnchoredStage(backbone, part.in_features, part.anchor_generator, label, sample)
    if isinstance(part, MultiBox):
        return AnchoredStage(backbone, part.in_features, part.anchor_generator, partial(_label_by_multibox, part))
    key, owner = ("PROPOSAL_GENERATOR.NAME", part) if part is not None else ("META_ARCHITECTURE", model)
    raise UserError(
        f"{purpose}: {type(owner).__name__} (MODEL.{key}) has no anchors. Detectors with MODEL.PROPOSAL_GENERATOR.NAME "
        "RPN, SeparateRPN or MultiBox and RetinaNet have them; --show objects,rois,mask-targets,sizes needs none."
    )


def _label_all(
    match: Callable[[Tensor, Tensor], Matches], _features: Features, anchors: Tensor, batch: Batch
) -> tuple[Matches, Tensor]:
    (targets,) = batch.require_targets()
    return match(anchors, targets.boxes), torch.zeros(len(anchors), dtype=torch.bool)


def _label_by_rpn(rpn: RPN, _features: Features, anchors: Tensor, batch: Batch) -> tuple[Matches, Tensor]:
    (targets,) = batch.require_targets()
    return rpn.labeler.label(anchors, targets, batch.image_sizes[0])


def _sample_by_rpn(rpn: RPN, anchors: Tensor, batch: Batch) -> tuple[int, int]:
    sample = rpn.labeler.sample(anchors, batch.require_targets(), batch.image_sizes)
    return sample.num_positives, len(sample.rows) - sample.num_positives


def _label_by_multibox(part: MultiBox, features: Features, anchors: Tensor, batch: Batch) -> tuple[Matches, Tensor]:
    """The one-to-one matching of priors with objects, which may depend on the predictions (MULTIBOX.MATCHING)."""
    logits, offsets = part(features)
    ((objects, priors),) = part.criterion.match(
        torch.cat(logits, dim=1), torch.cat(offsets, dim=1), anchors, batch.require_targets()
    )
    rows, labels = torch.zeros(len(anchors), dtype=torch.int64), torch.zeros(len(anchors), dtype=torch.int8)
    rows[priors.cpu()], labels[priors.cpu()] = objects.cpu(), int(AnchorLabel.POSITIVE)
    return Matches(rows, labels), torch.zeros(len(anchors), dtype=torch.bool)


@torch.no_grad()
def assign_anchors(model: nn.Module, sample: Sample, *, purpose: str = "anchors") -> AssignedAnchors:
    """Label all anchors of an image with the matcher and the border rule of the model.

    Anchors in the padding of a batch with larger images are not among them.

    Args:
        model: a detector in evaluation mode.
        sample: an image with targets.
        purpose: see `find_anchored_stage`.

    Raises:
        UserError: a detector without anchors.
    """
    stage = find_anchored_stage(model, purpose=purpose)
    batch: Batch = model.collate([sample])  # type: ignore[operator]
    (targets,) = batch.require_targets()
    features = stage.backbone(batch.pixels)
    boxes = torch.cat(stage.generator([features[name] for name in stage.in_features]))
    matches, is_left_out = stage.label(features, boxes, batch)
    labels = torch.where(is_left_out.cpu(), int(AnchorLabel.CROSSING), matches.labels.cpu()).to(torch.int8)
    with torch.random.fork_rng(devices=[]):
        num_sampled = None if stage.sample is None else stage.sample(boxes, batch)
    return AssignedAnchors(
        targets=targets.to("cpu"),
        groups=tuple(group for _, group in group_anchors(stage, [features[name] for name in stage.in_features])),
        boxes=boxes.cpu(),
        labels=labels,
        objects=torch.where(labels == AnchorLabel.POSITIVE, matches.rows.cpu(), -1),
        num_sampled=num_sampled,
    )


def group_anchors(stage: AnchoredStage, maps: Sequence[Tensor]) -> list[tuple[str, AnchorGroup]]:
    """The anchors of each level, or of each size where there is a single level, with the name of their map.

    Args:
        stage: with anchors.
        maps: (N, C, H, W) of each level.
    """
    specs: Mapping[str, Any] = stage.backbone.output_specs
    groups, first = [], 0
    for name, features, boxes in zip(stage.in_features, maps, stage.generator(list(maps)), strict=True):
        rows = torch.arange(first, first + len(boxes)).view(*features.shape[-2:], -1)
        cell = boxes[: rows.shape[2]].cpu()
        groups.append((name, _group(name, specs[name].stride, rows, cell)))
        first += len(boxes)
    if len(groups) > 1:
        return groups
    name, stride, sizes = stage.in_features[0], specs[stage.in_features[0]].stride, _sizes(cell)
    by_size = []
    for size in groups[0][1].sizes:
        members = (sizes / size - 1).abs() < SAME
        by_size.append((name, _group(f"{name}, size {size:.3g}", stride, rows[..., members], cell[members])))
    return by_size


def _group(name: str, stride: int, rows: Tensor, cell: Tensor) -> AnchorGroup:
    """Sizes and ratios are those of the (A, 4) anchors of one cell."""
    width, height = (cell[:, 2:] - cell[:, :2]).unbind(dim=1)
    return AnchorGroup(name, stride, rows, _distinct(_sizes(cell)), _distinct(height / width))


def _sizes(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()


def _distinct(values: Tensor) -> tuple[float, ...]:
    """In ascending order, without values that are nearly equal to the one before (anchors may have whole pixels)."""
    kept: list[float] = []
    for value in sorted(values.tolist()):
        if not kept or value > kept[-1] * (1 + SAME):
            kept.append(value)
    return tuple(kept)


def cell_at(anchors: AssignedAnchors, group: AnchorGroup, pixel: tuple[float, float]) -> Tensor:
    """The anchors whose common centre is nearest to a pixel.

    Args:
        anchors: of an image.
        group: of these anchors.
        pixel: x, y in the resized image.

    Returns:
        (A,) int64 rows among all anchors.
    """
    boxes = anchors.boxes[group.rows]  # (H, W, A, 4)
    centers = ((boxes[..., :2] + boxes[..., 2:]) / 2).mean(dim=2)  # anchors with whole pixels have several
    nearest = (centers - torch.tensor(pixel)).square().sum(dim=-1).argmin()
    return group.rows.flatten(0, 1)[nearest]


def anchor_tables(anchors: AssignedAnchors, class_names: Sequence[str]) -> str:
    """Anchors per level and label, and positive anchors per object.

    Args:
        anchors: of an image.
        class_names: by class index.
    """
    names = [label.name.lower() for label in AnchorLabel]
    rows = [[str(group), *anchors.counts(group.rows.flatten()).values()] for group in anchors.groups]
    rows.append(["all", *anchors.counts().values()])
    text = tabulate(rows, headers=["anchors", *names])
    if anchors.num_sampled is not None:
        positives, negatives = anchors.num_sampled
        text += f"\none training step samples {positives} positive and {negatives} negative of them"
    if len(anchors.targets):
        headers = ("object", "class", "width", "height", "size", "best IoU", "positive", "of")
        text += "\n\n" + tabulate(
            _object_rows(anchors, class_names), headers=headers, floatfmt=("", "", ".0f", ".0f", ".0f", ".2f")
        )
    missed = [row for row in range(len(anchors.targets)) if not len(anchors.positives_of(row))]
    if missed:
        listed = ", ".join(str(row) for row in missed[:20]) + (", ..." if len(missed) > 20 else "")
        text += f"\n{counted(len(missed), 'object')} without a positive anchor, not learned in this image: {listed}"
    return text


def _object_rows(anchors: AssignedAnchors, class_names: Sequence[str]) -> list[list[Any]]:
    best, rows = anchors.best_ious().tolist(), []
    for row, (x1, y1, x2, y2) in enumerate(anchors.targets.boxes.tolist()):
        positives = anchors.positives_of(row)
        places = {group.name: int(torch.isin(group.rows, positives).sum()) for group in anchors.groups}
        of = ", ".join(f"{name} {count}" for name, count in places.items() if count)
        size = ((x2 - x1) * (y2 - y1)) ** 0.5
        name = class_names[int(anchors.targets.classes[row])]
        rows.append([row, name, x2 - x1, y2 - y1, size, best[row], len(positives), of or "none"])
    return rows
