"""FLOPs, parameters, shapes and times by module, against published numbers and arithmetic by hand."""

import csv
import time

import pytest
import torch
from torch import Tensor, nn

from mrcnn_zoo.config import load_config
from mrcnn_zoo.inspection.model.analysis import (
    ModelAnalysis,
    analysis_table,
    analyze_model,
    count_by_module,
    rows_as_csv,
    uncounted_note,
)
from mrcnn_zoo.inspection.model.module_times import OutputWatcher, shape_text, sum_below, time_modules
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.modeling.backbones import build_backbone
from mrcnn_zoo.modeling.poolers.pyramid_pooler import LevelAssignment, PyramidPooler
from mrcnn_zoo.modeling.roi_heads.mask_iou_head import MaskIoUHead
from mrcnn_zoo.modeling.suppression.gossip_net import Neighborhood
from mrcnn_zoo.structures import Detections, FeatureSpec, Sample
from support.small_models import TINY_YAML


def sample(side: int) -> Sample:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=generator)
    return Sample(image, 1, original_size=(side, side))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    limits = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST=0.0", "TEST.DETECTIONS_PER_IMAGE=7"]
    return build_model(load_config(TINY_YAML, [*limits, "MODEL.BACKBONE.FREEZE_AT=1"]))


@pytest.fixture(scope="module")
def analysis(model: nn.Module) -> ModelAnalysis:
    return analyze_model(model, sample(64), repeats=1)


class Backbone(nn.Module):
    """A backbone as a detector without detections."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def predict(self, samples: list[Sample]) -> list[Detections]:
        self.backbone(samples[0].image[None].float())
        return []


def test_resnet_50_has_the_published_number_of_multiplications() -> None:
    settings = ["MODEL.RESNETS.STRIDE_IN_1X1=False", "MODEL.RESNETS.OUT_FEATURES=[res5]"]
    backbone = build_backbone(load_config("Base-RCNN-C4", settings), 3)
    counts, _ = count_by_module(Backbone(backbone).eval(), sample(224), kind="flops")
    # torchvision documents 4.09 GFLOPS for resnet50 at 224; its last layer has 2048 * 1000.
    assert counts[""] + 2048 * 1000 == pytest.approx(4.09e9, rel=1e-3)
    # By hand: 7 * 7 * 3 weights for each of 64 * 112 * 112 outputs.
    assert counts["backbone.stem.conv1"] == 7 * 7 * 3 * 64 * 112 * 112


def test_counts_of_single_layers_are_those_of_a_hand_computation(analysis: ModelAnalysis) -> None:
    lateral, mask = analysis.row("backbone.fpn_lateral2"), analysis.row("roi_heads.mask_head.mask_fcn1")
    assert (lateral.flops, lateral.activations) == (16 * 32 * 16 * 16, 32 * 16 * 16)
    assert lateral.parameters == lateral.trainable == 16 * 32 + 32
    assert mask.flops == 7 * 3 * 3 * 32 * 32 * 14 * 14  # seven detections
    assert mask.shape == "7 x 32 x 14 x 14"
    # The mask of one class per region: 32 channels for each of 28 x 28 pixels.
    head = analysis.row("roi_heads.mask_head")
    others = sum(analysis.row(f"roi_heads.mask_head.{name}").flops for name in ("mask_fcn1", "mask_fcn2", "deconv"))
    pooling = analysis.row("roi_heads.mask_head.region_pooler").flops
    assert head.flops - others - pooling == 7 * 32 * 28 * 28
    # Four multiply-adds for each of 2 x 2 samples.
    assert pooling == 4 * 4 * 7 * 32 * 14 * 14


def test_parameters_and_flops_add_up(model: nn.Module, analysis: ModelAnalysis) -> None:
    total = analysis.row("")
    assert total.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert sum(row.parameters for row in analysis.rows if row.depth == 1) == total.parameters
    assert sum(row.flops for row in analysis.rows if row.depth == 1) == total.flops
    stem = analysis.row("backbone.bottom_up.stem")
    assert (stem.parameters, stem.trainable) == (7 * 7 * 3 * 16, 0)  # frozen
    assert total.trainable == total.parameters - stem.parameters
    assert total.shape == "7 Detections"
    assert analysis.row("backbone").shape.splitlines()[0] == "p2: 1 x 32 x 16 x 16"


def test_times_of_the_parts_and_the_rest_add_up(analysis: ModelAnalysis) -> None:
    total = analysis.row("")
    parts = sum(row.seconds for row in analysis.rows if row.depth == 1)
    assert parts + total.rest == pytest.approx(total.seconds)
    assert total.rest >= 0
    assert all(row.rest >= -1e-12 for row in analysis.rows)
    assert (
        analysis.row("roi_heads").seconds > analysis.row("roi_heads.mask_head").seconds > 0
    )  # `predict`, not `forward`


def test_analysis_leaves_the_model_as_it_was(model: nn.Module, analysis: ModelAnalysis) -> None:
    assert analysis.rows
    assert model.training
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not {"predict", "losses", "detect_boxes"} & {*vars(module)}


def test_table_and_csv_have_a_row_per_module(analysis: ModelAnalysis) -> None:
    table = analysis_table(analysis, depth=1)
    assert [line.split()[0] for line in table.splitlines()[2:] if not line.startswith(" ")] == [
        *("model", "backbone", "proposal_generator", "roi_heads", "collate")
    ]
    rows = list(csv.DictReader(rows_as_csv(analysis).splitlines(keepends=True)))
    assert len(rows) == len(analysis.rows)
    assert rows[0]["name"] == "model"
    assert "softmax 1" in uncounted_note(analysis)
    assert "nms" not in uncounted_note(analysis)


class Slow(nn.Module):
    """Sleeps before and after a part, and in its own method."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()
        self.weight = nn.Parameter(torch.zeros(1))

    def act(self) -> None:
        time.sleep(0.02)
        self.inner(self.weight)


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slow = Slow()

    def predict(self) -> None:
        self.slow.act()


def test_methods_beside_forward_are_timed() -> None:
    model = Outer()
    seconds = time_modules(model, model.predict, repeats=1)
    assert seconds[""] >= seconds["slow"] >= 0.02
    assert seconds["slow.inner"] < 0.02
    assert sum_below({"a": 1.0, "a.b": 2.0, "ab": 4.0}, "a") == 3.0


def test_mask_iou_head_can_be_traced() -> None:
    pooler = PyramidPooler([nn.Identity()], names=["p2"], side=6, finest_level=2, assignment=LevelAssignment())
    spec = FeatureSpec(channels=4, stride=1, side=6)
    head = MaskIoUHead(pooler, input_spec=spec, num_classes=2, conv_channels=(4, 4), fc_channels=(8,)).eval()
    _, ious = torch.jit._get_trace_graph(head, (torch.rand(3, 4, 6, 6), torch.rand(3, 12, 12)))
    assert ious.shape == (3, 2)


def test_pairs_of_boxes_can_be_traced() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [20, 20, 30, 30]])

    def centers(boxes: Tensor) -> Tensor:
        return Neighborhood().pairs(boxes, torch.zeros(3, dtype=torch.int64), [3]).centers

    _, found = torch.jit._get_trace_graph(centers, (boxes,))
    assert found.tolist() == [0, 0, 1, 1, 2]


def test_silent_channels_are_those_that_are_always_zero() -> None:
    watcher = OutputWatcher()
    relu = nn.ReLU()
    watcher.watch("relu", relu, torch.tensor([[[1.0, 0]], [[0, 0]]])[None, :, :])  # (1, 2, 1, 2)
    watcher.watch("sequence", nn.Sequential(relu), torch.zeros(1, 2))
    watcher.watch("signed", relu, torch.tensor([[1.0, -1]]))
    watcher.watch("changes", relu, torch.zeros(1, 2))
    watcher.watch("changes", relu, -torch.ones(1, 2))
    watcher.watch("broken", relu, torch.tensor([[1.0, torch.nan]]))
    assert watcher.silent() == {"relu": (1, 2)}
    assert watcher.not_finite == {"broken"}


def test_shapes_are_written_in_words() -> None:
    tensor: Tensor = torch.zeros(2, 3)
    assert shape_text({"p2": tensor, "p3": tensor[0]}) == "p2: 2 x 3\np3: 3"
    assert shape_text([tensor, tensor]) == "2 x 3"
    assert shape_text(None) == "NoneType"
