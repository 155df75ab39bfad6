"""Folders of YAML files with the value syntax of Detectron2's files."""

from pathlib import Path

import pytest

from mrcnn_zoo.cli import config as command
from mrcnn_zoo.config import load_config
from mrcnn_zoo.config.loading import check_configs
from mrcnn_zoo.errors import UserError

BASE = """
MODEL:
  META_ARCHITECTURE: "GeneralizedRCNN"
  ANCHOR_GENERATOR:
    SIZES: !!python/object/apply:eval ["[[x, x * 2**(1.0/3)] for x in [32, 64]]"]
DATASETS:
  TRAIN: ("coco_2017_train",)
INPUT:
  MIN_SIZE_TRAIN: (640, 800)
"""
DERIVED = """
_BASE_: "../Base.yaml"
SOLVER:
  STEPS: (210000, 250000)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "Nested").mkdir()
    (tmp_path / "Base.yaml").write_text(BASE)
    (tmp_path / "Nested" / "derived.yaml").write_text(DERIVED)
    return tmp_path


def test_folder_loads_files_with_detectron2s_value_syntax(folder: Path) -> None:
    findings = list(check_configs([folder]))
    assert [(finding.path.name, finding.problem) for finding in findings] == [("Base.yaml", ""), ("derived.yaml", "")]
    cfg = load_config(folder / "Nested" / "derived.yaml")
    assert cfg.MODEL.ANCHOR_GENERATOR.SIZES == [[32, 32 * 2 ** (1 / 3)], [64, 64 * 2 ** (1 / 3)]]
    assert cfg.DATASETS.TRAIN == ["coco_2017_train"]
    assert (cfg.INPUT.MIN_SIZE_TRAIN, cfg.SOLVER.STEPS) == ([640, 800], [210000, 250000])


def test_failing_file_does_not_hide_the_others(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "Panoptic.yaml").write_text("MODEL: {META_ARCHITECTURE: PanopticFPN, SEM_SEG_HEAD: {LOSS_WEIGHT: 0.5}}\n")
    assert command.main(["check", str(folder)]) == 1
    printed = capsys.readouterr().out
    assert f"FAILS  {folder / 'Panoptic.yaml'}" in printed
    assert "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT" in printed
    assert printed.endswith("2 of 3 files load\n")


def test_check_takes_single_files_and_packaged_names(folder: Path) -> None:
    findings = list(check_configs([folder / "Base.yaml", "Base-RCNN-FPN"]))
    assert [finding.problem for finding in findings] == ["", ""]


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"contains no \.yaml file"):
        list(check_configs([tmp_path]))
