import logging
from typing import Any

import pytest
import torch

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.backbones import timm_features
from mrcnn_zoo.modeling.backbones.fpn import build_timm_fpn_backbone
from mrcnn_zoo.modeling.backbones.timm_features import (
    WINDOW_SIDES,
    TimmFeatures,
    _compare_photometry,
    build_timm_backbone,
)

timm = pytest.importorskip("timm", reason="needs timm, which is optional: pip install timm")

SWIN = "swin_tiny_patch4_window7_224"
PYRAMID = ["c2", "c3", "c4", "c5"]


def config(name: str, **changes: Any) -> CfgNode:
    values = {"MODEL.TIMM.NAME": name} | {f"MODEL.{k.replace('__', '.')}": v for k, v in changes.items()}
    return load_config(None, [part for item in values.items() for part in item])


def build(name: str, channels: int = 3, **changes: Any) -> TimmFeatures:
    return build_timm_backbone(config(name, **changes), channels)


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("test_resnet", [2, 4, 8, 16, 32]),
        ("test_convnext", [4, 8, 16, 32]),
        ("test_efficientnet", [2, 4, 8, 16, 32]),
        ("test_vit", [16]),
        (SWIN, [4, 8, 16, 32]),
    ],
)
def test_networks_of_every_kind_take_images_of_many_sizes_and_channels(name: str, strides: list[int]) -> None:
    backbone = build(name, 4)
    assert [spec.stride for spec in backbone.output_specs.values()] == strides
    assert backbone.size_divisibility == strides[-1]
    for height, width in ((64, 96), (160, 32)):
        maps = backbone(torch.randn(1, 4, height, width))
        assert list(maps) == list(backbone.output_specs)
        for level, spec in backbone.output_specs.items():
            assert maps[level].shape == (1, spec.channels, height // spec.stride, width // spec.stride)
            assert maps[level].isfinite().all()


def test_maps_equal_those_of_timm() -> None:
    backbone = build("test_convnext")
    network = timm.create_model("test_convnext", features_only=True)
    network.load_state_dict(backbone.network.state_dict())
    pixels = torch.randn(2, 3, 64, 64)
    for ours, theirs in zip(backbone.eval()(pixels).values(), network.eval()(pixels), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_only_requested_maps_are_returned_and_only_their_parameters_trained() -> None:
    backbone = build("test_efficientnet", TIMM__OUT_FEATURES=["c4", "c3"], BACKBONE__FREEZE_AT=0)
    maps = backbone(torch.randn(2, 3, 32, 32))
    assert list(maps) == ["c3", "c4"]
    sum(level.sum() for level in maps.values()).backward()
    assert all((weight.grad is not None) == weight.requires_grad for weight in backbone.parameters())


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet", "test_vit"])
def test_freezing_includes_all_parameters_of_the_map_of_that_stride(name: str) -> None:
    torch.manual_seed(0)
    backbone = build(name, BACKBONE__FREEZE_AT=3)
    frozen = backbone(torch.randn(2, 3, 64, 64)).get("c3")
    trained = [weight.requires_grad for weight in backbone.parameters()]
    assert any(trained)
    if frozen is None:  # a plain ViT has no map as fine as that
        assert all(trained)
        return
    assert not frozen.requires_grad
    assert not all(trained)
    before = {key: value.clone() for key, value in backbone.network.state_dict().items()}
    pixels = torch.randn(2, 3, 64, 64)
    first = backbone.train()(pixels)["c3"]
    torch.testing.assert_close(first, backbone.eval()(pixels)["c3"], atol=1e-5, rtol=1e-5)  # no statistics of the batch
    changed = {k for k, v in backbone.network.state_dict().items() if not torch.equal(v, before[k])}
    assert all("running" in key or "num_batches" in key for key in changed)


def test_all_parameters_can_be_frozen() -> None:
    early = build("test_resnet", BACKBONE__FREEZE_AT=5, TIMM__OUT_FEATURES=["c3"])
    assert not any(weight.requires_grad for weight in early.parameters())
    assert not any(weight.requires_grad for weight in build("test_vit", BACKBONE__FREEZE_AT=4).parameters())


def test_maps_can_be_normalised() -> None:
    backbone = build("test_vit", TIMM__OUT_NORM="LN")
    features = backbone(5 + 3 * torch.randn(1, 3, 32, 32))["c4"]
    torch.testing.assert_close(features.mean(1), torch.zeros(1, 2, 2), atol=1e-4, rtol=0)
    assert {"norm_c4.weight", "norm_c4.bias"} <= set(backbone.state_dict())


@pytest.mark.parametrize(
    ("name", "in_features", "levels"),
    [
        ("test_resnet", PYRAMID, ["p2", "p3", "p4", "p5", "p6"]),
        ("test_vit", ["c4"], ["p4", "p5"]),
        (SWIN, PYRAMID[:2], ["p2", "p3", "p4"]),
    ],
)
def test_pyramid_on_timm_features(name: str, in_features: list[str], levels: list[str]) -> None:
    cfg = config(name, TIMM__OUT_FEATURES=in_features, FPN__IN_FEATURES=in_features, FPN__OUT_CHANNELS=8)
    fpn = build_timm_fpn_backbone(cfg, 1)
    maps = fpn(torch.randn(1, 1, 64, 64))
    assert list(maps) == levels
    for level, spec in fpn.output_specs.items():
        assert maps[level].shape == (1, 8, 64 // spec.stride, 64 // spec.stride)


def test_strides_need_not_be_powers_of_two() -> None:
    cfg = config("vit_small_patch14_dinov2", FPN__IN_FEATURES=["c4"])
    with torch.device("meta"):
        fpn = build_timm_fpn_backbone(cfg, 3)
    assert {name: spec.stride for name, spec in fpn.output_specs.items()} == {"p4": 14, "p5": 28}
    assert fpn.size_divisibility == 14


def test_no_images_give_empty_maps() -> None:
    assert build("test_vit")(torch.zeros(0, 3, 32, 48))["c4"].shape == (0, 64, 2, 3)


def test_wrong_pixel_statistics_for_pretrained_weights_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    network = timm.create_model("test_resnet", features_only=True)
    network.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    _compare_photometry(config("test_resnet"), network)
    assert "INPUT.FORMAT RGB, MODEL.PIXEL_MEAN [127.5, 127.5, 127.5]" in caplog.text
    caplog.clear()
    fitting = ["INPUT.FORMAT", "RGB", "MODEL.PIXEL_MEAN", [127.5] * 3, "MODEL.PIXEL_STD", [127.5] * 3]
    with caplog.at_level(logging.WARNING):
        _compare_photometry(load_config(None, fitting), network)
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("", {}, "MODEL.TIMM.NAME = '': set it to one of"),
        ("test_convnexx", {}, "has no such network. Did you mean 'test_convnext"),
        ("test_vit", {"TIMM__OUT_FEATURES": ["c2"]}, "test_vit returns c4, named after"),
        ("inception_v3", {}, "does not take images of every size"),
        ("test_vit", {"TIMM__OUT_NORM": "LM"}, "MODEL.TIMM.OUT_NORM = 'LM'"),
    ],
)
def test_impossible_settings_are_refused_with_their_key(
    name: str, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timm_features, "WINDOW_SIDES", WINDOW_SIDES[:2])  # the others take seconds
    with pytest.raises(UserError, match=message):
        build(name, **changes)
