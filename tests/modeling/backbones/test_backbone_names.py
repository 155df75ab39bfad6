"""Parameter and buffer names and shapes of backbones, and of C4's shared stage, are those of Detectron2's."""

import pytest

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.modeling.backbones import build_backbone
from mrcnn_zoo.modeling.backbones.resnet import build_res5_stage
from support.references import detectron2_overrides, detectron2_shapes, on_meta_device, shapes_of

CONFIGS = (
    "COCO-Detection/retinanet_R_50_FPN_1x",
    "COCO-InstanceSegmentation/mask_rcnn_R_101_DC5_3x",
    "Misc/cascade_mask_rcnn_X_152_32x8d_FPN_IN5k_gn_dconv",
    "Misc/mask_rcnn_R_50_FPN_1x_dconv_c3-c5",
    "Misc/mask_rcnn_R_50_FPN_3x_syncbn",
    "Misc/scratch_mask_rcnn_R_50_FPN_9x_syncbn",
)
PARTS = ("MODEL.BACKBONE.", "MODEL.RESNETS.", "MODEL.FPN.")


def config(name: str) -> CfgNode:
    return load_config(None, detectron2_overrides(name, PARTS))


def recorded(name: str, prefix: str) -> dict[str, str]:
    shapes = detectron2_shapes()[name].items()
    return {name.removeprefix(prefix): shape for name, shape in shapes if name.startswith(prefix)}


@pytest.mark.parametrize("name", CONFIGS)
def test_backbone_has_detectron2s_shapes_of(name: str) -> None:
    cfg = config(name)
    with on_meta_device():
        backbone = build_backbone(cfg, 3)
    assert shapes_of(backbone) == recorded(name, "backbone.")


@pytest.mark.parametrize("depth", [50, 101])
def test_c4s_shared_stage_has_detectron2s_shapes_of(depth: int) -> None:
    name = f"COCO-InstanceSegmentation/mask_rcnn_R_{depth}_C4_3x"
    with on_meta_device():
        stage, spec = build_res5_stage(config(name))
    assert shapes_of(stage) == recorded(name, "roi_heads.res5.")
    assert (spec.channels, spec.stride) == (2048, 2)
