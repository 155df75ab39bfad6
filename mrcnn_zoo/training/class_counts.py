"""How frequent the classes of the training data are, for the losses that want to know."""

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.modeling.contracts import LearnsFromClassCounts


def tell_class_counts(model: nn.Module, datasets: Sequence[Dataset]) -> None:
    """Hand the class counts of the training data to each part of the model that learns from them."""
    learners = [module for module in model.modules() if isinstance(module, LearnsFromClassCounts)]
    if learners:
        counts = torch.tensor(images_by_class(datasets), device=next(model.parameters()).device)
        for learner in learners:
            learner.set_class_counts(counts)


def images_by_class(datasets: Iterable[Dataset]) -> list[int]:
    """In how many images of all datasets together each class is; crowds count, too. Their classes must be the same."""
    counts: Counter[int] = Counter()
    num_classes = 0
    for dataset in datasets:
        num_classes = len(dataset.class_names)
        for record in dataset.records:
            counts.update({instance.class_index for instance in record.instances})
    return [counts[index] for index in range(num_classes)]
