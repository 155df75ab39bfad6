"""Prints how far each recorded Detectron2 fixture and this package are apart: the table of dev/PARITY.md.

python dev/parity.py
"""

import sys
from pathlib import Path

import torch
from tabulate import tabulate

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests" / "modeling"))

from test_detectron2_parity import CASES, Case, in_recorded_order, relative_error  # noqa: E402

FIXTURES = REPOSITORY.parent / "shared" / "reference" / "detectron2" / "fixtures"
RESULTS = ["features", "proposals", "boxes (px)", "scores", "mask pixels", "keypoints (px)", "losses", "gradients"]
HEADERS = ["case", *RESULTS]


def measure(case: Case) -> list[str | float]:
    """One row: the largest difference of each kind; relative but for boxes, scores and keypoints."""
    model = case.build().eval()
    with torch.no_grad():
        batch = model.collate(case.samples)
        features = model.backbone(batch.pixels)
        proposals = model.proposal_generator.predict(features, batch) if "proposals0_boxes" in case.recorded else []
        detections = model.predict(case.samples)
    names = [name for name in case.recorded if name.startswith("feature_")]
    feature_error = max(relative_error(features[name.removeprefix("feature_")], case.tensor(name)) for name in names)
    box_error = max(_difference(t.boxes, case.tensor(f"out{n}_pred_boxes")) for n, t in enumerate(detections))
    score_error = max(_difference(t.scores, case.tensor(f"out{n}_scores")) for n, t in enumerate(detections))
    mask_error = _mask_error(case, detections)
    loss_error, norm_error = _training_errors(case)
    errors = (
        *(feature_error, _proposal_error(case, proposals), box_error, score_error),
        *(mask_error, _keypoint_error(case, detections), loss_error, norm_error),
    )
    return [case.folder.name, *(e if isinstance(e, str) else f"{e:.1e}" for e in errors)]


def _difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return (ours - theirs).abs().max().item()


def _proposal_error(case: Case, proposals: list) -> float | str:
    errors = []
    for number, table in enumerate(proposals):
        boxes, logits = (case.tensor(f"proposals{number}_{name}") for name in ("boxes", "logits"))
        errors += [relative_error(in_recorded_order(table, boxes, logits), boxes)]
        errors += [relative_error(table.objectness, logits)]
    return max(errors, default="no proposals")


def _keypoint_error(case: Case, detections: list) -> float | str:
    if detections[0].keypoints is None:
        return "no keypoints"
    pairs = [(table.keypoints, case.tensor(f"out{number}_pred_keypoints")) for number, table in enumerate(detections)]
    return max(_difference(ours[..., :2], theirs[..., :2]) for ours, theirs in pairs)


def _mask_error(case: Case, detections: list) -> float | str:
    if detections[0].masks is None:
        return "no masks"
    shares = []
    for number, table in enumerate(detections):
        recorded = case.bitmaps(f"out{number}_pred_masks", table.image_size[1])
        shares.append(((table.masks.bitmaps() != recorded).sum() / recorded.sum()).item())
    return max(shares)


def _training_errors(case: Case) -> tuple[float, float]:
    model = case.build()
    output = model.losses(case.samples)
    output.total().backward()
    recorded = {name: float(case.recorded[f"loss_{name}"]) for name in output.losses}
    # A loss of nothing, as of a late stage of a cascade, counts with its absolute difference.
    losses = [abs(loss.item() - recorded[name]) / (recorded[name] or 1) for name, loss in output.losses.items()]
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}
    assert norms.keys() == case.gradient_norms.keys()
    # Norms that are nothing but rounding are left out.
    gradients = [abs(norms[name] / norm - 1) for name, norm in case.gradient_norms.items() if norm > 1e-6]
    return max(losses), max(gradients)


if __name__ == "__main__":
    rows = [measure(Case(FIXTURES / name)) for name in CASES]
    print(tabulate(rows, headers=HEADERS, tablefmt="github", disable_numparse=True))
