"""What the README prints can be typed: its commands parse, its Python runs, its folder of images becomes a table."""

import csv
import json
import re
import shlex
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from mrcnn_zoo.cli.main import COMMANDS, main
from mrcnn_zoo.cli.options import read_arguments
from mrcnn_zoo.config import load_config
from mrcnn_zoo.config.loading import resolve_config

README = Path(__file__).resolve().parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    found = [line.split("  #")[0].strip() for line in lines]
    return [line.removeprefix("PYTHONPATH=. ") for line in found if "mrcnn-zoo" in line]


def with_words(text: str) -> str:
    (block,) = [block for block in blocks("yaml") + blocks("python") if text in block]
    return block


@pytest.mark.parametrize("command", commands())
def test_command_can_be_typed(command: str) -> None:
    program, name, *typed = shlex.split(command)
    assert program == "mrcnn-zoo"
    module = import_module(COMMANDS[name][0])
    if name in ("zoo", "config"):
        module.build_parser().parse_args(typed)
    else:
        arguments = read_arguments(module.build_parser(), typed, is_input=getattr(module, "is_image_input", None))
        resolve_config(None, arguments.overrides)


def test_there_are_commands_of_every_kind() -> None:
    assert {"train", "evaluate", "predict", "visualize-data", "zoo", "config"} <= {
        line.split()[1] for line in commands()
    }


def test_prediction_in_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export-dataset", "digits_val", "output/digits_val", "DATASETS.SCENES.NUM_VAL", "1"]) == 0
    capsys.readouterr()
    exec(compile(with_words("import Predictor"), str(README), "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(re.fullmatch(r"\d  score \d\.\d\d  box \[.+\]  [1-9]\d* pixels", line) for line in lines)
    assert Image.open("output/found.png").size[0] > 100


@pytest.mark.parametrize(("module", "loss"), [("my_lab", "loss_cls"), ("my_masks", "loss_mask")])
def test_components_of_the_readme_train(
    module: str, loss: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    words = {"my_lab": "def build_mean_box_head", "my_masks": "def build_shallow_mask_head"}[module]
    Path(f"{module}.py").write_text(with_words(words))
    (command,) = (line for line in commands() if f" {module}:" in line)
    few = (
        "SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 2 TEST.NUM_IMAGES 1 VIS.NUM_IMAGES 0 LOG_PERIOD 1 "
        "SOLVER.AMP.ENABLED False DATASETS.SCENES.NUM_TRAIN 4 DATASETS.SCENES.NUM_VAL 2"
    )
    assert main([*shlex.split(command)[1:], *few.split()]) == 0
    folder = Path(shlex.split(command)[-1])
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert all(line[loss] > 0 for line in lines if "total_loss" in line)
    assert (folder / "model_final.pth").is_file()
    sys.modules.pop(module, None)


def test_own_images_from_folder_to_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for number in range(3):
        image = rng.integers(0, 60, (64, 64), dtype=np.uint8)
        for index, corner in enumerate(((5, 8), (35, 30))):
            mask = np.zeros((64, 64), np.uint8)
            mask[corner[0] : corner[0] + 18, corner[1] : corner[1] + 20] = 255
            image[mask > 0] += 120
            folder = tmp_path / f"data/cells/picture{number}/masks"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(folder / f"{index}.png")
        (folder.parent / "images").mkdir()
        Image.fromarray(image).convert("RGB").save(folder.parent / "images" / f"picture{number}.png")
    text = with_words("# cells.yaml")
    Path("cells.yaml").write_text(text)
    assert yaml.safe_load(text)["INPUT"]["SIXTEEN_BIT"] == load_config("cells.yaml").INPUT.SIXTEEN_BIT
    few = "SOLVER.MAX_ITER 1 SOLVER.IMS_PER_BATCH 2 INPUT.MIN_SIZE_TRAIN 64 INPUT.MIN_SIZE_TEST 64 VIS.NUM_IMAGES 0"
    assert main(["train", "--config-file", "cells.yaml", *few.split(), "DATALOADER.NUM_WORKERS", "0"]) == 0
    # The file with the weights of the nuclei model has another class name, so scores begin anew: all are shown.
    typed = "predict --weights output/cells --output output/cells_found data/cells --recursive --threshold 0.05"
    assert main(typed.split()) == 0
    with Path("output/cells_found/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert all(row["class"] == "cell" and float(row["area"]) >= 0 for row in rows)
