"""Sampled regions and mask targets of an image, and their pictures."""

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from mrcnn_zoo.config import load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inspection.draw import sample_picture
from mrcnn_zoo.inspection.training.region_pictures import MASKS_SHOWN, choose_targets, draw_mask_targets, draw_regions
from mrcnn_zoo.inspection.training.sampled_regions import (
    MaskTarget,
    mask_target_table,
    mask_targets_of,
    region_table,
    sample_regions,
)
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.structures import ProbabilityMasks, Sample, Targets
from support.scenes import filled_boxes
from support.small_models import TINY_YAML

SIZE = (64, 64)
BOXES = torch.tensor([[8.0, 8, 30, 40], [30, 20, 60, 60]])


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return build_model(load_config(TINY_YAML, ["MODEL.ROI_HEADS.IOU_THRESHOLDS=[0.3]"])).eval()


@pytest.fixture(scope="module")
def sample() -> Sample:
    image = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    targets = Targets(SIZE, BOXES, torch.tensor([2, 0]), masks=filled_boxes(BOXES + torch.tensor([0, 0, -6, 0]), SIZE))
    return Sample(image, 1, original_size=SIZE, targets=targets)


def test_foreground_regions_overlap_their_object(model: nn.Module, sample: Sample) -> None:
    sampled = sample_regions(model, sample)
    overlaps = torchvision.ops.box_iou(sampled.regions.boxes, BOXES)
    torch.testing.assert_close(sampled.ious(), overlaps.amax(dim=1))
    count = sampled.num_foreground
    assert count > 2  # more than the ground truth, which is added to the proposals
    assert sampled.objects() == overlaps[:count].argmax(dim=1).tolist()
    assert (sampled.ious()[:count] >= 0.3).all()
    assert (sampled.ious()[count:] < 0.3).all()
    assert len(sampled.regions) <= 32  # ROI_HEADS.BATCH_SIZE_PER_IMAGE
    assert f"{count} foreground and {len(sampled.regions) - count} background" in region_table(sampled, ["a", "b", "c"])


def test_mask_targets_are_those_of_the_sampled_foreground(model: nn.Module, sample: Sample) -> None:
    sampled, targets = sample_regions(model, sample), mask_targets_of(model, sample)
    assert torch.equal(torch.stack([item.box for item in targets]), sampled.regions.boxes[: sampled.num_foreground])
    assert [item.object_row for item in targets] == sampled.objects()
    truth = filled_boxes(BOXES + torch.tensor([0, 0, -6, 0]), SIZE).bitmaps().float()
    for item in targets:
        rois = torch.cat((torch.zeros(1, 1), item.box[None]), dim=1)
        crop = torchvision.ops.roi_align(truth[item.object_row][None, None], rois, (28, 28), aligned=True)
        assert torch.equal(item.target, crop[0, 0] >= 0.5)


def test_the_state_of_the_random_numbers_does_not_change(model: nn.Module, sample: Sample) -> None:
    before = torch.random.get_rng_state()
    mask_targets_of(model, sample)
    sample_regions(model, sample)
    assert torch.equal(torch.random.get_rng_state(), before)


def full_target(box: list[float], truth: tuple[int, int, int, int], *, row: int = 0) -> MaskTarget:
    """A target that is 1 everywhere, and an object that fills a box."""
    target, mask = torch.ones(28, 28, dtype=torch.bool), torch.zeros(64, 64, dtype=torch.bool)
    x1, y1, x2, y2 = truth
    mask[y1:y2, x1:x2] = True
    pasted = ProbabilityMasks(target[None].float(), torch.tensor([box]), SIZE).bitmaps()[0]
    return MaskTarget(row, torch.tensor(box), target, mask, pasted)


def test_iou_of_a_pasted_target_is_that_of_a_hand_computation() -> None:
    whole = full_target([10, 10, 20, 20], (10, 10, 20, 15))
    assert whole.iou() == whole.iou_inside() == 50 / 100
    # Half of the object is left of the region.
    cut = full_target([10, 10, 20, 20], (0, 10, 20, 15))
    assert cut.iou() == 50 / (100 + 100 - 50)
    assert cut.iou_inside() == 50 / 100
    outside = full_target([-30, 10, -20, 20], (0, 10, 20, 15))
    assert outside.iou() == outside.iou_inside() == 0


def test_a_target_of_one_half_keeps_half_of_the_region() -> None:
    target = torch.zeros(28, 28, dtype=torch.bool)
    target[:, :14] = True
    box = torch.tensor([8.0, 8, 36, 36])  # a pixel per cell
    pasted = ProbabilityMasks(target[None].float(), box[None], SIZE).bitmaps()[0]
    truth = torch.zeros(64, 64, dtype=torch.bool)
    truth[8:36, 8:23] = True
    item = MaskTarget(0, box, target, truth, pasted)
    assert item.iou() == 14 / 15
    assert "0.933" in mask_target_table([item])


def test_shown_targets_are_of_different_objects_from_worst_to_best() -> None:
    many = [full_target([10, 10, 20, 20], (10, 10, 20, 11 + row), row=row % 3) for row in range(9)]
    chosen = choose_targets(many)
    assert len(chosen) == MASKS_SHOWN
    assert [item.iou() for item in chosen] == sorted(item.iou() for item in chosen)
    assert {item.object_row for item in chosen[:3]} == {0, 1, 2}
    different = [full_target([10, 10, 20, 20], (10, 10, 20, 11), row=row) for row in range(20)]
    assert len({item.object_row for item in choose_targets(different)}) == MASKS_SHOWN


def test_pictures_have_regions_and_targets(model: nn.Module, sample: Sample) -> None:
    picture = sample_picture(sample)
    regions = draw_regions(picture, sample_regions(model, sample))
    assert regions.shape[1] > 2 * 400
    found = draw_mask_targets(picture, mask_targets_of(model, sample), ["first", "second"])
    assert found is not None
    assert (found == (255, 255, 255)).all(axis=2).any()
    assert draw_mask_targets(picture, [], []) is None
    outside = full_target([-30, 10, -20, 20], (0, 10, 20, 15))
    assert draw_mask_targets(np.zeros((64, 64, 3), dtype=np.uint8), [outside], ["x"]) is not None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.MASK_ON=False"], "mask-targets: MODEL.MASK_ON is False"),
        (["MODEL.META_ARCHITECTURE=ProposalNetwork"], "mask-targets: ProposalNetwork .* has no region heads"),
    ],
)
def test_detectors_without_masks_are_refused(overrides: list[str], message: str, sample: Sample) -> None:
    other = build_model(load_config(TINY_YAML, overrides)).eval()
    with pytest.raises(UserError, match=message):
        mask_targets_of(other, sample)


def test_image_without_objects_has_background_only(model: nn.Module, sample: Sample) -> None:
    none: Tensor = torch.zeros(0, 4)
    empty = Targets(SIZE, none, torch.zeros(0, dtype=torch.int64), masks=filled_boxes(none, SIZE))
    image = Sample(sample.image, 2, original_size=SIZE, targets=empty)
    sampled = sample_regions(model, image)
    assert sampled.num_foreground == 0
    assert not sampled.ious().any()
    assert mask_targets_of(model, image) == []
    assert "no mask is trained" in mask_target_table([])
    assert draw_regions(sample_picture(image), sampled).shape[2] == 3
