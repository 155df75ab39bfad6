"""Proposals that were made before and come with the samples: Fast R-CNN."""

from collections.abc import Mapping

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.contracts import Features
from mrcnn_zoo.registries import PROPOSAL_GENERATORS
from mrcnn_zoo.structures import Batch, FeatureSpec, Proposals, TrainingOutput


class PrecomputedProposals:
    """Hands on the proposals of the samples.

    Source: Girshick 2015 (Fast R-CNN), sec. 2.
    """

    needs_targets = False

    def losses(self, features: Features, batch: Batch) -> tuple[list[Proposals], TrainingOutput]:
        """The proposals of the samples; there is nothing to supervise."""
        return self.predict(features, batch), TrainingOutput()

    def predict(self, features: Features, batch: Batch) -> list[Proposals]:  # noqa: ARG002
        """The proposals of the samples.

        Raises:
            UserError: a sample has none.
        """
        if batch.proposals is None:
            raise UserError(
                "MODEL.PROPOSAL_GENERATOR.NAME is PrecomputedProposals, but the images come without proposals. Set "
                "MODEL.LOAD_PROPOSALS to True and name the files in DATASETS.PROPOSAL_FILES_TRAIN and "
                "DATASETS.PROPOSAL_FILES_TEST; `mrcnn-zoo precompute-proposals` writes them. Image files outside a "
                "dataset have none."
            )
        return batch.proposals


@PROPOSAL_GENERATORS.register("PrecomputedProposals")
def build_precomputed_proposals(
    cfg: CfgNode,  # noqa: ARG001
    feature_specs: Mapping[str, FeatureSpec],  # noqa: ARG001
) -> PrecomputedProposals:
    """What the mapper loads."""
    return PrecomputedProposals()
