"""Parameter and buffer names and shapes of backbone and RPN are those of Detectron2's models."""

import pytest
from torch import nn

from mrcnn_zoo.config import load_config
from mrcnn_zoo.modeling.backbones import build_backbone
from mrcnn_zoo.modeling.proposal_generators import build_proposal_generator
from support.references import detectron2_overrides, detectron2_shapes, on_meta_device, shapes_of

CONFIGS = (
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x",
    "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x",
    "COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_1x",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x",
    "Misc/mask_rcnn_R_50_FPN_3x_gn",
    "Misc/scratch_mask_rcnn_R_50_FPN_9x_syncbn",
)
COMPARED = ("backbone.", "proposal_generator.")
OUR_PARTS = ("MODEL.BACKBONE.", "MODEL.RESNETS.", "MODEL.FPN.", "MODEL.RPN.", "MODEL.ANCHOR_GENERATOR.")


@pytest.mark.parametrize("name", CONFIGS)
def test_state_dict_names_and_shapes_are_detectron2s(name: str) -> None:
    cfg = load_config(None, ["MODEL.DEVICE", "cpu", *detectron2_overrides(name, OUR_PARTS)])
    with on_meta_device():
        backbone = build_backbone(cfg, 3)
        model = nn.Module()
        model.backbone, model.proposal_generator = backbone, build_proposal_generator(cfg, backbone.output_specs)
    recorded = detectron2_shapes()[name].items()
    assert shapes_of(model) == {key: shape for key, shape in recorded if key.startswith(COMPARED)}
