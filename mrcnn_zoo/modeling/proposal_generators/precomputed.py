"""Proposals that were made before and come with the samples: Fast R-CNN."""

from collections.abc import Mapping, Sequence

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

    def __init__(self, *, files: Sequence[str] = (), are_loaded: bool = True) -> None:
        self.files = tuple(files)
        self.are_loaded = are_loaded

    def losses(self, features: Features, batch: Batch) -> tuple[list[Proposals], TrainingOutput]:
        """The proposals of the samples; there is nothing to supervise."""
        return self.predict(features, batch), TrainingOutput()

    def predict(self, features: Features, batch: Batch) -> list[Proposals]:  # noqa: ARG002
        """The proposals of the samples.

        Raises:
            UserError: a sample has none.
        """
        if batch.proposals is None:
            raise UserError(f"MODEL.PROPOSAL_GENERATOR.NAME is PrecomputedProposals, but {self._why_there_are_none()}")
        return batch.proposals

    def _why_there_are_none(self) -> str:
        named = ", ".join(self.files)
        if self.are_loaded and self.files:
            return (
                f"the images come without proposals: the files that are given, {named}, hold those of datasets, and "
                "these images are of none. Predict with a model that proposes regions itself."
            )
        given = f"the files that are given, {named}, are not read" if self.files else "no files of proposals are given"
        return (
            f"the images come without proposals: {given}. Set MODEL.LOAD_PROPOSALS to True and name the files in "
            "DATASETS.PROPOSAL_FILES_TRAIN and DATASETS.PROPOSAL_FILES_TEST; `mrcnn-zoo precompute-proposals` writes "
            "them. Image files outside a dataset have none."
        )


@PROPOSAL_GENERATORS.register("PrecomputedProposals")
def build_precomputed_proposals(
    cfg: CfgNode,
    feature_specs: Mapping[str, FeatureSpec],  # noqa: ARG001
) -> PrecomputedProposals:
    """What the mapper loads."""
    files = [*cfg.DATASETS.PROPOSAL_FILES_TRAIN, *cfg.DATASETS.PROPOSAL_FILES_TEST]
    return PrecomputedProposals(files=tuple(dict.fromkeys(files)), are_loaded=cfg.MODEL.LOAD_PROPOSALS)
