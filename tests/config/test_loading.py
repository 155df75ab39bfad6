"""From YAML files and overrides to a frozen config."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from mrcnn_zoo.config import (
    CfgNode,
    changed_config,
    config_from_text,
    default_config,
    load_config,
    resolve_config,
)
from mrcnn_zoo.errors import UserError
from support.references import find_case


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_config_without_a_file_has_every_default() -> None:
    assert load_config() == default_config()


def test_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "empty.yaml", "")) == default_config()


def test_defaults_are_fresh_each_time() -> None:
    default_config().SOLVER.STEPS.append(1)
    assert default_config().SOLVER.STEPS == [30000]


def test_overrides_win_over_the_file_and_the_file_over_its_base(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "SOLVER:\n  BASE_LR: 0.1\n  MAX_ITER: 10\n  STEPS: (3, 4)\n")
    path = write(tmp_path, "derived.yaml", "_BASE_: base.yaml\nSOLVER:\n  BASE_LR: 1e-3\n  MAX_ITER: 20\n")
    solver = load_config(path, ["SOLVER.MAX_ITER", "30"]).SOLVER
    assert (solver.BASE_LR, solver.MAX_ITER, solver.STEPS) == (0.001, 30, [3, 4])


def test_loaded_config_is_frozen() -> None:
    config = load_config()
    with pytest.raises(AttributeError, match="immutable"):
        config.SOLVER.MAX_ITER = 5
    with pytest.raises(AttributeError, match="frozen"):
        config.merge_from_list(["SOLVER.MAX_ITER", 5])


def test_defrosted_clone_can_be_changed_and_keeps_origins() -> None:
    config = load_config(None, ["SOLVER.MAX_ITER", 5]).clone()
    config.defrost()
    config.merge_from_list(["SOLVER.BASE_LR", 0.5])
    assert (config.SOLVER.MAX_ITER, config.SOLVER.BASE_LR) == (5, 0.5)
    assert str(config.origin_of("SOLVER.MAX_ITER")) == "command line"


def test_unknown_key_names_file_line_and_the_nearest_key(tmp_path: Path) -> None:
    path = write(tmp_path, "typo.yaml", "MODEL:\n  MASK_ON: True\n  ROI_HEADS:\n    NUM_CLASES: 3\n")
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert str(caught.value) == (
        f"{path}:4: there is no config key MODEL.ROI_HEADS.NUM_CLASES. Did you mean 'MODEL.ROI_HEADS.NUM_CLASSES'?"
    )


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("SOLVER.BASELR=1", "Did you mean 'SOLVER.BASE_LR'?"),
        ("solver.base_lr=1", "Did you mean 'SOLVER.BASE_LR'?"),
        ("MODEL.NUM_CLASSES=1", "Did you mean 'MODEL.ROI_HEADS.NUM_CLASSES' or "),
        ("MODEL.FPN=1", "MODEL.FPN is a section without a value; set one of its keys (IN_FEATURES, "),
        ("SOLVER.BASE_LR.X=1", "SOLVER.BASE_LR is a value, not a section"),
        ("QQQ=1", "there is no config key QQQ."),
    ],
)
def test_unknown_override_suggests_the_nearest_key(item: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(None, [item])
    assert str(caught.value).startswith("command line: ")
    assert message in str(caught.value)


def test_wrong_type_names_file_line_key_type_and_value(tmp_path: Path) -> None:
    path = write(tmp_path, "wrong.yaml", "SOLVER:\n  MAX_ITER: many\n")
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert str(caught.value) == f"{path}:2: SOLVER.MAX_ITER takes an integer, not 'many'."


def test_section_without_keys_changes_nothing(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "x.yaml", "SOLVER:\n  # MAX_ITER: 3\nMODEL: {}\n")) == default_config()


def test_dotted_key_in_yaml_sets_the_nested_key(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "x.yaml", "SOLVER.MAX_ITER: 3\n")).SOLVER.MAX_ITER == 3


def test_key_set_twice_with_two_spellings_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "x.yaml", "SOLVER.MAX_ITER: 3\nSOLVER:\n  MAX_ITER: 4\n")
    with pytest.raises(UserError, match=r"x\.yaml:3: SOLVER\.MAX_ITER is set a second time; .*x\.yaml:1"):
        load_config(path)


def test_missing_base_names_both_files(tmp_path: Path) -> None:
    path = write(tmp_path, "x.yaml", "VERSION: 2\n_BASE_: nowhere.yaml\n")
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert str(caught.value).startswith(
        f"{path}:2: _BASE_ names 'nowhere.yaml', but there is no file {tmp_path}/nowhere"
    )


def test_cycle_of_bases_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "_BASE_: sub/b.yaml\n")
    write(tmp_path, "sub/b.yaml", "_BASE_: ../a.yaml\n")
    with pytest.raises(
        UserError, match=r"sub/b\.yaml:1: the _BASE_ files form a cycle: .*a\.yaml -> .*b\.yaml -> .*a\.yaml"
    ):
        load_config(tmp_path / "a.yaml")


def test_file_based_on_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cycle"):
        load_config(write(tmp_path, "a.yaml", "_BASE_: a.yaml\n"))


@pytest.mark.parametrize("value", ["", "3", "[a.yaml]", "''"])
def test_base_that_is_not_a_file_name_is_refused(value: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="_BASE_ takes the name of one file"):
        load_config(write(tmp_path, "a.yaml", f"_BASE_: {value}\n"))


def test_base_is_found_by_absolute_home_and_packaged_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    absolute = write(tmp_path, "base.yaml", "SOLVER: {MAX_ITER: 7}\n")
    for base in (absolute, "~/base.yaml"):
        assert load_config(write(tmp_path, "sub/x.yaml", f"_BASE_: {base}\n")).SOLVER.MAX_ITER == 7
    packaged = load_config(write(tmp_path, "sub/y.yaml", "_BASE_: Base-RCNN-FPN.yaml\n"))
    assert packaged.MODEL.BACKBONE.NAME == "build_resnet_fpn_backbone"


def test_missing_file_suggests_a_packaged_config() -> None:
    with pytest.raises(UserError, match=r"'mask_rcnn_R50_FPN_1x.yaml' does not exist.*Did you mean 'COCO-Instance"):
        load_config("mask_rcnn_R50_FPN_1x.yaml")


def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        load_config(tmp_path)


def test_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")
    with pytest.raises(UserError, match="is not a config"):
        load_config(path)


def test_huge_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too many for a config"):
        load_config(write(tmp_path, "x.yaml", "#" * 1_000_001))


def test_python_file_is_never_run(tmp_path: Path) -> None:
    path = write(tmp_path, "x.py", f"open({str(tmp_path / 'marker')!r}, 'w')\ncfg = {{}}\n")
    with pytest.raises(UserError):
        load_config(path)
    with path.open(encoding="utf-8") as file, pytest.raises(UserError, match="only YAML"):
        CfgNode.load_cfg(file)
    assert not (tmp_path / "marker").exists()


def test_the_computed_sizes_of_detectron2s_retinanet_base_file_load(tmp_path: Path) -> None:
    expression = "[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]"
    text = f'MODEL:\n  ANCHOR_GENERATOR:\n    SIZES: !!python/object/apply:eval ["{expression}"]\n'
    sizes = load_config(write(tmp_path, "x.yaml", text)).MODEL.ANCHOR_GENERATOR.SIZES
    assert sizes[4] == [512, 645.0795775461751, 812.7493386077181]


def test_open_section_takes_custom_names(tmp_path: Path) -> None:
    text = "DATASETS:\n  DEFINITIONS:\n    cells.v1: {FORMAT: coco, THING: '7', PARTS: [1, {a: b}]}\n    bare: {}\n"
    definitions = load_config(write(tmp_path, "x.yaml", text)).DATASETS.DEFINITIONS
    assert definitions == {"cells.v1": {"FORMAT": "coco", "THING": "7", "PARTS": [1, {"a": "b"}]}, "bare": {}}


def test_definitions_are_merged_over_those_of_the_base(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "DATASETS: {DEFINITIONS: {a: {FORMAT: coco, IMAGES: x}}}\n")
    path = write(
        tmp_path, "x.yaml", "_BASE_: base.yaml\nDATASETS: {DEFINITIONS: {a: {IMAGES: y}, b: {FORMAT: coco}}}\n"
    )
    config = load_config(path, ["DATASETS.DEFINITIONS.b.LIMIT", "5", "DATASETS.DEFINITIONS={c: {FORMAT: yolo}}"])
    assert config.DATASETS.DEFINITIONS == {
        "a": {"FORMAT": "coco", "IMAGES": "y"},
        "b": {"FORMAT": "coco", "LIMIT": 5},
        "c": {"FORMAT": "yolo"},
    }


def test_open_section_refuses_a_plain_value() -> None:
    with pytest.raises(UserError, match=r"DATASETS\.DEFINITIONS takes a mapping"):
        load_config(None, ["DATASETS.DEFINITIONS", "coco"])


def test_version_1_names_are_read_as_their_new_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = load_config(write(tmp_path, "old.yaml", "VERSION: 1\nMODEL:\n  WEIGHT: a.pkl\n"))
    assert (config.VERSION, config.MODEL.WEIGHTS) == (2, "a.pkl")
    assert "MODEL.WEIGHT is the old name of MODEL.WEIGHTS" in caplog.text


def test_future_version_is_refused() -> None:
    with pytest.raises(UserError, match="VERSION = 3 is not one of 2"):
        load_config(None, ["VERSION", 3])


def test_origins_distinguish_default_file_line_and_command_line(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "SOLVER:\n  MAX_ITER: 3\n  BASE_LR: 0.1\n")
    path = write(tmp_path, "x.yaml", "_BASE_: base.yaml\nSOLVER: {BASE_LR: 0.2}\n")
    config = load_config(path, ["SEED=3"])
    names = ["VERSION", "SOLVER.MAX_ITER", "SOLVER.BASE_LR", "SEED"]
    assert [str(config.origin_of(name)) for name in names] == [
        "default",
        f"{tmp_path}/base.yaml:2",
        f"{path}:2",
        "command line",
    ]


def test_dump_reads_back_to_the_same_config(tmp_path: Path) -> None:
    overrides = [
        "MODEL.WEIGHTS='007'",
        "WANDB.NAME=1e-3",
        "OUTPUT_DIR=ä: # b",
        "SOLVER.BASE_LR=1e-20",
        "SOLVER.CLIP_GRADIENTS.NORM_TYPE",
        float("inf"),
        "SOLVER.WEIGHT_DECAY_BIAS=0",
        "TEST.EXPECTED_RESULTS=[['bbox', 'AP', 38.5, 0.2]]",
        "DATASETS.DEFINITIONS",
        {"a": {"FORMAT": "coco", "CODE": "1", "NAMES": ["x", "2"], "LIMIT": None}},
    ]
    config = load_config(None, overrides)
    text = config.dump()
    assert load_config(write(tmp_path, "config.yaml", text)) == config
    assert config_from_text(text) == config
    assert "command line" not in text
    assert "__" not in text


def test_config_can_be_pickled_and_copied() -> None:
    config = load_config(None, ["SOLVER.MAX_ITER=5"])
    for copied in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config)):
        assert copied == config
        assert copied.is_frozen()
        assert copied.SOLVER.MAX_ITER == 5
        assert str(copied.origin_of("SOLVER.MAX_ITER")) == "command line"


def test_resolved_config_is_mutable() -> None:
    config = resolve_config(None, ["MODEL.KEYPOINT_ON", True])
    config.SOLVER.MAX_ITER = 5
    assert config.MODEL.KEYPOINT_ON


@pytest.mark.parametrize("case", ["mask_rcnn_R_50_FPN", "retinanet_R_50_FPN", "mask_rcnn_R_50_FPN_roipool_agnostic"])
def test_detectron2s_full_config_files_load(case: str) -> None:
    config = load_config(find_case(case).config)
    assert config.MODEL.RETINANET.NUM_CLASSES == 7
    assert config.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS == [10.0, 10.0, 5.0, 5.0]


def test_importing_the_config_does_not_import_torch() -> None:
    code = "import sys, mrcnn_zoo.config as c; c.load_config(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_changed_config_is_frozen_and_records_the_source(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "SOLVER:\n  MAX_EPOCHS: 3\n")
    config = load_config(path, ["SOLVER.BASE_LR", "0.5"])
    changed = changed_config(config, {"SOLVER.MAX_ITER": 7, "SOLVER.FREEZE": ["backbone.*"]}, source="my schedule")
    assert (config.SOLVER.MAX_ITER, config.SOLVER.FREEZE) == (default_config().SOLVER.MAX_ITER, [])
    assert (changed.SOLVER.MAX_ITER, changed.SOLVER.FREEZE, changed.SOLVER.BASE_LR) == (7, ["backbone.*"], 0.5)
    assert changed.is_frozen()
    assert str(changed.origin_of("SOLVER.MAX_ITER")) == "my schedule"
    # Of two lengths the one of the schedule counts before that of a file, and what is typed before both.
    closeness = [changed.closeness_of(f"SOLVER.{key}") for key in ("MAX_EPOCHS", "MAX_ITER", "BASE_LR")]
    assert closeness == sorted(set(closeness))


def test_changed_config_refuses_unknown_keys_and_types(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "a.yaml", ""))
    with pytest.raises(UserError, match=r"my schedule: .*SOLVER.FREZE.*SOLVER.FREEZE"):
        changed_config(config, {"SOLVER.FREZE": []}, source="my schedule")
    with pytest.raises(UserError, match=r"my schedule: SOLVER.MAX_ITER"):
        changed_config(config, {"SOLVER.MAX_ITER": "many"}, source="my schedule")
