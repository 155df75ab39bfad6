from dataclasses import replace

import pytest

from mrcnn_zoo.data.derived import divided, merged, sampled, sides_of
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.errors import UserError


def dataset_of(num_images: int, *, name: str = "cells", classes: tuple[str, ...] = ("cell", "rare")) -> Dataset:
    """Images slide<s>_<n>.png, four per slide, with an object of the first class; every fifth has one of the second."""
    records = []
    for number in range(num_images):
        instances = [InstanceRecord((0, 0, 4, 4), 0, annotation_id=2 * number + 1)]
        if number % 5 == 0:
            instances.append(InstanceRecord((4, 4, 8, 8), 1, annotation_id=2 * number + 2))
        source = FileImage(f"/data/{name}/slide{number // 4}_{number}.png")
        records.append(ImageRecord(number + 1, source, (10, 10), tuple(instances)))
    return Dataset(name, tuple(records), classes, (1, 2))


def test_sides_are_in_the_order_train_val_test_and_images_without_one_are_trained_on() -> None:
    dataset = dataset_of(4)
    assert sides_of(dataset) == {"": dataset}
    splits = ("test", "", "val", "train")
    mixed = replace(dataset, records=tuple(replace(r, split=s) for r, s in zip(dataset.records, splits, strict=True)))
    sides = sides_of(mixed)
    assert list(sides) == ["train", "val", "test"]
    assert [record.image_id for record in sides["train"].records] == [4, 2]


def test_division_has_the_shares_of_images_and_classes() -> None:
    sides = sides_of(divided(dataset_of(50), {"val": 0.2, "test": 0.1}))
    assert {side: len(part) for side, part in sides.items()} == {"train": 35, "val": 10, "test": 5}
    rare = {side: sum(item.class_index for r in part.records for item in r.instances) for side, part in sides.items()}
    assert rare == {"train": 7, "val": 2, "test": 1}


def test_division_does_not_depend_on_the_order_of_the_images() -> None:
    dataset = dataset_of(20)
    backwards = replace(dataset, records=dataset.records[::-1])
    first, second = divided(dataset, {"val": 0.25}), divided(backwards, {"val": 0.25})
    assert {record.source.name: record.split for record in first.records} == {
        record.source.name: record.split for record in second.records
    }
    assert first.records != divided(dataset, {"val": 0.25}, seed=1).records


def test_groups_are_on_one_side() -> None:
    result = divided(dataset_of(40), {"val": 0.3}, group=r"(slide\d+)_")
    sides: dict[str, set[str]] = {}
    for record in result.records:
        sides.setdefault(record.source.name.split("/")[-1].split("_")[0], set()).add(record.split)
    assert all(len(found) == 1 for found in sides.values())
    assert sum(found == {"val"} for found in sides.values()) == 3


def test_division_that_is_impossible_is_refused() -> None:
    with pytest.raises(UserError, match=r"the shares 0.5 \+ 0.5 leave no training image"):
        divided(dataset_of(4), {"val": 0.5, "test": 0.5})
    with pytest.raises(UserError, match="cells has 1 group, too few for train, val"):
        divided(dataset_of(4), {"val": 0.5}, group=r"(slide\d+)_")


def test_samples_are_stratified_and_nested() -> None:
    dataset = dataset_of(50)
    large, small = sampled(dataset, 20), sampled(dataset, 10)
    assert (len(large), len(small)) == (20, 10)
    assert {record.image_id for record in small.records} < {record.image_id for record in large.records}
    assert sum(len(record.instances) == 2 for record in small.records) == 2
    with pytest.raises(UserError, match="cells has 50 images, fewer than the 51 to take"):
        sampled(dataset, 51)


def test_merged_classes_are_united_by_name_and_ids_are_distinct() -> None:
    result = merged([dataset_of(3), dataset_of(2, name="more", classes=("rare", "dirt"))])
    assert result.class_names == ("cell", "rare", "dirt")
    assert [record.image_id for record in result.records] == [1, 2, 3, 4, 5]
    instances = [item for record in result.records for item in record.instances]
    assert [item.annotation_id for item in instances] == list(range(1, len(instances) + 1))
    assert [item.class_index for item in result.records[3].instances] == [1, 2]
