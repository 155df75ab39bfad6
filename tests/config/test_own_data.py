"""Test sets of the user's own training sets, and their names with sides."""

from pathlib import Path

import pytest

from mrcnn_zoo.config import load_config
from mrcnn_zoo.config.own_data import split_name

QUICKSTART = "Quickstart/mask_rcnn_R_18_FPN_digits.yaml"


@pytest.mark.parametrize(
    ("overrides", "test"),
    [
        (["DATASETS.TRAIN", "[data/a]"], ["data/a:val"]),
        (["DATASETS.TRAIN", "[data/a, data/b]"], ["data/a:val", "data/b:val"]),
        (["DATASETS.TRAIN", "[mine]", "DATASETS.DEFINITIONS.mine.IMAGES", "x"], ["mine:val"]),
        (["DATASETS.TRAIN", "[mine]", "DATASETS.DEFINITIONS.mine={IMAGES: x, SPLIT: train}"], []),
        (["DATASETS.TRAIN", "[mine]", "DATASETS.DEFINITIONS.mine={IMAGES: x, FORMAT: coco}"], []),
        (["DATASETS.TRAIN", "[data/a:train]"], []),
        (["DATASETS.TRAIN", "[data/a, digits_train]"], []),
        (["DATASETS.TRAIN", "[digits_train]"], []),
        (["DATASETS.TRAIN", "[data/a]", "DATASETS.TEST", "[data/b]"], ["data/b"]),
        (["DATASETS.TRAIN", "[data/a]", "DATASETS.DEFAULTS.VAL_FRACTION", "0"], []),
        (["DATASETS.TRAIN", "[data/a]", "DATASETS.FOLDS", "2"], ["data/a"]),
    ],
)
def test_empty_test_set_is_the_val_side_of_own_training_sets(overrides: list[str], test: list[str]) -> None:
    datasets = load_config(None, overrides).DATASETS
    assert list(datasets.TEST) == test


def test_built_in_test_set_of_a_base_file_gives_way(caplog: pytest.LogCaptureFixture) -> None:
    assert list(load_config(QUICKSTART, ["DATASETS.TRAIN", "[data/a]"]).DATASETS.TEST) == ["data/a:val"]
    assert "DATASETS.TEST = ['digits_val']" in caplog.text
    typed = load_config(QUICKSTART, ["DATASETS.TRAIN", "[data/a]", "DATASETS.TEST", "[digits_val]"])
    assert list(typed.DATASETS.TEST) == ["digits_val"]


def test_folder_without_slash_is_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert list(load_config(None, ["DATASETS.TRAIN", "[cells]"]).DATASETS.TEST) == []
    (tmp_path / "cells").mkdir()
    assert list(load_config(None, ["DATASETS.TRAIN", "[cells]"]).DATASETS.TEST) == ["cells:val"]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("data/a:val", ("data/a", "val")),
        ("data/a:b", ("data/a:b", "")),
        ("mine:val", ("mine:val", "")),
        ("digits_train", ("digits_train", "")),
    ],
)
def test_name_is_divided_at_the_side(name: str, parts: tuple[str, str]) -> None:
    definition = "DATASETS.DEFINITIONS={'mine:val': {FORMAT: coco, IMAGES: x}}"
    assert split_name(load_config(None, [definition]), name) == parts
