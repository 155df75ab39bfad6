"""Masks of instances: what targets and detections may carry, and the forms they come in."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self


@runtime_checkable
class TargetMasks(Protocol):
    """Ground-truth masks of one image."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Tensor | slice) -> Self: ...

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self: ...

    def crop_and_resize(self, boxes: Tensor, side: int) -> Tensor:
        """Mask r inside boxes[r], resampled: (R, 4) pixels of the image -> (R, side, side) bool."""
        ...

    def bitmaps(self) -> Tensor:
        """(R, H, W) bool; a full image each, so for drawing and evaluation, not for training."""
        ...


@runtime_checkable
class PredictedMasks(Protocol):
    """Predicted masks of one image."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Tensor | slice) -> Self: ...

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self: ...

    def bitmaps(self) -> Tensor:
        """(R, H, W) bool; a full image each."""
        ...

    def rles(self) -> list[dict[str, Any]]:
        """COCO run-length encodings ({"size": [H, W], "counts": str}), made without a full-image grid an instance."""
        ...
