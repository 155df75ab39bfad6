"""Compares what two detectors predict in the same images."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mrcnn_zoo.structures import Detections, ProbabilityMasks


@dataclass(frozen=True)
class PlainDetections:
    """The detections of one image in plain tensors, which those of any project can be written as."""

    boxes: Tensor  # (R, 4) pixels
    scores: Tensor  # (R,)
    classes: Tensor  # (R,) int64 in [0, K)
    masks: Tensor | None = None  # (R, M, M) probabilities
    keypoints: Tensor | None = None  # (R, J, 2) pixels

    def __getitem__(self, rows: Tensor) -> "PlainDetections":
        """Some of the detections.

        Args:
            rows: (N,) int64, or (R,) bool.
        """
        return PlainDetections(
            boxes=self.boxes[rows],
            scores=self.scores[rows],
            classes=self.classes[rows],
            masks=None if self.masks is None else self.masks[rows],
            keypoints=None if self.keypoints is None else self.keypoints[rows],
        )

    @classmethod
    def of(cls, detections: Detections) -> "PlainDetections":
        """From the detections of our models.

        Args:
            detections: of one image.
        """
        masks, keypoints = detections.masks, detections.keypoints
        return cls(
            boxes=detections.boxes,
            scores=detections.scores,
            classes=detections.classes,
            masks=masks.probabilities if isinstance(masks, ProbabilityMasks) else None,
            keypoints=None if keypoints is None else keypoints[..., :2],
        )


@dataclass(frozen=True)
class Differences:
    """The largest differences over all pairs of detections; None where a model has no such output."""

    num_found: int  # detections of the one model
    num_expected: int  # detections of the other
    num_paired: int  # pairs of equal class and nearest boxes
    boxes: float  # pixels
    scores: float
    masks: float | None = None  # probabilities
    keypoints: float | None = None  # pixels

    def __str__(self) -> str:
        if not self.num_paired:
            return f"nothing to compare ({self.num_found} and {self.num_expected} instances, none of them in both)"
        parts = [f"boxes {self.boxes:.1e} px", f"scores {self.scores:.1e}"]
        parts += [f"masks {self.masks:.1e}"] if self.masks is not None else []
        parts += [f"keypoints {self.keypoints:.1e} px"] if self.keypoints is not None else []
        counts = f"{self.num_found} and {self.num_expected} instances, {self.num_paired} of them in both"
        return f"largest difference: {', '.join(parts)} ({counts})"


def compare(found: Sequence[PlainDetections], expected: Sequence[PlainDetections]) -> Differences:
    """Pair the detections of each image and measure how far the pairs differ.

    Args:
        found: one model's, per image.
        expected: the other model's, of the same images.
    """
    pairs = []
    for ours, theirs in zip(found, expected, strict=True):
        rows, other_rows = _pair(ours, theirs)
        pairs.append((ours[rows], theirs[other_rows]))
    return Differences(
        num_found=sum(len(detections.boxes) for detections in found),
        num_expected=sum(len(detections.boxes) for detections in expected),
        num_paired=sum(len(ours.boxes) for ours, _ in pairs),
        boxes=_largest_difference([(ours.boxes, theirs.boxes) for ours, theirs in pairs]) or 0.0,
        scores=_largest_difference([(ours.scores, theirs.scores) for ours, theirs in pairs]) or 0.0,
        masks=_largest_difference([(ours.masks, theirs.masks) for ours, theirs in pairs]),
        keypoints=_largest_difference([(ours.keypoints, theirs.keypoints) for ours, theirs in pairs]),
    )


def _pair(ours: PlainDetections, theirs: PlainDetections) -> tuple[Tensor, Tensor]:
    """Rows of both, each in one pair at most. The order of equal scores may differ, so rows are not paired in order."""
    distance = (ours.boxes[:, None] - theirs.boxes[None]).abs().amax(dim=-1)
    distance += (ours.scores[:, None] - theirs.scores[None]).abs()
    distance[ours.classes[:, None] != theirs.classes[None]] = torch.inf
    rows, other_rows = [], []
    for row in range(len(distance)):
        if distance.shape[1] == 0 or not distance[row].min().isfinite():
            continue
        other = int(distance[row].argmin())
        rows.append(row)
        other_rows.append(other)
        distance[:, other] = torch.inf
    return torch.tensor(rows, dtype=torch.int64), torch.tensor(other_rows, dtype=torch.int64)


def _largest_difference(pairs: Sequence[tuple[Tensor | None, Tensor | None]]) -> float | None:
    differences = [(one - other).abs() for one, other in pairs if one is not None and other is not None]
    return max((float(values.max()) if values.numel() else 0.0 for values in differences), default=None)
