"""torchvision's detectors with random weights and ours find the same, whichever way the weights went."""

import numpy as np
import pytest
import torch

from mrcnn_zoo.experiments.conversion.torchvision_detectors import NAMES
from mrcnn_zoo.experiments.conversion.torchvision_parity import INTO_OURS, OUT_OF_OURS, Limits, parity
from mrcnn_zoo.structures import Sample

TOLERANCE = 1e-4  # pixels and probabilities


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    """One image of coloured squares, whose sides no stride divides."""
    squares = np.random.default_rng(0).integers(0, 255, (3, 8, 9), dtype=np.uint8).repeat(16, 1).repeat(16, 2)
    image = torch.from_numpy(squares[:, :-5, :-3].copy())
    return [Sample(image, 0, (image.shape[1], image.shape[2]))]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_is_found_in_both_directions(name: str, samples: list[Sample]) -> None:
    for direction, differences in parity(name, samples, Limits(proposals=40, detections=8)).items():
        assert direction in (INTO_OURS, OUT_OF_OURS)
        assert differences.found == differences.expected == differences.paired >= 4
        assert differences.boxes < TOLERANCE
        assert differences.scores < TOLERANCE
        assert (differences.masks is not None) == ("mask" in name)
        assert (differences.masks or 0) < TOLERANCE
        assert (differences.keypoints is not None) == ("keypoint" in name)
        assert (differences.keypoints or 0) < TOLERANCE
