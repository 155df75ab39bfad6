"""Compares two versions of the code by ten seeded training steps and a prediction of five tiny models.

PYTHONPATH=<one version> python dev/equal_steps.py --save before.json
PYTHONPATH=<the other>   python dev/equal_steps.py --save after.json
python dev/equal_steps.py --compare before.json after.json
"""

import argparse
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

STEPS = 10
TOLERANCE = 1e-6  # relative
CONFIGS = {
    "Mask R-CNN": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "Faster R-CNN": "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
    "Cascade R-CNN": "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
    "Keypoint R-CNN": "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml",
    "RetinaNet": "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
}
SMALL = (
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 8, "MODEL.RESNETS.NORM", "LN", "MODEL.BACKBONE.FREEZE_AT", 0),
    *("MODEL.FPN.OUT_CHANNELS", 16, "MODEL.ROI_BOX_HEAD.FC_DIM", 32, "TEST.DETECTIONS_PER_IMAGE", 20),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", 8, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [8]),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 300, "MODEL.RPN.POST_NMS_TOPK_TEST", 100),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "MODEL.RETINANET.SCORE_THRESH_TEST", 0.0),
)


def run(config: str) -> dict[str, Any]:
    """Losses and gradient norm of each step, and the predictions of the trained model."""
    import torch
    from generated_samples import generated_samples

    from mrcnn_zoo.config import load_config
    from mrcnn_zoo.modeling import build_model

    cfg = load_config(config, SMALL)
    keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS if cfg.MODEL.KEYPOINT_ON else 0
    settings = {"num_classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES, "num_keypoints": keypoints}
    samples = [
        *generated_samples(2 * STEPS, image_size=(96, 128), **settings),
        *generated_samples(STEPS, image_size=(128, 80), seed=1, **settings),
    ]
    without_objects = samples[3]
    samples[3] = replace(without_objects, targets=without_objects.targets[:0])
    torch.manual_seed(0)
    model = build_model(cfg).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.002, momentum=0.9)
    steps = []
    for step in range(STEPS):
        torch.manual_seed(1 + step)
        optimizer.zero_grad()
        output = model.losses(samples[step::STEPS])
        output.total().backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        steps.append({**{name: loss.item() for name, loss in output.losses.items()}, "gradient": norm.item()})
    found = model.eval().predict([replace(sample, original_size=(200, 300)) for sample in samples[::STEPS]])
    columns = ("boxes", "scores", "classes", "keypoints")
    predictions = [
        {name: column.tolist() for name in columns if (column := getattr(table, name)) is not None} for table in found
    ]
    masks = [table.masks.bitmaps().flatten(1).sum(1).tolist() for table in found if table.masks is not None]
    return {"steps": steps, "predictions": predictions, "mask areas": masks}


def largest_difference(first: Any, second: Any) -> float:
    """Largest relative difference of two nested results; infinite if structures differ or values are not numbers."""
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        return max((largest_difference(first[key], second[key]) for key in first), default=0.0)
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return max((largest_difference(*pair) for pair in zip(first, second, strict=True)), default=0.0)
    if isinstance(first, int | float) and isinstance(second, int | float):
        difference = abs(first - second) / max(abs(first), abs(second), 1e-6)
        return difference if math.isfinite(difference) else math.inf
    return math.inf


def compare(first: Path, second: Path) -> bool:
    """Print the largest relative difference per model and part; returns whether all steps agree within TOLERANCE."""
    recorded = [json.loads(path.read_text()) for path in (first, second)]
    is_equal = True
    for name in CONFIGS:
        one, other = (results[name] for results in recorded)
        parts = {part: largest_difference(one[part], other[part]) for part in one}
        print(f"{name:15}" + "".join(f"  {part} {difference:.1e}" for part, difference in parts.items()))
        is_equal &= parts["steps"] <= TOLERANCE
    print("equal" if is_equal else f"NOT equal within a relative tolerance of {TOLERANCE}")
    return is_equal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", type=Path, help="JSON file for the results of this version")
    parser.add_argument("--compare", type=Path, nargs=2, help="JSON files of two versions")
    args = parser.parse_args()
    if args.save:
        results = {name: run(config) for name, config in CONFIGS.items()}
        args.save.write_text(json.dumps(results))
        print({name: result["steps"][-1] for name, result in results.items()})
    if args.compare and not compare(*args.compare):
        sys.exit(1)


if __name__ == "__main__":
    main()
