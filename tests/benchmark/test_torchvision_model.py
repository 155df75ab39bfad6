from collections.abc import Callable

import pytest
import torch
from torch import nn

from mrcnn_zoo.benchmark.inputs import calibrate_random_weights
from mrcnn_zoo.benchmark.torchvision_model import build_torchvision_model, torchvision_state
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.interop.torchvision.names import names_of_detector
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.structures import Sample

SmallConfig = Callable[..., CfgNode]


@pytest.fixture(scope="module")
def both(small_config: SmallConfig, blocky_samples: list[Sample]) -> tuple[nn.Module, nn.Module]:
    """Our model and torchvision's, with the same weights."""
    torch.manual_seed(0)
    ours = build_model(small_config())
    calibrate_random_weights(ours, blocky_samples)
    theirs = build_torchvision_model(small_config())
    theirs.load_state_dict(torchvision_state(ours.state_dict(), theirs.state_dict()))
    return ours.eval(), theirs.eval()


def test_torchvision_with_our_weights_gives_equal_detections(
    both: tuple[nn.Module, nn.Module], blocky_samples: list[Sample]
) -> None:
    ours, theirs = both
    found = ours.predict(blocky_samples)
    with torch.no_grad():
        expected = theirs([sample.image.float() for sample in blocky_samples])
    for table, other in zip(found, expected, strict=True):
        assert len(table) == len(other["boxes"]) >= 20
        torch.testing.assert_close(table.scores, other["scores"], atol=1e-4, rtol=0)
        torch.testing.assert_close(table.boxes, other["boxes"], atol=1e-2, rtol=0)
        assert torch.equal(table.classes, other["labels"] - 1)


def test_calibrated_weights_detect_several_classes(
    both: tuple[nn.Module, nn.Module], blocky_samples: list[Sample]
) -> None:
    for _, table in zip(blocky_samples, both[0].predict(blocky_samples), strict=True):
        assert table.classes.unique().numel() >= 3


@pytest.mark.parametrize("frozen_stages", [0, 2, 5])
def test_trainable_parameters_equal_ours(small_config: SmallConfig, frozen_stages: int) -> None:
    cfg = small_config("MODEL.BACKBONE.FREEZE_AT", frozen_stages, "MODEL.RESNETS.NORM", "BN")
    ours, theirs = build_model(cfg), build_torchvision_model(cfg)
    theirs_by_ours = names_of_detector(ours.state_dict()).inverse()
    trained = {theirs_by_ours.rename(name) for name, parameter in ours.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in theirs.named_parameters() if parameter.requires_grad}


def test_state_of_detector_without_masks_is_complete(small_config: SmallConfig) -> None:
    cfg = small_config("MODEL.MASK_ON", False)
    ours, theirs = build_model(cfg), build_torchvision_model(cfg)
    assert torchvision_state(ours.state_dict(), theirs.state_dict()).keys() == theirs.state_dict().keys()


def test_weights_of_different_shape_raise(small_config: SmallConfig) -> None:
    ours = build_model(small_config())
    theirs = build_torchvision_model(small_config("MODEL.ROI_BOX_HEAD.FC_DIM", 64))
    with pytest.raises(ValueError, match=r"roi_heads\.box_head\.fc6\.bias"):
        torchvision_state(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (("MODEL.RESNETS.STRIDE_IN_1X1", True), "MODEL.RESNETS.STRIDE_IN_1X1 = True, only with False"),
        (("MODEL.RESNETS.NORM", "GN"), "MODEL.RESNETS.NORM = 'GN', only with FrozenBN or BN"),
        (("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIPool"), "POOLER_TYPE"),
        (
            ("MODEL.ROI_MASK_HEAD.NAME", "PointRendMaskHead"),
            "MODEL.ROI_MASK_HEAD.NAME = 'PointRendMaskHead', only with",
        ),
        (("MODEL.ROI_HEADS.BRANCHES", ["MaskIoUHead"]), r"MODEL\.ROI_HEADS\.BRANCHES = \['MaskIoUHead'\], only"),
    ],
)
def test_unsupported_setting_raises_with_its_key(
    small_config: SmallConfig, override: tuple[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        build_torchvision_model(small_config(*override))
