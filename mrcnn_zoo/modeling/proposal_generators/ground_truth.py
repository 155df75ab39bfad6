"""The ground truth as proposals: how good the heads would be if nothing were missed."""

from collections.abc import Mapping

import torch

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.contracts import Features
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.registries import PROPOSAL_GENERATORS
from mrcnn_zoo.structures import Batch, FeatureSpec, ImageSize, Proposals, Targets, TrainingOutput

PREDICTION_SEED = 0  # the noise at inference is the same every time


class GroundTruthProposals:
    """An oracle: one proposal for each object, in its place or near it.

    Args:
        jitter: standard deviation of the noise, of the centre in box sides and of the logarithm of the sides.
    """

    needs_targets = True  # at inference too

    def __init__(self, *, jitter: float = 0.0) -> None:
        self.jitter = jitter
        self._coder = BoxCoder((1.0, 1.0, 1.0, 1.0))

    def losses(self, features: Features, batch: Batch) -> tuple[list[Proposals], TrainingOutput]:  # noqa: ARG002
        """The objects of each image, with noise that is drawn anew; there is nothing to supervise."""
        return self._propose(batch, generator=None), TrainingOutput()

    def predict(self, features: Features, batch: Batch) -> list[Proposals]:  # noqa: ARG002
        """The objects of each image, with the same noise every time.

        Raises:
            UserError: a sample has no targets.
        """
        return self._propose(batch, generator=torch.Generator().manual_seed(PREDICTION_SEED))

    @torch.no_grad()
    def _propose(self, batch: Batch, generator: torch.Generator | None) -> list[Proposals]:
        if batch.targets is None:
            raise UserError(
                "MODEL.PROPOSAL_GENERATOR.NAME is GroundTruthProposals, which works on annotated images only, and "
                "these come without their annotations."
            )
        return [
            self._propose_image(targets, size, generator)
            for targets, size in zip(batch.targets, batch.image_sizes, strict=True)
        ]

    def _propose_image(self, targets: Targets, image_size: ImageSize, generator: torch.Generator | None) -> Proposals:
        boxes = targets.boxes
        if self.jitter > 0:
            noise = torch.randn(boxes.shape, generator=generator).to(boxes) * self.jitter
            boxes = self._coder.decode(noise, boxes)
        boxes = box_ops.clip(boxes, image_size)
        boxes = boxes[box_ops.is_nonempty(boxes)]
        return Proposals(image_size, boxes, objectness=boxes.new_zeros(len(boxes)))


@PROPOSAL_GENERATORS.register("GroundTruthProposals")
def build_ground_truth_proposals(
    cfg: CfgNode,
    feature_specs: Mapping[str, FeatureSpec],  # noqa: ARG001
) -> GroundTruthProposals:
    """The oracle with the noise of `MODEL.PROPOSAL_GENERATOR.JITTER`."""
    return GroundTruthProposals(jitter=cfg.MODEL.PROPOSAL_GENERATOR.JITTER)
