"""Anchors of an image, their labels and their pictures, against numbers worked out by hand."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inspection.canvas import distinct_colors
from mrcnn_zoo.inspection.draw import sample_picture
from mrcnn_zoo.inspection.training.anchor_pictures import MISSED, default_pixel, draw_anchor_labels, draw_anchors
from mrcnn_zoo.inspection.training.assigned_anchors import AnchorLabel, anchor_tables, assign_anchors, cell_at
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.structures import Sample, Targets
from support.small_models import TINY_RESNET_18, TINY_YAML

FACTOR = 7  # pictures of 64 pixels are enlarged to at least 400


def sample(*boxes: tuple[float, float, float, float]) -> Sample:
    table = torch.tensor(boxes).reshape(-1, 4)
    targets = Targets((64, 64), table, torch.zeros(len(table), dtype=torch.int64))
    return Sample(torch.zeros(3, 64, 64, dtype=torch.uint8), 1, original_size=(64, 64), targets=targets)


@pytest.fixture(scope="module")
def build() -> Callable[..., nn.Module]:
    def build(*overrides: str) -> nn.Module:
        cfg: CfgNode = load_config(TINY_YAML, ["MODEL.MASK_ON=False", *overrides])
        return build_model(cfg).eval()

    return build


@pytest.fixture(scope="module")
def model(build: Callable[..., nn.Module]) -> nn.Module:
    return build()


# The anchor of p2 at the cell in row 8, column 8: stride 4, size 16, centre 32, 32.
ANCHOR = (24.0, 24.0, 40.0, 40.0)


def test_labels_of_each_level_are_those_of_a_hand_computation(model: nn.Module) -> None:
    anchors = assign_anchors(model, sample(ANCHOR))
    counts = {group.name: list(anchors.counts(group.rows.flatten()).values()) for group in anchors.groups}
    # p2, shifted by (4, 0), (4, 4) or (8, 0): IoU 192/320, 144/368, 128/384, at least 0.3; by (8, 4): 96/416.
    # p3, size 24: 256/576 at 32, 32; 8 pixels away 12 * 16 / (256 + 576 - 192) = 0.3, which is neutral.
    assert counts["p2"] == [1, 16 * 16 - 1 - 12, 12, 0]
    assert counts["p3"] == [0, 8 * 8 - 5, 5, 0]
    assert counts["p6"] == [0, 1, 0, 0]
    (positive,) = anchors.positives_of(0).tolist()
    assert positive == 8 * 16 + 8
    assert anchors.boxes[positive].tolist() == list(ANCHOR)
    assert anchors.best_ious().tolist() == [1.0]
    assert anchors.num_sampled == (1, 63)  # RPN.BATCH_SIZE_PER_IMAGE


def test_anchors_across_the_border_are_crossing(build: Callable[..., nn.Module]) -> None:
    anchors = assign_anchors(build("MODEL.RPN.BOUNDARY_THRESH=0"), sample(ANCHOR))
    (p2,) = (group for group in anchors.groups if group.name == "p2")
    counts = anchors.counts(p2.rows.flatten())
    # Centres at 8, 12, ..., 56: 13 of 16 on each axis are at least 8 from the border.
    assert counts[AnchorLabel.CROSSING] == 256 - 13 * 13
    assert counts[AnchorLabel.POSITIVE] == 1
    is_crossing = (anchors.labels == AnchorLabel.CROSSING)[p2.rows[..., 0]]
    assert not is_crossing[2:15, 2:15].any()


def test_the_second_of_equal_objects_has_no_positive_anchor(model: nn.Module) -> None:
    anchors = assign_anchors(model, sample(ANCHOR, ANCHOR))
    assert [len(anchors.positives_of(row)) for row in (0, 1)] == [1, 0]
    text = anchor_tables(anchors, ["square"])
    assert "1 object without a positive anchor, not learned in this image: 1" in text
    picture = draw_anchor_labels(np.zeros((64, 64, 3), dtype=np.uint8), anchors)
    assert (picture == MISSED).all(axis=2).any()


def test_an_image_without_objects_has_negatives_only(model: nn.Module) -> None:
    anchors = assign_anchors(model, sample())
    assert anchors.counts()[AnchorLabel.NEGATIVE] == len(anchors.boxes)
    assert "object" not in anchor_tables(anchors, [])
    assert draw_anchor_labels(np.zeros((64, 64, 3), dtype=np.uint8), anchors).shape[2] == 3


def test_retinanet_labels_are_those_of_its_supervision(build: Callable[..., nn.Module]) -> None:
    retinanet = build(
        "MODEL.META_ARCHITECTURE=RetinaNet",
        "MODEL.BACKBONE.NAME=build_retinanet_resnet_fpn_backbone",
        "MODEL.FPN.IN_FEATURES=[res3,res4,res5]",
        "MODEL.ANCHOR_GENERATOR.SIZES=[[8,12],[16,24],[32,48],[64,96],[128,192]]",
        "MODEL.RETINANET.NUM_CLASSES=3",
    )
    one = sample(ANCHOR, (2, 3, 30, 20))
    anchors = assign_anchors(retinanet, one)
    labeled = retinanet.supervision.label(anchors.boxes, [one.targets])  # type: ignore[union-attr, operator]
    assert [group.name for group in anchors.groups] == ["p3", "p4", "p5", "p6", "p7"]
    assert anchors.groups[0].sizes == (8, 12)
    background = 3
    assert torch.equal(anchors.labels == AnchorLabel.POSITIVE, labeled.classes == 0)
    assert torch.equal(anchors.labels == AnchorLabel.NEUTRAL, labeled.classes == -1)
    assert torch.equal(anchors.labels == AnchorLabel.NEGATIVE, labeled.classes == background)
    assert anchors.num_sampled is None


def test_a_single_level_has_a_group_per_size() -> None:
    settings = ["MODEL.RPN.HEAD_NAME=StandardRPNHead", "MODEL.PIXEL_MEAN=[0.0,0.0,0.0]"]
    c4 = build_model(load_config("Base-RCNN-C4", [*TINY_RESNET_18, *settings])).eval()
    anchors = assign_anchors(c4, sample(ANCHOR))
    assert [group.name for group in anchors.groups] == [f"res4, size {size}" for size in (32, 64, 128, 256, 512)]
    assert all(group.rows.shape == (4, 4, 3) for group in anchors.groups)
    assert torch.equal(
        torch.cat([group.rows.flatten() for group in anchors.groups]).sort()[0], torch.arange(4 * 4 * 15)
    )
    sides = anchors.boxes[anchors.groups[1].rows.flatten()]
    torch.testing.assert_close((sides[:, 2:] - sides[:, :2]).prod(dim=1), torch.full((48,), 64.0**2))


def test_config_without_anchors_is_refused_by_name(build: Callable[..., nn.Module]) -> None:
    fast = build("MODEL.PROPOSAL_GENERATOR.NAME=PrecomputedProposals")
    with pytest.raises(
        UserError, match=r"labels: PrecomputedProposals \(MODEL.PROPOSAL_GENERATOR.NAME\) has no anchors"
    ):
        assign_anchors(fast, sample(ANCHOR), purpose="labels")


def test_cell_at_a_pixel_is_the_nearest(model: nn.Module) -> None:
    anchors = assign_anchors(model, sample())
    centers = []
    for group in anchors.groups:
        (box,) = anchors.boxes[cell_at(anchors, group, (33.0, 29.0))]
        centers.append(((box[:2] + box[2:]) / 2).tolist())
    assert centers == [[32, 28], [32, 32], [32, 32], [32, 32], [0, 0]]  # strides 4, 8, 16, 32 and a single cell


def test_anchors_are_drawn_at_their_pixels(model: nn.Module) -> None:
    one = sample(ANCHOR)
    anchors = assign_anchors(model, one)
    picture = draw_anchors(sample_picture(one), anchors, default_pixel(one.targets, (64, 64)))
    blue, _, _, _, red = distinct_colors(5)
    # The anchor of p6, size 64 at 0, 0, extends 32 pixels outside: the margin is 34.
    row = picture[(34 + 30) * FACTOR]
    assert tuple(row[(34 + 24) * FACTOR]) == blue
    assert tuple(row[(34 + 40) * FACTOR - 1]) == blue
    assert tuple(row[(34 - 32) * FACTOR]) == red
    with pytest.raises(UserError, match="--pixel 70 3 is outside the resized image, which has 64 x 64 pixels"):
        draw_anchors(sample_picture(one), anchors, (70, 3))


def test_default_pixel_is_the_centre_of_the_largest_object() -> None:
    assert default_pixel(sample((0, 0, 4, 4), (10, 20, 30, 50)).targets, (64, 64)) == (20, 35)
    assert default_pixel(None, (64, 80)) == (40, 32)


def test_cells_have_the_colour_of_their_best_label(model: nn.Module) -> None:
    one = sample((24.0, 24.0, 40.0, 40.0))
    anchors = assign_anchors(model, one)
    picture = draw_anchor_labels(np.full((64, 64, 3), 200, dtype=np.uint8), anchors)
    (color,) = distinct_colors(1)
    # The second panel, p2, begins after the first of 448 pixels and two gaps of 6; its title is a few pixels high.
    left = 6 + 448 + 6
    column = picture[:, left + 32 * FACTOR + 3]
    is_colored = np.flatnonzero((column == color).all(axis=1))
    top = is_colored.min() - 24 * FACTOR  # the upper edge of the object
    cell = picture[top + 30 * FACTOR : top + 34 * FACTOR, left + 30 * FACTOR : left + 34 * FACTOR]
    assert (cell == color).all()  # 4 x 4 pixels around 32, 32
    neutral = (200 * 0.4 + np.array([190, 190, 190]) * 0.6).astype(np.uint8)
    assert (picture[top + 32 * FACTOR, left + 36 * FACTOR] == neutral).all()
    negative = (200 * 0.45 + np.array([40, 70, 140]) * 0.55).astype(np.uint8)
    assert np.abs(picture[top + 60 * FACTOR, left + 60 * FACTOR].astype(int) - negative).max() <= 1
