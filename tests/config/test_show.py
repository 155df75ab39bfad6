"""The resolved config with where each value came from."""

from pathlib import Path

from mrcnn_zoo.config import config_from_text, load_config, resolve_config
from mrcnn_zoo.config.explain import shown


def lines(text: str) -> dict[str, str]:
    return {line.split(":")[0].strip(): line.strip() for line in text.splitlines()}


def test_shown_text_reads_back_to_the_same_config() -> None:
    overrides = ["OUTPUT_DIR=a # b", "SEED=3", "DATASETS.DEFINITIONS={a.b: {FORMAT: coco, CODE: '1'}}"]
    config = load_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x", overrides)
    assert config_from_text(shown(config)) == config


def test_set_values_have_their_origin(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("SOLVER:\n  MAX_ITER: 3\n")
    found = lines(shown(load_config(path, ["SEED", "7"])))
    assert found["MAX_ITER"].split() == ["MAX_ITER:", "3", "#", f"{path}:2"]
    assert found["SEED"].split() == ["SEED:", "7", "#", "command", "line"]
    assert found["BASE_LR"] == "BASE_LR: 0.001"


def test_only_changed_values_can_be_shown() -> None:
    text = shown(load_config(None, ["SOLVER.MAX_ITER=3", "SOLVER.BASE_LR=0.001"]), only_changed=True)
    assert [line.split("#")[0].rstrip() for line in text.splitlines()] == ["SOLVER:", "  MAX_ITER: 3"]


def test_defaults_have_no_changes_to_show() -> None:
    assert shown(load_config(), only_changed=True) == ""


def test_unsupported_values_are_marked() -> None:
    found = lines(shown(resolve_config(None, ["GLOBAL.HACK=2"])))
    assert found["HACK"].endswith("# command line; this version does not have the part")
