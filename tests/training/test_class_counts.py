import torch
from torch import Tensor, nn

from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.training.build import images_per_class, set_class_counts


class Learner(nn.Module):
    counts: Tensor | None = None

    def set_class_counts(self, image_counts: Tensor) -> None:
        self.counts = image_counts


def dataset(*images: list[int]) -> Dataset:
    """Images with instances of the given classes."""
    records = tuple(
        ImageRecord(number, None, (10, 10), tuple(InstanceRecord((0, 0, 5, 5), index) for index in classes))
        for number, classes in enumerate(images)
    )
    return Dataset("toy", records, class_names=("a", "b", "c"), category_ids=(1, 2, 3))


def test_an_image_counts_once_for_each_of_its_classes() -> None:
    assert images_per_class([dataset([0, 0, 2], [], [2])]) == [1, 0, 2]


def test_datasets_add_up() -> None:
    assert images_per_class([dataset([0]), dataset([0, 1])]) == [2, 1, 0]


def test_no_images_have_no_counts() -> None:
    assert images_per_class([dataset()]) == [0, 0, 0]


def test_parts_that_learn_from_class_counts_get_them() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Sequential(Learner()))
    set_class_counts(model, [dataset([0, 0, 2], [2])])
    assert torch.equal(model[1][0].counts, torch.tensor([1, 0, 2]))
