"""Base class of suppressions, and the step from candidates to detections."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from mrcnn_zoo.errors import UserError, kind_of
from mrcnn_zoo.modeling.contracts import Candidates, LearnsToSuppress
from mrcnn_zoo.modeling.contracts import Suppression as SuppressionContract
from mrcnn_zoo.modeling.recording import Selected
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.ops.rows import counts_of_images
from mrcnn_zoo.registries import SUPPRESSIONS
from mrcnn_zoo.registry import check_contract
from mrcnn_zoo.structures import Detections, Targets, TrainingOutput, training_output


class Suppression(nn.Module):
    """Removes duplicate boxes: `forward` those of one image, `suppress` those of a batch, image by image.

    A subclass that uses features overrides `suppress`. A subclass that learns has a method `losses`: see
    `contracts.LearnsToSuppress`.
    """

    def forward(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """The boxes that are kept.

        Args:
            boxes: (R, 4) pixels, finite.
            scores: (R,).
            classes: (R,) int64.

        Returns:
            (S,) int64 rows, best first, and (S,) their scores, which may change.
        """
        raise NotImplementedError

    def suppress(self, candidates: Candidates) -> tuple[Tensor, Tensor]:
        """The kept rows, image by image and best first in each, and their scores."""
        rows, scores = [candidates.classes[:0]], [candidates.scores[:0]]
        first = 0
        for count in candidates.counts:
            image = slice(first, first + count)
            found = self(candidates.boxes[image], candidates.scores[image], candidates.classes[image])
            kept, kept_scores = _rows_and_scores(found, self)
            rows.append(kept + first)
            scores.append(kept_scores)
            first += count
        return torch.cat(rows), torch.cat(scores)

    def suppressors(self, boxes: Tensor, classes: Tensor, kept: Tensor) -> Tensor:
        """For each box of one image, the kept box of its class with the largest IoU.

        Args:
            boxes: (R, 4) pixels.
            classes: (R,) int64.
            kept: (S,) int64 kept rows, best first.

        Returns:
            (R,) int64 rows; -1 where no kept box of the class overlaps.
        """
        return best_overlapping(boxes, classes, kept)


class FunctionSuppression(Suppression):
    """A callable as a suppression.

    Args:
        function: (R, 4) boxes, (R,) scores, (R,) classes -> kept rows, best first, and their scores; a module becomes a
            child of this one.
    """

    def __init__(self, function: SuppressionContract) -> None:
        super().__init__()
        self.function = function

    def forward(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """As the function."""
        return self.function(boxes, scores, classes)


def suppress_and_limit(
    candidates: Candidates,
    suppression: Suppression,
    max_detections: int | None,
    report: Callable[[list[Selected]], None] | None = None,
) -> list[Detections]:
    """The detections of each image, best first.

    Args:
        candidates: of all images.
        suppression: removes duplicates.
        max_detections: per image; None for no limit.
        report: called with the compared and kept boxes of each image, for a recorder.
    """
    rows, scores = _rows_and_scores(suppression.suppress(candidates), suppression)
    counts = counts_of_images(candidates.images[rows], len(candidates.image_sizes))
    if report is not None:
        report(_selected(candidates, suppression, rows.split(counts), max_detections))
    images = zip(candidates.image_sizes, rows.split(counts), scores.split(counts), strict=True)
    best = [(size, kept[:max_detections], kept_scores[:max_detections]) for size, kept, kept_scores in images]
    return [
        Detections(size, candidates.boxes[kept], kept_scores, candidates.classes[kept])
        for size, kept, kept_scores in best
    ]


def _rows_and_scores(found: Any, suppression: nn.Module) -> tuple[Tensor, Tensor]:
    if isinstance(found, tuple | list) and len(found) == 2 and len(found[0]) == len(found[1]):
        return found[0], found[1]
    made_by = suppression.function if isinstance(suppression, FunctionSuppression) else suppression
    raise UserError(
        f"the suppression {getattr(made_by, '__name__', type(made_by).__name__)} must return (kept rows, their "
        f"scores), but it returned {kind_of(found)}: see Suppression in mrcnn_zoo/modeling/contracts.py."
    )


def _selected(
    candidates: Candidates, suppression: Suppression, kept: Sequence[Tensor], limit: int | None
) -> list[Selected]:
    """The compared and kept boxes of each image, as rows of its candidates."""
    selected, first = [], 0
    explain = getattr(suppression, "suppressors", best_overlapping)  # optional in a user's module
    for count, image_kept in zip(candidates.counts, kept, strict=True):
        image = slice(first, first + count)
        own = image_kept - first
        by = explain(candidates.boxes[image], candidates.classes[image], own)
        selected.append(Selected(torch.arange(count, device=own.device), own, by, limit))
        first += count
    return selected


def suppression_losses(
    suppression: nn.Module, candidates: Callable[[], Candidates], targets: list[Targets]
) -> TrainingOutput:
    """The losses of a suppression that learns; none for any other.

    Args:
        suppression: of the detections.
        candidates: computes the boxes that the suppression compares; only `vectors` and `features` have gradients.
        targets: ground truth of each image.
    """
    if not isinstance(suppression, LearnsToSuppress):
        return TrainingOutput()
    return training_output(suppression.losses(candidates(), targets), made_by=suppression)


def best_overlapping(boxes: Tensor, classes: Tensor, kept: Tensor, *, min_iou: float = 0.0) -> Tensor:
    """For each box, the best kept box of its class with an IoU above `min_iou`, else the one with the largest IoU.

    Args:
        boxes: (R, 4) pixels.
        classes: (R,) int64.
        kept: (S,) int64 rows of boxes, best first.
        min_iou: in [0, 1).

    Returns:
        (R,) int64 rows; -1 where no kept box of the class overlaps.
    """
    if len(kept) == 0:
        return torch.full_like(classes, -1)
    overlaps = box_ops.iou(boxes, boxes[kept])
    overlaps = overlaps.masked_fill(classes[:, None] != classes[kept], 0)
    first = (overlaps > min_iou).int().argmax(dim=1)
    most = overlaps.argmax(dim=1)
    is_above = (overlaps > min_iou).any(dim=1) if min_iou > 0 else torch.zeros_like(first, dtype=torch.bool)
    columns = torch.where(is_above, first, most)
    found = overlaps.amax(dim=1) > 0
    return torch.where(found, kept[columns], -1)


def build_suppression(cfg: object, name: str, iou_threshold: float, *, key: str) -> Suppression:
    """The suppression registered as `name`; a callable that is no `Suppression` is wrapped.

    Args:
        cfg: the whole config.
        name: registered name.
        iou_threshold: in [0, 1].
        key: config key of `name`, for messages.

    Raises:
        UserError: it has `losses` but no `suppress`, or `suppress` but is no module.
    """
    made = SUPPRESSIONS.get(name, key=key)(cfg, iou_threshold)
    source = f"{key} = {name!r}"
    if hasattr(made, "losses"):
        check_contract(made, f"{LearnsToSuppress.__module__}:{LearnsToSuppress.__name__}", source=source)
    if not hasattr(made, "suppress"):
        return FunctionSuppression(made)
    if not isinstance(made, nn.Module):
        raise UserError(
            f"{source} makes a {type(made).__name__} with a method `suppress`, which is no torch.nn.Module: "
            "derive it from Suppression."
        )
    return cast(Suppression, made)
