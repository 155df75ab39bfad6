"""Prints how far each recorded Detectron2 fixture and this package are apart: the table of dev/PARITY.md.

python dev/parity.py
"""

import sys
from pathlib import Path

import torch
from tabulate import tabulate

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests" / "modeling"))

from test_detectron2_parity import CASES, Case, relative_error  # noqa: E402

FIXTURES = REPOSITORY.parent / "shared" / "reference" / "detectron2" / "fixtures"
HEADERS = ["case", "features", "proposals", "boxes (px)", "scores", "mask pixels", "losses", "gradient norms"]


def measure(case: Case) -> list[str | float]:
    """One row: the largest difference of each kind; relative but for boxes and scores."""
    model = case.build().eval()
    with torch.no_grad():
        batch = model.collate(case.samples)
        features = model.backbone(batch.pixels)
        proposals = model.proposal_generator.predict(features, batch)
        detections = model.predict(case.samples)
    names = [name for name in case.recorded if name.startswith("feature_")]
    feature_error = max(relative_error(features[name.removeprefix("feature_")], case.tensor(name)) for name in names)
    proposal_error = max(
        relative_error(getattr(table, ours), case.tensor(f"proposals{number}_{theirs}"))
        for number, table in enumerate(proposals)
        for ours, theirs in (("boxes", "boxes"), ("objectness", "logits"))
    )
    box_error = max(_difference(t.boxes, case.tensor(f"out{n}_pred_boxes")) for n, t in enumerate(detections))
    score_error = max(_difference(t.scores, case.tensor(f"out{n}_scores")) for n, t in enumerate(detections))
    mask_error = _mask_error(case, detections)
    loss_error, norm_error = _training_errors(case)
    errors = (feature_error, proposal_error, box_error, score_error, mask_error, loss_error, norm_error)
    return [case.folder.name, *(e if isinstance(e, str) else f"{e:.1e}" for e in errors)]


def _difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return (ours - theirs).abs().max().item()


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
    losses = [abs(loss.item() / float(case.recorded[f"loss_{name}"]) - 1) for name, loss in output.losses.items()]
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}
    assert norms.keys() == case.gradient_norms.keys()
    gradients = [abs(norms[name] / norm - 1) for name, norm in case.gradient_norms.items() if norm > 0]
    return max(losses), max(gradients)


if __name__ == "__main__":
    rows = [measure(Case(FIXTURES / name)) for name in CASES]
    print(tabulate(rows, headers=HEADERS, tablefmt="github", disable_numparse=True))
