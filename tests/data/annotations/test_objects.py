"""Datasets from annotated objects, and the listing of their files."""

from pathlib import Path

import numpy as np
import pytest

from mrcnn_zoo.data.annotations.listing import FileListing
from mrcnn_zoo.data.annotations.objects import AnnotatedImage, AnnotatedObject, build_dataset
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.records import Dataset, RepairLog

POLYGONS = [
    [[1.5, 1, 9.25, 1, 5, 8], [12, 2, 15, 2, 15, 5]],
    [[1, 1, 9, 1, 5, 8, 7]],  # odd
    [[1, 1, 9, 1]],  # too short
    [[1, 1, float("nan"), 1, 5, 8], [3, 3, 6, 3, 6, 6]],
    [[4, 4, 4, 4, 4, 4]],  # a point
    [[-500, -500, 500, 1, 5, 800]],  # far outside
]


def _dataset(*, as_arrays: bool | None) -> Dataset:
    """Of one object per value; every second polygon an array where `as_arrays` is None."""
    objects, number = [], 0
    for polygons in POLYGONS:
        converted = []
        for polygon in polygons:
            number += 1
            is_array = number % 2 if as_arrays is None else as_arrays
            converted.append(np.array(polygon, dtype=np.float64) if is_array else polygon)
        objects.append(AnnotatedObject("cat", "line 1", converted))
    image = AnnotatedImage(FileImage("a.png"), (20, 30), objects, "a.txt")
    return build_dataset("data", [image], ["cat"], repairs=RepairLog("object"))


@pytest.mark.parametrize("as_arrays", [True, None])
def test_polygons_as_arrays_are_read_as_lists_of_numbers(as_arrays: bool | None) -> None:
    expected, found = _dataset(as_arrays=False), _dataset(as_arrays=as_arrays)
    assert found.notes == expected.notes
    assert len(expected.notes) >= 5
    assert len(expected.records[0].instances) == 4
    for first, second in zip(expected.records[0].instances, found.records[0].instances, strict=True):
        assert first.box == second.box
        if isinstance(first.segmentation, dict):
            assert first.segmentation == second.segmentation
        else:
            assert first.segmentation is not None
            assert second.segmentation is not None
            pairs = zip(first.segmentation, second.segmentation, strict=True)
            assert all(np.array_equal(one, other) for one, other in pairs)


def test_files_are_found_by_their_endings_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b/2.TXT", "b/1.json", "a/3.txt", "a/x.tar.yml", "noending", "c.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    listing = FileListing(tmp_path)
    assert listing.with_suffix(".txt") == ("a/3.txt", "b/2.TXT")
    assert listing.with_suffix(".yaml", ".yml") == ("a/x.tar.yml", "c.yaml")
    assert listing.with_suffix(".xml") == ()
    assert FileListing(tmp_path / "b" / "1.json").with_suffix(".json") == ("1.json",)
    assert FileListing(tmp_path / "b" / "1.json").with_suffix(".txt") == ()
