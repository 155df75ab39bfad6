"""Common behaviour of all commands: help with examples, options, and checks of output, device and weights."""

import argparse
import importlib
import json
import logging
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mrcnn_zoo.checkpoint import Checkpointer
from mrcnn_zoo.cli.main import COMMANDS, USAGE_ERROR, main, run_command
from mrcnn_zoo.cli.options import add_overrides, add_weights_option, logging_lines
from mrcnn_zoo.cli.parser import CommandParser, is_image_input, names_key, read_arguments
from mrcnn_zoo.config import load_config
from mrcnn_zoo.modeling import build_model
from support.small_models import DIGITS, FEW_SCENES, TINY_LAYERS

TINY = [*TINY_LAYERS, *FEW_SCENES, "MODEL.ROI_HEADS.SCORE_THRESH_TEST=0.0", "TEST.DETECTIONS_PER_IMAGE=5"]
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a training, with fresh weights in model_final.pth."""
    cfg = load_config(DIGITS, TINY)
    torch.manual_seed(1)
    state = {"model": build_model(cfg).state_dict(), "config": cfg.dump(), "class_names": list("0123456789")}
    return Checkpointer(tmp_path_factory.mktemp("run")).save("model_final", state).parent


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    Image.fromarray(np.full((60, 80, 3), 120, dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must end in one message, and returns the message."""

    def check(*arguments: object) -> str:
        capsys.readouterr()
        assert run_command(str(arguments[0]), list(map(str, arguments[1:]))) == USAGE_ERROR
        error = capsys.readouterr().err
        assert "Traceback" not in error
        assert error.count("error: ") == 1
        return error

    return check


def test_config_named_without_its_ending_is_recognized(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["train"], ["sweep", "run"]):
        with pytest.raises(SystemExit):
            main([*command, "roi_layer_digits"])
        assert "write roi_layer_digits.yaml or --config-file roi_layer_digits" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", "SOLVER.MAX_ITER", "10"])
    assert "packaged config\n" in capsys.readouterr().err


# --- parsers and help -------------------------------------------------------------------------------------------------


WITH_IMAGES = ("mrcnn-zoo predict", "mrcnn-zoo xray")


def parsers() -> list[CommandParser]:
    """The parsers of all commands and of their actions."""
    found = []
    for module, _ in COMMANDS.values():
        parser = importlib.import_module(module).build_parser()
        found.append(parser)
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                found += action.choices.values()
    return found


@pytest.mark.parametrize("parser", parsers(), ids=lambda parser: parser.prog)
def test_help_ends_in_examples_that_the_parser_takes(parser: CommandParser) -> None:
    last = parser.format_help().rstrip().rpartition("\n\n")[2].splitlines()
    assert last[0] == "examples:"
    assert len(parser.examples) >= 1
    typed = [line.strip().removeprefix(parser.prog) for line in last[1:] if line.strip().startswith(parser.prog)]
    assert [line.strip() for line in typed] == [example.strip() for example in parser.examples]
    for line in typed:
        if "overrides" in {action.dest for action in parser._actions}:
            is_input = is_image_input if parser.prog in WITH_IMAGES else None
            load_config(None, read_arguments(parser, shlex.split(line), is_input=is_input).overrides)
        else:
            parser.parse_known_args(shlex.split(line))


def test_help_of_the_program_ends_in_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    last = capsys.readouterr().out.rstrip().rpartition("\n\n")[2].splitlines()
    assert last[0] == "examples:"
    for line in last[1:]:
        program, command, *typed = shlex.split(line)
        assert program == "mrcnn-zoo"
        importlib.import_module(COMMANDS[command][0]).build_parser().parse_args(typed)


@pytest.mark.parametrize("tool", sorted((Path(__file__).parents[2] / "tools").glob("*.py")), ids=lambda tool: tool.stem)
def test_each_tool_is_a_command(tool: Path) -> None:
    (command,) = re.findall(r"run_command\(\"([\w-]+)\"\)", tool.read_text())
    assert command in COMMANDS


@pytest.mark.parametrize("parser", parsers(), ids=lambda parser: parser.prog)
def test_every_option_has_a_help_text(parser: CommandParser) -> None:
    assert [action.dest for action in parser._actions if not action.help and action.dest != "action"] == []


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_errors_of_options_name_no_function(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = importlib.import_module(COMMANDS[command][0]).build_parser()
    for action in parser._actions:
        if action.type is None:
            continue
        values = ["abc"] * (action.nargs if isinstance(action.nargs, int) else 1)
        with pytest.raises(SystemExit):
            parser.parse_intermixed_args([action.option_strings[0], *values])
        message = capsys.readouterr().err.splitlines()[-1]
        assert f"{action.option_strings[0]} takes a" in message
        assert message.endswith("not 'abc'")


def test_unknown_option_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_command("predict", ["a.png", "--thresold", "0.3"])
    assert "unrecognized arguments: --thresold 0.3. Did you mean '--threshold'?" in capsys.readouterr().err


# --- positional arguments ---------------------------------------------------------------------------------------------


def read(*argv: str) -> argparse.Namespace:
    parser = CommandParser(prog="x")
    add_weights_option(parser)
    parser.add_argument("--config-file")
    add_overrides(parser)
    return read_arguments(parser, argv)


def test_weights_and_config_are_accepted_without_their_option() -> None:
    arguments = read("a.pth", "SEED", "1", "b.yaml", "MODEL.WEIGHTS", "c.pth", "--set", "OUTPUT_DIR=x")
    assert (arguments.weights, arguments.config_file) == ("a.pth", "b.yaml")
    assert arguments.overrides == ["SEED", "1", "MODEL.WEIGHTS", "c.pth", "OUTPUT_DIR=x"]
    assert read("MODEL.WEIGHTS=c.pth").weights is None


@pytest.mark.parametrize(
    ("text", "is_key"),
    [
        ("MODEL.DEVICE", True),
        ("MODEL.DEVISE", True),
        ("MODLE.DEVICE=cpu", True),
        ("OUTPUT_DIR=x", True),
        ("DATASETS.DEFINITIONS.mine.FORMAT", True),
        ("photo.png", False),
        ("photo", False),
        ("IMG_1.CR2", False),
        ("a=b.png", False),
        ("model/device.png", False),
    ],
)
def test_names_key_distinguishes_keys_from_files(text: str, is_key: bool) -> None:
    assert names_key(text) is is_key


# --- rules that all commands have -------------------------------------------------------------------------------------


def commands_that_write(run_folder: Path, image: Path, place: object) -> dict[str, list[object]]:
    """Each command that writes into a folder, with the folder."""
    weights = ["--weights", run_folder / "model_final.pth"]
    return {
        "train": ["--config-file", DIGITS, "--output", place, *TINY],
        "evaluate": [*weights, "--output", place],
        "predict": [*weights, image, "--output", place],
        "xray": [*weights, image, "--output", f"{place}/x.html"],
        "precompute-proposals": [*weights, "--output", place],
        "compare-proposals": ["--proposals", run_folder, "--dataset", "digits_val", "--output", place, *FEW_SCENES],
        "doctor": ["--config-file", DIGITS, "--output", f"{place}/x.json", *TINY],
        "report": [run_folder, "--output", f"{place}/x.html"],
        "visualize-data": ["--config-file", DIGITS, "--output", place, *TINY],
        "analyze-model": ["--config-file", DIGITS, "--output", place, *TINY],
        "export": [*weights, "--output", f"{place}/x.pt2"],
        "export-dataset": ["digits_val", "--output", place, *TINY],
        "data": ["convert", "digits_val", place, "--to", "labelme", *TINY],
        "benchmark": ["--task", "data", "--config-file", DIGITS, "--output", f"{place}/x.json", *TINY],
        "convert-checkpoint": [run_folder / "model_final.pth", f"{place}/x.pth"],
        "zoo": ["download", DIGITS, "--output", f"{place}/x.pth"],
        "sweep": ["run", "Sweeps/roi_layer_digits.yaml", "--output", place, *TINY],
    }


@pytest.mark.parametrize("place", ["file", "file/below"])
@pytest.mark.parametrize("command", sorted({*COMMANDS} - {"config"}))
def test_output_that_cannot_be_a_folder_is_refused_before_work(
    command: str, place: str, run_folder: Path, image: Path, tmp_path: Path, refused: Refused, monkeypatch
) -> None:
    monkeypatch.setattr("mrcnn_zoo.inference.trained.fill_model", None)  # is called for a model
    (tmp_path / "file").write_text("keep")
    message = refused(command, *commands_that_write(run_folder, image, tmp_path / place)[command])
    assert str(tmp_path / "file") in message
    assert "is a file" in message
    assert (tmp_path / "file").read_text() == "keep"


@pytest.mark.parametrize(("command", "name"), [("train", "inference"), ("evaluate", "pictures")])
def test_file_in_place_of_a_result_folder_is_refused_before_work(
    command: str, name: str, run_folder: Path, image: Path, tmp_path: Path, refused: Refused
) -> None:
    (tmp_path / name).write_text("keep")
    message = refused(command, *commands_that_write(run_folder, image, tmp_path)[command])
    assert f"{tmp_path / name} is a file; name a folder" in message


def test_folder_in_place_of_a_predicted_file_is_refused(
    run_folder: Path, image: Path, tmp_path: Path, refused: Refused
) -> None:
    (tmp_path / "out" / "predictions.csv").mkdir(parents=True)
    message = refused("predict", *commands_that_write(run_folder, image, tmp_path / "out")["predict"], "--overwrite")
    assert "predictions.csv is a folder in place of a file" in message


@pytest.mark.parametrize(
    "command",
    sorted({*COMMANDS} - {"config", "benchmark", "convert-checkpoint", "export", "zoo", "xray", "doctor", "report"}),
)
def test_empty_output_is_refused(command: str, run_folder: Path, image: Path, refused: Refused) -> None:
    assert "empty; name a f" in refused(command, *commands_that_write(run_folder, image, "")[command])


@pytest.mark.parametrize("command", sorted({*COMMANDS} - {"config", "convert-checkpoint", "zoo", "report"}))
def test_invalid_device_is_refused(
    command: str, run_folder: Path, image: Path, tmp_path: Path, refused: Refused
) -> None:
    arguments = commands_that_write(run_folder, image, tmp_path / "out")[command]
    assert "'banana' is not a device" in refused(command, *arguments, "MODEL.DEVICE=banana")


@pytest.mark.parametrize(
    "command",
    [
        "precompute-proposals",
        "compare-proposals",
        "benchmark",
        "convert-checkpoint",
        "export",
        "xray",
        "doctor",
        "report",
    ],
)
def test_existing_files_are_replaced_only_with_overwrite(
    command: str, run_folder: Path, image: Path, tmp_path: Path, refused: Refused
) -> None:
    files = {
        "precompute-proposals": "digits_val_proposals.npz",
        "compare-proposals": "proposals.csv",
        "benchmark": "x.json",
        "convert-checkpoint": "x.yaml",
        "export": "x.pt2",
        "xray": "x.html",
        "doctor": "x.json",
        "report": "x.html",
    }
    mine = tmp_path / "out" / files[command]
    mine.parent.mkdir()
    mine.write_text("mine")
    message = refused(command, *commands_that_write(run_folder, image, tmp_path / "out")[command])
    assert "--overwrite" in message
    assert str(mine.parent) in message
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("file", ["image.png", "predictions.json", "predictions.csv"])
def test_predict_does_not_replace_files_of_others(
    file: str, run_folder: Path, image: Path, tmp_path: Path, refused: Refused
) -> None:
    mine = tmp_path / "out" / file
    mine.parent.mkdir()
    mine.write_text("mine")
    arguments = commands_that_write(run_folder, image, tmp_path / "out")["predict"]
    assert f"1 file would be replaced: {mine}" in refused("predict", *arguments)
    assert mine.read_text() == "mine"
    assert run_command("predict", [*map(str, arguments), "--overwrite"]) == 0
    assert run_command("predict", list(map(str, arguments))) == 0  # over its own results
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]


def test_visualize_data_replaces_its_own_pictures_only(tmp_path: Path, refused: Refused) -> None:
    arguments = ["--config-file", DIGITS, "--num", "1", "--output", str(tmp_path), "DATASETS.TEST=[]", *TINY]
    picture = tmp_path / "digits_train" / "1.png"
    for _ in range(2):
        assert run_command("visualize-data", arguments) == 0
    Image.new("RGB", (9, 9)).save(picture)
    assert f"1 file would be replaced: {picture}" in refused("visualize-data", *arguments)
    assert run_command("visualize-data", [*arguments, "--overwrite"]) == 0
    assert Image.open(picture).size != (9, 9)


def test_logging_lines_prints_warnings_once_and_other_messages_always(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("mrcnn_zoo.test")
    with logging_lines():
        for _ in range(2):
            logger.info("progress")
            logger.warning("%d boxes repaired", 3)
    logger.info("afterwards")
    assert capsys.readouterr().out == "progress\nWARNING: 3 boxes repaired\nprogress\n"


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["evaluate", "predict", "precompute-proposals", "convert-checkpoint", "train"])
def test_missing_weights_are_one_message(command: str, image: Path, tmp_path: Path, refused: Refused) -> None:
    missing = tmp_path / "gone" / "x.pth"
    arguments = {
        "evaluate": ["--weights", missing],
        "predict": [image, "--weights", missing],
        "precompute-proposals": ["--weights", missing],
        "convert-checkpoint": [missing, tmp_path / "y.pth"],
        "train": ["--config-file", DIGITS, "--eval-only", missing, "--output", tmp_path / "out", *TINY],
    }
    assert f"{missing} does not exist: there is no folder {missing.parent}" in refused(command, *arguments[command])


@pytest.mark.parametrize("command", ["evaluate", "predict", "train"])
def test_output_folder_of_a_training_selects_its_best_or_last_checkpoint(
    command: str, run_folder: Path, image: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = {
        "evaluate": ["--weights", run_folder, "--output", tmp_path / "out"],
        "predict": [image, "--weights", run_folder, "--output", tmp_path / "out"],
        "train": ["--config-file", DIGITS, "--eval-only", "--weights", run_folder, "--output", tmp_path / "out", *TINY],
    }
    caplog.set_level("INFO")
    assert run_command(command, list(map(str, arguments[command]))) == 0
    assert f"{run_folder} is a folder: reading model_final.pth in it" in caplog.messages


def test_weights_folder_without_a_checkpoint_lists_its_files(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "beside.pth").write_bytes(b"")
    folder = tmp_path / "folder"
    folder.mkdir()
    message = refused("evaluate", "--weights", folder)
    assert f"weights {folder} are a folder, and no checkpoint is in it" in message
    assert "beside" not in message
    for name in ("a.pth", "b.safetensors"):
        (folder / name).write_bytes(b"")
    assert "it holds a.pth, b.safetensors: name one of them" in refused("evaluate", "--weights", folder)
    stage = tmp_path / "run" / "heads"
    stage.mkdir(parents=True)
    (stage / "last_checkpoint").write_text("model_final.pth")
    message = refused("evaluate", "--weights", tmp_path / "run")
    assert f"checkpoints are in its folders heads: name one, e.g. {stage}" in message


def test_zoo_name_without_its_prefix_is_explained(refused: Refused) -> None:
    assert f"The zoo has them: zoo://{DIGITS}" in refused("evaluate", "--weights", DIGITS)


def test_evaluate_takes_weights_without_their_option(run_folder: Path, tmp_path: Path, capsys) -> None:
    arguments = [run_folder / "model_final.pth", "--output", tmp_path / "out", "DATASETS.TEST=[]"]
    assert run_command("evaluate", list(map(str, arguments))) == USAGE_ERROR
    assert "DATASETS.TEST is empty" in capsys.readouterr().err


@pytest.mark.parametrize("order", [["--changed", "SOLVER.BASE_LR", "0.5"], ["SOLVER.BASE_LR", "0.5", "--changed"]])
def test_config_show_takes_options_and_keys_in_any_order(order: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "Base-RCNN-FPN.yaml", "MODEL.MASK_ON=True", *order]) == 0
    shown = capsys.readouterr().out
    assert "BASE_LR: 0.5 " in shown
    assert "MASK_ON: true " in shown
    assert "MOMENTUM" not in shown  # only what differs from the defaults


@pytest.mark.parametrize(
    "command", [["train", "--config-file"], ["config", "show"], ["visualize-data", "--config-file"]]
)
def test_set_takes_one_word(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*command, "Base-RCNN-FPN.yaml", "--set", "SOLVER.BASE_LR", "MODEL.MASK_ON", "True"])
    assert "--set takes a KEY=VALUE in one word, not 'SOLVER.BASE_LR'" in capsys.readouterr().err
