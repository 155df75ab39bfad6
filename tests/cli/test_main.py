"""The `mrcnn-zoo` command: dispatch and messages."""

import errno
import subprocess
import sys

import pytest

from mrcnn_zoo import choices
from mrcnn_zoo.cli import main as cli
from mrcnn_zoo.experiments.report.writing import FORMATS
from mrcnn_zoo.inspection.training.training_pictures import KINDS
from mrcnn_zoo.registries import ANNOTATION_FORMATS


def test_no_arguments_list_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in cli.COMMANDS)


def test_unknown_command_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian"]) == cli.USAGE_ERROR
    assert "Did you mean 'train'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    assert "usage" in capsys.readouterr().out


def test_user_error_is_one_message_without_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--config-file", "no/such/file.yaml"]) == cli.USAGE_ERROR
    printed = capsys.readouterr().err
    assert "no/such/file.yaml" in printed
    assert "Traceback" not in printed


def test_system_error_is_one_message(monkeypatch, capsys) -> None:
    def fail(_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "results.json")

    monkeypatch.setattr("mrcnn_zoo.cli.evaluate.main", fail)
    assert cli.run_command("evaluate", []) == cli.USAGE_ERROR
    assert capsys.readouterr().err == "error: results.json: No space left on device.\n"


def test_help_and_mistakes_do_not_wait_for_torch() -> None:
    code = """
import contextlib, importlib, io, sys
from mrcnn_zoo.cli.main import COMMANDS, main
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    loaded = set()
    for name in COMMANDS:
        for arguments in (["--help"], ["--no-such-option"]):
            with contextlib.suppress(SystemExit):
                main([name, *arguments])
            if "torch" in sys.modules and not loaded:
                loaded.add(name)
    helped = [name for name, (module, _) in COMMANDS.items() if module in sys.modules]
print(sorted(loaded), len(helped))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == f"[] {len(cli.COMMANDS)}\n"


def test_choices_in_a_help_are_those_that_exist() -> None:
    assert list(choices.ANNOTATION_FORMAT_NAMES) == ANNOTATION_FORMATS.names()
    assert tuple(KINDS) == choices.TRAINING_PICTURES
    assert tuple(FORMATS) == choices.REPORT_FORMATS
