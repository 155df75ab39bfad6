"""Maps classes of a model by name to those of a dataset with another order or with fewer classes."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from mrcnn_zoo.data.classes import require_known_classes
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.structures import Detections, Sample

NO_CLASS = -1  # mapped index of classes that the dataset does not have


class ClassMappedDetector(nn.Module):
    """Gives detections class indices of a dataset, and removes those of classes that the dataset does not have.

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
        """Whether `predict` requires samples with targets."""
        return getattr(self.detector, "needs_targets", False)

    @property
    def resizes_images(self) -> bool:
        """Whether the detector resizes images itself, so that samples have the size of their files."""
        return getattr(self.detector, "resizes_images", False)

    def predict(self, samples: list[Sample]) -> list[Detections]:
        """Detections with class indices of the dataset.

        Args:
            samples: images.
        """
        return self.mapped(self.detector.predict(samples))  # type: ignore[operator]

    def mapped(self, found: Sequence[Detections]) -> list[Detections]:
        """Map the classes of detections.

        Args:
            found: predictions of `detector`.
        """
        return [with_mapped_classes(detections, self.mapping) for detections in found]


def with_classes_of(dataset: Dataset, model: nn.Module, class_names: Sequence[str]) -> nn.Module:
    """Wrap a model in a `ClassMappedDetector` if its class names differ from those of the dataset.

    Args:
        dataset: to be evaluated on.
        model: with `predict(samples)`.
        class_names: of the model by class index; empty if unknown.

    Raises:
        UserError: see `class_mapping`.
    """
    has_same_classes = not class_names or tuple(class_names) == tuple(dataset.class_names)
    if has_same_classes or not predicts_classes(model):
        return model
    return ClassMappedDetector(model, class_mapping(class_names, dataset))


def predicts_classes(model: nn.Module) -> bool:
    """Whether detections of a model have classes, unlike proposals."""
    return getattr(model, "predicts_classes", True)


def class_mapping(class_names: Sequence[str], dataset: Dataset) -> Tensor:
    """Class index of the dataset for each class of a model, by name.

    Args:
        class_names: (K,) of the model.
        dataset: to be evaluated on.

    Returns:
        (K,) int64; NO_CLASS for classes that the dataset does not have.

    Raises:
        UserError: the model lacks classes of the dataset, or several classes of the dataset have the same name.
    """
    require_known_classes(dataset, class_names)
    rows = {name: row for row, name in enumerate(dataset.class_names)}
    return torch.tensor([rows.get(name, NO_CLASS) for name in class_names], dtype=torch.int64)


def with_mapped_classes(detections: Detections, mapping: Tensor) -> Detections:
    """Map class indices; detections that are mapped to NO_CLASS are removed.

    Args:
        detections: classes in [0, K).
        mapping: (K,) int64, see `class_mapping`.
    """
    classes = mapping.to(detections.classes.device)[detections.classes]
    is_kept = classes != NO_CLASS
    return replace(detections, classes=classes)[is_kept]
