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


def test_show_takes_negative_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["show", "Base-RCNN-FPN", "SEED", "-3"]) == 0
    assert "SEED: -3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "typed", "shown"),
    [
        ("MODEL.PIXEL_MEAN", "-1,2,3", "PIXEL_MEAN: [-1.0, 2.0, 3.0]"),
        ("MODEL.PIXEL_MEAN", "-1 2 -3e1", "PIXEL_MEAN: [-1.0, 2.0, -30.0]"),
        ("MODEL.PIXEL_MEAN", "-.5,2,3", "PIXEL_MEAN: [-0.5, 2.0, 3.0]"),
        ("SEED", "-2e0", "SEED: -2"),
        ("OUTPUT_DIR", "-odd-name", "OUTPUT_DIR: -odd-name"),
    ],
)
def test_show_takes_values_that_start_with_a_dash(
    capsys: pytest.CaptureFixture[str], key: str, typed: str, shown: str
) -> None:
    assert cli.main(["config", "show", "--changed", "Base-RCNN-FPN", key, typed]) == 0
    assert shown in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    [
        ["config", "show", "Base-RCNN-FPN"],
        ["train", "--config-file", "Base-RCNN-FPN"],
        ["visualize-data", "--config-file", "Base-RCNN-FPN"],
        ["export-dataset", "digits_val", "out"],
        ["benchmark", "--task", "data"],
    ],
    ids=lambda command: command[0],
)
def test_negative_value_out_of_range_is_refused_with_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main([*command, "SOLVER.BASE_LR", "-1e-3"]) == cli.USAGE_ERROR
    assert "SOLVER.BASE_LR = -0.001 must be at least 0" in capsys.readouterr().err


def test_option_after_a_key_names_the_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "--config-file", "Base-RCNN-FPN", "SOLVER.BASE_LR", "--resume"])
    assert stopped.value.code == cli.USAGE_ERROR
    assert "the key SOLVER.BASE_LR is given without a value before --resume" in capsys.readouterr().err


def test_explain_searches_names_and_meanings(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "explain", "lr"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines if line.startswith("SOLVER")]
    assert {"SOLVER.BASE_LR", "SOLVER.BASE_LR_END", "SOLVER.LR_SCHEDULER_NAME"} <= set(names)
    assert len(names) == len(set(names))
    assert cli.main(["config", "explain", "Learning", "RATE"]) == 0
    assert "SOLVER.BASE_LR " in capsys.readouterr().out
    assert cli.main(["config", "explain", "solver.base_lr"]) == 0
    assert capsys.readouterr().out.startswith("SOLVER.BASE_LR\n")
    assert cli.main(["config", "explain", "qqqq"]) == cli.USAGE_ERROR


def test_show_prints_an_invalid_config_and_then_names_the_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("GLOBAL: {HACK: 2.0}\n")
    assert cli.main(["config", "show", str(path), "--changed"]) == cli.USAGE_ERROR
    printed = capsys.readouterr()
    assert "HACK: 2.0" in printed.out
    assert f"{path}:1: GLOBAL.HACK = 2.0" in printed.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL: {MASKON: True}", "Did you mean 'MODEL.MASK_ON'?"),
        ("SOLVER: {MAX_ITER: soon}", "SOLVER.MAX_ITER takes an integer, not 'soon'"),
        ("_BASE_: nowhere.yaml", "_BASE_ names 'nowhere.yaml'"),
        ("SEED: !!python/object/apply:os.system [ls]", "refused"),
    ],
)
def test_invalid_file_is_one_message_without_traceback(
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


def test_check_loads_the_configs_of_all_runs_of_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "Base.yaml").write_text("MODEL: {MASK_ON: True}\n")
    sweep = tmp_path / "norms.yaml"
    sweep.write_text("BASE: Base.yaml\nGRID: {MODEL.RESNETS.NORM: [BN, GN]}\n")
    assert command.main(["check", str(tmp_path)]) == 0
    assert "2 of 2 files load" in capsys.readouterr().out
    sweep.write_text("BASE: Base.yaml\nVARIANTS:\n  a: {}\n  b: {MODEL.RESNETS.NORN: BN}\n")
    assert command.main(["check", str(tmp_path)]) == 1
    assert f"{sweep}:4: there is no config key MODEL.RESNETS.NORN" in capsys.readouterr().out
