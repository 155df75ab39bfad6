"""A detector that proposes regions and stops there."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.backbones import build_backbone
from mrcnn_zoo.modeling.contracts import Backbone, ProposalGenerator
from mrcnn_zoo.modeling.detectors.input_output import Collation, proposals_to_original_size
from mrcnn_zoo.modeling.proposal_generators import build_proposal_generator
from mrcnn_zoo.modeling.recording import Recorder, recorded
from mrcnn_zoo.registries import DETECTORS
from mrcnn_zoo.structures import Detections, Proposals, Sample, TrainingOutput


class ProposalNetwork(nn.Module):
    """Backbone and proposals: the first stage of Faster R-CNN, to be trained and measured alone.

    Source: Ren et al. 2015 (Faster R-CNN), sec. 3.2, step 1 of the alternating training.

    Args:
        backbone: makes feature maps.
        proposal_generator: finds regions on them.
        pixel_mean: of each input channel, pixel units.
        pixel_std: of each input channel, pixel units.
    """

    predicts_classes = False

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
        """Whether also `predict` needs samples with targets."""
        return self.proposal_generator.needs_targets

    def forward(self, samples: list[Sample]) -> TrainingOutput | list[Detections]:
        """`losses` in training mode, else `predict`: the one entry that a DistributedDataParallel wrapper has."""
        return self.losses(samples) if self.training else self.predict(samples)

    @property
    def pixel_mean(self) -> Tensor:
        """(C, 1, 1), one value for each channel of the images."""
        return self.collate.pixel_mean

    def losses(self, samples: list[Sample]) -> TrainingOutput:
        """The losses of the proposals.

        Raises:
            ValueError: a sample has no targets.
            UserError: the proposals are not learned.
        """
        batch = self.collate(samples)
        batch.require_targets()
        _, output = self.proposal_generator.losses(self.backbone(batch.pixels), batch)
        if not output.sums:
            raise UserError(
                f"{type(self.proposal_generator).__name__} (MODEL.PROPOSAL_GENERATOR.NAME) learns nothing, so a "
                "ProposalNetwork with it cannot be trained: measure it with --eval-only."
            )
        return output

    @torch.no_grad()
    def propose(self, samples: list[Sample], recorder: Recorder | None = None) -> list[Proposals]:
        """The proposals of each image in the coordinates of its original size, best first."""
        batch = self.collate(samples)
        features = self.backbone(batch.pixels)
        proposals = recorded(self.proposal_generator.predict, features, batch, recorder=recorder)
        return proposals_to_original_size(proposals, samples)

    def predict(self, samples: list[Sample], recorder: Recorder | None = None) -> list[Detections]:
        """The proposals as detections of the only class "object", scored by the sigmoid of their objectness.

        They stay in the order of their logits, also where the scores of different logits round to the same 1.0.
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
    """The backbone and the proposal generator of `MODEL`, on the CPU and with fresh weights."""
    backbone = build_backbone(cfg, len(cfg.MODEL.PIXEL_MEAN))
    return ProposalNetwork(
        backbone,
        proposal_generator=build_proposal_generator(cfg, backbone.output_specs),
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
    )
