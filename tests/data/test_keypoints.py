"""Pairs of keypoints that a mirror exchanges."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from mrcnn_zoo.data import build_train_loader, load_dataset, merge_datasets
from mrcnn_zoo.data.formats.coco import load_coco
from mrcnn_zoo.data.keypoints import flip_pairs, read_pairs, read_permutation, sides_of
from mrcnn_zoo.data.loading.mapper import build_flip_pairs, build_train_mapper
from mrcnn_zoo.errors import UserError

EYES = ["left_eye", "right_eye", "nose"]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("left_eye", "right_eye"),
        ("Left_Eye", "Right_Eye"),
        ("LEFT-EYE", "RIGHT-EYE"),
        ("left eye", "right eye"),
        ("leftEye", "rightEye"),
        ("LeftEye", "RightEye"),
        ("eyeLeft", "eyeRight"),
        ("eye_left", "eye_right"),
        ("lefteye", "righteye"),
        ("EYELEFT", "EYERIGHT"),
        ("inner_left_eye", "inner_right_eye"),
        ("L_eye", "R_eye"),
        ("l eye", "r eye"),
        ("eye.L", "eye.R"),
        ("eye_l", "eye_r"),
        ("inner_l_eye", "inner_r_eye"),
        ("lEye", "rEye"),
        ("LEye", "REye"),
        ("eyeL", "eyeR"),
        ("leye", "reye"),
        ("eyel", "eyer"),
        ("L1", "R1"),
        ("L", "R"),
        ("Lt. Eye", "Rt. Eye"),
        ("front_lft", "front_rgt"),
        ("LF_paw", "RF_paw"),
        ("fl_wheel", "fr_wheel"),
        ("linkes_auge", "rechtes_auge"),
        ("oeil_gauche", "oeil_droit"),
        ("左眼", "右眼"),
        ("left_eye", "Right-Eye"),
    ],
)
def test_names_that_differ_in_the_side_are_a_pair(left: str, right: str) -> None:
    assert flip_pairs([left, "nose", right]) == ((0, 2),)
    assert flip_pairs([right, "nose", left]) == ((2, 0),)
    assert sides_of([left, "nose", right]).unpaired == ()


@pytest.mark.parametrize(
    "names",
    [
        ["nose", "tail"],
        ["lip", "ear"],
        ["lower", "upper"],
        ["L1", "L2", "L3"],
        ["bright", "cleft"],
        ["a", "b"],
        ["left_eye", "left_ear"],
        [],
    ],
)
def test_names_without_counterpart_are_unpaired(names: list[str]) -> None:
    assert flip_pairs(names) == ()


def test_corners_of_both_eyes_are_paired_across() -> None:
    names = ["left_eye_left", "left_eye_right", "right_eye_left", "right_eye_right"]
    assert flip_pairs(names) == ((0, 3), (1, 2))


def test_unpaired_names_are_reported() -> None:
    assert sides_of([*EYES, "left_ear"]).unpaired == ("left_ear",)
    assert sides_of(["l_eye", "r_eye", "l_ear", "lip"]).unpaired == ("l_ear",)


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([["left_eye", "right_eye"]], ((0, 1),)),
        ([("right_eye", "left_eye")], ((1, 0),)),
        ([[0, 1]], ((0, 1),)),
        ([[1, 3]], ((0, 2),)),
        ({"left_eye": "right_eye", "right_eye": "left_eye"}, ((0, 1),)),
        ([], ()),
    ],
)
def test_pairs_are_read_by_name_or_row(pairs: object, expected: object) -> None:
    assert read_pairs(pairs, EYES, where="KEY") == expected


@pytest.mark.parametrize(
    "pairs", ["eyes", [["left_eye"]], [["left_eye", "mouth"]], [[0, 0]], [[0, 7]], [[0, 1], [1, 2]], [5], [[True, 0]]]
)
def test_malformed_pairs_are_refused(pairs: object) -> None:
    with pytest.raises(UserError, match=r"KEY .*"):
        read_pairs(pairs, EYES, where="KEY")


def test_permutations_may_start_at_0_or_1() -> None:
    assert read_permutation([1, 0, 2], EYES, where="KEY") == ((0, 1),)
    assert read_permutation([2, 1, 3], EYES, where="KEY") == ((0, 1),)
    assert read_permutation(["right_eye", "left_eye", "nose"], EYES, where="KEY") == ((0, 1),)
    for wrong in ([1, 2, 0], [0, 0, 1], [0, 1], "eyes"):
        with pytest.raises(UserError, match=r"KEY"):
            read_permutation(wrong, EYES, where="KEY")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"flip_pairs": [[0, 1]]}, ((0, 1),)),
        ({"keypoint_flip_map": [["a", "b"]]}, ((0, 1),)),
        ({"flip_indices": [1, 0, 2]}, ((0, 1),)),
        ({"flip_pairs": []}, ()),
    ],
)
def test_pairs_of_the_file_are_used(write_coco, annotation, fields: dict, expected: object) -> None:
    category = {"id": 7, "name": "person", "keypoints": ["a", "b", "c"], **fields}
    path = write_coco([annotation()], categories=[category])
    assert load_coco("test", path.parent, path).keypoint_flip_pairs == expected


@pytest.fixture
def keypoint_dataset(cfg, write_coco, annotation):
    """Creates a dataset of one image with one object; its first keypoint is left of the second."""
    cfg.MODEL.MASK_ON, cfg.MODEL.KEYPOINT_ON = False, True
    cfg.SOLVER.IMS_PER_BATCH = 1
    cfg.INPUT.RANDOM_FLIP = "horizontal"

    def make(names: list[str], points: object = (12, 15, 2, 17, 15, 2, 15, 11, 2)):
        path = write_coco(
            [annotation(keypoints=list(points) if points else None)],
            categories=[{"id": 7, "name": "person", "keypoints": names}],
        )
        return load_dataset(cfg, str(path.parent))

    return make


def _first_x(cfg, dataset) -> set[tuple[float, ...]]:
    mapper = build_train_mapper(cfg, dataset)
    samples = [mapper(dataset.records[0], np.random.default_rng(seed)) for seed in range(12)]
    return {tuple(sample.targets.keypoints[0, :2, 0].tolist()) for sample in samples}


def test_flip_exchanges_paired_keypoints(cfg, keypoint_dataset) -> None:
    assert _first_x(cfg, keypoint_dataset(["lEye", "rEye", "nose"])) == {(12.5, 17.5), (42.5, 47.5)}


@pytest.mark.parametrize("names", [["a", "b", "c"], ["left_eye", "right_eye", "left_ear"]])
def test_images_with_unknown_pairs_are_not_mirrored(cfg, keypoint_dataset, caplog, names: list[str]) -> None:
    dataset = keypoint_dataset(names)
    assert _first_x(cfg, dataset) == {(12.5, 17.5)}
    with caplog.at_level(logging.WARNING):
        build_train_loader(cfg, [dataset])
    messages = [line for line in caplog.messages if "not mirrored" in line]
    assert len(messages) == 1
    assert "DATASETS.KEYPOINT_FLIP_PAIRS" in messages[0]
    assert ("left_ear has no counterpart" in messages[0]) == (names[2] == "left_ear")


def test_advice_of_the_warning_can_be_typed(cfg, keypoint_dataset, caplog) -> None:
    dataset = keypoint_dataset(["left_eye", "right_eye", "left_ear"])
    with caplog.at_level(logging.WARNING):
        build_train_loader(cfg, [dataset])
    advice = caplog.messages[-1].split("DATASETS.KEYPOINT_FLIP_PAIRS ")[1].split('"')[1]
    cfg.merge_from_list(["DATASETS.KEYPOINT_FLIP_PAIRS", advice])
    assert build_flip_pairs(cfg, dataset) == ((0, 1),)
    cfg.merge_from_list(["DATASETS.KEYPOINT_FLIP_PAIRS", "[]"])
    assert build_flip_pairs(cfg, dataset) == ()


def test_pairs_of_the_config_are_used(cfg, keypoint_dataset) -> None:
    dataset = keypoint_dataset(["a", "b", "c"])
    cfg.DATASETS.KEYPOINT_FLIP_PAIRS = [["a", "b"]]
    assert _first_x(cfg, dataset) == {(12.5, 17.5), (42.5, 47.5)}
    cfg.DATASETS.KEYPOINT_FLIP_PAIRS = []
    assert _first_x(cfg, dataset) == {(12.5, 17.5), (47.5, 42.5)}
    cfg.DATASETS.KEYPOINT_FLIP_PAIRS = "left"
    with pytest.raises(UserError, match=r"DATASETS.KEYPOINT_FLIP_PAIRS = 'left' must be auto or a list"):
        build_train_mapper(cfg, dataset)


def test_images_without_labelled_keypoints_are_mirrored(cfg, keypoint_dataset) -> None:
    dataset = keypoint_dataset(["a", "b", "c"], points=None)
    mapper = build_train_mapper(cfg, dataset)
    boxes = [mapper(dataset.records[0], np.random.default_rng(seed)).targets.boxes for seed in range(12)]
    assert len(torch.unique(torch.cat(boxes), dim=0)) == 2


def test_merged_datasets_agree_on_pairs(keypoint_dataset) -> None:
    dataset = keypoint_dataset(["a", "b", "c"])
    known = replace(dataset, keypoint_flip_pairs=((0, 1),))
    assert merge_datasets([dataset, known]).keypoint_flip_pairs == ((0, 1),)
    with pytest.raises(UserError, match=r"DATASETS.KEYPOINT_FLIP_PAIRS"):
        merge_datasets([known, replace(dataset, keypoint_flip_pairs=((0, 2),))])
