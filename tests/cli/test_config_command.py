"""`mrcnn-zoo config`."""

from pathlib import Path

import pytest

from mrcnn_zoo.cli import config as command
from mrcnn_zoo.cli import main as cli


def test_explain_prints_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["explain", "SOLVER.BASE_LR"]) == 0
    assert "Learning rate after the warm-up." in capsys.readouterr().out


def test_show_prints_the_resolved_file_with_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["show", "Base-RCNN-FPN", "SOLVER.MAX_ITER", "7", "SEED=-3"]) == 0
    printed = capsys.readouterr().out
    assert "MAX_ITER: 7" in printed
    assert "SEED: -3" in printed
    assert "Base-RCNN-FPN.yaml:" in printed


def test_negative_values_are_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["show", "Base-RCNN-FPN", "SEED", "-3"]) == 0
    assert "SEED: -3" in capsys.readouterr().out


def test_show_prints_a_file_that_needs_more_and_then_names_the_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("TEST: {AUG: {ENABLED: True}}\n")
    assert cli.main(["config", "show", str(path), "--changed"]) == cli.USAGE_ERROR
    printed = capsys.readouterr()
    assert "ENABLED: true" in printed.out
    assert f"{path}:1: TEST.AUG.ENABLED = True" in printed.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL: {MASKON: True}", "Did you mean 'MODEL.MASK_ON'?"),
        ("SOLVER: {MAX_ITER: soon}", "SOLVER.MAX_ITER takes an integer, not 'soon'"),
        ("_BASE_: nowhere.yaml", "_BASE_ names 'nowhere.yaml'"),
        ("SEED: !!python/object/apply:os.system [ls]", "refused"),
    ],
)
def test_a_bad_file_is_one_message_without_traceback(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    assert cli.main(["config", "show", str(path)]) == cli.USAGE_ERROR
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {path}:1: ")
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""
