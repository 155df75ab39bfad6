"""Masks, keypoints and scores in boxes of the caller."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.registries import ROI_HEADS
from mrcnn_zoo.structures import Detections, Sample

ORIGINAL = (80, 120)  # height, width; the model sees 128 x 192 and 96 x 64
SCORING = ("MODEL.ROI_HEADS.BRANCHES", ["MaskIoUHead"], "MODEL.ROI_MASKIOU_HEAD.FC_DIM", 16)
KEYPOINTS = (
    *("MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 3),
    *("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [8]),
)
HEADS: dict[str, tuple[Any, ...]] = {
    "StandardROIHeads": (*SCORING, *KEYPOINTS),
    "CascadeROIHeads": ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True, *SCORING, *KEYPOINTS),
    "Res5ROIHeads": ("MODEL.ROI_HEADS.IN_FEATURES", ["p4"], "MODEL.RESNETS.RES2_OUT_CHANNELS", 2, *SCORING),
    "PointRendROIHeads": (
        *("MODEL.ROI_MASK_HEAD.NAME", "PointRendMaskHead", "MODEL.ROI_MASK_HEAD.POINT_HEAD_ON", True),
        *("MODEL.POINT_HEAD.FC_DIM", 16, "MODEL.POINT_HEAD.SUBDIVISION_STEPS", 1),
    ),
}
PLACES = torch.tensor(
    [[10.0, 10, 60, 50], [30, 20, 30, 60], [150, 90, 180, 120], [-20, -10, 40, 30], [60, 50, 10, 10], [0, 0, 120, 80]]
)  # in the image, without width, outside, partly outside, turned inside out, all of it


@pytest.fixture(scope="module", params=HEADS)
def model(request: pytest.FixtureRequest, small_cfg: Callable[..., CfgNode]) -> nn.Module:
    torch.manual_seed(0)
    return build_model(small_cfg("MODEL.ROI_HEADS.NAME", request.param, *HEADS[request.param])).eval()


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    generator = torch.Generator().manual_seed(0)
    images = (torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in ((128, 192),) * 2)
    other = torch.randint(0, 256, (3, 96, 64), generator=generator, dtype=torch.uint8)
    return [*(Sample(image, number, ORIGINAL) for number, image in enumerate(images)), Sample(other, 2, (48, 32))]


def assert_same(found: Detections, expected: Detections) -> None:
    """All that the further branches find, up to the rounding of boxes that went to original pixels and back."""
    assert found.classes.tolist() == expected.classes.tolist()
    assert found.masks is not None
    assert expected.masks is not None
    torch.testing.assert_close(found.masks.probabilities, expected.masks.probabilities, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.masks.boxes, expected.masks.boxes, atol=1e-4, rtol=0)
    assert (found.masks.bitmaps() != expected.masks.bitmaps()).float().mean() < 1e-3
    assert (found.keypoints is None) == (expected.keypoints is None)
    if found.keypoints is not None:
        torch.testing.assert_close(found.keypoints[..., :2], expected.keypoints[..., :2], atol=1e-3, rtol=0)
        torch.testing.assert_close(found.keypoints[..., 2], expected.keypoints[..., 2], atol=1e-3, rtol=1e-3)
    assert (found.mask_scores is None) == (expected.mask_scores is None)
    if found.mask_scores is not None:
        ious = [table.mask_scores / table.scores for table in (found, expected)]
        torch.testing.assert_close(*ious, atol=1e-4, rtol=0)


def test_all_region_heads_predict_in_given_boxes() -> None:
    assert set(HEADS) == set(ROI_HEADS)


def test_given_detected_boxes_have_the_masks_and_keypoints_of_predict(model: nn.Module, samples: list[Sample]) -> None:
    predicted = model.predict(samples)
    assert all(len(table) > 5 for table in predicted)
    boxes, classes = [table.boxes for table in predicted], [table.classes for table in predicted]
    for found, expected in zip(model.predict_in_boxes(samples, boxes, classes), predicted, strict=True):
        assert torch.equal(found.boxes, expected.boxes)
        assert found.image_size == expected.image_size
        assert_same(found, expected)


def test_given_boxes_keep_their_order_and_images_are_independent(model: nn.Module, samples: list[Sample]) -> None:
    (predicted,) = model.predict(samples[:1])
    rows = torch.randperm(len(predicted), generator=torch.Generator().manual_seed(0))
    first, none, same = model.predict_in_boxes(
        [samples[0], samples[1], samples[0]],
        [predicted.boxes[rows], torch.zeros(0, 4), predicted.boxes],
        [predicted.classes[rows], torch.zeros(0, dtype=torch.int64), predicted.classes],
    )
    assert torch.equal(first.boxes, predicted.boxes[rows])
    assert_same(first, same[rows])
    torch.testing.assert_close(first.scores, same.scores[rows])
    assert first.scores.tolist() != sorted(first.scores.tolist(), reverse=True)
    assert len(none) == 0
    assert none.masks is not None


def test_class_and_score_in_given_boxes_are_of_the_box_branch(model: nn.Module, samples: list[Sample]) -> None:
    boxes = PLACES[[0, 3, 5]]
    scores = []
    for index in range(5):
        (found,) = model.predict_in_boxes(samples[:1], [boxes], [torch.full((3,), index)])
        assert found.classes.tolist() == [index] * 3
        scores.append(found.scores)
    table = torch.stack(scores, dim=1)
    (free,) = model.predict_in_boxes(samples[:1], [boxes])
    assert torch.equal(free.classes, table.argmax(dim=1))
    torch.testing.assert_close(free.scores, table.amax(dim=1))
    assert (table.sum(dim=1) < 1).all()  # the background has the rest
    given = torch.tensor([2, -1, 4])
    (mixed,) = model.predict_in_boxes(samples[:1], [boxes], [given])
    assert mixed.classes.tolist() == [2, int(free.classes[1]), 4]


def test_empty_and_outside_boxes_keep_their_rows(model: nn.Module, samples: list[Sample]) -> None:
    (found,) = model.predict_in_boxes(samples[:1], [PLACES])
    assert torch.equal(found.boxes, PLACES)
    assert found.scores.isfinite().all()
    assert found.masks is not None
    assert found.masks.bitmaps().shape == (6, *ORIGINAL)
    bitmaps = found.masks.bitmaps()
    assert not bitmaps[[1, 2]].any()
    assert len(found.masks.rles()) == 6
    inside = PLACES.clone()
    inside[3] = torch.tensor([0.0, 0, 40, 30])  # as much of it as is in the image
    (clipped,) = model.predict_in_boxes(samples[:1], [inside])
    torch.testing.assert_close(found[3:4].masks.probabilities, clipped[3:4].masks.probabilities)


def test_no_given_boxes_give_no_detections(model: nn.Module, samples: list[Sample]) -> None:
    tables = model.predict_in_boxes(samples, [torch.zeros(0, 4)] * 3)
    assert len(tables) == 3
    for found in tables:
        assert len(found) == 0
        assert found.masks is not None


def test_integer_and_double_boxes_are_accepted(model: nn.Module, samples: list[Sample]) -> None:
    expected, whole, double = (
        model.predict_in_boxes(samples[:1], [PLACES[:1].to(dtype)])[0]
        for dtype in (torch.float32, torch.int64, torch.float64)
    )
    assert_same(whole, expected)
    assert_same(double, expected)


@pytest.mark.parametrize(
    ("boxes", "classes", "message"),
    [
        ([PLACES[:, :3]], None, r"given boxes must be \(R, 4\), not \(6, 3\)"),
        ([PLACES[0]], None, r"given boxes must be \(R, 4\), not \(4,\)"),
        ([PLACES, PLACES], None, "1 images need as many tensors"),
        ([PLACES], [torch.zeros(5, dtype=torch.int64)], r"6 given boxes with classes of shape \(5,\)"),
        ([PLACES], [], "1 images need as many tensors"),
        ([torch.tensor([[0.0, 0, float("nan"), 5]])], None, "not finite"),
        ([PLACES[:1]], [torch.tensor([5])], "class 5 of a given box is none of the model's: classes are 0 to 4"),
        ([PLACES[:1]], [torch.tensor([-2])], "class -2 of a given box"),
    ],
)
def test_invalid_shapes_and_classes_are_refused(
    boxes: list[Tensor], classes: list[Tensor] | None, message: str, model: nn.Module, samples: list[Sample]
) -> None:
    with pytest.raises(UserError, match=message):
        model.predict_in_boxes(samples[:1], boxes, classes)
