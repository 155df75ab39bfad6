import torch
from torch import Tensor, nn

from mrcnn_zoo.config import load_config
from mrcnn_zoo.modeling.backbones import build_backbone
from mrcnn_zoo.modeling.proposal_generators import RPN, build_proposal_generator
from support.small_models import TINY_RESNET_18

TINY = [
    *TINY_RESNET_18,
    *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4"]),
    *("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3"], "MODEL.FPN.IN_FEATURES", ["res2", "res3"]),
]


class DenseStage(nn.Module):
    """Backbone and RPN head: all that has fixed shapes once the padded image size is fixed."""

    def __init__(self) -> None:
        super().__init__()
        cfg = load_config(None, TINY)
        self.backbone = build_backbone(cfg, 3)
        rpn = build_proposal_generator(cfg, self.backbone.output_specs)
        assert isinstance(rpn, RPN)
        self.head, self.in_features = rpn.rpn_head, rpn.in_features

    def forward(self, pixels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        features = self.backbone(pixels)
        return self.head([features[name] for name in self.in_features])


def test_the_dense_stage_is_one_graph() -> None:
    stage = DenseStage().eval()
    pixels = torch.randn(1, 3, 32, 48)
    graph = torch.export.export(stage, (pixels,)).module()
    for ours, exported in zip(stage(pixels), graph(pixels), strict=True):
        torch.testing.assert_close(list(exported), ours)
