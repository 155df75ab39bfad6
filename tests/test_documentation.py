"""README.md and docs/: pages are listed, commands parse, YAML loads, Python runs, link targets exist."""

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

from mrcnn_zoo.cli.data import read_action
from mrcnn_zoo.cli.main import COMMANDS, main
from mrcnn_zoo.cli.parser import read_arguments
from mrcnn_zoo.config import load_config
from mrcnn_zoo.config.files import is_sweep_file
from mrcnn_zoo.config.loading import resolve_config
from mrcnn_zoo.experiments.runs import expand
from mrcnn_zoo.experiments.search_space import read_space
from mrcnn_zoo.experiments.sweep_file import read_sweep
from support.documentation import DOCS, PAGES, README, REPOSITORY, Block, block_with, blocks, commands, links

OURS = [(location, command.removeprefix("PYTHONPATH=. ")) for location, command in commands() if "mrcnn-zoo" in command]
DOCUMENTS = [page for page in PAGES if page != README]
OTHERS_FILES = {"checkpoint/c2_model_loading.py", "modeling/roi_heads/mask_head.py"}  # Detectron2's


def blocks_with_commands(page: Path) -> list[tuple[str, list[str]]]:
    """The commands of each bash block of a page."""
    found: dict[str, list[str]] = {}
    for location, command in commands((page,)):
        found.setdefault(location, []).append(command)
    return list(found.items())


def name_of(value: Path | Block) -> str:
    return value.location if isinstance(value, Block) else str(value.relative_to(REPOSITORY))


def test_docs_readme_lists_every_page() -> None:
    pages = {page.relative_to(DOCS).as_posix() for page in DOCUMENTS} - {"README.md"}
    listed = {link for link in links(DOCS / "README.md") if not link.startswith("..")} if DOCUMENTS else set()
    assert listed == pages


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_link_targets_exist(page: Path) -> None:
    assert [link for link in links(page) if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", sorted((REPOSITORY / "dev").glob("*.md")), ids=name_of)
def test_modules_named_by_developer_pages_exist(page: Path) -> None:
    named = set(re.findall(r"`((?:\w+/)*\w+\.(?:py|sh))`", page.read_text(encoding="utf-8"))) - OTHERS_FILES
    files = [path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.rglob("*.[ps][yh]")]
    assert named or page.name == "COMPONENTS.md"  # whose table has keys alone
    assert [name for name in sorted(named) if not any(f"/{file}".endswith(f"/{name}") for file in files)] == []


@pytest.mark.parametrize(("location", "command"), OURS, ids=[f"{location} {command}" for location, command in OURS])
def test_command_line_parses(location: str, command: str) -> None:  # noqa: ARG001 - shown by pytest
    program, name, *typed = shlex.split(command)
    assert program == "mrcnn-zoo"
    module = import_module(COMMANDS[name][0])
    if name in ("zoo", "config", "sweep", "data", "report"):
        module.build_parser().parse_args(typed)
    elif name == "data":
        _, arguments = read_action(typed)
        resolve_config(None, arguments.overrides)
    else:
        arguments = read_arguments(module.build_parser(), typed, is_input=getattr(module, "is_image_input", None))
        resolve_config(None, arguments.overrides)


def test_main_commands_are_documented() -> None:
    named = {command.split()[1] for _, command in OURS}
    assert {"train", "evaluate", "predict", "visualize-data", "zoo", "config"} <= named


def test_scripts_and_make_targets_of_commands_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for location, command in commands():
        words = command.split()
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, flags=re.MULTILINE), location
        scripts = [word for word in words if re.fullmatch(r"(?:dev|tools)/\S+\.(?:py|sh)", word)]
        assert all((REPOSITORY / script).is_file() for script in scripts), location


@pytest.mark.parametrize("block", blocks("yaml"), ids=name_of)
def test_yaml_block_is_a_valid_config_or_sweep(block: Block, tmp_path: Path) -> None:
    path = tmp_path / (block.file_name or "config.yaml")
    path.write_text(block.text)
    if is_sweep_file(path):
        assert len(expand(read_sweep(path))) > 1 or read_space(path)
    else:
        assert load_config(path) != load_config()


@pytest.fixture
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """The working directory, importable, with two digit scenes in output/digits_val."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["export-dataset", "digits_val", "output/digits_val", "DATASETS.SCENES.NUM_VAL", "2"]) == 0
    capsys.readouterr()
    return tmp_path


@pytest.mark.parametrize("page", DOCUMENTS, ids=name_of)
def test_python_blocks_of_page_run(page: Path, working_directory: Path) -> None:
    """Blocks run in order in one namespace; blocks with a file name are written to files first."""
    files = [block for block in blocks("python", "yaml", pages=(page,)) if block.file_name]
    for block in files:
        (working_directory / str(block.file_name)).write_text(block.text)
    names: dict[str, object] = {}
    for block in blocks("python", pages=(page,)):
        exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)  # raises nothing
    for block in files:
        sys.modules.pop(str(block.file_name).removesuffix(".py"), None)


def test_data_commands_print_what_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands run in order; each line of a text block is in the output of those above it."""
    monkeypatch.chdir(tmp_path)
    page = DOCS / "data-commands.md"
    typed = dict(blocks_with_commands(page))
    for block in blocks("bash", "text", pages=(page,)):
        if block.language == "bash":
            for command in typed[block.location]:
                if " train " not in command:
                    assert main(shlex.split(command)[1:]) == 0
            continue
        printed = {" ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
        assert [line for line in block.text.splitlines() if " ".join(line.split()) not in printed] == []
    assert Image.open("output/digits.png").size[0] > 1000


@pytest.mark.usefixtures("working_directory")
def test_prediction_example_prints_and_draws_instances(capsys: pytest.CaptureFixture[str]) -> None:
    block = block_with("found.draw()")
    exec(compile(block.text, block.page, "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(re.fullmatch(r"\d  score \d\.\d\d  box \[.+\]  [1-9]\d* pixels", line) for line in lines)
    assert Image.open("output/found.png").size[0] > 100


@pytest.mark.parametrize(("module", "loss"), [("my_lab", "loss_cls"), ("my_masks", "loss_mask")])
def test_documented_components_train(module: str, loss: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    words = {"my_lab": "def build_mean_box_head", "my_masks": "def build_shallow_mask_head"}[module]
    Path(f"{module}.py").write_text(block_with(words).text)
    (command,) = (command for _, command in OURS if f" {module}:" in command)
    few = (
        "SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 2 TEST.NUM_IMAGES 1 VIS.NUM_IMAGES 0 VIS.PLOTS False VIS.REPORT False "
        "LOG_PERIOD 1 SOLVER.AMP.ENABLED False DATASETS.SCENES.NUM_TRAIN 4 DATASETS.SCENES.NUM_VAL 2"
    )
    assert main([*shlex.split(command)[1:], *few.split()]) == 0
    folder = Path(shlex.split(command)[-1])
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert all(line[loss] > 0 for line in lines if "total_loss" in line)
    assert (folder / "model_final.pth").is_file()
    sys.modules.pop(module, None)


def test_custom_dataset_trains_and_predicts_to_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for number in range(4):
        image = rng.integers(0, 60, (64, 64), dtype=np.uint8)
        for index, corner in enumerate(((5, 8), (35, 30))):
            mask = np.zeros((64, 64), np.uint8)
            mask[corner[0] : corner[0] + 18, corner[1] : corner[1] + 20] = 255
            image[mask > 0] += 120
            folder = tmp_path / f"data/cells/slide{number // 2}_{number}/masks"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(folder / f"{index}.png")
        (folder.parent / "images").mkdir()
        Image.fromarray(image).convert("RGB").save(folder.parent / "images" / f"slide{number // 2}_{number}.png")
    text = block_with("# cells.yaml").text
    Path("cells.yaml").write_text(text)
    assert yaml.safe_load(text)["INPUT"]["SIXTEEN_BIT"] == load_config("cells.yaml").INPUT.SIXTEEN_BIT
    few = "SOLVER.MAX_ITER 1 SOLVER.IMS_PER_BATCH 2 INPUT.MIN_SIZE_TRAIN 64 INPUT.MIN_SIZE_TEST 64 VIS.NUM_IMAGES 0"
    few += " VIS.PLOTS False VIS.REPORT False DATALOADER.NUM_WORKERS 0"
    few += " MODEL.RPN.POST_NMS_TOPK_TEST 20 TEST.DETECTIONS_PER_IMAGE 10"
    assert main(["train", "--config-file", "cells.yaml", *few.split()]) == 0
    typed = "predict --weights output/cells --output output/cells_found data/cells --recursive --threshold 0.05"
    assert main(typed.split()) == 0
    with Path("output/cells_found/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert all(row["class"] == "nucleus" and float(row["area"]) >= 0 for row in rows)
