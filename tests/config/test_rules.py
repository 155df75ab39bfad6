"""The numbers that each key takes, and the rules between keys."""

import logging
from pathlib import Path
from typing import Any

import pytest

from mrcnn_zoo.config import config_from_text, load_config
from mrcnn_zoo.config.defaults import ALL_KEYS, KEYS_BY_NAME
from mrcnn_zoo.config.explain import explain
from mrcnn_zoo.config.keys import Key, Length, Range
from mrcnn_zoo.config.values import element_types
from mrcnn_zoo.errors import UserError

INF, NAN = float("inf"), float("nan")


def takes_numbers(key: Key) -> bool:
    return bool({int, float} & {*key.types, *element_types(key)})


def test_every_key_of_numbers_declares_its_range_or_its_choices() -> None:
    assert [key.name for key in ALL_KEYS if takes_numbers(key) and key.range is None and not key.choices] == []


def test_every_default_is_in_its_range() -> None:
    for key in ALL_KEYS:
        assert key.is_open or not key.problem_of(key.default), key.name


def test_no_key_takes_nan() -> None:
    for key in ALL_KEYS:
        if key.range is not None:
            assert not key.range.contains(NAN), key.name


def test_infinity_is_only_an_order_of_a_norm() -> None:
    ranges = {key.name: key.range for key in ALL_KEYS if key.range is not None}
    assert [name for name, allowed in ranges.items() if allowed.contains(INF)] == ["SOLVER.CLIP_GRADIENTS.NORM_TYPE"]
    assert [name for name, allowed in ranges.items() if allowed.contains(-INF)] == []


@pytest.mark.parametrize(
    ("allowed", "inside", "outside", "words"),
    [
        (Range(low=1), [1, 9], [0, INF, NAN], "at least 1"),
        (Range(low=0, low_open=True), [1e-9], [0, -1], "above 0"),
        (Range(low=0, high=1, high_open=True), [0, 0.999], [1, -0.1], "in [0, 1)"),
        (Range(low=0, high=1, low_open=True), [1, 0.1], [0, 1.1], "in (0, 1]"),
        (Range(low=1, also=(-1,)), [-1, 1], [0, -2], "-1 or at least 1"),
        (Range(low=0, allows_infinity=True), [INF], [-1, NAN], "at least 0, also infinity"),
        (Range(), [-5, 7.5], [INF, -INF, NAN], "any finite number"),
    ],
)
def test_range_holds_its_numbers(allowed: Range, inside: list[float], outside: list[float], words: str) -> None:
    assert all(map(allowed.contains, inside))
    assert not any(map(allowed.contains, outside))
    assert str(allowed) == words


@pytest.mark.parametrize(
    ("length", "words"),
    [(Length(2, 2), "2 values"), (Length(1), "at least 1 value"), (Length(1, 3), "1 to 3 values")],
)
def test_length_in_words(length: Length, words: str) -> None:
    assert str(length) == words
    assert not length.contains(0)
    assert length.contains(2)


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("INPUT.MAX_SIZE_TEST", 0, "must be at least 1"),
        ("INPUT.MIN_SIZE_TEST", -1, "must be at least 0"),
        ("INPUT.MIN_SIZE_TRAIN", [-5], "must hold numbers, each at least 0"),
        ("INPUT.MIN_SIZE_TRAIN", [], "must hold at least 1 value, each at least 0"),
        ("INPUT.BRIGHTNESS", [1.2, 0.8], "must ascend"),
        ("INPUT.CROP.SIZE", [20, 0], "must hold 2 values, each above 0"),
        ("SOLVER.WEIGHT_DECAY", -1.0, "must be at least 0"),
        ("SOLVER.WEIGHT_DECAY_BIAS", -1.0, "must be at least 0"),
        ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.0, "must be above 0"),
        ("SOLVER.GAMMA", -1.0, "must be in (0, 1]"),
        ("SOLVER.MOMENTUM", 1.5, "must be in [0, 1)"),
        ("SOLVER.BETAS", [0.9, 1.0], "must hold 2 values, each in [0, 1)"),
        ("SOLVER.STEPS", [20, 10], "must ascend"),
        ("SOLVER.BASE_LR", NAN, "must be finite, and at least 0"),
        ("SOLVER.BASE_LR", INF, "must be finite, and at least 0"),
        ("MODEL.PIXEL_STD", [INF, 1.0, 1.0], "each finite, and above 0"),
        ("SOLVER.EMA.DECAY", 1.0, "must be in [0, 1)"),
        ("MODEL.PIXEL_STD", [0.0, 1.0, 1.0], "must hold numbers, each above 0"),
        ("MODEL.PIXEL_MEAN", [NAN, 1.0, 1.0], "must hold numbers, each any finite number"),
        ("MODEL.RPN.IOU_THRESHOLDS", [0.7, 0.3], "must ascend"),
        ("MODEL.RPN.IOU_LABELS", [0, 2, 1], "must hold numbers, each in [-1, 1]"),
        ("MODEL.RPN.POSITIVE_FRACTION", 1.5, "must be in [0, 1]"),
        ("MODEL.RPN.BBOX_REG_WEIGHTS", [0.0, 1.0, 1.0, 1.0], "must hold 4 values, each above 0"),
        ("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", [10.0, 5.0], "must hold 4 values, each above 0"),
        ("MODEL.ROI_BOX_HEAD.DROPOUT", 1.0, "must be in [0, 1)"),
        ("MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS", [[10.0, 10.0, 5.0, 0.0]], "each above 0 in each of its lists"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[32, 0]], "each above 0 in each of its lists"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[]], "must hold at least 1 value in each of its lists, each above 0"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[32], 64], "must contain either numbers or lists of numbers"),
        ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [], "must hold at least 1 value"),
        ("MODEL.ANCHOR_GENERATOR.OFFSET", 1.0, "must be in [0, 1)"),
        ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 1.5, "must be in [0, 1]"),
        ("MODEL.ROI_MASK_HEAD.LOSS_WEIGHT", -1.0, "must be at least 0"),
        ("MODEL.ROI_MASK_HEAD.NUM_UPSAMPLE", 40, "must be in [0, 5]"),
        ("TEST.DETECTIONS_PER_IMAGE", 0, "must be -1 or at least 1"),
        ("LOG_PERIOD", 0, "must be at least 1"),
        ("DATALOADER.NUM_WORKERS", -1, "must be at least 0"),
        ("DATALOADER.RANDOM_SUBSET_RATIO", 0.0, "must be in (0, 1]"),
        ("DATASETS.SCENES.IMAGE_SIZE", [4, 128], "must hold 2 values, each in [8, 20000]"),
        ("DATASETS.SCENES.NUM_OBJECTS", [6, 1], "must ascend"),
    ],
)
def test_numbers_outside_the_range_are_refused_with_key_value_and_range(key: str, value: Any, rule: str) -> None:
    with pytest.raises(UserError) as refusal:
        load_config(None, [key, value])
    assert str(refusal.value).startswith(f"command line: {key} = {value!r} ")
    assert rule in str(refusal.value)


def test_message_names_the_line_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("SOLVER:\n  MAX_ITER: 10\n  GAMMA: -1\n")
    with pytest.raises(UserError, match=r"x\.yaml:3: SOLVER\.GAMMA = -1\.0 must be in \(0, 1\]\."):
        load_config(path)
    with pytest.raises(UserError, match=r"the config in w\.pth:2: SOLVER\.GAMMA = -1\.0"):
        config_from_text("SOLVER:\n  GAMMA: -1\n", source="the config in w.pth")


def test_only_the_final_value_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("SOLVER: {GAMMA: -1}\n")
    assert load_config(path, ["SOLVER.GAMMA", "0.5"]).SOLVER.GAMMA == 0.5


def test_all_numbers_outside_their_range_are_listed_at_once() -> None:
    with pytest.raises(UserError) as refusal:
        load_config(None, ["LOG_PERIOD", 0, "SOLVER.GAMMA", 0])
    assert "LOG_PERIOD = 0 must" in str(refusal.value)
    assert "SOLVER.GAMMA = 0.0 must" in str(refusal.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("TEST.DETECTIONS_PER_IMAGE", -1),
        ("MODEL.RPN.BOUNDARY_THRESH", -1),
        ("MODEL.RPN.CONV_DIMS", [-1, 64]),
        ("SEED", -5),
        ("INPUT.MIN_SIZE_TRAIN", [0]),
        ("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", 0),
        ("SOLVER.CLIP_GRADIENTS.NORM_TYPE", INF),
        ("SOLVER.WEIGHT_DECAY_BIAS", None),
        ("SOLVER.STEPS", []),
        ("SOLVER.WARMUP_ITERS", 0),
        ("TEST.EVAL_PERIOD", 0),
    ],
)
def test_special_values_are_allowed(key: str, value: Any) -> None:
    assert load_config(None, [key, value]).value_of(key) == value


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.PIXEL_MEAN", [5.0]], "MODEL.PIXEL_MEAN has 1 values and MODEL.PIXEL_STD 3"),
        (["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"], "INPUT.MIN_SIZE_TRAIN = [800] must be the two ends"),
        (["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", "INPUT.MIN_SIZE_TRAIN", [800, 640]], "the smaller first"),
        (["INPUT.CROP.TYPE", "relative", "INPUT.CROP.SIZE", [0.5, 2]], "must be shares up to 1"),
        (["INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [0.5, 2]], "must be whole pixels"),
        (["INPUT.CROP.TYPE", "absolute_range", "INPUT.CROP.SIZE", [20, 10]], "in this order"),
        (["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR_END", 1.0], "SOLVER.BASE_LR_END = 1.0"),
        (["SOLVER.NESTEROV", True, "SOLVER.MOMENTUM", 0.0], "SOLVER.NESTEROV needs a momentum"),
    ],
)
def test_rules_between_keys_name_both(overrides: list[Any], message: str) -> None:
    with pytest.raises(UserError) as refusal:
        load_config(None, overrides)
    assert message in str(refusal.value)
    assert all(name in str(refusal.value) for name in overrides[::2] if name != "SOLVER.LR_SCHEDULER_NAME")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (["bbox", "AP", NAN, 0.2], "must be finite numbers"),
        (["bbox", "AP", 38.5, NAN], "must be finite numbers"),  # every result would be within such a tolerance
        (["bbox", "AP", 38.5, INF], "must be finite numbers"),
        (["bbox", "AP", 38.5, -1], "its tolerance, the last value, must be at least 0"),
        (["bbox", "AP", 38.5], "a row is"),
        (["bbox", "AP", "high", 0.2], "must be finite numbers"),
        (["bbox", 1, 38.5, 0.2], "a row is"),
        ("bbox", "a row is"),
    ],
)
def test_expected_results_are_checked_before_the_run(row: Any, problem: str) -> None:
    with pytest.raises(UserError, match=r"TEST\.EXPECTED_RESULTS has the row") as refusal:
        load_config(None, ["TEST.EXPECTED_RESULTS", [row]])
    assert problem in str(refusal.value)


def test_explain_prints_the_range(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert "range       in [0, 1)" in explain("SOLVER.MOMENTUM")
    assert "range       2 values, each in [0, 1)" in explain("SOLVER.BETAS")
    assert KEYS_BY_NAME["SOLVER.STEPS"].ascends
    assert "range       each at least 1, ascending" in explain("SOLVER.STEPS")
