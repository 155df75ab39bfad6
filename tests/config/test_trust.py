"""Code named by a downloaded config is not run unless its module is trusted."""

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from mrcnn_zoo.cli import main as cli
from mrcnn_zoo.config import CfgNode, config_from_settings, config_from_text, load_config
from mrcnn_zoo.config.defaults import ALL_KEYS
from mrcnn_zoo.config.trust import TRUST_VARIABLE, allowed_modules, code_modules
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation import config_of_weights, load_trained

NAME = "stranger_lab.heads:build"
TEXT = f"MODEL:\n  ROI_BOX_HEAD:\n    NAME: {NAME}\n"


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRUST_VARIABLE, raising=False)


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that leaves a file behind when it is imported."""
    mark = tmp_path / "imported"
    folder = tmp_path / "stranger_lab"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "heads.py").write_text(f"open({str(mark)!r}, 'w').close()\ndef build(cfg):\n    return None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("stranger_lab", "stranger_lab.heads"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return mark


def box_head_of(config: CfgNode) -> str:
    return config.MODEL.ROI_BOX_HEAD.NAME


def test_name_of_code_in_a_checkpoint_is_refused_with_key_name_and_line() -> None:
    with pytest.raises(UserError) as refusal:
        config_from_text(TEXT, source="the config in w.pth")
    message = str(refusal.value)
    assert f"the config in w.pth:3: MODEL.ROI_BOX_HEAD.NAME = '{NAME}'" in message
    assert "--trust stranger_lab.heads" in message
    assert f"{TRUST_VARIABLE}=stranger_lab.heads" in message


@pytest.mark.parametrize("module", ["stranger_lab.heads", "stranger_lab", "other,stranger_lab"])
def test_trusted_module_covers_its_submodules(module: str) -> None:
    assert box_head_of(config_from_text(TEXT, trust=[module])) == NAME


@pytest.mark.parametrize("module", ["stranger", "stranger_lab.head", "stranger_lab.heads.more"])
def test_trust_of_other_modules_does_not_cover_it(module: str) -> None:
    with pytest.raises(UserError, match="would be imported and run"):
        config_from_text(TEXT, trust=[module])


def test_variable_allows_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUST_VARIABLE, "a, stranger_lab")
    assert box_head_of(config_from_text(TEXT)) == NAME
    assert allowed_modules(["b.c"]) == ("b.c", "a", "stranger_lab")


def test_invalid_module_name_is_refused() -> None:
    with pytest.raises(UserError, match=r"--trust takes names of modules.*'my_lab:build'"):
        allowed_modules(["my_lab:build"])
    with pytest.raises(TypeError):
        allowed_modules("my_lab")


def test_name_that_the_user_typed_is_allowed(tmp_path: Path) -> None:
    assert box_head_of(load_config(None, ["MODEL.ROI_BOX_HEAD.NAME", NAME])) == NAME
    assert box_head_of(config_from_text(TEXT, overrides=["MODEL.ROI_BOX_HEAD.NAME", NAME])) == NAME
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT)
    assert box_head_of(load_config(path)) == NAME
    base = tmp_path / "more.yaml"
    base.write_text("_BASE_: mine.yaml\n")
    assert box_head_of(load_config(base)) == NAME


def test_typed_value_replaces_the_one_of_the_file() -> None:
    assert box_head_of(config_from_text(TEXT, overrides=["MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead"])) != NAME
    other = "MODEL: {ROI_BOX_HEAD: {NAME: 'stranger_lab.heads:other'}}"
    with pytest.raises(UserError, match=r"stranger_lab\.heads:other"):
        config_from_text(other, overrides=["MODEL.ROI_MASK_HEAD.NAME", NAME])


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (f"HOOKS: ['{NAME}']", "HOOKS"),
        (f"WRITERS: [console, '{NAME}']", "WRITERS"),
        (f"INPUT: {{AUGMENTATIONS: ['{NAME}']}}", "INPUT.AUGMENTATIONS"),
        (f"DATASETS: {{DEFINITIONS: {{x: {{FORMAT: '{NAME}'}}}}}}", "DATASETS.DEFINITIONS.x.FORMAT"),
        (f"CUSTOM: {{deep: [{{head: '{NAME}'}}]}}", "CUSTOM.deep"),
        ("MODEL: {RPN: {MATCHER: 'os:system'}}", "MODEL.RPN.MATCHER"),
        ("MODEL: {META_ARCHITECTURE: 'mrcnn_zoo.cli.main:main'}", "MODEL.META_ARCHITECTURE"),
        ("SOLVER: {OPTIMIZER: 'a b:c'}", "SOLVER.OPTIMIZER"),
    ],
)
def test_names_of_code_are_found_in_every_place(text: str, key: str) -> None:
    with pytest.raises(UserError, match=rf"{key} = "):
        config_from_text(text)


def test_names_of_code_are_found_in_every_registry_key() -> None:
    selecting = [key for key in ALL_KEYS if key.registry is not None and not key.is_open]
    assert len(selecting) > 20
    for key in selecting:
        if key.choices:
            continue
        value = f"['{NAME}']" if isinstance(key.default, list) else f"'{NAME}'"
        with pytest.raises(UserError, match=rf"{key.name} = '{NAME}'"):
            config_from_text(f"{key.name}: {value}")


@pytest.mark.parametrize(
    "text",
    [
        "MODEL: {WEIGHTS: 'detectron2://a/b.pkl', DEVICE: 'cuda:1'}",
        "OUTPUT_DIR: 'C:runs'",
        "WANDB: {NAME: 'trial:two'}",
        "DATASETS: {TRAIN: ['c:data']}",
    ],
)
def test_paths_devices_and_titles_are_not_code(text: str) -> None:
    config_from_text(text)  # raises nothing


def test_settings_of_a_foreign_file_are_checked() -> None:
    settings = ["MODEL.ROI_BOX_HEAD.NAME", NAME, "SOLVER.MAX_ITER", 7]
    with pytest.raises(UserError, match=r"the zoo's entry x: MODEL\.ROI_BOX_HEAD\.NAME"):
        config_from_settings(settings, source="the zoo's entry x")
    cfg = config_from_settings(settings, source="x", overrides=["SOLVER.MAX_ITER", 8], trust=["stranger_lab"])
    assert (box_head_of(cfg), cfg.SOLVER.MAX_ITER) == (NAME, 8)
    assert code_modules(cfg) == ("stranger_lab.heads",)


def test_untrusted_weights_import_nothing(tmp_path: Path, stranger: Path) -> None:
    path = tmp_path / "downloaded.pth"
    torch.save(
        {"model": {"weight": torch.zeros(1)}, "config": f"MODEL: {{META_ARCHITECTURE: '{NAME}', DEVICE: cpu}}"}, path
    )
    with pytest.raises(UserError, match=r"--trust stranger_lab\.heads"):
        load_trained(path)
    with pytest.raises(UserError, match=r"--trust stranger_lab\.heads"):
        config_of_weights(path)
    assert not stranger.exists()
    assert config_of_weights(path, trust=("stranger_lab",)).MODEL.META_ARCHITECTURE == NAME
    with pytest.raises(UserError, match=r"makes nothing \(None\) without losses, predict"):
        load_trained(path, trust=("stranger_lab",))
    assert stranger.exists()


@pytest.mark.parametrize("command", ["evaluate", "predict", "precompute-proposals", "convert-checkpoint"])
def test_commands_that_read_a_config_from_weights_have_the_trust_option(
    tmp_path: Path, stranger: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (16, 16)).save("x.png")
    text = f"MODEL: {{META_ARCHITECTURE: '{NAME}', DEVICE: cpu}}\nDATASETS: {{TEST: [digits_val]}}"
    torch.save({"model": {"weight": torch.zeros(1)}, "config": text}, "w.pth")
    arguments = {"predict": ["x.png", "--weights", "w.pth"], "convert-checkpoint": ["w.pth", "v.pth"]}
    line = [command, *arguments.get(command, ["--weights", "w.pth"])]
    assert cli.main(line) == cli.USAGE_ERROR
    assert "--trust stranger_lab.heads" in capsys.readouterr().err
    assert not stranger.exists()
    assert cli.main([*line, "--trust", "stranger_lab.heads"]) == cli.USAGE_ERROR
    assert "makes nothing (None) without losses, predict" in capsys.readouterr().err
    assert stranger.exists()
