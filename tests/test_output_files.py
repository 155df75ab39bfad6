"""Checks of output paths, and counts in messages."""

import os
from pathlib import Path

import pytest

from mrcnn_zoo import output_files
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.output_files import check_output_file, check_output_folder, refuse_to_replace


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("keep")
    return path


def test_check_does_not_create_the_folder(tmp_path: Path) -> None:
    assert check_output_folder(tmp_path / "a" / "b", option="--output") == tmp_path / "a" / "b"
    assert list(tmp_path.iterdir()) == []


def test_check_does_not_change_an_existing_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("keep")
    check_output_folder(tmp_path, option="--output")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_tilde_expands_to_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert check_output_folder("~/out", option="--output") == tmp_path / "out"
    assert check_output_file("~/out.json", option="--output") == tmp_path / "out.json"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("file", "--output {file} is a file; name a folder."),
        ("file/below", "--output {file}/below lies below {file}, which is a file; name a folder."),
        ("file/a/b", "--output {file}/a/b lies below {file}, which is a file; name a folder."),
    ],
)
def test_folder_at_or_below_a_file_is_refused(file: Path, path: str, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        check_output_folder(file.parent / path, option="--output")
    assert str(refusal.value) == message.format(file=file)


@pytest.mark.parametrize("check", [check_output_folder, check_output_file])
def test_empty_path_is_refused(check) -> None:
    with pytest.raises(UserError, match=r"^--output is empty; name a f"):
        check("", option="--output")


@pytest.mark.parametrize("check", [check_output_folder, check_output_file])
def test_invalid_file_names_are_refused(tmp_path: Path, check) -> None:
    with pytest.raises(UserError, match=r"--output .*name"):
        check(tmp_path / ("x" * 300) / "y", option="--output")
    with pytest.raises(UserError, match="zero byte"):
        check(f"{tmp_path}/a\0b", option="--output")


def test_config_key_is_named_with_equals_sign(file: Path) -> None:
    with pytest.raises(UserError, match=r"^OUTPUT_DIR = .*file is a file"):
        check_output_folder(file, option="OUTPUT_DIR")


def test_failing_write_is_refused_with_its_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output_files.tempfile, "TemporaryFile", fail)
    with pytest.raises(UserError, match=r"a cannot be written \(No space left on device\)"):
        check_output_folder(tmp_path / "a", option="--output")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a file system in which no file can be created")
def test_unwritable_folder_is_refused() -> None:
    with pytest.raises(UserError, match=r"/proc/x cannot be written"):
        check_output_folder("/proc/x", option="--output")


def test_output_file_at_a_folder_or_below_a_file_is_refused(tmp_path: Path, file: Path) -> None:
    assert check_output_file(tmp_path / "new.json", option="--output") == tmp_path / "new.json"
    with pytest.raises(UserError, match="is a folder; name a file in it"):
        check_output_file(tmp_path, option="--output")
    with pytest.raises(UserError, match=r"lies below .*file, which is a file"):
        check_output_file(file / "x.json", option="--output")


def test_existing_files_are_replaced_only_with_overwrite(file: Path) -> None:
    assert check_output_file(file, option="--output") == file
    with pytest.raises(UserError, match=r"^1 file would be replaced: .*file\. .*replace it with --overwrite"):
        check_output_file(file, option="--output", overwrite=False)
    with pytest.raises(UserError, match=r"^5 files would be replaced: .*, \.\.\.\. .*replace them with --overwrite"):
        refuse_to_replace([file] * 5, option="--output")


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, "image", "0 images"),
        (1, "image", "1 image"),
        (1204, "object", "1,204 objects"),
        (2, "class", "2 classes"),
        (2, "category", "2 categories"),
        (2, "key", "2 keys"),
        (2, "box", "2 boxes"),
        (2, "match", "2 matches"),
    ],
)
def test_counted_has_plural_and_separators(number: int, noun: str, text: str) -> None:
    assert counted(number, noun) == text
