"""Prints how far torchvision's detectors and ours with the same random weights are apart: a table of dev/PARITY.md.

python dev/torchvision_parity.py [MODEL ...]
"""

import sys

import numpy as np
import torch
from tabulate import tabulate

from mrcnn_zoo.experiments.conversion.torchvision_detectors import NAMES
from mrcnn_zoo.experiments.conversion.torchvision_parity import Limits, parity
from mrcnn_zoo.structures import Sample

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
    """Measure and print."""
    rows = []
    for name in names or NAMES:
        for direction, found in parity(name, samples(), LIMITS).items():
            errors = (found.boxes, found.scores, found.masks, found.keypoints)
            cells = ["" if error is None else f"{error:.1e}" for error in errors]
            rows.append([name, direction, *cells, f"{found.paired} of {max(found.found, found.expected)}"])
    print(tabulate(rows, headers=HEADERS, tablefmt="pipe", disable_numparse=True))


if __name__ == "__main__":
    main(sys.argv[1:])
