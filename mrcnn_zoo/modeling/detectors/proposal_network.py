"""The first stage of a two-stage detector alone: region proposals as detections."""

from collections.abc import Sequence

import torch
from torch import nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.backbones import build_backbone
from mrcnn_zoo.modeling.contracts import Backbone, ProposalGenerator
from mrcnn_zoo.modeling.detectors.input_output import Collation, features_of_proposals, losses_or_detections, propose
from mrcnn_zoo.modeling.proposal_generators import build_proposal_generator
from mrcnn_zoo.modeling.recording import Recorder
from mrcnn_zoo.registries import DETECTORS
from mrcnn_zoo.structures import Detections, Sample, TrainingOutput


class ProposalNetwork(nn.Module):
    """Backbone and proposal generator: the first stage of Faster R-CNN, trained and evaluated alone.

    Source: Ren et al. 2015 (Faster R-CNN), sec. 3.2, step 1 of the alternating training.

    Args:
        backbone: pixels to feature maps.
        proposal_generator: proposes regions on these maps.
        pixel_mean: of each input channel, pixel units.
        pixel_std: of each input channel, pixel units.
    """

    predicts_classes = False
    forward = losses_or_detections
    propose = propose

    def __init__(
        self,
        backbone: Backbone,
        *,
        proposal_generator: ProposalGenerator,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        self.collate = Collation(pixel_mean, pixel_std, size_divisibility=backbone.size_divisibility)

    @property
    def needs_targets(self) -> bool:
        """Whether `predict` also needs samples with targets."""
        return self.proposal_generator.needs_targets

    def losses(self, samples: list[Sample]) -> TrainingOutput:
        """The losses of the proposal generator.

        Args:
            samples: images with targets.

        Raises:
            ValueError: a sample has no targets.
            UserError: the proposal generator has no losses.
        """
        batch = self.collate(samples)
        batch.require_targets()
        _, output = self.proposal_generator.losses(features_of_proposals(self, batch), batch)
        if not output.sums:
            raise UserError(
                f"{type(self.proposal_generator).__name__} (MODEL.PROPOSAL_GENERATOR.NAME) has no losses, so a "
                "ProposalNetwork with it cannot be trained: evaluate it with --eval-only."
            )
        return output

    def predict(self, samples: list[Sample], recorder: Recorder | None = None) -> list[Detections]:
        """The proposals as detections of the only class "object", scored by the sigmoid of their objectness.

        The order is that of the logits, also where scores of different logits round to the same 1.0.

        Args:
            samples: images.
            recorder: gets a report of the stage "proposals" on each image.
        """
        return [
            Detections(
                image_size=table.image_size,
                boxes=table.boxes,
                scores=table.objectness.sigmoid(),
                classes=torch.zeros(len(table), dtype=torch.int64, device=table.boxes.device),
            )
            for table in self.propose(samples, recorder)
        ]


@DETECTORS.register("ProposalNetwork")
def build_proposal_network(cfg: CfgNode) -> ProposalNetwork:
    """The backbone and the proposal generator of `MODEL`, on the CPU with initial weights."""
    backbone = build_backbone(cfg, len(cfg.MODEL.PIXEL_MEAN))
    return ProposalNetwork(
        backbone,
        proposal_generator=build_proposal_generator(cfg, backbone.output_specs),
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
    )
