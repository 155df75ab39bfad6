"""Every registered component of the dense stage, of proposals and of assignment keeps its contract."""

import pytest
import torch

from mrcnn_zoo.config import CfgNode, changed_config, load_config
from mrcnn_zoo.ops.box_coding import BoxCoder
from mrcnn_zoo.registries import (
    ANCHOR_GENERATORS,
    BACKBONES,
    BOX_CODERS,
    BOX_LOSSES,
    MATCHERS,
    NORMS,
    PROPOSAL_GENERATORS,
    RPN_HEADS,
    SAMPLERS,
)
from mrcnn_zoo.structures import Batch, FeatureSpec, Proposals, Targets

BOXES = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 40.0, 30.0], [5.0, 5.0, 12.0, 18.0]])


# Maps that an FPN stands on, by a part of the backbone's name; a ResNet's are in the config.
PYRAMIDS = {
    "vgg": ["conv3", "conv4", "conv5", "pool5"],
    "plain_cnn": ["conv2", "conv3", "conv4"],
    "timm_simple": ["c4"],
    "timm": ["c2", "c3", "c4", "c5"],
}


@pytest.fixture(scope="module")
def cfg() -> CfgNode:
    return load_config(
        None,
        [
            *("MODEL.DEVICE", "cpu"),
            *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
            *("MODEL.RESNETS.RES2_OUT_CHANNELS", 8),
            *("MODEL.RESNETS.WIDTH_PER_GROUP", 8),
            *("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]),
            *("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"]),
            *("MODEL.VGG.CONV1_OUT_CHANNELS", 4),
            *("MODEL.VGG.OUT_FEATURES", ["conv3", "conv4", "conv5", "pool5"]),
            *("MODEL.PLAIN_CNN.CHANNELS", [4, 4, 8, 8]),
            *("MODEL.PLAIN_CNN.OUT_FEATURES", ["conv2", "conv3", "conv4"]),
            *("MODEL.TIMM.NAME", "test_convnext"),
            *("MODEL.FPN.OUT_CHANNELS", 8),
            *("MODEL.RPN.IN_FEATURES", ["fine", "coarse"]),
            *("MODEL.MULTIBOX.IN_FEATURES", ["fine", "coarse"]),
        ],
    )


@pytest.mark.parametrize("name", BACKBONES)
def test_backbone_returns_the_maps_of_its_output_specs(name: str, cfg: CfgNode) -> None:
    if "timm" in name:
        pytest.importorskip("timm", reason="needs timm, which is optional: pip install timm")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.FPN.IN_FEATURES = next((v for k, v in PYRAMIDS.items() if k in name), cfg.MODEL.FPN.IN_FEATURES)
    backbone = BACKBONES.get(name)(cfg, 4)
    height, width = 2 * backbone.size_divisibility * 32, backbone.size_divisibility * 32
    height, width = min(height, 128), min(width, 64)
    maps = backbone(torch.zeros(2, 4, height, width))
    assert list(maps) == list(backbone.output_specs)
    for level, spec in backbone.output_specs.items():
        assert maps[level].shape == (2, spec.channels, -(-height // spec.stride), -(-width // spec.stride))
    assert backbone(torch.zeros(0, 4, height, width))[level].shape[0] == 0


@pytest.mark.parametrize("name", NORMS)
def test_norm_keeps_the_shape_and_the_layout(name: str) -> None:
    norm = NORMS.get(name)(32).eval()
    features = torch.randn(2, 32, 5, 7)
    assert norm(features).shape == features.shape
    channels_last = norm(features.to(memory_format=torch.channels_last))
    assert channels_last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(channels_last, norm(features), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ANCHOR_GENERATORS)
def test_anchor_generator_returns_anchors_per_cell_anchors_for_each_cell(name: str, cfg: CfgNode) -> None:
    generator = ANCHOR_GENERATORS.get(name)(cfg, [8, 16])
    levels = generator([torch.zeros(1, 1, 4, 6), torch.zeros(1, 1, 2, 3)])
    cells = (24, 6)
    for anchors, count, per_cell in zip(levels, cells, generator.anchors_per_cell, strict=True):
        assert anchors.shape == (count * per_cell, 4)
        assert (anchors[:, 2:] > anchors[:, :2]).all()


@pytest.mark.parametrize("name", RPN_HEADS)
def test_rpn_head_predicts_for_every_anchor_of_every_cell(name: str, cfg: CfgNode) -> None:
    head = RPN_HEADS.get(name)(cfg, 8, 5)
    logits, deltas = head([torch.zeros(2, 8, 4, 6), torch.zeros(0, 8, 2, 3)])
    assert [level.shape for level in logits] == [(2, 5, 4, 6), (0, 5, 2, 3)]
    assert [level.shape for level in deltas] == [(2, 20, 4, 6), (0, 20, 2, 3)]


@pytest.mark.parametrize("name", PROPOSAL_GENERATORS)
def test_proposal_generator_proposes_inside_the_image_best_first(name: str, cfg: CfgNode) -> None:
    if name in ("SelectiveSearch", "EdgeBoxes"):
        pytest.importorskip("cv2", reason='needs OpenCV, which is optional: pip install "mrcnn_zoo[proposals]"')
    specs = {"fine": FeatureSpec(8, stride=8), "coarse": FeatureSpec(8, stride=16)}
    if name == "SeparateRPN":  # on the maps of its own backbone
        cfg = changed_config(cfg, {"MODEL.RPN.IN_FEATURES": ["res3"], "MODEL.ANCHOR_GENERATOR.SIZES": [[16]]})
    generator = PROPOSAL_GENERATORS.get(name)(cfg, specs)
    features = {"fine": torch.randn(2, 8, 8, 8), "coarse": torch.randn(2, 8, 4, 4)}
    targets = [Targets((50, 60), boxes, torch.zeros(len(boxes), dtype=torch.int64)) for boxes in (BOXES, BOXES[:0])]
    loaded = [Proposals((50, 60), boxes, objectness=torch.zeros(len(boxes))) for boxes in (BOXES, BOXES[:0])]
    batch = Batch(torch.rand(2, 3, 64, 64), [(50, 60), (50, 60)], targets, loaded, image_ids=[1, 2])
    assert isinstance(generator.needs_targets, bool)
    if not getattr(generator, "needs_features", True):
        features = {}
    training, output = generator.losses(features, batch)
    for table in (*training, *generator.predict(features, batch)):
        assert (table.boxes >= 0).all()
        assert (table.boxes <= torch.tensor([60, 50, 60, 50])).all()
        assert (table.objectness.diff() <= 0).all()
    assert all(loss.dim() == 0 and loss.requires_grad and loss.isfinite() for loss in output.losses.values())
    assert not any(metric.requires_grad for metric in output.metrics.values())


@pytest.mark.parametrize("name", MATCHERS)
def test_matcher_labels_each_box_and_accepts_no_boxes(name: str) -> None:
    matcher = MATCHERS.get(name)((0.3, 0.7), (0, -1, 1), allow_low_quality=True)
    matches = matcher.match(BOXES, BOXES[[1]])
    assert matches.labels.tolist()[1] == 1
    assert set(matches.labels.tolist()) <= {-1, 0, 1}
    assert matches.rows.tolist()[1] == 0
    assert len(matcher.match(BOXES[:0], BOXES).labels) == 0
    assert set(matcher.match(BOXES, BOXES[:0]).labels.tolist()) == {0}


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_returns_rows_of_the_right_label_up_to_its_count(name: str) -> None:
    sampler = SAMPLERS.get(name)(6, positive_fraction=0.5)
    labels = torch.tensor([1, 0, -1] * 10, dtype=torch.int8)
    positives, negatives = sampler.sample(labels)
    assert (labels[positives] == 1).all()
    assert (labels[negatives] == 0).all()
    assert len(positives) <= 3
    assert 0 < len(positives) + len(negatives) <= 6
    assert [len(rows) for rows in sampler.sample(labels[:0])] == [0, 0]


@pytest.mark.parametrize("name", BOX_CODERS)
def test_box_coder_decodes_what_it_encodes(name: str) -> None:
    coder = BOX_CODERS.get(name)((10.0, 10.0, 5.0, 5.0))
    torch.testing.assert_close(coder.decode(coder.encode(BOXES, BOXES.flip(0)), BOXES), BOXES.flip(0))
    assert coder.decode(torch.zeros(0, 8), BOXES[:0]).shape == (0, 8)


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_box_loss_is_lowest_at_the_target_and_accepts_no_boxes(name: str) -> None:
    loss, coder = BOX_LOSSES.get(name)(0.1), BoxCoder((1.0, 1.0, 1.0, 1.0))
    target = BOXES + torch.tensor([1.0, 2.0, 3.0, 4.0])
    deltas = coder.encode(BOXES, target)
    assert loss(deltas, BOXES, target, coder) < 1e-4
    assert loss(deltas + 0.3, BOXES, target, coder) > 0.01
    nothing = torch.zeros(0, 4, requires_grad=True)
    empty = loss(nothing, BOXES[:0], BOXES[:0], coder)
    assert empty == 0
    assert empty.requires_grad
