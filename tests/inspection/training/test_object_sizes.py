"""Sizes of objects in the network's input, and the lengths of the feature maps beside them."""

import numpy as np
import pytest

from mrcnn_zoo.config import load_config
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.data.transforms import build_eval_augmentations, build_train_augmentations
from mrcnn_zoo.inspection.figures import picture_of
from mrcnn_zoo.inspection.training.object_sizes import (
    LevelScale,
    level_scales,
    nearest_counts,
    object_sizes,
    size_figure,
    size_table,
)
from mrcnn_zoo.modeling import build_model
from support.small_models import TINY_YAML

LEVELS = [LevelScale("p2", 4, (16.0, 24.0), 99), LevelScale("p3", 8, (64.0,), None)]


def dataset(*boxes: tuple[float, float, float, float]) -> Dataset:
    instances = [InstanceRecord(box=box, class_index=0) for box in boxes]
    crowd = InstanceRecord(box=(0, 0, 90, 90), class_index=0, is_crowd=True)
    record = ImageRecord(1, FileImage("not read.png"), (100, 200), (*instances, crowd))
    return Dataset("boxes", (record,), ("thing",), (1,))


def test_sizes_are_those_of_the_resized_boxes() -> None:
    cfg = load_config(None, ["INPUT.MIN_SIZE_TEST=50", "INPUT.MAX_SIZE_TEST=400"])
    found = object_sizes(dataset((0, 0, 20, 40), (10, 10, 26, 26)), build_eval_augmentations(cfg))
    np.testing.assert_allclose(found, [(10 * 20) ** 0.5, 8])
    cfg = load_config(None, ["INPUT.MIN_SIZE_TEST=200", "INPUT.MAX_SIZE_TEST=300"])  # the longer side is the bound
    np.testing.assert_allclose(object_sizes(dataset((0, 0, 20, 20)), build_eval_augmentations(cfg)), [30])


def test_objects_outside_a_crop_are_left_out() -> None:
    crop = ["INPUT.CROP.ENABLED=True", "INPUT.CROP.TYPE=absolute", "INPUT.CROP.SIZE=[10,10]", "INPUT.RANDOM_FLIP=none"]
    cfg = load_config(None, [*crop, "INPUT.MIN_SIZE_TRAIN=[10]"])
    found = object_sizes(dataset((0, 0, 200, 100), (0, 0, 1e-9, 1e-9)), build_train_augmentations(cfg))
    np.testing.assert_allclose(found, [10])  # the first fills the crop


def test_objects_are_counted_at_the_anchor_of_the_nearest_ratio() -> None:
    # Bounds: sqrt(16 * 24) = 19.6 and sqrt(24 * 64) = 39.2.
    assert nearest_counts(np.array([2.0, 19, 39, 40, 500]), LEVELS) == [3, 2]
    assert nearest_counts(np.array([2.0]), [LevelScale("p2", 4, (), None)]) == [0]
    text = size_table(np.array([2.0, 19, 39, 40, 500]), LEVELS)
    assert "1 of 5 objects are smaller than the finest stride, 4 pixels" in text
    assert "whole image or unknown" in text


def test_levels_have_the_lengths_of_the_model() -> None:
    cfg = load_config(TINY_YAML, ["MODEL.MASK_ON=False"])
    levels = level_scales(build_model(cfg), 3)
    found = [(level.name, level.stride, level.anchor_sizes) for level in levels]
    assert found == [(f"p{n}", 2**n, (size,)) for n, size in zip(range(2, 7), (16, 24, 32, 48, 64), strict=True)]
    # ResNet-18: 43 for res2, 99, 211, 435 for res5; see test_receptive_fields.py for the pyramid.
    assert [level.receptive_field for level in levels] == [435 + 32] * 3 + [435 + 64] * 2


def test_levels_of_a_detector_without_anchors_have_no_sizes() -> None:
    cfg = load_config(TINY_YAML, ["MODEL.MASK_ON=False", "MODEL.PROPOSAL_GENERATOR.NAME=PrecomputedProposals"])
    levels = level_scales(build_model(cfg), 3)
    assert [level.anchor_sizes for level in levels] == [()] * 5
    assert "none" in size_table(np.array([8.0]), levels)


@pytest.mark.parametrize("sizes", [np.array([2.0, 20, 80]), np.zeros(0)])
def test_figure_has_the_bars_and_lines(sizes: np.ndarray) -> None:
    figure = size_figure(sizes, LEVELS, title="some")
    top, bottom = figure.axes
    assert sum(bar.get_height() for bar in top.patches) == len(sizes)  # type: ignore[attr-defined]
    assert sorted(line.get_xdata()[0] for line in top.lines) == [4, 8, 16, 24, 64, 99]  # type: ignore[index]
    assert [label.get_text() for label in bottom.get_yticklabels()] == ["p2", "p3"]
    assert picture_of(figure).shape[2] == 3
