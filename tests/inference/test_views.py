"""Views of a test image, and their inverse maps."""

from dataclasses import replace

import pytest
import torch

from mrcnn_zoo.inference.views import AugmentedViews, Orientation, all_orientations
from mrcnn_zoo.structures import BoxedBitmaps, Proposals, Sample, Targets
from support.scenes import smooth_sample

UPRIGHT = (Orientation(),)
ALL = all_orientations(mirrors=True, mirrors_vertically=True, turns=True)


@pytest.mark.parametrize(
    ("keys", "turns", "mirrored_turns"),
    [
        ((False, False, False), {0}, set()),
        ((True, False, False), {0}, {0}),
        ((False, True, False), {0}, {2}),  # a vertical flip is a horizontal flip and a half turn
        ((True, True, False), {0, 2}, {0, 2}),
        ((False, False, True), {0, 1, 2, 3}, set()),
        ((True, False, True), {0, 1, 2, 3}, {0, 1, 2, 3}),
        ((True, True, True), {0, 1, 2, 3}, {0, 1, 2, 3}),
    ],
)
def test_orientations_are_the_distinct_combinations_of_flips_and_turns(
    keys: tuple[bool, bool, bool], turns: set[int], mirrored_turns: set[int]
) -> None:
    horizontal, vertical, quarter = keys
    found = all_orientations(mirrors=horizontal, mirrors_vertically=vertical, turns=quarter)
    assert found[0] == Orientation()
    assert len(found) == len(turns) + len(mirrored_turns)
    assert {one.quarter_turns for one in found if not one.is_mirrored} == turns
    assert {one.quarter_turns for one in found if one.is_mirrored} == mirrored_turns


def test_views_have_the_distinct_sizes_of_the_lengths_and_0_keeps_the_size() -> None:
    views = AugmentedViews([0, 32, 128, 200, 300], max_size=192, orientations=UPRIGHT)(smooth_sample())
    assert [view.size for view in views] == [(64, 96), (32, 48), (128, 192)]  # 200 and 300 exceed the maximum size, too
    assert [view.sample.original_size for view in views] == [view.size for view in views]
    assert torch.equal(views[0].sample.image, smooth_sample().image)


@pytest.mark.parametrize("orientation", ALL)
def test_boxes_are_mapped_like_pixels_and_back(orientation: Orientation) -> None:
    image = torch.zeros((3, 40, 60), dtype=torch.uint8)
    image[:, 5:12, 20:50] = 255
    sample = Sample(image, image_id=0, original_size=(80, 60))  # the file has twice the height
    (view,) = AugmentedViews([0], max_size=1, orientations=[orientation])(sample)
    (box,) = view.boxes_from_original(torch.tensor([[20.0, 10, 50, 24]])).tolist()
    rows, columns = (view.sample.image[0] > 0).nonzero().unbind(1)
    bounds = [columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1]
    assert box == pytest.approx(bounds)
    back = view.boxes_to_original(torch.tensor([bounds], dtype=torch.float32))
    assert back.tolist() == [pytest.approx([20, 10, 50, 24])]
    assert torch.equal(orientation.undo(view.sample.image), image)


def test_proposals_and_targets_are_mapped_to_the_view() -> None:
    boxes = torch.tensor([[10.0, 20, 30, 40]])
    sample = replace(
        smooth_sample(),
        proposals=Proposals((64, 96), boxes, objectness=torch.tensor([0.5])),
        targets=Targets((64, 96), boxes, torch.tensor([1]), masks=BoxedBitmaps.from_full(torch.ones(1, 64, 96))),
    )
    mirrored = AugmentedViews([32], max_size=100, orientations=[Orientation(is_mirrored=True)])(sample)[0].sample
    assert mirrored.proposals is not None
    assert mirrored.targets is not None
    assert mirrored.proposals.boxes.tolist() == mirrored.targets.boxes.tolist() == [[33, 10, 43, 20]]
    assert mirrored.proposals.image_size == mirrored.targets.image_size == (32, 48)
    empty = replace(sample, proposals=sample.proposals and sample.proposals[:0])
    turned = AugmentedViews([0], max_size=100, orientations=[Orientation(quarter_turns=1)])(empty)[0].sample
    assert turned.proposals is not None
    assert turned.proposals.image_size == (96, 64)
