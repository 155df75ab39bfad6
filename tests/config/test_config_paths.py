"""Unreadable config paths, in every place that takes one."""

import os
from pathlib import Path

import pytest

from mrcnn_zoo.cli import main as cli
from mrcnn_zoo.config import load_config
from mrcnn_zoo.config.files import MAX_BYTES
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.interop.mmdetection.config import read_config_file as read_mmdetection


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary.yaml").write_bytes(b"\x89PNG\r\n\x1a\n\xff\x00")
    (tmp_path / "latin.yaml").write_bytes("OUTPUT_DIR: Köln\n".encode("latin-1"))
    (tmp_path / "zero.yaml").write_bytes(b"SEED: 1\n\x00\x00\n")
    (tmp_path / "list.yaml").write_text("- 1\n- 2\n")
    (tmp_path / "large.yaml").write_bytes(b"# " + b"x" * MAX_BYTES + b"\nSEED: 1\n")
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    return tmp_path


PROBLEMS = [
    ("", "is empty"),
    ("  ", "is empty"),
    (".", "is a folder"),
    ("..", "is a folder"),
    ("/", "is a folder"),
    ("folder", "is a folder"),
    ("missing.yaml", "does not exist"),
    ("binary.yaml/x.yaml", "does not exist"),
    ("~nosuchuser/x.yaml", "does not exist"),
    ("x" * 300, "cannot be reached (File name too long)"),
    ("a\0b", "is not a valid path"),
    ("binary.yaml", "is not UTF-8 text"),
    ("latin.yaml", "is not UTF-8 text"),
    ("zero.yaml", "not valid YAML"),
    ("list.yaml", "a config must be a mapping of keys to values"),
    ("large.yaml", "too many for a config"),
    ("pipe.yaml", "is a pipe or a device"),
    ("/dev/null", "is a pipe or a device"),
    ("loop.yaml", "cannot be reached"),
]


@pytest.mark.parametrize(("path", "message"), PROBLEMS)
def test_path_is_refused_with_its_problem(place: Path, path: str, message: str) -> None:
    assert place.is_dir()
    with pytest.raises(UserError) as refusal:
        load_config(path)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value).strip() or path in ("zero.yaml",)


@pytest.mark.parametrize(("path", "message"), [problem for problem in PROBLEMS if problem[0].strip()])
def test_base_is_refused_with_its_problem_and_its_line(place: Path, path: str, message: str) -> None:
    (place / "derived.yaml").write_text(f'SEED: 1\n_BASE_: "{path}"\n'.replace("\0", "\\0"))
    words = {"does not exist": "there is no file"}.get(message, message)
    with pytest.raises(UserError) as refusal:
        load_config("derived.yaml")
    assert words in str(refusal.value)


@pytest.mark.parametrize("value", ["", "''", "' '", "[a.yaml, b.yaml]", "{a: b.yaml}", "7", "null"])
def test_base_that_is_not_one_name_is_refused(place: Path, value: str) -> None:
    (place / "derived.yaml").write_text(f"_BASE_: {value}\n")
    with pytest.raises(UserError, match=r"derived\.yaml:1: _BASE_ takes the name of one file, not "):
        load_config("derived.yaml")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission_is_refused(place: Path) -> None:
    (place / "closed.yaml").write_text("SEED: 1\n")
    (place / "closed.yaml").chmod(0)
    with pytest.raises(UserError, match="Permission denied"):
        load_config("closed.yaml")


@pytest.mark.parametrize("path", ["", ".", "folder", "pipe.yaml", "binary.yaml", "missing"])
@pytest.mark.parametrize(
    "command",
    [
        ["train", "--config-file"],
        ["config", "show"],
        ["visualize-data", "--config-file"],
        ["benchmark", "--task", "data", "--config-file"],
        ["export-dataset", "digits_val", "out", "--config-file"],
    ],
    ids=lambda command: command[0],
)
def test_every_command_refuses_an_invalid_path_in_one_line(
    place: Path, capsys: pytest.CaptureFixture[str], command: list[str], path: str
) -> None:
    assert place.is_dir()
    assert cli.main([*command, path]) == cli.USAGE_ERROR
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(("path", "message"), [("", "is empty"), ("folder", "contains no .yaml file")])
def test_check_refuses_places_without_configs(
    place: Path, capsys: pytest.CaptureFixture[str], path: str, message: str
) -> None:
    assert place.is_dir()
    assert cli.main(["config", "check", path]) == cli.USAGE_ERROR
    assert message in capsys.readouterr().err


def test_check_continues_after_a_broken_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "fine.yaml").write_text("SEED: 1\n")
    assert cli.main(["config", "check", "."]) == 1
    printed = capsys.readouterr().out
    assert "1 of 8 files load" in printed
    assert "is a pipe or a device" in printed


@pytest.mark.parametrize("path", ["folder", "pipe.yaml", "binary.yaml", "missing.py", "large.yaml"])
def test_config_of_another_project_is_refused_with_the_same_message(place: Path, path: str) -> None:
    with pytest.raises(UserError, match=path.replace(".", r"\.")):
        read_mmdetection(place / path)


def test_byte_order_mark_is_removed(place: Path) -> None:
    (place / "bom.yaml").write_bytes(b"\xef\xbb\xbfSEED: 7\n")
    assert load_config("bom.yaml").SEED == 7
