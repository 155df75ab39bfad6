"""torchvision's classification backbones inside our detectors compute what they compute there."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from mrcnn_zoo.checkpoint import LoadReport, load_weights
from mrcnn_zoo.config import load_config
from mrcnn_zoo.modeling.backbones import build_backbone

STAGES = ["res2", "res3", "res4", "res5"]


class Detector(nn.Module):
    """As much of a detector as its backbone."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone


def our_backbone(name: str, **settings: object) -> nn.Module:
    values = {"MODEL.RESNETS.OUT_FEATURES": STAGES, "MODEL.FPN.IN_FEATURES": STAGES, "MODEL.BACKBONE.NAME": name}
    values |= {f"MODEL.RESNETS.{key}": value for key, value in settings.items()}
    return build_backbone(load_config(overrides=[part for item in values.items() for part in item]), 3)


def randomized(network: nn.Module) -> nn.Module:
    """With batch-norm statistics other than 0 and 1, so that mixing them up would show."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.uniform_(module.weight, 0.3, 0.6, generator=generator)
            nn.init.normal_(module.bias, 0, 0.1, generator=generator)
    return network.eval()


@torch.no_grad()
def torchvision_stages(network: nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    features = network.maxpool(network.relu(network.bn1(network.conv1(pixels))))
    outputs = {}
    for name, layer in zip(STAGES, (network.layer1, network.layer2, network.layer3, network.layer4), strict=True):
        outputs[name] = features = layer(features)
    return outputs


def load(network: nn.Module, detector: nn.Module, tmp_path: Path) -> LoadReport:
    path = tmp_path / "resnet.pth"
    torch.save(network.state_dict(), path)
    return load_weights(detector, path)


@pytest.mark.parametrize(
    ("build", "settings"),
    [
        (torchvision.models.resnet18, {"DEPTH": 18, "RES2_OUT_CHANNELS": 64}),
        (torchvision.models.resnet50, {"DEPTH": 50, "STRIDE_IN_1X1": False}),
        (
            torchvision.models.resnext50_32x4d,
            {"DEPTH": 50, "STRIDE_IN_1X1": False, "NUM_GROUPS": 32, "WIDTH_PER_GROUP": 4},
        ),
    ],
    ids=["resnet18", "resnet50", "resnext50"],
)
def test_every_stage_equals_torchvision(build: object, settings: dict[str, object], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = randomized(build())  # type: ignore[operator]
    detector = Detector(our_backbone("build_resnet_backbone", **settings)).eval()
    report = load(network, detector, tmp_path)
    assert report.is_complete
    assert report.skipped == ("fc.weight", "fc.bias")
    pixels = torch.randn(1, 3, 64, 64)
    expected = torchvision_stages(network, pixels)
    with torch.no_grad():
        features = detector.backbone(pixels)
    for name in STAGES:
        torch.testing.assert_close(features[name], expected[name], rtol=1e-4, atol=1e-5)


def test_fpn_is_not_changed_by_a_backbone_file(tmp_path: Path) -> None:
    detector = Detector(our_backbone("build_resnet_fpn_backbone", DEPTH=18, RES2_OUT_CHANNELS=64))
    lateral = detector.backbone.fpn_lateral2.weight.clone()
    report = load(torchvision.models.resnet18(), detector, tmp_path)
    assert {name.split(".")[1] for name in report.converted} == {"bottom_up"}
    assert all(name.startswith("backbone.fpn_") for name in report.missing)
    assert torch.equal(detector.backbone.fpn_lateral2.weight, lateral)


def test_c4_heads_get_the_last_stage(tmp_path: Path) -> None:
    detector = Detector(our_backbone("build_resnet_backbone", DEPTH=18, RES2_OUT_CHANNELS=64, OUT_FEATURES=["res4"]))
    detector.roi_heads = nn.Module()
    detector.roi_heads.res5 = our_backbone("build_resnet_backbone", DEPTH=18, RES2_OUT_CHANNELS=64).res5
    report = load(torchvision.models.resnet18(), detector, tmp_path)
    assert report.is_complete
    assert "roi_heads.res5.0.conv1.weight" in report.converted


def test_report_has_the_settings_of_the_weights(tmp_path: Path) -> None:
    detector = Detector(our_backbone("build_resnet_backbone", DEPTH=18, RES2_OUT_CHANNELS=64))
    report = load(torchvision.models.resnet18(), detector, tmp_path)
    assert report.converter == "torchvision ResNet"
    assert report.expected_settings == {
        "INPUT.FORMAT": "RGB",
        "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
        "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    }


def test_bottleneck_networks_expect_the_stride_in_3x3(tmp_path: Path) -> None:
    detector = Detector(our_backbone("build_resnet_backbone", DEPTH=50))
    report = load(torchvision.models.resnet50(), detector, tmp_path)
    assert report.expected_settings["MODEL.RESNETS.STRIDE_IN_1X1"] is False


def test_backbone_under_relative_names_is_loaded(tmp_path: Path) -> None:
    backbone = our_backbone("build_resnet_backbone", DEPTH=18, RES2_OUT_CHANNELS=64)
    detector = Detector(our_backbone("build_resnet_fpn_backbone", DEPTH=18, RES2_OUT_CHANNELS=64))
    report = load(backbone, detector, tmp_path)
    assert torch.equal(detector.backbone.bottom_up.stem.conv1.weight, backbone.stem.conv1.weight)
    assert report.skipped == ()


def test_deeper_torchvision_network_is_refused(tmp_path: Path) -> None:
    detector = Detector(our_backbone("build_resnet_backbone", DEPTH=18, RES2_OUT_CHANNELS=64))
    with pytest.raises(ValueError, match="res2 has 3 blocks in the file, 2 in the model"):
        load(torchvision.models.resnet50(), detector, tmp_path)
