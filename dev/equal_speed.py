"""Compares time and peak memory of two versions of the code with interleaved training steps and predictions.

python dev/equal_speed.py --before ../mrcnn_zoo_before --after .

Each version runs in its own process. A round runs one step of each, in alternating order. Processes of the same code
differ by some percent, depending on memory placement, so both are started several times. The ratio is after / before:
the geometric mean over the starts of the median over the rounds, with a 95 % confidence interval (Student's t).
"""

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

QUICKSTART = "Quickstart/mask_rcnn_R_18_FPN_digits.yaml"
CONFIGS = {
    "quickstart": QUICKSTART,
    "Mask R-CNN R50-FPN": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "Cascade Mask R-CNN R50-FPN": "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
    "Keypoint R-CNN R50-FPN": "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml",
    "RetinaNet R50-FPN": "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
}
MODES = ("train", "predict")
IMAGE_SIZE, NUM_IMAGES = (320, 448), 2
QUICKSTART_SIZE, NUM_QUICKSTART_IMAGES = (128, 128), 4
STUDENT_T = {3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 8: 2.365, 10: 2.262}  # number of starts -> two-sided 95 % quantile


def serve_steps(config: str, mode: str) -> None:
    """Run one step per line on stdin; print its seconds and the peak memory in MiB as JSON."""
    import torch
    from generated_samples import generated_samples

    from mrcnn_zoo.config import load_config
    from mrcnn_zoo.modeling import build_model

    cfg = load_config(config, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])
    keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS if cfg.MODEL.KEYPOINT_ON else 0
    classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    size, count = (QUICKSTART_SIZE, NUM_QUICKSTART_IMAGES) if config == QUICKSTART else (IMAGE_SIZE, NUM_IMAGES)
    samples = generated_samples(count, image_size=size, num_classes=classes, num_keypoints=keypoints)
    torch.manual_seed(0)
    model = build_model(cfg).train(mode == "train")
    for _ in sys.stdin:
        torch.manual_seed(1)
        started = time.perf_counter()
        if mode == "train":
            model.zero_grad(set_to_none=True)
            model.losses(samples).total().backward()
        else:
            model.predict(samples)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "peak": peak}), flush=True)


@dataclass
class Version:
    """A process that runs one version of the code."""

    process: subprocess.Popen[str]

    @classmethod
    def start(cls, tree: Path, config: str, mode: str) -> "Version":
        env = {**os.environ, "PYTHONPATH": str(tree.resolve())}
        command = [sys.executable, str(Path(__file__).resolve()), "--serve", config, mode]
        return cls(
            subprocess.Popen(
                command, cwd=tree, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
        )

    def step(self) -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(before: Path, after: Path, config: str, mode: str, *, rounds: int, starts: int) -> str:
    """Compare both versions on one config; returns the cells of a table row."""
    logs: list[float] = []
    medians, peaks = [0.0, 0.0], [0.0, 0.0]
    for start in range(starts):
        versions = [Version.start(tree, config, mode) for tree in (before, after)]
        for version in versions:
            version.step()  # warm-up
        times: list[list[float]] = [[], []]
        for number in range(rounds):
            for which in (0, 1) if (start + number) % 2 == 0 else (1, 0):
                answer = versions[which].step()
                times[which].append(answer["seconds"])
                peaks[which] = max(peaks[which], answer["peak"])
        for version in versions:
            version.stop()
        medians = [statistics.median(seconds) for seconds in times]
        logs.append(statistics.median(math.log(new / old) for old, new in zip(*times, strict=True)))
    mean = statistics.mean(logs)
    half = STUDENT_T[starts] * statistics.stdev(logs) / math.sqrt(starts)
    ratio, low, high = (math.exp(value) for value in (mean, mean - half, mean + half))
    return (
        f"{medians[0]:.3f} | {medians[1]:.3f} | {ratio:.3f} [{low:.3f}, {high:.3f}] | "
        f"{peaks[0]:.0f} | {peaks[1]:.0f} | {peaks[1] / peaks[0]:.3f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="checkout of the old version")
    parser.add_argument("--after", type=Path, default=Path(), help="checkout of the new version")
    parser.add_argument("--rounds", type=int, default=4, help="per start")
    parser.add_argument("--starts", type=int, default=5, choices=sorted(STUDENT_T))
    parser.add_argument("--models", nargs="+", default=list(CONFIGS), choices=list(CONFIGS))
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve_steps(*args.serve)
        return
    print("| model | | s before | s after | ratio of times | MiB before | MiB after | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for name, config in ((name, CONFIGS[name]) for name in args.models):
        for mode in MODES:
            row = measure(args.before, args.after, config, mode, rounds=args.rounds, starts=args.starts)
            print(f"| {name} | {mode} | {row}", flush=True)


if __name__ == "__main__":
    main()
