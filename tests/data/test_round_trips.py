"""Round trips through every annotation format and every pair of formats: written, detected, read, compared."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mrcnn_zoo.data.formats.dsb2018 import load_dsb2018
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.registries import ANNOTATION_FORMATS
from support.round_trips import (
    Holds,
    Item,
    assert_equal_items,
    box_dataset,
    by_pixels,
    counts_of,
    items_of,
    kept,
    mask_dataset,
    polygon_dataset,
    read_back,
    write_as,
    write_images,
)

FORMATS = ANNOTATION_FORMATS.names()
HOLDS = {  # a format that is not listed must keep everything but the pixels of masks
    "coco": Holds(exact=True),
    "cityscapes": Holds(exact=True, boxes=False, overlaps="cut", parts="separated", scores=False, order=False),
    "labels": Holds(exact=True, boxes=False, overlaps="cut", crowds="left out"),
    "cvat": Holds(crowds="left out"),
    "geojson": Holds(boxes=False, crossings=False),
    "label_studio": Holds(crowds="left out"),
    "labelme": Holds(),
    "masks": Holds(exact=True, boxes=False, crowds="left out", scores=False),
    "rle_csv": Holds(exact=True, boxes=False, crowds="left out", scores=False, only_class=False),
    "via": Holds(holes="filled", parts="separated"),
    "voc": Holds(exact=True, overlaps="noted", crowds="as boxes", scores=False),
    "yolo": Holds(holes="joined", parts="joined", crowds="left out", scores=False),
}
NUCLEI = "0402a81e"  # an image with 125 objects, of which many touch and two have holes
SCENES: dict[str, Callable] = {"masks": mask_dataset, "polygons": polygon_dataset, "boxes": box_dataset}


@pytest.fixture(scope="module", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MRCNN_ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[ImageRecord]:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def once_through(images: list[ImageRecord], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Dataset]:
    """Each scene after a round trip through a format, checked once."""
    done: dict[tuple[str, str], Dataset] = {}

    def trip(name: str, scene: str) -> Dataset:
        if (name, scene) not in done:
            folder = tmp_path_factory.mktemp(f"{name}-{scene}") / "data"
            done[name, scene] = _assert_round_trip(SCENES[scene](images), name, folder)
        return done[name, scene]

    return trip


def _assert_round_trip(dataset: Dataset, name: str, folder: Path, *, holds: Holds | None = None) -> Dataset:
    """Write and read a dataset; it is as before but for what the format cannot hold, which the writer has counted."""
    holds = holds or HOLDS.get(name, Holds())
    notes = write_as(name, dataset, folder)
    detected, again = read_back(folder)
    assert detected == name
    assert [note for note in again.notes if "overlap" not in note] == []
    before, after = by_pixels(dataset), by_pixels(again)
    assert before.keys() == after.keys()
    lost: Counter[str] = Counter()
    if len(dataset.class_names) == 1 and not holds.only_class:
        lost["names"] += 1
        dataset = replace(dataset, class_names=again.class_names)
    for pixels, record in before.items():
        where = f"{name}, {Path(record.source.name).name}"
        expected: list[Item] = kept(items_of(record, dataset.class_names), holds, lost)
        found = items_of(after[pixels], again.class_names)
        assert_equal_items(found, expected, holds=holds, where=where)
        if holds.sides:
            assert after[pixels].split == record.split, where
    assert +lost == counts_of(notes), notes
    return again


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("name", FORMATS)
def test_dataset_is_equal_after_a_round_trip(once_through: Callable, name: str, scene: str) -> None:
    assert len(once_through(name, scene)) == 7


def _pairs() -> Iterator[Any]:
    """Every pair with every scene; those of masks with COCO, and of each format with the next, are not slow."""
    for row, first in enumerate(FORMATS):
        for second in FORMATS:
            for place, scene in enumerate(SCENES):
                is_next = second == FORMATS[(row + 1) % len(FORMATS)] and place == row % len(SCENES)
                is_quick = first != second and (is_next or (scene == "masks" and "coco" in (first, second)))
                yield pytest.param(first, second, scene, marks=() if is_quick else pytest.mark.slow)


@pytest.mark.parametrize(("first", "second", "scene"), list(_pairs()))
def test_dataset_is_equal_after_two_formats(
    once_through: Callable, tmp_path: Path, first: str, second: str, scene: str
) -> None:
    middle = _assert_round_trip(once_through(first, scene), second, tmp_path / "second")
    again = _assert_round_trip(middle, first, tmp_path / "first")
    assert again.class_names


def test_parts_are_kept_in_instance_ids_of_cityscapes(images: list[ImageRecord], tmp_path: Path) -> None:
    street = replace(mask_dataset(images), class_names=("person", "rider", "car"))
    holds = replace(HOLDS["cityscapes"], parts="kept")
    assert len(_assert_round_trip(street, "cityscapes", tmp_path / "data", holds=holds)) == 7


@pytest.mark.parametrize("name", FORMATS)
def test_touching_nuclei_are_equal_after_a_round_trip(shared_dir: Path, tmp_path: Path, name: str) -> None:
    (folder,) = (shared_dir / "data/dsb2018/stage1_train").glob(f"{NUCLEI}*")
    (tmp_path / "nuclei").mkdir()
    (tmp_path / "nuclei" / folder.name).symlink_to(folder)
    nuclei = load_dsb2018("nuclei", tmp_path / "nuclei")
    again = _assert_round_trip(nuclei, name, tmp_path / "data")
    assert len(again.records[0].instances) == 125
