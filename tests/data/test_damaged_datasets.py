"""Every format with every fault of its files: one message that names the file, or a note of what was left out."""

import random
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mrcnn_zoo.data.annotations.contract import ReadOptions
from mrcnn_zoo.data.annotations.detection import find_format
from mrcnn_zoo.data.annotations.folders import write_dataset
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registries import ANNOTATION_FORMATS
from support.damaged_files import Fault, faults_of
from support.round_trips import box_dataset, items_of, mask_dataset, polygon_dataset, write_as, write_images

FORMATS = ANNOTATION_FORMATS.names()
SCENES: dict[str, Callable[[Any], Dataset]] = {
    "masks": mask_dataset,
    "polygons": polygon_dataset,
    "boxes": box_dataset,
}
FAULTS_IN_CI = 4  # per format and scene
IMAGES = (2, 4, 7)  # ids of the scenes' images that are written
PLAUSIBLE = {  # faults that give another dataset without a note
    "via": r"iscrowd|region_attributes|regions = {}",  # attributes are the user's own; {} is version 1's form
    "labelme": "score = None",
    "label_studio": "score = None",
    "coco": r"segmentation = (None|nan|\[\]|{})|segmentation\.0\.0 = -7|score = None",  # the box stays
    "cvat": r'name="score"',
    "labels": r"0\.\d+ at \d+ = ''",  # no score
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[ImageRecord]:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRCNN_ZOO_CACHE", str(tmp_path / "cache"))


def _dataset(scene: str, images: list[ImageRecord]) -> Dataset:
    whole = SCENES[scene](images)
    return replace(
        whole, records=tuple(replace(record, split="") for record in whole.records if record.image_id in IMAGES)
    )


def _read(folder: Path) -> tuple[str, Dataset]:
    kind, found = find_format(folder, dataset="cells")
    return kind.name, kind.read(found, ReadOptions("cells"))


def _content(dataset: Dataset) -> list[Any]:
    items = [items_of(record, dataset.class_names) for record in dataset.records]
    return [
        (Path(record.source.name).name, item.class_name, item.box, item.mask is None or item.mask.tobytes(), item.score)
        for record, found in zip(dataset.records, items, strict=True)
        for item in found
    ] + [record.image_size for record in dataset.records]


def _problem(name: str, folder: Path, fault: Fault, before: list[Any]) -> str:
    """What is wrong with the answer to a fault; "" if it is right."""
    try:
        detected, dataset = _read(folder)
    except UserError as error:
        text = str(error)
        is_named = Path(fault.file).name in text or fault.is_plausible or "Looked for" in text
        return "" if is_named and len(text) > 40 else f"the message does not name the file: {text}"
    if detected != name:
        return f"detected as {detected}"
    is_plausible = fault.is_plausible or (name in PLAUSIBLE and re.search(PLAUSIBLE[name], fault.what))
    if dataset.notes or is_plausible or _content(dataset) == before:
        return ""
    return "another dataset without a note"


def _cases() -> Iterator[Any]:
    for name in FORMATS:
        for scene in SCENES:
            yield pytest.param(name, scene, FAULTS_IN_CI)
            yield pytest.param(name, scene, None, marks=pytest.mark.slow)


@pytest.mark.parametrize(("name", "scene", "number"), list(_cases()))
def test_fault_is_named_or_noted(
    images: list[ImageRecord], tmp_path: Path, name: str, scene: str, number: int | None
) -> None:
    whole, damaged = tmp_path / "whole", tmp_path / "damaged" / "data"
    write_as(name, _dataset(scene, images), whole)
    before = _content(_read(whole)[1])
    faults = list(faults_of(whole))
    if number is not None:
        faults = random.Random(f"{name} {scene}").sample(faults, min(number, len(faults)))
    problems = []
    for fault in faults:
        shutil.copytree(whole, damaged)
        fault.apply(damaged)
        if problem := _problem(name, damaged, fault, before):
            problems.append(f"{fault}: {problem}")
        shutil.rmtree(damaged)
    assert not problems, "\n".join(["", *problems])


@pytest.mark.parametrize("name", FORMATS)
def test_writer_that_fails_leaves_nothing(images: list[ImageRecord], tmp_path: Path, name: str) -> None:
    dataset = _dataset("masks", images)
    gone = replace(dataset.records[2], source=FileImage(str(tmp_path / "gone.png")))
    records = (*dataset.records[:2], gone)
    with pytest.raises(UserError, match=r"gone\.png"):
        write_dataset({"": replace(dataset, records=records)}, tmp_path / "data", ANNOTATION_FORMATS.get(name)())
    assert list(tmp_path.iterdir()) == []
