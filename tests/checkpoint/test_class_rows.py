"""Weights of one list of classes in a model of another: the rows of the last layers are copied by name."""

import logging
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from mrcnn_zoo.checkpoint import LoadReport, WeightsFile, load_weights_file
from mrcnn_zoo.checkpoint.adaptation import stored_class_count, stored_class_names
from mrcnn_zoo.config import load_config
from mrcnn_zoo.interop import coco_classes
from mrcnn_zoo.modeling import build_model
from support.small_models import TINY_YAML

OLD, NEW = ("cat", "cow", "dog"), ("dog", "ape", "cat", "kite")
SOURCES = (2, None, 0, None)  # rows of OLD for those of NEW
REGIONS = "MODEL.ROI_HEADS.NUM_CLASSES"
RETINANET = (
    *("MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.MASK_ON", False, "MODEL.RETINANET.NUM_CONVS", 1),
    *("MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone", "MODEL.FPN.IN_FEATURES", "[res3, res4, res5]"),
    *("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "[[0.5, 1.0]]"),
)
SCORES, DELTAS = "roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred"
MASKS = "roi_heads.mask_head.predictor"


def fine_tuned(
    old: Sequence[str], new: Sequence[str], *settings: object, key: str = REGIONS
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], LoadReport]:
    """Weights of the file, of the model before and after, and the report."""
    torch.manual_seed(0)
    theirs = build_model(load_config(TINY_YAML, [*settings, key, len(old)])).state_dict()
    theirs = {name: torch.rand_like(value) if value.is_floating_point() else value for name, value in theirs.items()}
    model = build_model(load_config(TINY_YAML, [*settings, key, len(new)]))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = load_weights_file(model, WeightsFile("x.pth", theirs, {"class_names": list(old)}), class_names=new)
    return theirs, before, model.state_dict(), report


def assert_rows(name: str, weights: Sequence[dict[str, Tensor]], *, size: int, background: bool) -> None:
    """Blocks of rows in the order of the classes, the background's last."""
    for part in ("weight", "bias"):
        theirs, before, after = (state[f"{name}.{part}"].unflatten(0, (-1, size)) for state in weights)
        assert len(after) == len(NEW) + background
        for row, source in enumerate(SOURCES):
            assert torch.equal(after[row], before[row] if source is None else theirs[source]), (name, part, row)
        if background:
            assert torch.equal(after[-1], theirs[-1])


def test_rows_of_mask_ious_are_copied_by_name() -> None:
    settings = ("MODEL.ROI_HEADS.BRANCHES", ["MaskIoUHead"], "MODEL.ROI_MASKIOU_HEAD.CONV_DIM", 4)
    *weights, _ = fine_tuned(OLD, NEW, *settings, "MODEL.ROI_MASKIOU_HEAD.FC_DIM", 8)
    assert_rows("roi_heads.mask_iou_head.predictor", weights, size=1, background=False)


def test_rows_of_scores_deltas_and_masks_are_copied_by_name() -> None:
    *weights, report = fine_tuned(OLD, NEW)
    assert_rows(SCORES, weights, size=1, background=True)
    assert_rows(DELTAS, weights, size=4, background=False)
    assert_rows(MASKS, weights, size=1, background=False)
    theirs, _, after = weights
    assert all(torch.equal(after[name], theirs[name]) for name in after if after[name].shape == theirs[name].shape)
    assert not report.is_complete
    assert "The file is for 3 classes (cat, cow, dog); the rows of dog, cat are copied by name" in str(report)
    assert "the rows of ape, kite are newly initialised" in str(report)
    assert {name.rpartition(".")[0] for name in report.by_class} == {SCORES, DELTAS, MASKS}
    assert str(report).count("rows copied by class name") >= 1


def test_fully_connected_and_competing_masks_are_copied_by_name() -> None:
    settings = ("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNMLPHead", "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 7)
    *weights, _ = fine_tuned(OLD, NEW, *settings)
    assert_rows(MASKS, weights, size=14 * 14, background=False)
    *weights, _ = fine_tuned(OLD, NEW, "MODEL.ROI_MASK_HEAD.LOSS", "softmax")
    assert_rows(MASKS, weights, size=1, background=True)


def test_every_cascade_stage_is_copied_by_name() -> None:
    settings = ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True)
    *weights, report = fine_tuned(OLD, NEW, *settings)
    for stage in range(3):
        assert_rows(f"roi_heads.box_predictor.{stage}.cls_score", weights, size=1, background=True)
        assert f"roi_heads.box_predictor.{stage}.bbox_pred.weight" in report.loaded  # shared by all classes


def test_rows_of_every_anchor_of_a_retinanet_are_copied_by_name() -> None:
    *weights, report = fine_tuned(OLD, NEW, *RETINANET, key="MODEL.RETINANET.NUM_CLASSES")
    theirs, before, after = (state["head.cls_score.weight"] for state in weights)
    for anchor in range(2):
        for row, source in enumerate(SOURCES):
            expected = before[4 * anchor + row] if source is None else theirs[3 * anchor + source]
            assert torch.equal(after[4 * anchor + row], expected)
    assert "head.bbox_pred.weight" in report.loaded
    assert stored_class_count(weights[0]) == 3


def test_rows_are_reordered_where_shapes_are_equal() -> None:
    theirs, _, after, report = fine_tuned(OLD, ("dog", "cat", "cow"))
    assert torch.equal(after[f"{SCORES}.bias"], theirs[f"{SCORES}.bias"][[2, 0, 1, 3]])
    assert torch.equal(after[f"{DELTAS}.bias"].view(3, 4), theirs[f"{DELTAS}.bias"].view(3, 4)[[2, 0, 1]])
    assert report.is_complete


def test_class_agnostic_layers_are_copied_completely() -> None:
    agnostic = ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True, "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True)
    theirs, _, after, report = fine_tuned(OLD, NEW, *agnostic)
    assert {name.rpartition(".")[0] for name in report.by_class} == {SCORES}
    assert torch.equal(after[f"{DELTAS}.weight"], theirs[f"{DELTAS}.weight"])
    assert torch.equal(after[f"{MASKS}.weight"], theirs[f"{MASKS}.weight"])


def test_only_the_background_is_copied_for_another_single_class() -> None:
    theirs, before, after, report = fine_tuned(("nucleus",), ("cell",))
    assert torch.equal(after[f"{SCORES}.bias"][0], before[f"{SCORES}.bias"][0])
    assert torch.equal(after[f"{SCORES}.weight"][1], theirs[f"{SCORES}.weight"][1])
    assert torch.equal(after[f"{MASKS}.weight"], theirs[f"{MASKS}.weight"])
    assert "the rows of cell are newly initialised" in str(report)


def test_file_without_class_names_is_copied_by_index_with_a_warning(caplog) -> None:
    model = build_model(load_config(TINY_YAML, [REGIONS, 2]))
    with caplog.at_level(logging.WARNING):
        report = load_weights_file(model, WeightsFile("x.pth", model.state_dict()), class_names=("a", "b"))
    assert report.is_complete
    assert [record.getMessage() for record in caplog.records] == [
        "x.pth has no class names: they are assumed to be those of the model, in the same order"
    ]


@pytest.mark.parametrize(("count", "expected"), [(80, coco_classes.COCO_CLASSES), (20, ())])
def test_files_of_detectron2_zoo_have_coco_classes(count: int, expected: tuple[str, ...]) -> None:
    weights = {f"{SCORES}.bias": torch.zeros(count + 1)}
    assert stored_class_names(WeightsFile("", weights, {"__author__": "Detectron2 Model Zoo"})) == expected
    assert stored_class_names(WeightsFile("", weights)) == ()


def test_inputs_of_pointrends_point_head_are_copied_by_name_too() -> None:
    head, settings = "roi_heads.mask_head", ("MODEL.ROI_MASK_HEAD.POINT_HEAD_ON", True, "MODEL.POINT_HEAD.FC_DIM", 6)
    settings = (*settings, "MODEL.ROI_MASK_HEAD.NAME", "PointRendMaskHead", "MODEL.POINT_HEAD.NUM_FC", 2)
    *weights, report = fine_tuned(OLD, NEW, *settings)
    assert_rows(f"{head}.coarse_head.prediction", weights, size=7 * 7, background=False)
    theirs, before, after = (
        {name: value.squeeze(-1) for name, value in state.items() if ".point_head." in name} for state in weights
    )
    for layer, width in (("fc1", theirs[f"{head}.point_head.fc1.weight"].shape[1] - len(OLD)), ("fc2", 6)):
        old, initial, new = (state[f"{head}.point_head.{layer}.weight"] for state in (theirs, before, after))
        assert torch.equal(new[:, :width], old[:, :width])
        for column, source in enumerate(SOURCES, start=width):
            assert torch.equal(new[:, column], initial[:, column] if source is None else old[:, width + source])
        assert torch.equal(after[f"{head}.point_head.{layer}.bias"], theirs[f"{head}.point_head.{layer}.bias"])
    old, initial, new = (state[f"{head}.point_head.predictor.weight"] for state in (theirs, before, after))
    for row, source in enumerate(SOURCES):
        for column, other in enumerate(SOURCES):
            is_new = source is None or other is None
            assert new[row, 6 + column] == (initial[row, 6 + column] if is_new else old[source, 6 + other])
        assert torch.equal(new[row, :6], initial[row, :6] if source is None else old[source, :6])
    assert report.by_class[f"{head}.point_head.predictor.weight"] == 2 * (6 + 2)
    # As many classes in another order are not the same classes either.
    *weights, _ = fine_tuned(OLD, OLD[::-1], *settings)
    theirs, _, after = (state[f"{head}.point_head.fc2.weight"].squeeze(-1) for state in weights)
    assert torch.equal(after[:, 6:], theirs[:, 6:].flip(1))
