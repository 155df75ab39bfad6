"""`mrcnn-zoo zoo`."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from mrcnn_zoo.cli import main as cli
from mrcnn_zoo.cli import zoo as command
from mrcnn_zoo.config import files
from mrcnn_zoo.model_zoo.checksum import record_checksum

FPN_3X = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x"
QUICKSTART = "Quickstart/mask_rcnn_R_18_FPN_digits"
CONTENT = b"weights"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("MRCNN_ZOO_CACHE", str(folder))
    monkeypatch.setenv("MRCNN_ZOO_OFFLINE", "1")
    return folder


@pytest.fixture
def lab(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo with two downloadable models, the first in the cache; returns its file there."""
    fields = {"source": "lab", "config": None, "reason": "a test", "sha256": hashlib.sha256(CONTENT).hexdigest()}
    models = {f"Lab/{name}": fields | {"weights": f"https://lab/{name}.pth"} for name in ("one", "two")}
    package = tmp_path / "mrcnn_zoo"
    (package / "_model_zoo").mkdir(parents=True)
    (package / "_model_zoo" / "index.json").write_text(json.dumps({"models": models}))
    monkeypatch.setattr(files, "CHECKOUT", tmp_path / "no checkout")
    monkeypatch.setattr(files, "PACKAGE_FOLDER", package)
    file = cache / "lab" / "one.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    return file


def test_list_shows_results_and_where_weights_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["list", "*R_50_FPN_3x"]) == 0
    printed = capsys.readouterr().out
    (row,) = [line.split() for line in printed.splitlines() if line.startswith(FPN_3X)]
    assert row == [FPN_3X, "41.0", "37.2", "0.043", "to", "download", "yes"]
    assert "Quickstart" not in printed


def test_list_leaves_out_columns_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "terminal_width", lambda _: 100)
    command.main(["list", "*R_50_FPN_3x"])
    head, _, *rows = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert max(map(len, rows)) <= 100
    assert head.split()[:5] == ["name", "box", "AP", "mask", "AP"]
    assert "weights" in head
    assert "s/image" not in head


def test_list_filters_by_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["list", "--source", "torchvision"]) == 0
    assert "\n7 models." in capsys.readouterr().out


def test_list_without_a_match_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["zoo", "list", "no such model"]) == cli.USAGE_ERROR
    assert "no model of the zoo has 'no such model'" in capsys.readouterr().err


def test_info_prints_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["info", FPN_3X]) == 0
    printed = capsys.readouterr().out
    for part in ("model_final_f10217.pkl", "md5 f10217", "CC BY-SA 3.0", "bbox/AP 41, segm/AP 37.2", "3.4 GB"):
        assert part in printed
    assert f"mrcnn-zoo predict --weights zoo://{FPN_3X} IMAGE" in printed


def test_info_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["info", FPN_3X, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"] == {"bbox/AP": 41.0, "segm/AP": 37.2}


def test_info_of_an_unsupported_model_gives_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["info", "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x"]) == 0
    printed = capsys.readouterr().out
    assert "none: panoptic segmentation" in printed
    assert "mrcnn-zoo predict" not in printed


@pytest.mark.parametrize("action", ["info", "download", "verify", "reproduce"])
def test_unknown_name_suggests_the_nearest(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["zoo", action, "mask_rcnn_R_50_FPN_3"]) == cli.USAGE_ERROR
    assert f"Did you mean '{FPN_3X}'?" in capsys.readouterr().err


def test_download_prints_the_path(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["download", "Lab/one"]) == 0
    assert capsys.readouterr().out == f"{lab}\n"


@pytest.mark.parametrize(("output", "expected"), [("out/", "out/one.pth"), ("new/my.pth", "new/my.pth")])
def test_download_copies_to_a_folder_or_a_file(
    output: str, expected: str, lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["download", "Lab/one", "--output", f"{tmp_path}/{output}"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / expected}\n"
    assert (tmp_path / expected).read_bytes() == lab.read_bytes()


def test_download_to_an_unwritable_path_is_one_message(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["zoo", "download", "Lab/one", "--output", f"{lab}/x/"]) == cli.USAGE_ERROR
    assert f"--output {lab}/x lies below {lab}, which is a file" in capsys.readouterr().err


def test_download_replaces_another_file_only_with_overwrite(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = lab.with_name("mine.pth")
    other.write_bytes(b"mine")
    arguments = ["zoo", "download", "Lab/one", "--output", str(other)]
    assert cli.main(arguments) == cli.USAGE_ERROR
    assert f"1 file would be replaced: {other}" in capsys.readouterr().err
    assert other.read_bytes() == b"mine"
    assert cli.main([*arguments, "--overwrite"]) == 0
    assert other.read_bytes() == CONTENT
    assert cli.main(arguments) == 0  # the same weights are no loss


def test_download_of_several_models_into_one_file_is_refused(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["zoo", "download", "Lab/one", "Lab/two", "--output", str(lab.with_name("x.pth"))]
    assert cli.main(arguments) == cli.USAGE_ERROR
    assert "is one file for several models" in capsys.readouterr().err


def test_download_offline_names_the_cache_path(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["zoo", "download", "Lab/two"]) == cli.USAGE_ERROR
    assert f"Put the file at {lab.with_name('two.pth')}" in capsys.readouterr().err


def test_verify_compares_the_whole_cache(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = lab.with_name("without_checksum.pkl")
    other.write_bytes(b"as it came")
    record_checksum(other)
    assert command.main(["verify"]) == 0
    assert "2 files, 0 wrong." in capsys.readouterr().out
    other.write_bytes(b"damaged")
    assert command.main(["verify"]) == command.WRONG_FILES
    printed = capsys.readouterr().out
    assert f"WRONG  {other}: its sha256 is" in printed
    assert f"ok     {lab}: it is Lab/one (sha256 " in printed


@pytest.mark.usefixtures("lab")
def test_verify_of_an_empty_cache_succeeds(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(cache)
    assert command.main(["verify"]) == 0
    assert not cache.exists()
    assert "no downloads of the zoo in the cache" in capsys.readouterr().out


def test_verify_of_a_missing_model_names_the_download_command(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["zoo", "verify", "Lab/two"]) == cli.USAGE_ERROR
    assert f"{lab.with_name('two.pth')} does not exist: `mrcnn-zoo zoo download Lab/two`" in capsys.readouterr().err
    lab.write_bytes(b"damaged")
    assert command.main(["verify", "Lab/one"]) == command.WRONG_FILES


@pytest.mark.usefixtures("lab")
def test_verify_takes_a_file_named_after_or_given_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named, other = tmp_path / "two.pth", tmp_path / "mine.pth"
    named.write_bytes(CONTENT)
    other.write_bytes(CONTENT)
    assert command.main(["verify", "--file", str(named)]) == 0
    assert "it is Lab/two" in capsys.readouterr().out
    assert command.main(["verify", "Lab/one", "--file", str(other)]) == 0
    assert cli.main(["zoo", "verify", "--file", str(other)]) == cli.USAGE_ERROR
    assert "no model of the zoo has a file mine.pth" in capsys.readouterr().err
    other.write_bytes(b"damaged")
    assert command.main(["verify", "Lab/one", "--file", str(other)]) == command.WRONG_FILES


def test_reproduce_prints_the_command_and_adds_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["reproduce", QUICKSTART, "OUTPUT_DIR", "my output", "--num-gpus", "0"]) == 0
    expected = f"mrcnn-zoo train --config-file {QUICKSTART} OUTPUT_DIR 'my output' --num-gpus 0\n"
    assert capsys.readouterr().out == expected


def test_reproduce_runs_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def run_program(arguments: list[str]) -> int:
        ran.append(arguments)
        return 3

    monkeypatch.setattr(cli, "main", run_program)
    assert command.main(["reproduce", QUICKSTART, "--run", "SOLVER.MAX_ITER", "2"]) == 3
    assert ran == [["train", "--config-file", QUICKSTART, "SOLVER.MAX_ITER", "2"]]


def test_reproduce_without_a_recipe_gives_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["zoo", "reproduce", "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x"]) == cli.USAGE_ERROR
    assert "cannot be trained here: panoptic segmentation" in capsys.readouterr().err


def test_unknown_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["list", "--sourc3", "x"])
    assert "unrecognized arguments: --sourc3" in capsys.readouterr().err
