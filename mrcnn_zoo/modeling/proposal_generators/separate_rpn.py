"""A region proposal network that shares no features with the region heads."""

from collections.abc import Mapping

from torch import nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.modeling.backbones import build_backbone
from mrcnn_zoo.modeling.contracts import Backbone, Features
from mrcnn_zoo.modeling.proposal_generators.rpn import RPN, build_rpn
from mrcnn_zoo.modeling.recording import Recorder
from mrcnn_zoo.registries import PROPOSAL_GENERATORS
from mrcnn_zoo.structures import Batch, FeatureSpec, Proposals, TrainingOutput


class SeparateRPN(nn.Module):
    """A region proposal network with a backbone of its own, which sees the same pixels as the detector's.

    Source: Ren et al. 2015 (Faster R-CNN), sec. 3.2, after the second of the four steps; He et al. 2017 (Mask R-CNN),
    sec. 3.1, the RPN of the ablations.

    Args:
        backbone: pixels to feature maps.
        rpn: proposes regions on these maps.
    """

    needs_targets = False
    needs_features = False  # those of the detector

    def __init__(self, backbone: Backbone, rpn: RPN) -> None:
        super().__init__()
        self.backbone = backbone
        self.rpn = rpn

    def losses(self, features: Features, batch: Batch) -> tuple[list[Proposals], TrainingOutput]:  # noqa: ARG002
        """The proposals to train the next stage on, without gradient, and the losses of `RPN`.

        Args:
            features: not used.
            batch: with targets.
        """
        return self.rpn.losses(self.backbone(batch.pixels), batch)

    def predict(
        self,
        features: Features,  # noqa: ARG002
        batch: Batch,
        *,
        recorder: Recorder | None = None,
    ) -> list[Proposals]:
        """The proposals of each image, best first.

        Args:
            features: not used.
            batch: the images.
            recorder: gets a report of the stage "proposals".
        """
        return self.rpn.predict(self.backbone(batch.pixels), batch, recorder=recorder)


@PROPOSAL_GENERATORS.register("SeparateRPN")
def build_separate_rpn(
    cfg: CfgNode,
    feature_specs: Mapping[str, FeatureSpec],  # noqa: ARG001
) -> SeparateRPN:
    """The region proposal network of `MODEL.RPN` on a second network of `MODEL.BACKBONE`.

    Args:
        cfg: the whole config.
        feature_specs: maps of the detector's backbone by name.
    """
    backbone = build_backbone(cfg, len(cfg.MODEL.PIXEL_MEAN))
    return SeparateRPN(backbone, build_rpn(cfg, backbone.output_specs))
