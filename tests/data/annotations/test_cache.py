"""The cache of parsed datasets: equal records, changed files noticed, damaged files ignored."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrcnn_zoo.data.annotations import contract
from mrcnn_zoo.data.annotations.cache import MAX_BYTES, DatasetCache
from mrcnn_zoo.data.annotations.columns import from_columns, to_columns
from mrcnn_zoo.data.annotations.contract import AnnotationFormat, Annotations, Found, ReadOptions
from mrcnn_zoo.data.annotations.listing import FileListing
from mrcnn_zoo.data.annotations.objects import AnnotatedImage, AnnotatedObject
from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.formats.coco import CocoFormat
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.records import Dataset, FederatedLabels, ImageRecord, InstanceRecord
from mrcnn_zoo.errors import UserError

NUM_IMAGES = 12
SIZE = (20, 30)
RUN_LENGTHS = {"size": [20, 30], "counts": [100, 5, 495]}


class LineFormat(AnnotationFormat):
    """One line per image: file name, side, class; each image has objects of all kinds of masks."""

    name, title, looked_for = "lines", "lines", "objects.txt"
    num_reads = 0

    def find(self, listing: FileListing) -> Found | None:
        return Found(listing, {"": "objects.txt"}) if "objects.txt" in listing.files else None

    def read_images(self, found: Found, options: ReadOptions) -> Annotations:  # noqa: ARG002
        self.num_reads += 1
        read = Annotations([], ("cat", "dog"))
        images = []
        for line in (found.listing.root / "objects.txt").read_text().splitlines():
            name, side, class_name = line.split()
            objects = [
                AnnotatedObject(class_name, "1", segmentation=[[1.5, 1, 9.25, 1, 5, 8], [12, 2, 15, 2, 15, 5, 12, 5]]),
                AnnotatedObject(class_name, "2", segmentation=RUN_LENGTHS, is_crowd=True),
                AnnotatedObject(class_name, "3", box=(0.1, 0.2, 7, 9), score=0.625),
                AnnotatedObject(class_name, "4", box=(25, 2, 50, 9)),  # clipped, counted
            ]
            source = FileImage(str(found.listing.root / name))
            images.append(AnnotatedImage(source, SIZE, objects if side != "test" else (), split=side))
        read.images = images
        read.repairs.add("lines read", [name])
        return read

    def write(self, parts: Mapping[str, Dataset], folder: Path, writer: DatasetWriter) -> None:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache for this test, on disk and in memory."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("MRCNN_ZOO_CACHE", str(folder))
    _forget(monkeypatch)
    return folder


def _forget(monkeypatch: pytest.MonkeyPatch, *, min_seconds: float = 0.0, max_bytes: int = MAX_BYTES) -> None:
    """Another process: nothing in memory."""
    monkeypatch.setattr(contract, "DATASET_CACHE", DatasetCache(min_seconds=min_seconds, max_bytes=max_bytes))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images, whose pixels nobody reads, on three sides."""
    folder = tmp_path / "data"
    folder.mkdir()
    lines = []
    for number in range(NUM_IMAGES):
        (folder / f"ä_{number}.png").write_bytes(b"pixels")
        lines.append(f"ä_{number}.png {('train', 'val', 'test')[number % 3]} {('cat', 'dog')[number % 2]}")
    (folder / "objects.txt").write_text("\n".join(lines))
    return folder


def _read(kind: AnnotationFormat, root: Path, *, name: str = "data", **options: Any) -> Dataset:
    found = kind.find(FileListing(root))
    assert found is not None
    return kind.read(found, ReadOptions(name, **options))


def _plain_mask(item: InstanceRecord) -> Any:
    mask = item.segmentation
    return mask if mask is None or isinstance(mask, dict) else [np.asarray(polygon).tolist() for polygon in mask]


def _plain(dataset: Dataset) -> Any:
    """Everything in a dataset, in a form whose types and values == compares."""
    records = []
    for record in dataset.records:
        objects = [{**vars(item), "segmentation": _plain_mask(item)} for item in record.instances]
        records.append({**vars(record), "instances": objects})
    return {**vars(dataset), "records": records}


def test_records_from_the_file_equal_those_that_were_read(
    root: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = LineFormat()
    first = _read(kind, root)
    assert first.notes
    assert len(list(cache_folder.iterdir())) == 1
    _forget(monkeypatch)
    second = _read(kind, root)
    assert kind.num_reads == 1
    assert second.records[0] is not first.records[0]
    assert _plain(second) == _plain(first)


def test_every_field_of_a_dataset_is_in_its_columns() -> None:
    item = InstanceRecord((1.0, 2.0, 3.0, 4.0), 1, {"size": [5, 6], "counts": "0"}, (1.0, 2.0, 2.0), True, 2.5, 9, 0.5)
    federated = FederatedLabels((0,), (1,))
    record = ImageRecord(7, FileImage("a.png"), (5, 6), (item,), "val", "brightfield", federated)
    values = (("cat", "dog"), (3, 4), ("nose",), None, ((0, 0),), "a.json", ("r", "f"), False, "coco", ("note",))
    dataset = Dataset("data", (record, replace(record, instances=(), federated=None)), *values)
    for element in (item, record, dataset):  # a field that is new has its default here: add it to the columns
        assert all(getattr(element, field.name) != field.default for field in fields(element))
    columns = to_columns(dataset)
    assert columns is not None
    assert from_columns(columns, name="data") == dataset


def test_sides_of_one_dataset_are_read_once_and_keep_their_names(root: Path) -> None:
    kind = LineFormat()
    train = _read(kind, root, name="data:train", split="train")
    val = _read(kind, root, name="data:val", split="val")
    assert kind.num_reads == 1
    assert (train.name, val.name) == ("data:train", "data:val")
    assert train.records[0] is val.records[0]


@pytest.mark.parametrize("name", ["objects.txt", "ä_5.png"])
def test_file_of_equal_size_and_later_time_is_read_again(
    root: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = LineFormat()
    _read(kind, root)
    path = root / name
    old = path.stat()
    path.write_bytes(path.read_bytes().replace(b"cat", b"dog"))
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns + 1_000_000))
    assert path.stat().st_size == old.st_size
    dataset = _read(kind, root)
    assert kind.num_reads == 2
    assert dataset.records[0].instances[0].class_index == (1 if name == "objects.txt" else 0)
    _forget(monkeypatch)
    _read(kind, root)
    assert kind.num_reads == 2


def test_new_file_and_other_options_are_read_again(root: Path) -> None:
    kind = LineFormat()
    _read(kind, root)
    (root / "new.png").write_bytes(b"")
    _read(kind, root)
    assert kind.num_reads == 2
    _read(kind, root, needs_masks=False)
    assert kind.num_reads == 3


def test_copy_of_a_dataset_has_its_own_paths(root: Path) -> None:
    kind = LineFormat()
    _read(kind, root)
    shutil.copytree(root, root.parent / "copy", copy_function=shutil.copy2)  # times are kept
    copy = _read(kind, root.parent / "copy")
    assert copy.records[0].source.name == str(root.parent / "copy" / "ä_0.png")


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flip_a_byte(data: bytes) -> bytes:
    place = data.index(b"boxes.npy") + 300
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def _nothing(data: bytes) -> bytes:
    return data[:0]


def _text(data: bytes) -> bytes:
    return b"text" * len(data)


@pytest.mark.parametrize("damage", [_cut, _flip_a_byte, _nothing, _text])
def test_damaged_file_is_ignored_and_replaced(
    root: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch, damage: Any
) -> None:
    kind = LineFormat()
    first = _read(kind, root)
    (path,) = cache_folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    _forget(monkeypatch)
    assert _plain(_read(kind, root)) == _plain(first)
    assert kind.num_reads == 2
    assert path.stat().st_size == len(whole)


def test_columns_that_do_not_belong_together_are_ignored(
    root: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = LineFormat()
    first = _read(kind, root)
    (path,) = cache_folder.iterdir()
    for column in ("counts", "boxes", "points", "lengths", "run_lengths", "parts", "header"):
        with np.load(path) as file:
            columns = dict(file)
        columns[column] = columns[column][: len(columns[column]) // 2]
        np.savez(path, **columns)
        _forget(monkeypatch)
        num_reads = kind.num_reads
        assert _plain(_read(kind, root)) == _plain(first)
        assert kind.num_reads == num_reads + 1, column


def test_folder_that_cannot_be_written_is_no_error(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MRCNN_ZOO_CACHE", str(tmp_path / "file" / "cache"))
    assert len(_read(LineFormat(), root)) == NUM_IMAGES


def test_files_that_were_not_used_for_the_longest_time_are_removed(
    root: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = LineFormat()
    _read(kind, root)
    (first,) = cache_folder.iterdir()
    _forget(monkeypatch, max_bytes=int(2.5 * first.stat().st_size))
    _read(kind, root, needs_masks=False)
    (second,) = set(cache_folder.iterdir()) - {first}
    os.utime(second, (1, 1))
    _read(kind, root)  # the first is used again
    (cache_folder / "other.npz").write_bytes(b"of another program")
    _read(kind, root, needs_keypoints=False)
    left = set(cache_folder.iterdir())
    assert first in left
    assert second not in left
    assert len(left) == 3


def test_dataset_that_is_read_fast_is_not_written(
    root: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _forget(monkeypatch, min_seconds=60)
    _read(LineFormat(), root)
    assert not cache_folder.exists()


@pytest.mark.parametrize("in_another_process", [False, True])
def test_image_outside_the_folder_that_has_changed_is_read_again(
    root: Path, monkeypatch: pytest.MonkeyPatch, in_another_process: bool
) -> None:
    (root / "ä_5.png").rename(root.parent / "elsewhere.png")
    text = (root / "objects.txt").read_text()
    (root / "objects.txt").write_text(text.replace("ä_5.png", "../elsewhere.png"))
    kind = LineFormat()
    _read(kind, root)
    _forget(monkeypatch)
    _read(kind, root)
    assert kind.num_reads == 1
    _read(kind, root)
    assert kind.num_reads == 1
    (root.parent / "elsewhere.png").write_bytes(b"other pixels")  # noticed in memory and on disk
    if in_another_process:
        _forget(monkeypatch)
    _read(kind, root)
    assert kind.num_reads == 2
    _read(kind, root)
    assert kind.num_reads == 2


@pytest.fixture
def coco_folder(tmp_path: Path) -> Path:
    """Annotations in one folder, images in another, with keypoints."""
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    (tmp_path / "coco" / "train2017").mkdir()
    images, annotations = [], []
    for number in range(1, NUM_IMAGES + 1):
        (tmp_path / "coco" / "train2017" / f"{number}.jpg").write_bytes(b"pixels")
        images.append({"id": number, "file_name": f"{number}.jpg", "height": 20, "width": 30})
        annotation = {"id": number, "image_id": number, "category_id": 3, "bbox": [1, 1, 8, 8], "area": 31.5}
        annotations.append(annotation | {"iscrowd": 0, "segmentation": [[1, 1, 9, 1, 5, 9]]})
        if number % 2:
            annotations[-1]["keypoints"] = [3, 4, 2, 0, 0, 0]
    category = {"id": 3, "name": "person", "keypoints": ["left_eye", "right_eye"], "skeleton": [[1, 2]]}
    document = {"images": images, "annotations": annotations, "categories": [category]}
    (tmp_path / "coco" / "annotations" / "instances_train2017.json").write_text(json.dumps(document))
    return tmp_path / "coco" / "annotations"


def test_coco_dataset_from_the_file_equals_the_one_that_was_read(
    coco_folder: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _read(CocoFormat(), coco_folder)
    (path,) = cache_folder.iterdir()
    time = path.stat().st_mtime_ns
    os.utime(path, (1, 1))
    _forget(monkeypatch)
    second = _read(CocoFormat(), coco_folder)
    assert path.stat().st_mtime_ns >= time
    assert _plain(second) == _plain(first)
    assert first.keypoint_flip_pairs == ((0, 1),)
    assert second.records[0].instances[0].keypoints == (3.5, 4.5, 2.0, 0.5, 0.5, 0.0)
    assert second.records[1].instances[0].keypoints is None


def test_image_outside_the_folder_that_is_missing_is_noticed(
    coco_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _read(CocoFormat(), coco_folder)
    (coco_folder.parent / "train2017" / "7.jpg").unlink()
    for _ in range(2):
        with pytest.raises(UserError, match=r"1 of the 12 images .* missing: 7\.jpg"):
            _read(CocoFormat(), coco_folder)
        _forget(monkeypatch)


def test_image_that_does_not_exist_is_no_error(root: Path, cache_folder: Path) -> None:
    text = (root / "objects.txt").read_text()
    (root / "objects.txt").write_text(text.replace("ä_5.png", "../elsewhere.png"))
    assert len(_read(LineFormat(), root)) == NUM_IMAGES
    assert not cache_folder.exists()


def test_folder_of_a_coco_file_that_is_named_is_not_listed(coco_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        listing = FileListing(coco_folder / "instances_train2017.json")
        found = CocoFormat().require(listing, dataset="data")
        assert len(CocoFormat().read(found, ReadOptions("data"))) == NUM_IMAGES
        assert "stats" not in vars(listing)
        _forget(monkeypatch)
