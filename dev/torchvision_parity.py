"""Prints how much torchvision's detectors and ours differ with the same random weights: a table of dev/PARITY.md.

python dev/torchvision_parity.py [MODEL ...]
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor, nn
from torchvision.models import detection

from mrcnn_zoo.benchmark.inputs import calibrate_random_weights
from mrcnn_zoo.config import load_config
from mrcnn_zoo.interop import Conversion
from mrcnn_zoo.interop.comparison import Differences, PlainDetections, compare
from mrcnn_zoo.interop.torchvision.detectors import TorchvisionDetectorConverter
from mrcnn_zoo.interop.torchvision.export import to_torchvision
from mrcnn_zoo.interop.torchvision.reference import NAMES, TorchvisionReference
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.structures import Sample

INTO_OURS = "torchvision -> mrcnn_zoo"
OUT_OF_OURS = "mrcnn_zoo -> torchvision"
# Untrained last layers predict almost nothing; with these gains boxes move by a part of their size and masks vary.
GAINS = {
    "proposal_generator.rpn_head.objectness_logits.weight": 20.0,
    "proposal_generator.rpn_head.anchor_deltas.weight": 3.0,
    "roi_heads.box_predictor.bbox_pred.weight": 3.0,
    "roi_heads.mask_head.predictor.weight": 3.0,
    "head.bbox_pred.weight": 20.0,
}
GAIN_AFTER_NORMS = 0.1  # of RetinaNet's boxes: with norms in its head the inputs of the last layer are large


def model_of(conversion: Conversion, limits: "Limits | None" = None) -> nn.Module:
    """Our model of a conversion, with its weights, on the CPU in evaluation mode.

    Args:
        conversion: with settings and weights.
        limits: None for those of the settings.
    """
    settings = conversion.settings | (limits.of_ours() if limits else {}) | {"MODEL.DEVICE": "cpu"}
    model = build_model(load_config(None, [item for setting in settings.items() for item in setting]))
    fill(model, conversion)
    return model.eval()


def fill(model: nn.Module, conversion: Conversion) -> None:
    """Load the weights of a conversion, which must fill the model completely.

    Args:
        model: changed in place.
        conversion: with the weights.
    """
    counters = {name: value for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")}
    model.load_state_dict(counters | conversion.weights)


@dataclass(frozen=True)
class Limits:
    """Numbers of regions in both models; with torchvision's own, two small images take half a minute."""

    proposals: int = 1000
    detections: int = 100

    def of_ours(self) -> dict[str, Any]:
        """As our config keys and values."""
        return {"MODEL.RPN.POST_NMS_TOPK_TEST": self.proposals, "TEST.DETECTIONS_PER_IMAGE": self.detections}

    def set_in(self, theirs: Any) -> None:
        """Set them in a model of torchvision.

        Args:
            theirs: changed in place.
        """
        if hasattr(theirs, "roi_heads"):
            theirs.rpn._post_nms_top_n = {**theirs.rpn._post_nms_top_n, "testing": self.proposals}
            theirs.roi_heads.detections_per_img = self.detections
        else:
            theirs.detections_per_img = self.detections


def parity(name: str, samples: list[Sample], limits: Limits, *, seed: int = 0) -> dict[str, Differences]:
    """The largest differences for one of torchvision's detectors, by direction of the conversion.

    Args:
        name: of the constructor in `torchvision.models.detection`.
        samples: RGB images.
        limits: of both models.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    theirs = getattr(detection, name)(weights=None, weights_backbone=None)
    ours = our_counterpart(theirs, samples, limits)
    found = detections_of(ours, samples)
    theirs.load_state_dict(to_torchvision(ours.state_dict()))
    limits.set_in(theirs)
    expected = TorchvisionReference(theirs).predict(samples)
    for parameter in ours.parameters():
        parameter.detach().zero_()  # so that only the weights that are read back count
    fill(ours, TorchvisionDetectorConverter().convert(theirs.state_dict(), {}))
    return {OUT_OF_OURS: compare(expected, found), INTO_OURS: compare(detections_of(ours, samples), expected)}


def our_counterpart(theirs: nn.Module, samples: list[Sample], limits: Limits) -> nn.Module:
    """Our model of the same architecture, with random weights that give many detections of several classes.

    Args:
        theirs: torchvision's model, not changed.
        samples: RGB images, to calibrate the weights on.
        limits: of our model.
    """
    fresh = theirs.state_dict()
    _vary_norms(fresh)
    conversion = TorchvisionDetectorConverter().convert(fresh, {})
    model = model_of(conversion, limits)
    has_norms = conversion.settings.get("MODEL.RETINANET.NORM", "") != ""
    with torch.no_grad():
        for weight, gain in GAINS.items():
            if weight in conversion.weights:
                model.get_parameter(weight).mul_(GAIN_AFTER_NORMS if has_norms else gain)
    calibrate_random_weights(model, samples)
    return model


def detections_of(model: Any, samples: list[Sample]) -> list[PlainDetections]:
    """Detections of our model.

    Args:
        model: in evaluation mode.
        samples: RGB images.
    """
    return [PlainDetections.of(table) for table in model.predict(samples)]


def _vary_norms(state: Mapping[str, Tensor]) -> None:
    """Random statistics and biases, in place: the initial 0 and 1 would hide exchanged tensors."""
    for name, tensor in state.items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
            state[name.replace("running_var", "running_mean")].normal_(std=0.1)
            state[name.replace("running_var", "bias")].normal_(std=0.1)


SIZES = ((155, 205), (171, 189))  # of images; no stride divides them
LIMITS = Limits(proposals=300, detections=50)
HEADERS = ["model", "direction", "boxes (px)", "scores", "mask probabilities", "keypoints (px)", "instances"]


def samples() -> list[Sample]:
    """Images of coloured squares."""
    generator = np.random.default_rng(0)
    images = []
    for number, (height, width) in enumerate(SIZES):
        squares = generator.integers(0, 255, (3, 13, 13), dtype=np.uint8).repeat(16, 1).repeat(16, 2)
        images.append(Sample(torch.from_numpy(squares[:, :height, :width].copy()), number, (height, width)))
    return images


def main(names: list[str]) -> None:
    """Measure and print.

    Args:
        names: constructors of torchvision; empty for all.
    """
    rows = []
    for name in names or NAMES:
        for direction, found in parity(name, samples(), LIMITS).items():
            errors = (found.boxes, found.scores, found.masks, found.keypoints)
            cells = ["" if error is None else f"{error:.1e}" for error in errors]
            rows.append([name, direction, *cells, f"{found.num_paired} of {max(found.num_found, found.num_expected)}"])
    print(tabulate(rows, headers=HEADERS, tablefmt="pipe", disable_numparse=True))


if __name__ == "__main__":
    main(sys.argv[1:])
