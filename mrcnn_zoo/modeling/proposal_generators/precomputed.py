"""Proposals without a network: precomputed ones of the samples, or the ground truth."""

from collections.abc import Mapping, Sequence

import torch

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.contracts import Features
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.registries import PROPOSAL_GENERATORS
from mrcnn_zoo.structures import Batch, FeatureSpec, ImageSize, Proposals, Targets, TrainingOutput
from mrcnn_zoo.structures.samples import seed_of


class PrecomputedProposals:
    """Returns the proposals of the samples.

    Source: Girshick 2015 (Fast R-CNN), sec. 2.

    Args:
        files: files of proposals in the config, for messages.
        are_loaded: whether the mapper loads them, for messages.
    """

    needs_targets = False
    needs_features = False

    def __init__(self, *, files: Sequence[str] = (), are_loaded: bool = True) -> None:
        self.files = tuple(files)
        self.are_loaded = are_loaded

    def losses(self, features: Features, batch: Batch) -> tuple[list[Proposals], TrainingOutput]:
        """The proposals of the samples, and no losses.

        Args:
            features: not used.
            batch: the images.
        """
        return self.predict(features, batch), TrainingOutput()

    def predict(self, features: Features, batch: Batch) -> list[Proposals]:  # noqa: ARG002
        """The proposals of the samples.

        Args:
            features: not used.
            batch: the images.

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
                f"the images have no proposals: the files of the config, {named}, contain those of datasets, and these "
                "images are not in a dataset. Use a model that predicts its own proposals, e.g. with an RPN."
            )
        given = f"the files of the config, {named}, are not read" if self.files else "the config names no files"
        return (
            f"the images have no proposals: {given}. Set MODEL.LOAD_PROPOSALS to True and name the files in "
            "DATASETS.PROPOSAL_FILES_TRAIN and DATASETS.PROPOSAL_FILES_TEST; `mrcnn-zoo precompute-proposals` writes "
            "them. Image files outside a dataset have no proposals."
        )


@PROPOSAL_GENERATORS.register("PrecomputedProposals")
def build_precomputed_proposals(
    cfg: CfgNode,
    feature_specs: Mapping[str, FeatureSpec],  # noqa: ARG001
) -> PrecomputedProposals:
    """The proposals that the mapper loads.

    Args:
        cfg: the whole config.
        feature_specs: maps of the backbone by name.
    """
    files = [*cfg.DATASETS.PROPOSAL_FILES_TRAIN, *cfg.DATASETS.PROPOSAL_FILES_TEST]
    return PrecomputedProposals(files=tuple(dict.fromkeys(files)), are_loaded=cfg.MODEL.LOAD_PROPOSALS)


class GroundTruthProposals:
    """Ground-truth boxes as proposals, with optional noise: an upper bound for proposal generators.

    Args:
        jitter: standard deviation of the noise of the centre, in box sides, and of the logarithm of the sides.
    """

    needs_targets = True  # at inference too
    needs_features = False

    def __init__(self, *, jitter: float = 0.0) -> None:
        self.jitter = jitter
        self._coder = BoxCoder((1.0, 1.0, 1.0, 1.0))

    def losses(self, features: Features, batch: Batch) -> tuple[list[Proposals], TrainingOutput]:  # noqa: ARG002
        """The objects of each image with new noise, and no losses.

        Args:
            features: not used.
            batch: the images.
        """
        return self._propose(batch, [None] * len(batch.image_sizes)), TrainingOutput()

    def predict(self, features: Features, batch: Batch) -> list[Proposals]:  # noqa: ARG002
        """The objects of each image, with noise that depends on the id of the image alone.

        Args:
            features: not used.
            batch: the images.

        Raises:
            UserError: a sample has no targets.
        """
        ids = batch.image_ids or range(len(batch.image_sizes))
        return self._propose(batch, [torch.Generator().manual_seed(seed_of(image_id)) for image_id in ids])

    @torch.no_grad()
    def _propose(self, batch: Batch, generators: Sequence[torch.Generator | None]) -> list[Proposals]:
        if batch.targets is None:
            raise UserError(
                "MODEL.PROPOSAL_GENERATOR.NAME is GroundTruthProposals, which needs annotated images, but these "
                "images have no annotations."
            )
        return [
            self._propose_image(targets, size, generator)
            for targets, size, generator in zip(batch.targets, batch.image_sizes, generators, strict=True)
        ]

    def _propose_image(self, targets: Targets, image_size: ImageSize, generator: torch.Generator | None) -> Proposals:
        boxes = targets.boxes
        if self.jitter > 0:
            noise = torch.randn(boxes.shape, generator=generator).to(boxes) * self.jitter
            boxes = self._coder.decode(noise, boxes)
        boxes = box_ops.clip_to_image(boxes, image_size)
        boxes = boxes[box_ops.is_nonempty(boxes)]
        return Proposals(image_size, boxes, objectness=boxes.new_zeros(len(boxes)))


@PROPOSAL_GENERATORS.register("GroundTruthProposals")
def build_ground_truth_proposals(
    cfg: CfgNode,
    feature_specs: Mapping[str, FeatureSpec],  # noqa: ARG001
) -> GroundTruthProposals:
    """Ground truth with the noise of `MODEL.PROPOSAL_GENERATOR.JITTER`.

    Args:
        cfg: the whole config.
        feature_specs: maps of the backbone by name.
    """
    return GroundTruthProposals(jitter=cfg.MODEL.PROPOSAL_GENERATOR.JITTER)
