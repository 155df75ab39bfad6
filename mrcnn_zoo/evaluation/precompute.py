"""The proposals of a model for every image of a dataset, as files keep them."""

from collections.abc import Iterable

import numpy as np
from torch import nn

from mrcnn_zoo.data.proposal_files import StoredProposals
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inference.predictor import inference
from mrcnn_zoo.modeling.contracts import ProposesRegions
from mrcnn_zoo.structures import Sample


def compute_proposals(model: nn.Module, loader: Iterable[list[Sample]]) -> dict[int | str, StoredProposals]:
    """The proposals of each image by its id, in pixels of the image file, best first.

    Args:
        model: a detector with proposals, see `ProposesRegions`.
        loader: batches of the images.

    Raises:
        UserError: a model that proposes nothing.
    """
    if not isinstance(model, ProposesRegions):
        raise UserError(
            f"{type(model).__name__} makes no proposals: take a ProposalNetwork or a GeneralizedRCNN "
            "(MODEL.META_ARCHITECTURE)."
        )
    stored: dict[int | str, StoredProposals] = {}
    with inference(model):
        for samples in loader:
            for sample, table in zip(samples, model.propose(samples), strict=True):
                boxes, objectness = (
                    column.cpu().numpy().astype(np.float32) for column in (table.boxes, table.objectness)
                )
                stored[sample.image_id] = StoredProposals(boxes, objectness)
    return stored
