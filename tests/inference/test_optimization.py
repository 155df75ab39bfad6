"""MODEL.OPTIMIZE and MODEL.DTYPE: the same detections by other kernels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mrcnn_zoo.config import load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inference import Predictor
from mrcnn_zoo.inference.fused_layers import FusedBlock, FusedConv2d, fuse_layers
from mrcnn_zoo.inference.optimization import build_optimized
from mrcnn_zoo.layers import Conv2d, relu_
from mrcnn_zoo.layers.conv import Activation
from mrcnn_zoo.modeling.backbones import build_backbone
from support.recorded_detectron2 import build_recorded, recorded_samples
from support.references import COMMITTED_CASES, find_case, relative_error
from support.scenes import smooth_sample
from support.small_models import DIGITS, SIX_DETECTIONS, TINY_LAYERS, save_tiny_checkpoint, varied_model

CASES = (
    "mask_rcnn_R_50_FPN",
    "retinanet_R_50_FPN",
    "mask_rcnn_R_50_FPN_gn",
    "mask_rcnn_X_101_FPN",
    "mask_rcnn_R_50_C4",
    "mask_rcnn_R_50_DC5",
    "cascade_mask_rcnn_R_50_FPN",
    "keypoint_rcnn_R_50_FPN",
    "pointrend_R_50_FPN",
)
BOX_TOLERANCE = 0.05  # pixels


def optimized(case: str, *overrides: str) -> nn.Module:
    cfg = load_config(None, ["MODEL.DEVICE=cpu", *overrides])
    return build_optimized(cfg, build_recorded(find_case(case)).eval())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in COMMITTED_CASES else pytest.mark.slow) for name in CASES]
)
def test_fused_model_gives_the_recorded_detections(name: str) -> None:
    case, model = find_case(name), optimized(name, "MODEL.OPTIMIZE=fused")
    assert not any(type(module) is Conv2d for module in model.modules())
    for number, table in enumerate(model.predict(recorded_samples(case))):
        assert torch.equal(table.classes, case.tensor(f"out{number}_pred_classes"))
        torch.testing.assert_close(table.boxes, case.tensor(f"out{number}_pred_boxes"), atol=BOX_TOLERANCE, rtol=0)
        torch.testing.assert_close(table.scores, case.tensor(f"out{number}_scores"), atol=1e-4, rtol=0)
        if table.masks is not None:
            masks = case.bitmaps(f"out{number}_pred_masks", table.image_size[1])
            assert (table.masks.bitmaps() != masks).sum() <= 1e-3 * masks.sum()


@pytest.mark.filterwarnings("ignore:.*bfloat16")
@pytest.mark.parametrize("way", ["none", "fused"])
def test_bfloat16_features_are_near_the_recorded_ones_and_boxes_are_float32(way: str) -> None:
    case = find_case("mask_rcnn_R_50_FPN")
    model = optimized(case.name, f"MODEL.OPTIMIZE={way}", "MODEL.DTYPE=bfloat16")
    features = []
    model.backbone.register_forward_hook(lambda _, __, maps: features.append(maps["p3"]))
    tables = model.predict(recorded_samples(case))
    assert features[0].dtype == torch.bfloat16
    assert 1e-4 < relative_error(features[0].float(), case.tensor("feature_p3")) < 5e-2
    assert {(table.boxes.dtype, table.scores.dtype) for table in tables} == {(torch.float32, torch.float32)}


@pytest.mark.parametrize("activation", [relu_, None, torch.sigmoid])
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_fused_convolution_equals_the_layers_one_by_one(activation: Activation | None, norm: str) -> None:
    generator = torch.Generator().manual_seed(0)
    norms = {"batch": nn.BatchNorm2d(6), "group": nn.GroupNorm(2, 6), "none": None}
    conv = Conv2d(4, 6, 3, stride=2, dilation=2, groups=2, norm=norms[norm], activation=activation).eval()
    if isinstance(conv.norm, nn.BatchNorm2d):
        for tensor in (conv.norm.weight.data, conv.norm.bias.data, conv.norm.running_mean, conv.norm.running_var):
            tensor.copy_(torch.rand(6, generator=generator) + 0.5)
    features = torch.randn(2, 4, 9, 11, generator=generator)
    with torch.no_grad():
        expected = nn.functional.conv2d(features, conv.weight, conv.bias, 2, 2, 2, 2)
        expected = expected if conv.norm is None else conv.norm(expected)
        expected = expected if activation is None else activation(expected.clone())
        torch.testing.assert_close(FusedConv2d(conv)(features), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("depth", "width"), [(18, 8), (50, 16)])  # without and with a convolution beside block 0
def test_maps_of_all_stages_are_those_of_the_plain_model(depth: int, width: int) -> None:
    outputs = "[stem, res2, res3, res4, res5]"
    layers = (f"MODEL.RESNETS.DEPTH={depth}", "MODEL.RESNETS.STEM_OUT_CHANNELS=8")
    layers = (
        *layers,
        f"MODEL.RESNETS.RES2_OUT_CHANNELS={width}",
        "MODEL.RESNETS.WIDTH_PER_GROUP=4",
        f"MODEL.RESNETS.OUT_FEATURES={outputs}",
    )
    cfg = load_config(None, [*layers, "MODEL.BACKBONE.NAME=build_resnet_backbone", "MODEL.DEVICE=cpu"])
    torch.manual_seed(0)
    backbone = build_backbone(cfg, 3).eval()
    pixels = torch.randn(1, 3, 64, 96).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = backbone(pixels)
        fuse_layers(backbone)
        found = backbone(pixels)
    blocks = [module for module in backbone.modules() if isinstance(module, FusedBlock)]
    assert len(blocks) == {18: 8, 50: 16}[depth]
    assert {block.overwrites for block in blocks} == ({True, False} if depth == 18 else {True})
    assert len(found) == 5
    for name, features in found.items():
        torch.testing.assert_close(features, expected[name], atol=1e-4, rtol=1e-4)


def test_sum_takes_the_place_of_the_shortcut_where_it_may() -> None:
    generator = torch.Generator().manual_seed(0)
    conv = FusedConv2d(Conv2d(4, 6, 3).eval())
    features = torch.randn(1, 4, 5, 7, generator=generator)
    other = torch.randn(1, 6, 5, 7, generator=generator).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        before, kept = other.clone(), conv.add_and_activate(features, other)
        assert torch.equal(other, before)
        overwritten = conv.add_and_activate(features, other, overwrites=True)
    torch.testing.assert_close(overwritten, kept, atol=1e-6, rtol=1e-5)
    assert overwritten.data_ptr() == other.data_ptr()


@pytest.mark.parametrize("other_type", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sum_with_a_shortcut_of_another_type_and_order(dtype: torch.dtype, other_type: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    conv = Conv2d(4, 6, 3).eval()
    features, other = torch.randn(2, 4, 5, 7, generator=generator), torch.randn(2, 6, 5, 7, generator=generator)
    with torch.no_grad():
        expected = torch.relu(nn.functional.conv2d(features, conv.weight, conv.bias, padding=1) + other)
        found = FusedConv2d(conv, dtype).add_and_activate(features, other.to(other_type))
    tolerance = 1e-5 if dtype == other_type == torch.float32 else 0.05
    torch.testing.assert_close(found.float(), expected, atol=tolerance, rtol=0)


def test_float16_on_the_cpu_is_refused() -> None:
    with pytest.raises(UserError, match=r"MODEL\.DTYPE float16 needs a GPU"):
        optimized("mask_rcnn_R_50_FPN", "MODEL.DTYPE=float16")


def test_predictor_takes_the_key_and_a_stored_config_does_not_decide_it(tmp_path: Path) -> None:
    weights = save_tiny_checkpoint(tmp_path, "MODEL.OPTIMIZE=fused")
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    plain, fused = Predictor(weights), Predictor(weights, overrides=["MODEL.OPTIMIZE", "fused"])
    assert [is_fused(predictor.model) for predictor in (plain, fused)] == [False, True]
    expected, found = plain(image), fused(image)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=BOX_TOLERANCE)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


def is_fused(model: nn.Module) -> bool:
    return any(isinstance(module, FusedConv2d) for module in model.modules())


@pytest.mark.slow
def test_compiled_model_equals_the_plain_one_and_compiles_once_for_several_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    counts = torch._dynamo.utils.counters["stats"]
    counts.clear()
    layers = (*TINY_LAYERS, "MODEL.RESNETS.OUT_FEATURES=[res2, res3]", "MODEL.FPN.IN_FEATURES=[res2, res3]")
    cfg = load_config(DIGITS, [*layers, *SIX_DETECTIONS, "MODEL.OPTIMIZE=compiled"])
    plain, compiled = varied_model(cfg), build_optimized(cfg, varied_model(cfg))
    for height, width in ((64, 96), (96, 64), (70, 150), (130, 64)):  # torch has other kernels above 20,480 values
        sample = smooth_sample(height, width)
        expected, found = plain.predict([sample])[0], compiled.predict([sample])[0]
        assert len(expected) == 6
        assert torch.equal(found.classes, expected.classes)
        torch.testing.assert_close(found.boxes, expected.boxes, atol=BOX_TOLERANCE, rtol=0)
        torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)
    assert counts["unique_graphs"] == 2


def test_compiled_in_another_type_is_fused_and_one_message_says_so(caplog: pytest.LogCaptureFixture) -> None:
    assert is_fused(optimized("mask_rcnn_R_50_FPN", "MODEL.OPTIMIZE=compiled", "MODEL.DTYPE=bfloat16"))
    assert caplog.text.count("compiled is for MODEL.DTYPE float32, not bfloat16: using fused") == 1


def test_without_a_compiler_the_model_is_fused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> str:
        raise RuntimeError

    monkeypatch.setattr("mrcnn_zoo.inference.optimization.get_cpp_compiler", fail)
    assert is_fused(optimized("mask_rcnn_R_50_FPN", "MODEL.OPTIMIZE=compiled"))
    assert "needs a C++ compiler" in caplog.text
