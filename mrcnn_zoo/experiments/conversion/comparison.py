"""The largest differences between what two detectors find in the same images."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mrcnn_zoo.structures import Detections, ProbabilityMasks


@dataclass(frozen=True)
class Found:
    """What a detector found in one image, in plain tensors."""

    boxes: Tensor  # (R, 4) pixels
    scores: Tensor  # (R,)
    classes: Tensor  # (R,) int64 in [0, K)
    masks: Tensor | None = None  # (R, M, M) probabilities
    keypoints: Tensor | None = None  # (R, J, 2) pixels

    def __getitem__(self, rows: Tensor) -> "Found":
        """The instances of these rows, or of a mask of them."""
        return Found(
            boxes=self.boxes[rows],
            scores=self.scores[rows],
            classes=self.classes[rows],
            masks=None if self.masks is None else self.masks[rows],
            keypoints=None if self.keypoints is None else self.keypoints[rows],
        )

    @classmethod
    def of(cls, detections: Detections) -> "Found":
        """Our table."""
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
    """Over all instances that both found; None where a model has no such output."""

    found: int  # instances of the one
    expected: int  # of the other
    paired: int  # of both: the same class, and boxes that differ least
    boxes: float  # pixels
    scores: float
    masks: float | None = None  # of probabilities
    keypoints: float | None = None  # pixels

    def __str__(self) -> str:
        if not self.paired:
            return f"nothing to compare ({self.found} and {self.expected} instances, none of them in both)"
        parts = [f"boxes {self.boxes:.1e} px", f"scores {self.scores:.1e}"]
        parts += [f"masks {self.masks:.1e}"] if self.masks is not None else []
        parts += [f"keypoints {self.keypoints:.1e} px"] if self.keypoints is not None else []
        counts = f"{self.found} and {self.expected} instances, {self.paired} of them in both"
        return f"largest difference: {', '.join(parts)} ({counts})"


def compare(found: Sequence[Found], expected: Sequence[Found]) -> Differences:
    """Pair the instances of each image and measure how far pairs differ.

    Args:
        found: of each image, by one detector.
        expected: of the same images, by the other.
    """
    pairs = [_pairs(ours, theirs) for ours, theirs in zip(found, expected, strict=True)]
    selected = [
        (ours[rows], theirs[other_rows])
        for ours, theirs, (rows, other_rows) in zip(found, expected, pairs, strict=True)
    ]
    return Differences(
        found=sum(len(table.boxes) for table in found),
        expected=sum(len(table.boxes) for table in expected),
        paired=sum(len(rows) for rows, _ in pairs),
        boxes=max((_largest(ours.boxes, theirs.boxes) for ours, theirs in selected), default=0.0),
        scores=max((_largest(ours.scores, theirs.scores) for ours, theirs in selected), default=0.0),
        masks=_largest_of_all([(ours.masks, theirs.masks) for ours, theirs in selected]),
        keypoints=_largest_of_all([(ours.keypoints, theirs.keypoints) for ours, theirs in selected]),
    )


def _pairs(ours: Found, theirs: Found) -> tuple[Tensor, Tensor]:
    """Rows of either side, each instance in at most one pair, best first. Equal scores may come in another order."""
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


def _largest(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max()) if one.numel() else 0.0


def _largest_of_all(tables: Sequence[tuple[Tensor | None, Tensor | None]]) -> float | None:
    both = [(one, other) for one, other in tables if one is not None and other is not None]
    return max(_largest(one, other) for one, other in both) if both else None
