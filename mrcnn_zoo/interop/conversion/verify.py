"""Whether a converted detector finds in an image what its source finds there."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from mrcnn_zoo.checkpoint import read_weights
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.loading.mapper import EvalMapper
from mrcnn_zoo.data.records import ImageRecord
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.evaluation import load_trained
from mrcnn_zoo.interop.conversion.convert import TORCHVISION, Converted
from mrcnn_zoo.interop.torchvision.detectors import (
    RETINANET_SIGN,
    TorchvisionDetector,
    frozen_eps,
    has_frozen_norms,
    with_present_names,
)
from mrcnn_zoo.ops.boxes import is_nonempty
from mrcnn_zoo.structures import Detections, ProbabilityMasks, Sample


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


NAMES = (
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "keypointrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
)


class KeepSize(GeneralizedRCNNTransform):
    """torchvision's input stage for images that already have the size to work on."""

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Both as they are."""
        return image, target


class TorchvisionReference:
    """A torchvision detector that is asked as ours are.

    Args:
        model: from `torchvision.models.detection`; its resizing is switched off, and it is put into evaluation mode.
    """

    def __init__(self, model: nn.Module) -> None:
        theirs: Any = model.transform
        model.transform = KeepSize(theirs.min_size, theirs.max_size, theirs.image_mean, theirs.image_std)
        self.model = model.eval()

    @torch.no_grad()
    def predict(self, samples: list[Sample]) -> list[Found]:
        """What it finds in RGB samples, in the coordinates of their pixels; masks as the network gives them.

        Boxes without width or height are left out, as we do: its RetinaNet returns those beside the image as such.
        """
        masks: list[Tensor | None] = [None] * len(samples)

        def keep_masks(_: nn.Module, __: object, output: tuple[list[dict[str, Tensor]], object]) -> None:
            # Copied here: afterwards the same dicts hold masks that are stretched over the image.
            masks[:] = [result["masks"][:, 0] if "masks" in result else None for result in output[0]]

        heads = getattr(self.model, "roi_heads", None)
        hook = heads.register_forward_hook(keep_masks) if isinstance(heads, nn.Module) else None
        results = self.model([sample.image.float() / 255 for sample in samples])
        if hook is not None:
            hook.remove()
        return [
            Found(
                boxes=result["boxes"],
                scores=result["scores"],
                classes=result["labels"] - 1,
                masks=image_masks,
                keypoints=result["keypoints"][..., :2] if "keypoints" in result else None,
            )[is_nonempty(result["boxes"])]
            for result, image_masks in zip(results, masks, strict=True)
        ]


def build_torchvision_detector(
    state: Mapping[str, Tensor], meta: Mapping[str, Any] | None = None
) -> TorchvisionReference:
    """torchvision's model with these weights.

    Args:
        state: by torchvision's names, old or present ones.
        meta: what else the file told, see `TorchvisionDetector`.

    Raises:
        UserError: weights of another model than those in `NAMES`.
    """
    present, has_old_names = with_present_names(state)
    name, sizes = _model_of(present)
    model: nn.Module = getattr(detection, name)(weights=None, weights_backbone=None, **sizes)
    try:
        model.load_state_dict(present)
    except RuntimeError as error:
        raise UserError(f"these are not the weights of torchvision's {name}: {str(error).splitlines()[1]}") from error
    eps = frozen_eps(meta or {}, has_old_names=has_old_names)
    for module in model.modules():  # in evaluation a batch norm computes what a frozen one does
        if isinstance(module, nn.BatchNorm2d) and has_frozen_norms(present):
            module.eps = eps
    return TorchvisionReference(model)


def _model_of(present: Mapping[str, Tensor]) -> tuple[str, dict[str, int]]:
    """The name of the constructor in torchvision, and what it has to be told."""
    if RETINANET_SIGN in present:
        version = "_v2" if "head.classification_head.conv.0.1.weight" in present else ""
        num_anchors = len(present["head.regression_head.bbox_reg.bias"]) // 4
        return f"retinanet_resnet50_fpn{version}", {"num_classes": len(present[RETINANET_SIGN]) // num_anchors}
    version = "_v2" if any(re.match(r"roi_heads\.box_head\.0\.1\.", name) for name in present) else ""
    sizes = {"num_classes": len(present["roi_heads.box_predictor.cls_score.bias"])}
    keypoints = present.get("roi_heads.keypoint_predictor.kps_score_lowres.bias")
    if keypoints is not None:
        return "keypointrcnn_resnet50_fpn", {**sizes, "num_keypoints": len(keypoints)}
    kind = "maskrcnn" if "roi_heads.mask_predictor.mask_fcn_logits.bias" in present else "fasterrcnn"
    return f"{kind}_resnet50_fpn{version}", sizes


def verify(converted: Converted, image: str | Path) -> Iterator[str]:
    """Lines with the largest differences, from the source to ours and from ours to the file that was written.

    Args:
        converted: what `convert_checkpoint` gave.
        image: a file; it is resized as our config says, and both models get the same pixels.
    """
    sample = sample_of(converted.mapper, image)
    ours = found_by(converted.model, sample)
    yield f"{counted(len(ours.boxes), 'object')} found in {image}"
    name, file = converted.report.converter, converted.source.file
    if name == TorchvisionDetector.source:
        theirs = _found_by_torchvision(file.weights, converted, sample)
        yield f"{file.source} in torchvision, against ours: {compare([ours], [theirs])}"
    elif name or "config" not in file.meta:
        library = name or "Detectron2"
        yield f"{file.source} is taken for a file of {library}, which is not installed: its own model is not compared."
    if converted.kind == TORCHVISION:
        theirs = _found_by_torchvision(read_weights(converted.target).weights, converted, sample)
        yield f"ours, against {converted.target} in torchvision: {compare([ours], [theirs])}"
    else:
        model, _, _ = load_trained(converted.target, overrides=["MODEL.DEVICE", "cpu"], trust=converted.modules)
        yield f"ours, against {converted.target} read back: {compare([ours], [found_by(model, sample)])}"


def open_image(image: str | Path) -> FileImage:
    """An image file.

    Raises:
        UserError: there is none.
    """
    if not Path(image).is_file():
        raise UserError(f"image {image} does not exist.")
    return FileImage(str(image))


def sample_of(mapper: EvalMapper, image: str | Path) -> Sample:
    """An image file as a model wants it; results are asked for in the pixels that the model sees."""
    source = open_image(image)
    height, width = source.read().shape[:2]
    record = ImageRecord(image_id=0, source=source, image_size=(int(height), int(width)))
    sample = mapper(record, np.random.default_rng(0))
    return replace(sample, original_size=sample.image_size)


@torch.no_grad()
def found_by(model: nn.Module, sample: Sample) -> Found:
    """What a model of ours finds."""
    return Found.of(model.predict([sample])[0])  # type: ignore[operator]


def _found_by_torchvision(state: Mapping[str, Tensor], converted: Converted, sample: Sample) -> Found:
    from mrcnn_zoo.interop.conversion.verify import build_torchvision_detector

    if converted.color_order == "BGR":
        sample = replace(sample, image=sample.image.flip(0))
    return build_torchvision_detector(state, converted.source.file.meta).predict([sample])[0]
