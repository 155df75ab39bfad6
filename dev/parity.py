"""Prints how much our results differ from recorded ones of Detectron2 and MMDetection: the tables of dev/PARITY.md.

python dev/parity.py
"""

import sys
from pathlib import Path

import torch
from tabulate import tabulate

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "tests"), str(REPOSITORY / "tests" / "modeling")]

from test_detectron2_parity import (  # noqa: E402
    AUGMENTED_CASE,
    CASES,
    augmented_detections,
    in_recorded_order,
)

from mrcnn_zoo.config import load_config  # noqa: E402
from mrcnn_zoo.modeling import build_model  # noqa: E402
from support.recorded_detectron2 import build_recorded, recorded_samples  # noqa: E402
from support.recorded_mmdetection import CASES as MMDETECTION_CASES  # noqa: E402
from support.recorded_mmdetection import MMDetectionCase  # noqa: E402
from support.references import (  # noqa: E402
    RecordedCase,
    find_case,
    relative_error,
)

RESULTS = ["features", "proposals", "boxes (px)", "scores", "mask pixels", "keypoints (px)", "losses", "gradients"]
HEADERS = ["case", *RESULTS]
NONE = "-"  # the model has none
MMDETECTION_RESULTS = [
    "input",
    "features",
    "proposals",
    "proposal scores",
    "boxes",
    "scores",
    "mask pixels",
    "mask scores",
]
MMDETECTION_HEADERS = ["case", *MMDETECTION_RESULTS]


def measure(case: RecordedCase) -> list[str | float]:
    """One row: the largest difference per kind of result; relative except for boxes, scores and keypoints.

    Args:
        case: recorded from Detectron2.
    """
    model = build_recorded(case).eval()
    with torch.no_grad():
        batch = model.collate(recorded_samples(case))
        features = model.backbone(batch.pixels)
        proposals = model.proposal_generator.predict(features, batch) if "proposals0_boxes" in case.arrays else []
        has_detections = "out0_pred_boxes" in case.arrays
        detections = model.predict(recorded_samples(case)) if has_detections else []
    names = [name for name in case.arrays if name.startswith("feature_")]
    feature_error = max(relative_error(features[name.removeprefix("feature_")], case.tensor(name)) for name in names)
    errors = (
        *(feature_error, _proposal_error(case, proposals), *_detection_errors(case, detections, "out")),
        *(_keypoint_error(case, detections), *_training_errors(case)),
    )
    return [case.name, *map(_cell, errors)]


def measure_augmented(case: RecordedCase) -> list[str | float]:
    """The row of test-time augmentation, for which only the merged detections are recorded.

    Args:
        case: recorded from Detectron2.
    """
    errors = _detection_errors(case, augmented_detections(case), "tta")
    return [case.name, NONE, NONE, *map(_cell, errors), NONE, NONE, NONE]


def _detection_errors(
    case: RecordedCase, detections: list, prefix: str
) -> tuple[float | str, float | str, float | str]:
    """Boxes, scores and mask pixels."""
    boxes = [_difference(table.boxes, case.tensor(f"{prefix}{n}_pred_boxes")) for n, table in enumerate(detections)]
    scores = [_difference(table.scores, case.tensor(f"{prefix}{n}_scores")) for n, table in enumerate(detections)]
    return max(boxes, default=NONE), max(scores, default=NONE), _mask_error(case, detections, prefix)


def _cell(error: float | str) -> str:
    return error if isinstance(error, str) else f"{error:.1e}"


def _difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return (ours - theirs).abs().max().item()


def _proposal_error(case: RecordedCase, proposals: list) -> float | str:
    errors = []
    for number, table in enumerate(proposals):
        boxes, logits = (case.tensor(f"proposals{number}_{name}") for name in ("boxes", "logits"))
        errors += [relative_error(in_recorded_order(table, boxes, logits), boxes)]
        errors += [relative_error(table.objectness, logits)]
    return max(errors, default=NONE)


def _keypoint_error(case: RecordedCase, detections: list) -> float | str:
    if not detections or detections[0].keypoints is None:
        return NONE
    pairs = [(table.keypoints, case.tensor(f"out{number}_pred_keypoints")) for number, table in enumerate(detections)]
    return max(_difference(ours[..., :2], theirs[..., :2]) for ours, theirs in pairs)


def _mask_error(case: RecordedCase, detections: list, prefix: str) -> float | str:
    if not detections or detections[0].masks is None:
        return NONE
    shares = []
    for number, table in enumerate(detections):
        recorded = case.bitmaps(f"{prefix}{number}_pred_masks", table.image_size[1])
        shares.append(((table.masks.bitmaps() != recorded).sum() / recorded.sum()).item())
    return max(shares)


def _training_errors(case: RecordedCase) -> tuple[float, float]:
    model = build_recorded(case)
    output = model.losses(recorded_samples(case))
    output.total().backward()
    recorded = {name: float(case.arrays[f"loss_{name}"]) for name in output.losses}
    # A loss of 0, as in a late stage of a cascade without positives, counts with its absolute difference.
    losses = [abs(loss.item() - recorded[name]) / (recorded[name] or 1) for name, loss in output.losses.items()]
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}
    assert norms.keys() == case.gradient_norms.keys()
    # Gradients that are rounding errors are left out.
    gradients = [abs(norms[name] / norm - 1) for name, norm in case.gradient_norms.items() if norm > 1e-6]
    return max(losses), max(gradients)


@torch.no_grad()
def measure_mmdetection(case: MMDetectionCase) -> list[str]:
    """One row, with the config of the converter; relative except for scores and pixels.

    Args:
        case: recorded from MMDetection.
    """
    conversion = case.convert()
    model = build_model(load_config(None, [part for item in conversion.settings.items() for part in item])).eval()
    model.load_state_dict(conversion.weights, strict=False)
    batch = model.collate([case.sample()])
    features = model.backbone(batch.pixels)
    (proposals,) = model.proposal_generator.predict(features, batch)
    (table,) = model.predict([case.sample()])
    levels = [name for name in case.case.arrays if name.startswith("feature_")]
    mask_error: float | str = NONE
    if table.masks is not None:
        masks = case.masks()
        mask_error = ((table.masks.bitmaps() != masks).sum() / masks.sum()).item()
    errors = (
        _difference(batch.pixels, case.tensor("input_tensor")),
        max(relative_error(features[name.removeprefix("feature_")], case.tensor(name)) for name in levels),
        relative_error(proposals.boxes, case.tensor("proposals_boxes")),
        _difference(proposals.objectness.sigmoid(), case.tensor("proposals_scores")),
        relative_error(table.boxes, case.tensor("boxes")),
        _difference(table.scores, case.box_scores()),
        mask_error,
        NONE if table.mask_scores is None else _difference(table.mask_scores, case.tensor("scores")),
    )
    return [case.case.name.rpartition("/")[2], *map(_cell, errors)]


if __name__ == "__main__":
    rows = [measure(find_case(name)) for name in (*CASES, "rpn_R_50_FPN")]
    rows.append(measure_augmented(find_case(AUGMENTED_CASE)))
    print(tabulate(rows, headers=HEADERS, tablefmt="github", disable_numparse=True), end="\n\n")
    rows = [measure_mmdetection(MMDetectionCase.find(name)) for name in MMDETECTION_CASES]
    print(tabulate(rows, headers=MMDETECTION_HEADERS, tablefmt="github", disable_numparse=True))
