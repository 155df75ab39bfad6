import copy
from collections import OrderedDict

import pytest
import torch

from mrcnn_zoo.config import load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.anchors import GridAnchors, build_anchor_generator
from mrcnn_zoo.modeling.anchors.grid_anchors import CACHED_SIZES


def two_levels() -> GridAnchors:
    return GridAnchors([[8], [16]], aspect_ratios=[[1.0], [1.0, 4.0]], strides=[4, 8])


def test_each_level_has_its_own_sizes_ratios_and_stride() -> None:
    fine, coarse = two_levels()([torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 1, 2)])
    assert fine.tolist() == [[-4, -4, 4, 4], [0, -4, 8, 4], [-4, 0, 4, 8], [0, 0, 8, 8]]
    assert coarse.tolist() == [[-8, -8, 8, 8], [-4, -16, 4, 16], [0, -8, 16, 8], [4, -16, 12, 16]]


def test_offset_shifts_anchors_by_a_fraction_of_the_stride() -> None:
    generator = GridAnchors([[8]], aspect_ratios=[[1.0]], strides=[4], offset=0.5)
    assert generator([torch.zeros(1, 1, 1, 2)])[0].tolist() == [[-2, -2, 6, 6], [2, -2, 10, 6]]


def test_anchors_per_cell_counts_sizes_times_ratios() -> None:
    assert two_levels().anchors_per_cell == [1, 2]


def test_anchors_are_not_in_the_state_dict() -> None:
    assert not two_levels().state_dict()


def test_anchors_are_cached_by_size() -> None:
    generator = two_levels()
    features = [torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 2, 2)]
    assert generator(features)[0] is generator(features)[0]


def test_cache_has_a_size_limit() -> None:
    generator = two_levels()
    for side in range(1, CACHED_SIZES + 5):
        generator([torch.zeros(1, 1, side, 1), torch.zeros(1, 1, 1, 1)])
    assert len(generator._cache) == CACHED_SIZES


def test_deep_copy_makes_the_same_anchors() -> None:
    generator = two_levels()
    features = [torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 1, 1)]
    assert torch.equal(copy.deepcopy(generator)(features)[0], generator(features)[0])


def test_empty_maps_have_no_anchors() -> None:
    assert [len(level) for level in two_levels()([torch.zeros(1, 1, 0, 3), torch.zeros(1, 1, 0, 0)])] == [0, 0]


def anchors_of(sizes: str, strides: list[int]) -> list[int]:
    cfg = load_config(None, ["MODEL.DEVICE", "cpu", "MODEL.ANCHOR_GENERATOR.SIZES", sizes])
    return build_anchor_generator(cfg, strides).anchors_per_cell


def test_single_list_of_sizes_applies_to_every_level() -> None:
    assert anchors_of("[[32, 64]]", [4, 8, 16]) == [6, 6, 6]


def test_wrong_number_of_lists_of_sizes_is_refused() -> None:
    assert anchors_of("[[32], [64], [128]]", [4, 8, 16]) == [3, 3, 3]
    with pytest.raises(UserError, match=r"MODEL\.ANCHOR_GENERATOR\.SIZES has 2 lists where 3 feature maps"):
        anchors_of("[[32], [64]]", [4, 8, 16])


def test_anchors_do_not_depend_on_what_other_threads_remove_from_the_cache() -> None:
    class Emptied(OrderedDict):
        def __setitem__(self, key: object, value: object) -> None:
            """Removed by other threads as soon as it is inserted."""

    anchors = GridAnchors([[32]], aspect_ratios=[[1.0]], strides=[16])
    expected = anchors([torch.zeros(1, 1, 3, 4)])
    anchors._cache = Emptied()
    torch.testing.assert_close(anchors([torch.zeros(1, 1, 3, 4)]), expected)
