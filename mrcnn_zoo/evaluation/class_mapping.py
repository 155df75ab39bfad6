"""A model's classes as those of a dataset that has them in another order, or has fewer."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from mrcnn_zoo.data.classes import require_known_classes
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.structures import Detections, Sample

NO_CLASS = -1  # of the dataset


class ClassMappedDetector(nn.Module):
    """A detector that speaks of the classes of a dataset, and is silent about those that the dataset does not have.

    Args:
        detector: with `predict(samples)`.
        mapping: see `class_mapping`.
    """

    mapping: Tensor

    def __init__(self, detector: nn.Module, mapping: Tensor) -> None:
        super().__init__()
        self.detector = detector
        self.register_buffer("mapping", mapping, persistent=False)

    @property
    def needs_targets(self) -> bool:
        """Whether `predict` needs the ground truth."""
        return getattr(self.detector, "needs_targets", False)

    @property
    def resizes_images(self) -> bool:
        """Whether `predict` takes images of the size of their files."""
        return getattr(self.detector, "resizes_images", False)

    def predict(self, samples: list[Sample]) -> list[Detections]:
        """As the detector's, with the dataset's class indices."""
        return self.mapped(self.detector.predict(samples))  # type: ignore[operator]

    def mapped(self, found: Sequence[Detections]) -> list[Detections]:
        """Detections of the detector, with the dataset's class indices."""
        return [with_mapped_classes(detections, self.mapping) for detections in found]


def with_classes_of(dataset: Dataset, model: nn.Module, class_names: Sequence[str]) -> nn.Module:
    """The model, or where its classes are not the dataset's in the same order, a detector that translates them.

    Args:
        dataset: its class names are looked for.
        model: with `predict(samples)`.
        class_names: of the model by class index; empty where they are not known.

    Raises:
        UserError: as `class_mapping`.
    """
    has_same_classes = not class_names or tuple(class_names) == tuple(dataset.class_names)
    if has_same_classes or not predicts_classes(model):
        return model
    return ClassMappedDetector(model, class_mapping(class_names, dataset))


def predicts_classes(model: nn.Module) -> bool:
    """Whether the classes of its detections mean anything; those of proposals do not."""
    return getattr(model, "predicts_classes", True)


def class_mapping(class_names: Sequence[str], dataset: Dataset) -> Tensor:
    """Which class of a dataset each class of a model is, by name.

    Returns:
        (K,) int64 for K class names: rows of the dataset's classes, NO_CLASS for names that it does not have.

    Raises:
        UserError: classes of the dataset that the model does not know, or two of the same name.
    """
    require_known_classes(dataset, class_names)
    rows = {name: row for row, name in enumerate(dataset.class_names)}
    return torch.tensor([rows.get(name, NO_CLASS) for name in class_names], dtype=torch.int64)


def with_mapped_classes(detections: Detections, mapping: Tensor) -> Detections:
    """Detections with other class indices; those that are mapped to NO_CLASS are left out.

    Args:
        detections: classes in [0, K).
        mapping: (K,) int64, see `class_mapping`.
    """
    classes = mapping.to(detections.classes.device)[detections.classes]
    is_kept = classes != NO_CLASS
    return replace(detections, classes=classes)[is_kept]
