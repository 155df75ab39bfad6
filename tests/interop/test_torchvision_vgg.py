"""torchvision's classification VGGs inside our detectors compute what they compute there."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from mrcnn_zoo.checkpoint import load_weights
from mrcnn_zoo.config import load_config
from mrcnn_zoo.interop import find_converter
from mrcnn_zoo.modeling.backbones import build_backbone
from mrcnn_zoo.modeling.roi_heads.box_head import FastRCNNConvFCHead
from mrcnn_zoo.structures import FeatureSpec

FC_WIDTH = 16


class Detector(nn.Module):
    """As much of a detector as its backbone and its box head."""

    def __init__(self, backbone: nn.Module, box_head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.box_head = backbone, box_head


def narrow_vgg(name: str) -> nn.Module:
    """torchvision's network with fewer outputs of fc6 and fc7, and batch-norm statistics other than 0 and 1."""
    torch.manual_seed(0)
    with torch.device("meta"):
        network = getattr(torchvision.models, name)()
    network.classifier[0] = nn.Linear(512 * 7 * 7, FC_WIDTH, device="meta")
    network.classifier[3] = nn.Linear(FC_WIDTH, FC_WIDTH, device="meta")
    network.classifier[6] = nn.Linear(FC_WIDTH, 10, device="meta")
    network.to_empty(device="cpu")
    for value in network.state_dict().values():
        if value.is_floating_point():
            # He's variance for kernels and 0.5 to 1 for the rest, which is positive as variances are.
            nn.init.kaiming_uniform_(value, nonlinearity="relu") if value.dim() > 1 else nn.init.uniform_(value, 0.5, 1)
    return network.eval()


def our_detector(depth: int, norm: str, name: str = "build_vgg_backbone", **settings: Any) -> Detector:
    values = {"MODEL.BACKBONE.NAME": name, "MODEL.VGG.DEPTH": depth, "MODEL.VGG.NORM": norm, **settings}
    cfg = load_config(overrides=[part for item in values.items() for part in item])
    head = FastRCNNConvFCHead(FeatureSpec(512, side=7), fc_channels=[FC_WIDTH] * 2, dropout=0.5)
    return Detector(build_backbone(cfg, 3), head).eval()


@pytest.mark.parametrize(
    ("name", "depth", "norm"), [("vgg11", 11, ""), ("vgg11_bn", 11, "BN"), ("vgg16", 16, ""), ("vgg19_bn", 19, "BN")]
)
def test_features_and_fc7_equal_torchvision(name: str, depth: int, norm: str, tmp_path: Path) -> None:
    network, detector = narrow_vgg(name), our_detector(depth, norm)
    torch.save(network.state_dict(), tmp_path / "vgg.pth")
    report = load_weights(detector, tmp_path / "vgg.pth")
    assert report.is_complete
    assert report.skipped == ("classifier.6.weight", "classifier.6.bias")
    assert report.expected_settings["INPUT.FORMAT"] == "RGB"
    pixels, pooled = torch.randn(1, 3, 32, 48), torch.randn(2, 512, 7, 7)
    with torch.no_grad():
        expected = network.features[:-1](pixels)
        torch.testing.assert_close(detector.backbone(pixels)["conv5"], expected, atol=1e-5 * expected.max(), rtol=1e-5)
        fc7 = network.classifier[:6](pooled.flatten(1))
        torch.testing.assert_close(detector.box_head(pooled), fc7, atol=1e-5 * fc7.max(), rtol=1e-5)


def test_fc6_and_fc7_of_other_widths_are_left_out(tmp_path: Path) -> None:
    features = ["conv3", "conv4", "conv5", "pool5"]
    settings = {"MODEL.VGG.OUT_FEATURES": features, "MODEL.FPN.IN_FEATURES": features}
    detector = our_detector(11, "", "build_vgg_fpn_backbone", **settings)
    detector.box_head = FastRCNNConvFCHead(FeatureSpec(256, side=7), fc_channels=[1024, 1024])
    torch.save(narrow_vgg("vgg11").state_dict(), tmp_path / "vgg.pth")
    report = load_weights(detector, tmp_path / "vgg.pth")
    assert not report.mismatched
    assert set(report.converted) == {name for name in detector.state_dict() if "bottom_up" in name}
    assert {"box_head.fc1.weight", "box_head.fc2.bias"} <= set(report.missing)
    assert {"classifier.0.weight", "classifier.3.bias", "classifier.6.weight"} <= set(report.skipped)


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
@pytest.mark.parametrize("ending", ["", "_bn"])
def test_each_of_the_eight_networks_is_recognised(depth: int, ending: str) -> None:
    with torch.device("meta"):
        network = getattr(torchvision.models, f"vgg{depth}{ending}")()
    converter = find_converter(network.state_dict().keys())
    assert converter is not None
    assert converter.source == f"torchvision VGG-{depth}{' with batch norm' if ending else ''}"
    convolutions = [name for name in network.state_dict() if name.endswith("weight") and "features" in name]
    assert all(converter.names.rename(name).startswith(("conv", "norm")) for name in convolutions)
    assert len({converter.names.rename(name) for name in convolutions}) == len(convolutions)
