from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrcnn_zoo.data.annotations.folders import write_dataset
from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.errors import UserError


class Listing:
    """A format: the images of each side, and a text with their classes; fails on request."""

    name = "listing"
    title = "lists of images"
    finds_images_elsewhere = True

    def __init__(self, failure: type[BaseException] | None = None) -> None:
        self.failure = failure

    def write(self, parts: Mapping[str, Dataset], folder: Path, writer: DatasetWriter) -> None:
        for side, part in parts.items():
            lines = [writer.place_image(record, folder / side) for record in part.records]
            (folder / f"{side}.txt").write_text("\n".join(lines))
            writer.lost.add("boxes left out", [0 for record in part.records for _ in record.instances])
        if self.failure:
            raise self.failure


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, Dataset]:
    found = {}
    for number, side in enumerate(("train", "val"), start=1):
        path = tmp_path / "photos" / f"{side}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 5, 3), number, dtype=np.uint8)).save(path)
        record = ImageRecord(number, FileImage(str(path)), (4, 5), (InstanceRecord((0, 0, 2, 2), 0),), split=side)
        found[side] = Dataset("cells", (record,), ("cell",), (1,))
    return found


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_folder_has_all_files_and_what_was_lost_is_returned(parts: dict[str, Dataset], tmp_path: Path) -> None:
    notes = write_dataset(parts, tmp_path / "new" / "out", Listing())
    expected = [".mrcnn_zoo.json", "train.txt", "train/train.png", "val.txt", "val/val.png"]
    assert files_in(tmp_path / "new" / "out") == expected
    assert notes == ("boxes left out: 2 (first: object 0)",)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]


@pytest.mark.parametrize("failure", [UserError, KeyboardInterrupt])
def test_failure_leaves_nothing_behind(failure: type[BaseException], parts: dict[str, Dataset], tmp_path: Path) -> None:
    with pytest.raises(failure):
        write_dataset(parts, tmp_path / "out", Listing(failure))
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_failure_keeps_the_earlier_output(parts: dict[str, Dataset], tmp_path: Path) -> None:
    write_dataset(parts, tmp_path / "out", Listing())
    before = files_in(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        write_dataset({"": parts["val"]}, tmp_path / "out", Listing(KeyboardInterrupt), may_overwrite=True)
    assert files_in(tmp_path / "out") == before
    assert {path.name for path in tmp_path.iterdir()} == {"out", "photos"}


def test_earlier_output_is_replaced_only_when_allowed(parts: dict[str, Dataset], tmp_path: Path) -> None:
    write_dataset(parts, tmp_path / "out", Listing())
    with pytest.raises(UserError, match=r"already holds a written dataset.*--overwrite"):
        write_dataset(parts, tmp_path / "out", Listing())
    write_dataset({"val": parts["val"]}, tmp_path / "out", Listing(), may_overwrite=True)
    assert files_in(tmp_path / "out") == [".mrcnn_zoo.json", "val.txt", "val/val.png"]
    assert {path.name for path in tmp_path.iterdir()} == {"out", "photos"}


@pytest.mark.parametrize("name", ["notes.txt", ".git", "val.txt"])
def test_output_with_added_or_changed_files_is_not_replaced(
    name: str, parts: dict[str, Dataset], tmp_path: Path
) -> None:
    write_dataset(parts, tmp_path / "out", Listing())
    (tmp_path / "out" / name).write_text("hours of work")
    with pytest.raises(UserError, match=rf"added or changed since it was written: {name}"):
        write_dataset(parts, tmp_path / "out", Listing(), may_overwrite=True)
    assert (tmp_path / "out" / name).read_text() == "hours of work"


def test_folder_of_the_user_is_never_replaced(parts: dict[str, Dataset], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not empty: it holds photos"):
        write_dataset(parts, tmp_path, Listing(), may_overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file is a file; name a folder"):
        write_dataset(parts, tmp_path / "file", Listing())


def test_empty_folder_is_used(parts: dict[str, Dataset], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_dataset(parts, tmp_path / "out", Listing())
    assert (tmp_path / "out" / "val.txt").read_text() == "val.png"


def test_references_lead_to_the_originals(parts: dict[str, Dataset], tmp_path: Path) -> None:
    write_dataset(parts, tmp_path / "out", Listing(), copies_images=False)
    assert (tmp_path / "out" / "val.txt").read_text() == "../../photos/val.png"
    assert (tmp_path / "out" / "val" / "../../photos/val.png").parent.resolve() == tmp_path / "photos"


def test_references_into_the_replaced_folder_are_refused(parts: dict[str, Dataset], tmp_path: Path) -> None:
    write_dataset(parts, tmp_path / "out", Listing())
    copy = ImageRecord(1, FileImage(str(tmp_path / "out" / "val" / "val.png")), (4, 5))
    own = {"": Dataset("cells", (copy,), ("cell",), (1,))}
    with pytest.raises(UserError, match=r"holds the image .*val.png that the new dataset refers to"):
        write_dataset(own, tmp_path / "out", Listing(), copies_images=False, may_overwrite=True)
    write_dataset(own, tmp_path / "out", Listing(), may_overwrite=True)
    assert files_in(tmp_path / "out") == [".mrcnn_zoo.json", ".txt", "val.png"]


def test_references_are_refused_where_the_format_has_none(parts: dict[str, Dataset], tmp_path: Path) -> None:
    kind = Listing()
    kind.finds_images_elsewhere = False
    with pytest.raises(UserError, match=r"format 'listing' \(lists of images\) finds images by their place"):
        write_dataset(parts, tmp_path / "out", kind, copies_images=False)
