"""`losses` and `train` of the detectors that train their suppression alone.

The suppression is trained on what it gets at inference. Everything else is in evaluation mode and without gradient, and
the names of the weights are those of the ordinary detector, so the checkpoint of this training is an ordinary one.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch
from torch import nn

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.contracts import Candidates, LearnsToSuppress
from mrcnn_zoo.modeling.detectors.input_output import Collation
from mrcnn_zoo.modeling.suppression import suppression_losses
from mrcnn_zoo.structures import Batch, Sample, TrainingOutput

SUPPRESSION = "suppression"  # the part of SOLVER.TRAIN

Model = TypeVar("Model", bound=nn.Module)


class SuppressingDetector(Protocol):
    """A detector that returns the input of its suppression."""

    collate: Collation

    @property
    def suppression(self) -> nn.Module:
        """The suppression of the detections."""

    def candidates(self, batch: Batch) -> Candidates:
        """The boxes that the suppression gets at inference."""


def is_suppression_alone(trained_parts: Sequence[str]) -> bool:
    """Whether the suppression and nothing else is trained.

    Args:
        trained_parts: SOLVER.TRAIN.
    """
    return list(trained_parts) == [SUPPRESSION]


def suppression_losses_alone(detector: SuppressingDetector, samples: list[Sample]) -> TrainingOutput:
    """`losses` of a detector that trains its suppression alone, in float32 as at inference.

    Args:
        detector: the model; its other parts are in evaluation mode.
        samples: images with targets.

    Raises:
        UserError: the suppression learns nothing.
        ValueError: a sample has no targets.
    """
    if not isinstance(detector.suppression, LearnsToSuppress):
        raise UserError(
            f"SOLVER.TRAIN = [{SUPPRESSION}], but {type(detector.suppression).__name__} has no losses; set "
            "MODEL.ROI_HEADS.SUPPRESSION (of a RetinaNet MODEL.RETINANET.SUPPRESSION) to one that learns, e.g. "
            "GossipNet."
        )
    batch = detector.collate(samples)
    targets = batch.require_targets()
    with torch.autocast(batch.pixels.device.type, enabled=False):
        with torch.no_grad():
            candidates = detector.candidates(batch)
        return suppression_losses(detector.suppression, lambda: candidates, targets)


def train_suppression_alone(detector: Model, mode: bool = True) -> Model:
    """`train` of such a detector: batch norm and dropout stay in evaluation mode.

    Args:
        detector: the model.
        mode: of the suppression, and of the detector itself, which decides between losses and detections.
    """
    nn.Module.train(detector, False)
    detector.training = mode
    detector.suppression.train(mode)  # type: ignore[operator, union-attr]
    return detector
