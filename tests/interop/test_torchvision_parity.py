"""torchvision's detectors and ours predict the same with the same random weights, converted in both directions."""

import numpy as np
import pytest
import torch
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from dev.torchvision_parity import INTO_OURS, OUT_OF_OURS, Limits, model_of, parity
from mrcnn_zoo.interop.torchvision.detectors import TorchvisionDetectorConverter
from mrcnn_zoo.interop.torchvision.reference import NAMES
from mrcnn_zoo.structures import Sample

TOLERANCE = 1e-4  # pixels and probabilities


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    """One image of coloured squares, whose sides no stride divides."""
    squares = np.random.default_rng(0).integers(0, 255, (3, 8, 9), dtype=np.uint8).repeat(16, 1).repeat(16, 2)
    image = torch.from_numpy(squares[:, :-5, :-3].copy())
    return [Sample(image, 0, (image.shape[1], image.shape[2]))]


SLOW = {"fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2"}  # Mask R-CNN without its masks
WITH_MARKS = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in NAMES]


@pytest.mark.parametrize("name", WITH_MARKS)
def test_converted_detectors_agree_in_both_directions(name: str, samples: list[Sample]) -> None:
    limits = Limits(proposals=40, detections=60 if "retinanet" in name else 8)  # a few regions cost little time
    by_direction = parity(name, samples, limits)
    assert by_direction.keys() == {INTO_OURS, OUT_OF_OURS}
    for differences in by_direction.values():
        assert differences.num_found == differences.num_expected == differences.num_paired >= 4
        assert differences.boxes < TOLERANCE
        assert differences.scores < TOLERANCE
        assert (differences.masks is not None) == ("mask" in name)
        assert (differences.masks or 0) < TOLERANCE
        assert (differences.keypoints is not None) == ("keypoint" in name)
        assert (differences.keypoints or 0) < TOLERANCE


@torch.no_grad()
def test_published_files_of_version_1_are_converted_with_eps_0() -> None:
    """As torchvision does after loading them: with frozen norms, whose eps it sets to 0."""
    torch.manual_seed(0)
    theirs = FasterRCNN(resnet_fpn_backbone(backbone_name="resnet18", weights=None), num_classes=4).eval()
    overwrite_eps(theirs, 0.0)
    state = theirs.state_dict()
    for name, tensor in state.items():
        if name.endswith("running_var"):
            tensor.uniform_(1e-5, 3e-5)
            state[name.replace("running_var", "weight")].fill_(2e-5**0.5)
    published = {
        name.replace(".0.weight", ".weight").replace(".0.bias", ".bias") if ".fpn." in name else name: tensor
        for name, tensor in state.items()
    }
    ours = model_of(TorchvisionDetectorConverter().convert(published, {}))
    pixels = torch.rand(1, 3, 64, 64)
    expected = theirs.backbone(pixels)
    found = ours.get_submodule("backbone")(pixels)
    for level, other in zip(found.values(), expected.values(), strict=True):
        torch.testing.assert_close(level / other.std(), other / other.std(), atol=1e-4, rtol=0)
    other = model_of(TorchvisionDetectorConverter().convert(published, {"frozen_bn_eps": 1e-5}))
    with_eps = other.get_submodule("backbone")(pixels)
    assert (with_eps["p2"] - expected["0"]).abs().mean() > 0.1 * expected["0"].abs().mean()
