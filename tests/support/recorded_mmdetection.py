"""Recorded models of MMDetection, and their conversion."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrcnn_zoo.interop.converter import Conversion
from mrcnn_zoo.interop.mmdetection.weights import MMDetectionConverter
from mrcnn_zoo.structures import Sample
from support.references import RecordedCase, find_case

CASES = ("faster_rcnn_r50_fpn", "mask_rcnn_r50_fpn", "mask_scoring_rcnn_r50_fpn")


@dataclass
class MMDetectionCase:
    """A recorded case with its weights and MMDetection's model settings."""

    case: RecordedCase
    weights: dict[str, Tensor]

    @classmethod
    def find(cls, name: str) -> "MMDetectionCase":
        case = find_case(f"mmdetection/{name}")
        return cls(case, case.weights)

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        return json.loads((self.case.folder / "model_settings.json").read_text())

    def convert(self, meta: dict[str, Any] | None = None) -> Conversion:
        """Convert the weights; `meta` replaces the recorded settings if given."""
        return MMDetectionConverter().convert(self.weights, {"settings": self.settings} if meta is None else meta)

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write a checkpoint in MMDetection's format, and the settings; returns both paths."""
        paths = folder / "model.pth", folder / "model_settings.json"
        torch.save({"meta": {}, "state_dict": self.weights}, paths[0])
        paths[1].write_text(json.dumps(self.settings))
        return paths

    def sample(self) -> Sample:
        """The image, with the channel order of the converted settings."""
        height, width = self.case.arrays["out_size"].tolist()
        channels = {"BGR": [0, 1, 2], "RGB": [2, 1, 0]}[self.convert().settings["INPUT.FORMAT"]]
        image = self.tensor("image").permute(2, 0, 1)[channels]
        return Sample(image=image, image_id=0, original_size=(height, width))

    def has(self, name: str) -> bool:
        return name in self.case.arrays

    def tensor(self, name: str) -> Tensor:
        return self.case.tensor(name)

    def masks(self) -> Tensor:
        """Masks of the detections, (R, H, W) bool."""
        return self.case.bitmaps("masks", self.case.arrays["masks_shape"][-1])

    def box_scores(self) -> Tensor:
        """Scores of the boxes; with Mask Scoring, `scores` are those of the masks."""
        return self.tensor("box_scores" if self.has("box_scores") else "scores")
