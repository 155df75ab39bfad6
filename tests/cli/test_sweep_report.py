"""`mrcnn-zoo sweep report` and `sweep measure` on folders written by hand."""

from pathlib import Path

import pytest

from mrcnn_zoo.cli.main import main
from support.sweep_folders import write_example


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return write_example(tmp_path / "roi_layer")


def test_report_is_written_into_the_folder_of_the_sweep(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "report", str(sweep), "--format", "csv", "latex"]) == 0
    assert sorted(path.name for path in (sweep / "report").iterdir()) == ["report.csv", "report.tex", "runs.csv"]
    printed = capsys.readouterr().out
    assert "+5.50 [" in printed
    assert "3 of 3 seeds not finished" in printed
    assert str(sweep / "report" / "runs.csv") in printed


def test_report_on_several_sweeps_needs_a_folder(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_example(tmp_path / "other", seeds=(0,))
    assert main(["sweep", "report", str(sweep), str(other)]) == 2
    assert "--output is missing" in capsys.readouterr().err
    output = tmp_path / "both"
    assert main(["sweep", "report", str(sweep), str(other), "--output", str(output), "--format", "csv"]) == 0
    assert "All sweeps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "pdf"], "--format pdf is not one of markdown, csv, latex, html"),
        (["--output", "{sweep}/sweep.yaml"], "is a file; name a folder"),
    ],
)
def test_mistakes_are_refused(
    sweep: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = [option.format(sweep=sweep) for option in options]
    assert main(["sweep", "report", str(sweep), *typed]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_folder_without_a_sweep_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "report", str(tmp_path)]) == 2
    assert "holds no sweep" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_unknown_variant_is_not_measured(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "measure", str(sweep), "--only", "wide"]) == 2
    assert "has no variant 'wide'" in capsys.readouterr().err
    assert not (sweep / "speed.json").exists()
