"""CPU and GPU give equal results: each stage of four detectors, with the same weights and inputs.

On the GPU, the recorded results of Detectron2 and MMDetection in tests/references hold, too.

Without a GPU, MRCNN_ZOO_CHECK_DEVICE=cpu compares the CPU with itself on small models, which tests the comparison.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from dev.generated_samples import generated_samples
from mrcnn_zoo.benchmark.inputs import calibrate_random_weights
from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.structures import Detections, Proposals, Sample, TrainingOutput
from support.recorded_detectron2 import recorded_samples
from support.recorded_mmdetection import MMDetectionCase
from support.references import RecordedCase, find_case

DEVICE = torch.device(os.environ.get("MRCNN_ZOO_CHECK_DEVICE", "cuda"))
CPU = torch.device("cpu")
ON_DEVICE = ("MODEL.DEVICE", str(DEVICE))
needs_device = pytest.mark.skipif(
    DEVICE.type == "cuda" and not torch.cuda.is_available(),
    reason="needs a CUDA device; MRCNN_ZOO_CHECK_DEVICE=cpu compares the CPU with itself instead",
)

CONFIGS = {
    "Mask R-CNN": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "Cascade Mask R-CNN": "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
    "Keypoint R-CNN": "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml",
    "RetinaNet": "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
}
IMAGE_SIZE = (320, 416)
SMALL = (
    *("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8),
    *("MODEL.FPN.OUT_CHANNELS", 16, "MODEL.ROI_BOX_HEAD.FC_DIM", 32, "MODEL.ROI_MASK_HEAD.CONV_DIM", 16),
    *("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [16, 16], "MODEL.RPN.POST_NMS_TOPK_TEST", 100),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 100, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 64),
)
SMALL_IMAGE_SIZE = (96, 128)

# Float32 sums in another order differ by 1e-6 to 1e-5 of their size after 50 layers; TF32 by about 1e-3.
FEATURE_TOLERANCE = 1e-4  # L2 norm of the difference / L2 norm on the CPU
LOSS_TOLERANCE = 1e-3  # relative
GRADIENT_TOLERANCE = 1e-2  # L2, per parameter: ReLU and max-pooling switch at zeros and ties
NEGLIGIBLE_GRADIENT = 1e-3  # relative to the largest gradient norm; lower bound of the denominator
SCORE_TOLERANCE = 1e-3
SPREAD_TOLERANCE = 1e-2  # relative to the standard deviation: values of untrained heads are nearly constant
SAME_BOX = 0.99  # IoU
SHARE_OF_PROPOSALS = 0.98  # matched: NMS depends on the order of near-equal scores
SHARE_OF_DETECTIONS = 0.95  # the same, of 100 per image
MASK_TOLERANCE = 1e-3  # pixels that differ, relative to those of the masks
SHARE_OF_KEYPOINTS = 0.95  # within a pixel: a heatmap may have several near-equal maxima


@dataclass
class Pair:
    """One detector on the CPU and on the device."""

    name: str
    host: nn.Module  # on the CPU
    other: nn.Module  # on `device`
    samples: list[Sample]
    device: torch.device


def build_pair(name: str, device: torch.device) -> Pair:
    """Two copies of a detector with calibrated random weights; a small one if both are on the CPU."""
    is_small = device == CPU
    cfg = _load(name, CPU, *(SMALL if is_small else ()))
    samples = generated_samples(
        2,
        image_size=SMALL_IMAGE_SIZE if is_small else IMAGE_SIZE,
        num_classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        num_objects=6,
        num_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS if cfg.MODEL.KEYPOINT_ON else 0,
    )
    torch.manual_seed(0)
    host = build_model(cfg)
    calibrate_random_weights(host, samples)
    other = build_model(_load(name, device, *(SMALL if is_small else ())))
    other.load_state_dict(host.state_dict())
    return Pair(name, host.eval(), other.eval(), samples, device)


def _load(name: str, device: torch.device, *overrides: Any) -> CfgNode:
    settings = ("MODEL.DEVICE", str(device), "MODEL.WEIGHTS", "", "FLOAT32_PRECISION", "highest")
    return load_config(CONFIGS[name], [*settings, *overrides])


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request: pytest.FixtureRequest) -> Pair:
    """Each detector on the CPU and on the tested device."""
    return build_pair(request.param, DEVICE)


@pytest.fixture
def same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samplers draw the same rows on every device, on the CPU."""
    draw = torch.randperm

    def draw_on_cpu(count: int, *, device: torch.device | str = "cpu") -> Tensor:
        return draw(count, generator=torch.Generator().manual_seed(count)).to(device)

    monkeypatch.setattr(torch, "randperm", draw_on_cpu)


@pytest.mark.gpu
@needs_device
def test_features_agree(pair: Pair) -> None:
    check_features(pair)


@pytest.mark.gpu
@needs_device
def test_proposals_agree(pair: Pair) -> None:
    if pair.name == "RetinaNet":
        pytest.skip("RetinaNet has no proposals")
    check_proposals(pair)


@pytest.mark.gpu
@needs_device
def test_detections_with_masks_and_keypoints_agree(pair: Pair) -> None:
    check_detections(pair)


@pytest.mark.gpu
@needs_device
@pytest.mark.usefixtures("same_draws")
def test_losses_and_gradients_agree(pair: Pair) -> None:
    check_training(pair)


@pytest.mark.gpu
@needs_device
@pytest.mark.parametrize("name", ["mask_rcnn_R_50_FPN", "retinanet_R_50_FPN"])
def test_recorded_results_of_detectron2_hold(name: str) -> None:
    case = find_case(name)
    model: Any = build_model(load_config(case.config, [*ON_DEVICE, "FLOAT32_PRECISION", "highest"]))
    model.load_state_dict(case.weights)
    samples = recorded_samples(case)
    losses = model.losses(samples).losses
    recorded = {loss: float(case.arrays[f"loss_{loss}"]) for loss in losses}
    errors = [abs(loss.item() / recorded[name] - 1) for name, loss in losses.items()]
    check_limit(f"recorded {name}", "losses", max(errors), LOSS_TOLERANCE)
    with torch.no_grad():
        features = model.eval().backbone(model.collate(samples).pixels)
    check_recorded_features(name, case, features)
    tables = [
        (case.tensor(f"out{n}_pred_boxes"), case.tensor(f"out{n}_scores"), case.tensor(f"out{n}_pred_classes"))
        for n in range(len(samples))
    ]
    masks = None
    if "out0_pred_masks" in case.arrays:
        sizes = [sample.original_size for sample in samples]
        masks = [case.bitmaps(f"out{n}_pred_masks", width) for n, (_, width) in enumerate(sizes)]
    check_recorded_detections(name, model.predict(samples), tables, masks)


@pytest.mark.gpu
@needs_device
def test_recorded_results_of_mmdetection_hold() -> None:
    name, recorded = "mask_rcnn_r50_fpn", MMDetectionCase.find("mask_rcnn_r50_fpn")
    conversion = recorded.convert()
    settings = [part for item in conversion.settings.items() for part in item]
    model: Any = build_model(load_config(None, [*settings, *ON_DEVICE, "FLOAT32_PRECISION", "highest"])).eval()
    model.load_state_dict(conversion.weights, strict=False)
    samples = [recorded.sample()]
    with torch.no_grad():
        check_recorded_features(name, recorded.case, model.backbone(model.collate(samples).pixels))
    table = recorded.tensor("boxes"), recorded.box_scores(), recorded.tensor("labels")
    check_recorded_detections(name, model.predict(samples), [table], [recorded.masks()])


@pytest.mark.usefixtures("same_draws")
@pytest.mark.parametrize(
    ("stage", "parameter"),
    [
        ("features", "backbone.fpn_output3.weight"),
        ("proposals", "proposal_generator.rpn_head.anchor_deltas.bias"),
        ("detections", "roi_heads.box_predictor.cls_score.bias"),
        ("detections", "roi_heads.mask_head.predictor.bias"),
        ("training", "roi_heads.box_predictor.cls_score.bias"),
    ],
)
def test_changed_weight_fails_the_check(stage: str, parameter: str) -> None:
    check = {
        "features": check_features,
        "proposals": check_proposals,
        "detections": check_detections,
        "training": check_training,
    }[stage]
    pair = build_pair("Mask R-CNN", CPU)
    check(pair)
    with torch.no_grad():
        pair.other.get_parameter(parameter)[::2] += 0.5
    with pytest.raises(AssertionError, match="the limit is"):
        check(pair)


@torch.no_grad()
def check_features(pair: Pair) -> None:
    """All feature maps, with normalisation and padding."""
    host, other = ({**model.backbone(model.collate(pair.samples).pixels)} for model in (pair.host, pair.other))
    check_limit(
        pair.name, "features", max(relative_l2_error(other[name], host[name]) for name in host), FEATURE_TOLERANCE
    )


@torch.no_grad()
def check_proposals(pair: Pair) -> None:
    """Boxes and objectness, from the same features."""
    expected, found = propose(pair)
    shares = [_share_found(a.boxes, b.boxes) for a, b in zip(found, expected, strict=True)]
    check_limit(pair.name, "proposals that differ", 1 - min(shares), 1 - SHARE_OF_PROPOSALS)
    errors = [_error_by_spread(a.objectness[:20], b.objectness[:20]) for a, b in zip(found, expected, strict=True)]
    check_limit(pair.name, "objectness", max(errors), SPREAD_TOLERANCE)


@torch.no_grad()
def check_detections(pair: Pair) -> None:
    """Boxes, classes, scores, masks and keypoints, from the same features and proposals."""
    if pair.name == "RetinaNet":
        expected, found = pair.host.predict(pair.samples), pair.other.predict(pair.samples)
    else:
        features = pair.host.backbone(pair.host.collate(pair.samples).pixels)
        proposals, _ = propose(pair)
        expected = pair.host.roi_heads.predict(features, proposals)
        found = pair.other.roi_heads.predict(
            _moved(features, pair.device), [table.to(pair.device) for table in proposals]
        )
    found = [table.to("cpu") for table in found]
    assert sum(map(len, expected)) > 10, "too few detections to compare"
    rows = [_matches(a, b) for a, b in zip(found, expected, strict=True)]
    missing = 1 - min(float((match >= 0).float().mean()) for match in rows)
    check_limit(pair.name, "detections that differ", missing, 1 - SHARE_OF_DETECTIONS)
    pairs = [
        (table[match[match >= 0]], truth[(match >= 0).nonzero().flatten()])
        for table, truth, match in zip(found, expected, rows, strict=True)
    ]
    check_limit(pair.name, "scores", max(_largest(a.scores - b.scores) for a, b in pairs), SCORE_TOLERANCE)
    if expected[0].masks is not None:
        errors = [_error_by_spread(a.masks.probabilities, b.masks.probabilities) for a, b in pairs]
        check_limit(pair.name, "masks", max(errors), SPREAD_TOLERANCE)
    if expected[0].keypoints is not None:
        moved = [(a.keypoints[..., :2] - b.keypoints[..., :2]).norm(dim=-1).flatten() for a, b in pairs]
        check_limit(
            pair.name, "keypoints that differ", float((torch.cat(moved) > 1).float().mean()), 1 - SHARE_OF_KEYPOINTS
        )


def check_training(pair: Pair) -> None:
    """Every loss, and the gradient of every parameter."""
    proposals = None if pair.name == "RetinaNet" else propose(pair)[0]
    expected = losses_and_gradients(pair.host, pair.samples, proposals)
    found = losses_and_gradients(pair.other, pair.samples, proposals)
    errors = [abs(found[0][name] - loss) / max(abs(loss), 1e-3) for name, loss in expected[0].items()]
    check_limit(pair.name, "losses", max(errors), LOSS_TOLERANCE)
    assert expected[1].keys() == found[1].keys()
    floor = NEGLIGIBLE_GRADIENT * max(float(gradient.norm()) for gradient in expected[1].values())
    errors = [relative_l2_error(found[1][name], gradient, floor=floor) for name, gradient in expected[1].items()]
    check_limit(pair.name, "gradients", max(errors), GRADIENT_TOLERANCE)


def losses_and_gradients(
    model: nn.Module, samples: list[Sample], proposals: Sequence[Proposals] | None
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Losses and gradients of one step; RoI heads get `proposals` instead of those of the RPN, if given."""
    model.train()
    model.zero_grad()
    output = model.losses(samples) if proposals is None else _losses_with(model, samples, proposals)
    output.total().backward()
    model.eval()
    gradients = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
    return {name: loss.item() for name, loss in output.losses.items()}, gradients


def _losses_with(model: Any, samples: list[Sample], proposals: Sequence[Proposals]) -> TrainingOutput:
    batch = model.collate(samples)
    features = model.backbone(batch.pixels)
    _, output = model.proposal_generator.losses(features, batch)
    device = batch.pixels.device
    return output | model.roi_heads.losses(features, [table.to(device) for table in proposals], batch.targets)


@torch.no_grad()
def propose(pair: Pair) -> tuple[list[Proposals], list[Proposals]]:
    """Proposals of both models, computed from the features of the CPU model and copied to the CPU."""
    batch = pair.host.collate(pair.samples)
    features = pair.host.backbone(batch.pixels)
    expected = pair.host.proposal_generator.predict(features, batch)
    found = pair.other.proposal_generator.predict(_moved(features, pair.device), pair.other.collate(pair.samples))
    return expected, [table.to("cpu") for table in found]


def check_recorded_features(name: str, case: RecordedCase, features: dict[str, Tensor]) -> None:
    """All recorded feature maps."""
    maps = [array for array in case.arrays if array.startswith("feature_")]
    errors = [relative_l2_error(features[array.removeprefix("feature_")], case.tensor(array)) for array in maps]
    check_limit(f"recorded {name}", "features", max(errors), FEATURE_TOLERANCE)


def check_recorded_detections(
    name: str,
    found: Sequence[Detections],
    recorded: Sequence[tuple[Tensor, Tensor, Tensor]],
    masks: Sequence[Tensor] | None,
) -> None:
    """Boxes with scores and classes of each image, and full-image masks."""
    missing, scores, pixels = [0.0], [0.0], [0.0]
    for number, (table, (boxes, of_boxes, classes)) in enumerate(zip(found, recorded, strict=True)):
        on_host = table.to("cpu")
        rows = _matches(on_host, Detections(table.image_size, boxes, of_boxes, classes))
        is_found = rows >= 0
        missing.append(1 - float(is_found.float().mean()))
        scores.append(_largest(on_host.scores[rows[is_found]] - of_boxes[is_found]))
        if masks is not None:
            expected = masks[number][is_found]
            bitmaps = table[rows[is_found].to(table.boxes.device)].masks.bitmaps().cpu()  # type: ignore[union-attr]
            pixels.append(float((bitmaps != expected).sum() / expected.sum()))
    check_limit(f"recorded {name}", "detections that differ", max(missing), 1 - SHARE_OF_DETECTIONS)
    check_limit(f"recorded {name}", "scores", max(scores), SCORE_TOLERANCE)
    if masks is not None:
        check_limit(f"recorded {name}", "mask pixels", max(pixels), MASK_TOLERANCE)


def check_limit(name: str, what: str, value: float, limit: float) -> None:
    """Print a measured difference for dev/gpu_checks.py, and check that it is at most `limit`."""
    print(f"\nagreement: {name} | {what} | {value:.2g} | {limit:.2g}")
    assert value <= limit, f"{name}: {what} differ by {value:.3g}, the limit is {limit:.2g}"


def relative_l2_error(found: Tensor, expected: Tensor, *, floor: float = 1e-12) -> float:
    """L2 norm of the difference, divided by that of the expected values but at least by `floor`."""
    return float((found.cpu() - expected).norm() / max(float(expected.norm()), floor))


def _moved(features: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in features.items()}


def _share_found(found: Tensor, expected: Tensor) -> float:
    return float((box_iou(expected, found).amax(dim=1) > SAME_BOX).float().mean())


def _matches(found: Detections, expected: Detections) -> Tensor:
    """(R,) for each expected detection, the matching row of `found`, or -1."""
    overlaps = box_iou(expected.boxes, found.boxes) * (expected.classes[:, None] == found.classes)
    best, rows = overlaps.max(dim=1)
    return torch.where(best > SAME_BOX, rows, -1)


def _error_by_spread(found: Tensor, expected: Tensor) -> float:
    return relative_l2_error(found - expected.mean(), expected - expected.mean(), floor=1e-5 * float(expected.norm()))


def _largest(difference: Tensor) -> float:
    return float(difference.abs().max()) if difference.numel() else 0.0
