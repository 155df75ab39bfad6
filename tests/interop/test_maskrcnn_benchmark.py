"""maskrcnn-benchmark's weights under our names, and its conventions, computed by hand from its published code."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from mrcnn_zoo.checkpoint import load_weights
from mrcnn_zoo.config import load_config
from mrcnn_zoo.interop import Conversion, find_converter
from mrcnn_zoo.interop.maskrcnn_benchmark import MaskRCNNBenchmarkConverter
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.modeling.anchors import build_anchor_generator
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.registries import POOLING_OPERATIONS

NUM_CLASSES = 3
# Our names -> theirs, written from the names that the project documents.
STAGES = {f"res{number + 1}": f"layer{number}" for number in range(1, 5)}
PARTS = {
    "proposal_generator.rpn_head.conv": "rpn.head.conv",
    "proposal_generator.rpn_head.objectness_logits": "rpn.head.cls_logits",
    "proposal_generator.rpn_head.anchor_deltas": "rpn.head.bbox_pred",
    "roi_heads.box_head.fc1": "roi_heads.box.feature_extractor.fc6",
    "roi_heads.box_head.fc2": "roi_heads.box.feature_extractor.fc7",
    "roi_heads.box_predictor.cls_score": "roi_heads.box.predictor.cls_score",
    "roi_heads.box_predictor.bbox_pred": "roi_heads.box.predictor.bbox_pred",
    "roi_heads.mask_head.deconv": "roi_heads.mask.predictor.conv5_mask",
    "roi_heads.mask_head.predictor": "roi_heads.mask.predictor.mask_fcn_logits",
    "backbone.bottom_up.stem.conv1.norm": "backbone.body.stem.bn1",
    "backbone.bottom_up.stem.conv1": "backbone.body.stem.conv1",
    "backbone.stem.conv1.norm": "backbone.body.stem.bn1",
    "backbone.stem.conv1": "backbone.body.stem.conv1",
}


def their_name(name: str) -> str:
    layer, _, value = name.rpartition(".")
    if layer in PARTS:
        return f"{PARTS[layer]}.{value}"
    if found := re.fullmatch(r"backbone\.fpn_(lateral|output)(\d)", layer):
        return f"backbone.fpn.fpn_{'inner' if found[1] == 'lateral' else 'layer'}{int(found[2]) - 1}.{value}"
    if found := re.fullmatch(r"roi_heads\.mask_head\.(mask_fcn\d)", layer):
        return f"roi_heads.mask.feature_extractor.{found[1]}.{value}"
    found = re.fullmatch(r"(.*?)\.(res\d)\.(\d+)\.(conv\d|shortcut)(\.norm)?", layer)
    assert found, name
    place = "roi_heads.box.feature_extractor.head" if found[1] == "roi_heads" else "backbone.body"
    kind = {"conv": ("conv", "bn"), "shor": ("downsample.0", "downsample.1")}[found[4][:4]][bool(found[5])]
    number = found[4][-1] if found[4].startswith("conv") else ""
    return f"{place}.{STAGES[found[2]]}.{found[3]}.{kind}{number}.{value}"


def their_tensor(name: str, tensor: Tensor) -> Tensor:
    """Background first, and with a row of its own everywhere; no constant is added to the variance."""
    if "cls_score" in name:
        return torch.cat((tensor[-1:], tensor[:-1]))
    if "bbox_pred" in name:
        return torch.cat((torch.full_like(tensor[:4], 9.0), tensor))
    if "mask_head.predictor" in name:
        return torch.cat((torch.full_like(tensor[:1], 9.0), tensor))
    if len(tensor) in (15, 60) and "rpn_head" in name:  # on C4 all sizes of the first shape come first
        return tensor.unflatten(0, (5, 3, -1)).transpose(0, 1).flatten(0, 2)
    return tensor + 1e-5 if name.endswith("running_var") else tensor


@pytest.fixture(scope="module", params=["Base-RCNN-FPN.yaml", "Base-RCNN-C4.yaml"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    """A narrow Mask R-CNN of ours with random weights."""
    torch.manual_seed(0)
    base = Path(__file__).resolve().parents[2] / "configs" / request.param
    narrow = {
        "MODEL.DEVICE": "cpu",
        "MODEL.MASK_ON": True,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
        "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
        "MODEL.FPN.OUT_CHANNELS": 8,
        "MODEL.ROI_HEADS.NUM_CLASSES": NUM_CLASSES,
        "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
        "MODEL.ROI_MASK_HEAD.CONV_DIM": 8,
    }
    model = build_model(load_config(base, [part for item in narrow.items() for part in item])).eval()
    for name, tensor in model.state_dict().items():
        if "norm" in name:
            tensor.uniform_(0.5, 1.5)
    return model


@pytest.fixture(scope="module")
def theirs(model: nn.Module) -> dict[str, Tensor]:
    weights = {their_name(name): their_tensor(name, tensor) for name, tensor in model.state_dict().items()}
    # The mask branch on C4 has the last stage too.
    shared = {
        name.replace("heads.box.", "heads.mask."): value for name, value in weights.items() if ".head.lay" in name
    }
    return weights | shared


@pytest.fixture
def conversion(theirs: dict[str, Tensor]) -> Conversion:
    return MaskRCNNBenchmarkConverter().convert(theirs, {"iteration": 90000})


def test_every_weight_is_converted(model: nn.Module, conversion: Conversion) -> None:
    expected = model.state_dict()
    assert conversion.weights.keys() == expected.keys()
    assert conversion.leftovers == ()
    for name, tensor in conversion.weights.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-6)


def test_trainer_checkpoint_is_read_without_prefixes(theirs: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "model_final.pth"
    wrapped = {f"module.{name}": tensor for name, tensor in theirs.items()}
    wrapped["module.rpn.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4)
    torch.save({"model": wrapped, "optimizer": {}, "iteration": 1}, path)
    conversion = MaskRCNNBenchmarkConverter().convert(theirs, {})
    model = build_model(load_config(overrides=flat(conversion.settings | {"MODEL.DEVICE": "cpu"})))
    report = load_weights(model, path)
    assert report.is_complete
    assert report.skipped == ()
    assert report.converter == "maskrcnn-benchmark"


def flat(settings: dict[str, object]) -> list[object]:
    return [part for item in settings.items() for part in item]


def test_settings_build_the_network(
    conversion: Conversion, build_converted: Callable[[Conversion], nn.Module], model: nn.Module
) -> None:
    converted = build_converted(conversion)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = model.backbone(pixels), converted.backbone(pixels)
    assert type(converted.roi_heads) is type(model.roi_heads)
    for name, level in ours.items():
        torch.testing.assert_close(theirs[name], level, rtol=1e-4, atol=1e-4)


def test_other_projects_names_are_not_recognised(theirs: dict[str, Tensor], model: nn.Module) -> None:
    assert isinstance(find_converter(theirs.keys()), MaskRCNNBenchmarkConverter)
    assert not MaskRCNNBenchmarkConverter().recognises(model.state_dict().keys())
    torchvision_names = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=2
    ).state_dict()
    assert not MaskRCNNBenchmarkConverter().recognises(torchvision_names.keys())


def test_unknown_names_are_leftovers(theirs: dict[str, Tensor]) -> None:
    conversion = MaskRCNNBenchmarkConverter().convert(theirs | {"roi_heads.mask_iou.x": torch.zeros(1)}, {})
    assert conversion.leftovers == ("roi_heads.mask_iou.x",)


def test_anchors_equal_the_published_code() -> None:
    # The comment in the original MATLAB code lists them for stride 16 and sizes 128, 256, 512, counting pixels from 1.
    published = np.array(
        [
            *([-83, -39, 100, 56], [-175, -87, 192, 104], [-359, -183, 376, 200]),
            *([-55, -55, 72, 72], [-119, -119, 136, 136], [-247, -247, 264, 264]),
            *([-35, -79, 52, 96], [-79, -167, 96, 184], [-167, -343, 184, 360]),
        ]
    )
    keys = {
        "MODEL.ANCHOR_GENERATOR.NAME": "RoundedAnchorGenerator",
        "MODEL.ANCHOR_GENERATOR.SIZES": [[128.0, 256.0, 512.0]],
        "MODEL.ANCHOR_GENERATOR.OFFSET": 0.5,
    }
    (anchors,) = build_anchor_generator(load_config(overrides=flat(keys)), [16])([torch.zeros(1, 1, 1, 1)])
    # From the first pixel's left border to the last one's right, counted from 0; shapes of one size together.
    borders = (published - [1, 1, 0, 0]).reshape(3, 3, 4).transpose(1, 0, 2).reshape(-1, 4)
    assert anchors.tolist() == borders.tolist()


def test_pooling_stops_at_the_last_pixel() -> None:
    features = torch.randn(1, 2, 12, 12)
    pooled = POOLING_OPERATIONS.get("ROIAlignLastPixel")(3, 0.5, 2)(features, torch.tensor([[0, 2.0, 4, 15, 19]]))
    expected = torchvision.ops.roi_align(features, torch.tensor([[0, 2.0, 4, 14, 18]]), 3, 0.5, 2, aligned=False)
    assert torch.equal(pooled, expected)


def test_boxes_with_last_pixels_decode_as_ours_with_borders() -> None:
    # Their formula, with widths of x2 - x1 + 1, on one box.
    x1, x2, dx, dw = 10.0, 29.0, 0.25, math.log(2)
    width = x2 - x1 + 1
    center = dx * width + x1 + 0.5 * width
    low, high = center - 0.5 * 2 * width, center + 0.5 * 2 * width - 1
    decoded = BoxCoder((1, 1, 1, 1)).decode(torch.tensor([[dx, dx, dw, dw]]), torch.tensor([[x1, x1, x2 + 1, x2 + 1]]))
    torch.testing.assert_close(decoded - torch.tensor([0.0, 0, 1, 1]), torch.tensor([[low, low, high, high]]))


def test_mask_branches_with_a_separate_last_stage_are_refused(theirs: dict[str, Tensor]) -> None:
    name = "roi_heads.mask.feature_extractor.head.layer4.0.conv1.weight"
    if name not in theirs:
        pytest.skip("only detectors on C4 have it")
    with pytest.raises(ValueError, match="differs from that of the box branch"):
        MaskRCNNBenchmarkConverter().convert(theirs | {name: theirs[name] + 1}, {})
