"""Stratified parts and nested subsets of hand-made label sets."""

import random
from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest

from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.data.splits import CLASS, NO_OBJECT, assign_parts, nested_subset, relative_names, rows_of, units_of
from mrcnn_zoo.errors import UserError

CLASSES = "abc"


@dataclass(frozen=True)
class NamedImage:
    name: str

    def read(self) -> np.ndarray:
        raise AssertionError("a split reads no pixels")


def dataset_of_labels(labels: list[str], *, folder: str = "/data/x", names: list[str] | None = None) -> Dataset:
    """An image per item, which lists its classes ("" for none)."""
    names = names or [f"{number:03d}.png" for number in range(len(labels))]
    records = tuple(
        ImageRecord(
            number, NamedImage(f"{folder}/{name}"), (9, 9), tuple(instance(CLASSES.index(item)) for item in items)
        )
        for number, (name, items) in enumerate(zip(names, labels, strict=True))
    )
    return Dataset("hand-made", records, tuple(CLASSES), (1, 2, 3))


def instance(class_index: int, *, is_crowd: bool = False) -> InstanceRecord:
    return InstanceRecord((0, 0, 1, 1), class_index, is_crowd=is_crowd)


# 40 images of a, 20 of a and b, 10 of c with or without a, 10 of none
MIXED = ["a"] * 40 + ["ab"] * 20 + ["c"] * 5 + ["ca"] * 5 + [""] * 10


def label_counts(labels: list[str], rows: list[int]) -> Counter[str]:
    return Counter(labels[row] for row in rows)


def test_folds_have_equal_shares_of_each_label_set() -> None:
    units = units_of([dataset_of_labels(MIXED)])
    parts = assign_parts(units, [0.2] * 5)
    assert len(parts) == 80
    for part in range(5):
        rows = rows_of([unit for unit, own in zip(units, parts, strict=True) if own == part])
        assert label_counts(MIXED, rows) == {"a": 8, "ab": 4, "c": 1, "ca": 1, "": 2}


def test_unequal_parts_have_their_shares() -> None:
    units = units_of([dataset_of_labels(MIXED)])
    parts = assign_parts(units, [0.8, 0.2])
    held_out = rows_of([unit for unit, own in zip(units, parts, strict=True) if own == 1])
    counts = label_counts(MIXED, held_out)
    assert len(held_out) == 16
    assert (counts["ab"], counts["c"] + counts["ca"], counts[""]) == (4, 2, 2)


def test_sizes_of_folds_differ_by_one_at_most() -> None:
    for seed in range(30):
        rng = random.Random(seed)
        labels = ["".join(name for name in CLASSES if rng.random() < 0.4) for _ in range(rng.randint(9, 23))]
        sizes = Counter(assign_parts(units_of([dataset_of_labels(labels)]), [1 / 4] * 4))
        assert len(sizes) == 4
        assert max(sizes.values()) - min(sizes.values()) <= 1


def test_subsets_are_nested_and_have_their_share_of_each_stratum() -> None:
    units = units_of([dataset_of_labels(MIXED)])
    shares = (0.1, 0.2, 0.4, 0.7, 1.0)
    subsets = [set(nested_subset(units, share, seed=3)) for share in shares]
    assert [len(subset) for subset in subsets] == [8, 16, 32, 56, 80]
    for smaller, larger in pairwise(subsets):
        assert smaller < larger
    for share, subset in zip(shares, subsets, strict=True):
        counts = Counter(units[number].labels[NO_OBJECT] for number in subset)
        rare = sum((CLASS, "c") in units[number].labels for number in subset)
        assert abs(counts[1] - 10 * share) <= 1
        assert abs(rare - 10 * share) <= 1


def test_seeds_draw_other_subsets_and_each_image_equally_often() -> None:
    units = units_of([dataset_of_labels(MIXED)])
    drawn = Counter(number for seed in range(200) for number in nested_subset(units, 0.25, seed=seed))
    assert len(drawn) == 80
    assert min(drawn.values()) > 25  # 50 expected, standard deviation 6
    assert max(drawn.values()) < 75
    assert nested_subset(units, 0.25, seed=5) == nested_subset(units, 0.25, seed=5)


def test_a_class_rarer_than_the_share_is_drawn_by_some_seeds_only() -> None:
    units = units_of([dataset_of_labels(["a"] * 39 + ["b"])])
    rare = [any((CLASS, "b") in units[row].labels for row in nested_subset(units, 0.25, seed=s)) for s in range(60)]
    assert 5 < sum(rare) < 30  # 15 expected


def test_split_depends_neither_on_the_order_nor_on_the_folder() -> None:
    dataset = dataset_of_labels(MIXED)
    moved = dataset_of_labels(MIXED, folder="/elsewhere/data")
    order = list(range(80))
    random.Random(0).shuffle(order)
    shuffled = replace(moved, records=tuple(moved.records[row] for row in order))

    def names(data: Dataset) -> tuple[list[str], list[int]]:
        units = units_of([data])
        return [units[n].key for n in nested_subset(units, 0.3, seed=1)], assign_parts(units, [0.25] * 4)

    assert names(dataset) == names(shuffled)


def test_groups_stay_together_and_their_folds_are_balanced() -> None:
    labels = (["a"] * 3 + ["b"]) * 10 + ["c"] * 5
    names = [f"p{number // 4}_{number}.png" for number in range(40)] + [f"q{n}_0.png" for n in range(5)]
    units = units_of([dataset_of_labels(labels, names=names)], group=r"^(\w\d+)_")
    assert [unit.key for unit in units] == sorted({name.split("_")[0] for name in names})
    parts = assign_parts(units, [0.2] * 5)
    for part in range(5):
        rows = rows_of([unit for unit, own in zip(units, parts, strict=True) if own == part])
        assert label_counts(labels, rows) == {"a": 6, "b": 2, "c": 1}


def test_each_fold_has_a_group_even_if_one_is_large() -> None:
    names = [f"large/{number}.png" for number in range(30)] + ["x/0.png", "y/0.png"]
    units = units_of([dataset_of_labels(["a"] * 32, names=names)], group="^(.*)/")
    assert sorted(assign_parts(units, [1 / 3] * 3)) == [0, 1, 2]
    assert [units[number].key for number in nested_subset(units, 0.07)] in (["x"], ["y"], ["x", "y"])


def test_file_without_group_is_refused_with_its_name() -> None:
    data = dataset_of_labels(["a", "a"], names=["p1_0.png", "other.png"])
    with pytest.raises(UserError, match=r"'other\.png' of dataset 'hand-made' does not match the pattern .*GROUP"):
        units_of([data], group=r"^p(\d+)")


def test_image_that_two_datasets_list_is_one_unit() -> None:
    one, other = dataset_of_labels(["a", "b"]), replace(dataset_of_labels(["a", "b", "c"]), name="other")
    units = units_of([one, other])
    assert sorted(tuple(unit.rows) for unit in units) == [(0, 2), (1, 3), (4,)]
    moved = dataset_of_labels(["a", "b"], folder="/elsewhere")
    assert len(units_of([one, replace(moved, name="other")])) == 4


def test_crowds_are_no_objects() -> None:
    dataset = dataset_of_labels([""])
    crowded = replace(dataset, records=(replace(dataset.records[0], instances=(instance(0, is_crowd=True),)),))
    assert units_of([crowded])[0].labels == {NO_OBJECT: 1}


def test_no_images_have_no_subset() -> None:
    assert units_of([dataset_of_labels([])]) == []
    assert nested_subset([], 0.5) == []
    assert relative_names([]) == []


def test_names_are_relative_to_the_folder_of_all_images() -> None:
    names = ["s1/images/a.png", "s1/images/b.png", "s2/c.png"]
    assert relative_names(dataset_of_labels(["a"] * 3, names=names).records) == names
    assert relative_names(dataset_of_labels(["a"], names=["s1/a.png"]).records) == ["a.png"]
