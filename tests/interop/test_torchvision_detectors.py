"""Files of torchvision's detectors: names old and new, the background, eps, and the settings they need.

That the converted models compute the same is shown in tests/interop/test_torchvision_parity.py.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mrcnn_zoo.checkpoint import convert_detector, load_weights, read_weights
from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.interop import find_converter
from mrcnn_zoo.interop.conventions import scaled_for_our_eps
from mrcnn_zoo.interop.torchvision.detectors import TorchvisionDetectorConverter
from mrcnn_zoo.interop.torchvision.export import to_torchvision, with_torchvision_input
from mrcnn_zoo.layers.norm import FrozenBatchNorm2d
from mrcnn_zoo.modeling import build_model
from support.small_models import TINY_RESNET_18

SMALL = [
    *TINY_RESNET_18,
    *("MODEL.RESNETS.STRIDE_IN_1X1", False, "MODEL.ROI_HEADS.NUM_CLASSES", 3, "MODEL.RETINANET.NUM_CLASSES", 3),
]
MASK_RCNN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x"
RETINANET = "COCO-Detection/retinanet_R_50_FPN_1x"
# What torchvision called these weights before 0.13, when its first detectors were published.
FORMER = (
    (r"(inner_blocks|layer_blocks)\.(\d)\.0\.", r"\1.\2."),
    (r"^rpn\.head\.conv\.0\.0\.", "rpn.head.conv."),
    (r"mask_head\.0\.0\.", "mask_head.mask_fcn1."),
    (r"mask_head\.1\.0\.", "mask_head.mask_fcn2."),
    (r"mask_head\.2\.0\.", "mask_head.mask_fcn3."),
    (r"mask_head\.3\.0\.", "mask_head.mask_fcn4."),
    (r"_head\.conv\.0\.0\.", "_head.conv.0."),
    (r"_head\.conv\.1\.0\.", "_head.conv.2."),
    (r"_head\.conv\.2\.0\.", "_head.conv.4."),
    (r"_head\.conv\.3\.0\.", "_head.conv.6."),
)


def config(base: str) -> CfgNode:
    return load_config(base, SMALL)


@pytest.fixture(scope="module", params=[MASK_RCNN, RETINANET])
def theirs(request: pytest.FixtureRequest) -> dict[str, Tensor]:
    """The weights of a narrow detector of torchvision's."""
    torch.manual_seed(0)
    state = build_model(config(request.param)).state_dict()
    for name, tensor in state.items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    return to_torchvision(state)


@pytest.fixture(scope="module")
def mask_rcnn() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return to_torchvision(build_model(config(MASK_RCNN)).state_dict())


def with_former_names(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in theirs.items():
        for pattern, replacement in FORMER:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def test_names_before_torchvision_0_13_are_converted(theirs: dict[str, Tensor]) -> None:
    former = with_former_names(theirs)
    assert former.keys() != theirs.keys()
    present = TorchvisionDetectorConverter().convert(theirs, {})
    past = TorchvisionDetectorConverter().convert(former, {"frozen_bn_eps": 1e-5})
    assert past.leftovers == ()
    assert past.weights.keys() == present.weights.keys()
    assert all(torch.equal(past.weights[name], tensor) for name, tensor in present.weights.items())


def test_frozen_norms_with_old_names_have_eps_0(theirs: dict[str, Tensor]) -> None:
    converted = TorchvisionDetectorConverter().convert(with_former_names(theirs), {}).weights
    norm = FrozenBatchNorm2d(8)
    start = "backbone.bottom_up.stem.conv1.norm."
    norm.load_state_dict({name.removeprefix(start): value for name, value in converted.items() if start in name})
    scale, shift = norm.scale_and_shift()
    bn1 = {name.rpartition(".")[2]: value.double() for name, value in theirs.items() if "body.bn1." in name}
    expected = bn1["weight"] / bn1["running_var"].sqrt()
    torch.testing.assert_close(scale.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(shift.double(), bn1["bias"] - bn1["running_mean"] * expected, rtol=1e-6, atol=1e-7)


def test_tiny_variances_keep_their_scale_with_another_eps() -> None:
    names = {"weight": 1e-3, "bias": 0.0, "running_mean": 0.0, "running_var": 1e-12}
    ours = {f"norm.{name}": torch.full((1,), value) for name, value in names.items()}
    norm = FrozenBatchNorm2d(1)
    norm.load_state_dict(
        {name.removeprefix("norm."): value for name, value in scaled_for_our_eps(ours, eps=0.0).items()}
    )
    assert float(norm.scale_and_shift()[0]) == pytest.approx(1e-3 / 1e-6, rel=1e-5)


def test_background_is_moved_last_without_its_box_and_mask(mask_rcnn: dict[str, Tensor]) -> None:
    start = "roi_heads.box_predictor."
    theirs = {
        **mask_rcnn,
        f"{start}cls_score.bias": torch.tensor([9.0, 1.0, 2.0, 3.0]),
        f"{start}bbox_pred.bias": torch.arange(16.0),
        "roi_heads.mask_predictor.mask_fcn_logits.bias": torch.arange(4.0),
    }
    ours = TorchvisionDetectorConverter().convert(theirs, {}).weights
    assert ours[f"{start}cls_score.bias"].tolist() == [1, 2, 3, 9]
    assert ours[f"{start}bbox_pred.bias"].tolist() == list(range(4, 16))
    assert ours["roi_heads.mask_head.predictor.bias"].tolist() == [1, 2, 3]


def test_unknown_names_are_reported_as_skipped(mask_rcnn: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({**mask_rcnn, "roi_heads.relation.weight": torch.zeros(3)}, tmp_path / "theirs.pth")
    model = build_model(config(MASK_RCNN))
    report = load_weights(model, tmp_path / "theirs.pth")
    assert report.skipped == ("roi_heads.relation.weight",)
    assert report.is_complete
    assert report.loaded == ()
    assert len(report.converted) == len(model.state_dict())
    assert report.converter == "torchvision detector"


def test_settings_build_a_model_that_the_weights_fill(theirs: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(theirs, tmp_path / "theirs.pth")
    conversion = convert_detector(read_weights(tmp_path / "theirs.pth"))
    assert conversion is not None
    settings = {**conversion.settings, "MODEL.DEVICE": "cpu"}
    cfg = load_config(None, [item for pair in settings.items() for item in pair])
    assert cfg.MODEL.RESNETS.DEPTH == 18
    assert (cfg.INPUT.FORMAT, cfg.MODEL.RESNETS.STRIDE_IN_1X1) == ("RGB", False)
    assert cfg.MODEL.ANCHOR_GENERATOR.NAME == "TorchvisionAnchorGenerator"
    model = build_model(cfg)
    assert load_weights(model, tmp_path / "theirs.pth").is_complete


def test_detector_for_other_classes_is_loaded_without_last_layers(mask_rcnn: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(mask_rcnn, tmp_path / "theirs.pth")
    model = build_model(load_config(MASK_RCNN, [*SMALL, "MODEL.ROI_HEADS.NUM_CLASSES", 7]))
    report = load_weights(model, tmp_path / "theirs.pth")
    assert all("predictor" in name for name in report.reinitialized)
    assert len(report.reinitialized) == 6
    assert report.expected_settings["MODEL.PIXEL_STD"] == [58.395, 57.12, 57.375]


def test_class_names_are_known_for_90_classes_only(mask_rcnn: dict[str, Tensor]) -> None:
    assert TorchvisionDetectorConverter().convert(mask_rcnn, {}).class_names == ()
    wide = build_model(load_config(MASK_RCNN, [*SMALL, "MODEL.ROI_HEADS.NUM_CLASSES", 90])).state_dict()
    names = TorchvisionDetectorConverter().convert(to_torchvision(wide), {}).class_names
    assert (len(names), names[0], names[11], names[89]) == (90, "person", "N/A", "toothbrush")


def test_other_numbers_of_anchors_are_refused(mask_rcnn: dict[str, Tensor]) -> None:
    theirs = {**mask_rcnn, "rpn.head.cls_logits.bias": torch.zeros(5)}
    with pytest.raises(UserError, match="have 5 anchors per cell, and torchvision's own detectors 3"):
        TorchvisionDetectorConverter().convert(theirs, {})


def test_our_names_are_not_recognised_as_torchvision() -> None:
    assert find_converter(build_model(config(MASK_RCNN)).state_dict().keys()) is None


def test_export_is_the_inverse_of_the_conversion(theirs: dict[str, Tensor]) -> None:
    ours = TorchvisionDetectorConverter().convert(theirs, {}).weights
    back = to_torchvision(ours)
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ours: {**ours, "roi_heads.extra.weight": torch.zeros(1)}, "no place for roi_heads.extra.weight"),
        (
            lambda ours: {**ours, "roi_heads.box_predictor.bbox_pred.bias": torch.zeros(4)},
            "CLS_AGNOSTIC_BBOX_REG or CLS_AGNOSTIC_MASK cannot",
        ),
        (lambda _: {"backbone.x": torch.zeros(1)}, "not of a detector that torchvision has"),
        (
            lambda ours: {name: value for name, value in ours.items() if not name.startswith("roi_heads")},
            r"they have no roi_heads\.box_predictor\.cls_score\.bias",
        ),
        (
            lambda ours: {name: value for name, value in ours.items() if "lateral5" not in name},
            r"they have no backbone\.fpn_lateral5\.weight",
        ),
    ],
)
def test_parts_without_a_counterpart_in_torchvision_are_refused(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        to_torchvision(change(build_model(config(MASK_RCNN)).state_dict()))


def test_first_convolution_is_adapted_to_torchvision_input() -> None:
    name = "backbone.bottom_up.stem.conv1.weight"
    weight = torch.randn(2, 3, 1, 1)
    bgr = torch.rand(1, 3, 4, 4) * 255
    mean, std = torch.tensor([103.53, 116.28, 123.675])[:, None, None], torch.tensor([2.0, 1.0, 1.0])[:, None, None]
    expected = torch.nn.functional.conv2d((bgr - mean) / std, weight)
    theirs = with_torchvision_input(
        {name: weight}, color_order="BGR", pixel_mean=[103.53, 116.28, 123.675], pixel_std=[2.0, 1.0, 1.0]
    )[name]
    rgb_mean, rgb_std = torch.tensor([[123.675, 116.28, 103.53], [58.395, 57.12, 57.375]])[:, :, None, None]
    found = torch.nn.functional.conv2d((bgr.flip(1) - rgb_mean) / rgb_std, theirs)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)


def test_stem_of_another_network_is_refused() -> None:
    with pytest.raises(UserError, match=r"they have no backbone\.bottom_up\.stem\.conv1\.weight"):
        with_torchvision_input({}, color_order="RGB", pixel_mean=[123.675, 116.28, 103.53], pixel_std=[1.0] * 3)


def test_other_pixel_means_are_refused() -> None:
    with pytest.raises(UserError, match="cannot be converted"):
        with_torchvision_input({}, color_order="RGB", pixel_mean=[127.0] * 3, pixel_std=[1.0] * 3)
