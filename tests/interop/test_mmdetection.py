"""MMDetection's detectors here compute what was recorded there."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mrcnn_zoo.cli.convert_checkpoint import main
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inference.trained import load_trained
from mrcnn_zoo.interop.converter import Conversion, find_converter
from mrcnn_zoo.interop.mmdetection.config import parse_config, read_config_file
from mrcnn_zoo.interop.mmdetection.weights import MMDetectionConverter, under_our_names
from support.recorded_mmdetection import CASES, MMDetectionCase
from support.references import relative_error


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> MMDetectionCase:
    return MMDetectionCase.find(request.param)


@pytest.fixture
def model(case: MMDetectionCase, build_converted: Callable[[Conversion], nn.Module]) -> nn.Module:
    return build_converted(case.convert())


@torch.no_grad()
def test_input_features_and_proposals_agree(case: MMDetectionCase, model: nn.Module) -> None:
    batch = model.collate([case.sample()])
    assert torch.equal(batch.pixels, case.tensor("input_tensor"))
    features = model.backbone(batch.pixels)
    for name in ("p3", "p4", "p5", "p6"):
        assert relative_error(features[name], case.tensor(f"feature_{name}")) < 1e-4
    (proposals,) = model.proposal_generator.predict(features, batch)
    assert relative_error(proposals.boxes, case.tensor("proposals_boxes")) < 1e-4
    torch.testing.assert_close(proposals.objectness.sigmoid(), case.tensor("proposals_scores"), atol=1e-4, rtol=0)


def test_detections_agree(case: MMDetectionCase, model: nn.Module) -> None:
    (table,) = model.predict([case.sample()])
    assert torch.equal(table.classes, case.tensor("labels"))
    assert relative_error(table.boxes, case.tensor("boxes")) < 1e-4
    torch.testing.assert_close(table.scores, case.box_scores(), atol=1e-4, rtol=0)
    if not case.has("masks"):
        assert table.masks is None
        return
    masks = case.masks()
    assert table.masks is not None
    # Pixels whose probability is one half up to rounding, which differs between processors, may differ.
    certain, possible = (replace(table.masks, threshold=0.5 + margin).bitmaps() for margin in (1e-4, -1e-4))
    assert not (certain & ~masks).any()
    assert not (masks & ~possible).any()


@torch.no_grad()
def test_scores_of_masks_agree(case: MMDetectionCase, model: nn.Module) -> None:
    (table,) = model.predict([case.sample()])
    if not case.has("mask_iou_preds"):
        assert table.mask_scores is None
        return
    assert not torch.equal(case.tensor("scores"), case.box_scores())
    torch.testing.assert_close(table.mask_scores, case.tensor("scores"), atol=1e-4, rtol=0)
    seen = {}
    model.roi_heads.mask_iou_head.register_forward_hook(lambda _head, _inputs, ious: seen.update(ious=ious))
    model.predict([case.sample()])
    torch.testing.assert_close(seen["ious"], case.tensor("mask_iou_preds"), atol=1e-4, rtol=0)


def test_every_weight_of_the_file_is_converted(case: MMDetectionCase) -> None:
    conversion = case.convert()
    assert isinstance(find_converter(case.weights.keys()), MMDetectionConverter)
    assert conversion.leftovers == ()
    assert len(conversion.weights) == len(case.weights)
    assert conversion.notes == ()


def test_config_text_of_a_checkpoint_gives_the_same_settings(case: MMDetectionCase) -> None:
    text = f"model = {case.settings!r}\nworkers = int('2')\n"
    from_text = case.convert({"meta": {"cfg": text, "CLASSES": ("cat", "dog")}})
    assert from_text.settings == case.convert().settings
    assert from_text.class_names == ("cat", "dog")
    assert from_text.notes == ("not plain data in MMDetection's config, left out: workers = int('2')",)


def test_published_config_is_assumed_and_noted_without_a_config(case: MMDetectionCase) -> None:
    conversion = case.convert({})
    assert conversion.settings["TEST.DETECTIONS_PER_IMAGE"] == 100
    assert conversion.settings["MODEL.ROI_HEADS.NUM_CLASSES"] == 7
    assert "assumed, as MMDetection's published config has it: test_cfg.rcnn.max_per_img = 100" in conversion.notes
    assert conversion.notes[0].startswith("the file holds no config")


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({"backbone": {"style": "caffe"}}, {"MODEL.RESNETS.STRIDE_IN_1X1": True}),
        (
            {"data_preprocessor": {"bgr_to_rgb": False, "mean": [1, 2, 3], "std": [1, 1, 1]}},
            {"INPUT.FORMAT": "BGR", "MODEL.PIXEL_MEAN": [1.0, 2.0, 3.0], "MODEL.PIXEL_STD": [1.0, 1.0, 1.0]},
        ),
        ({"test_cfg": {"rcnn": {"max_per_img": 7, "score_thr": 0.3}}}, {"TEST.DETECTIONS_PER_IMAGE": 7}),
        (
            {"roi_head": {"bbox_roi_extractor": {"finest_scale": 28, "roi_layer": {"aligned": False}}}},
            {
                "MODEL.ROI_HEADS.CANONICAL_LEVEL": 2,
                "MODEL.ROI_HEADS.CANONICAL_BOX_SIDE": 28.0,
                "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlign",
            },
        ),
        (
            {"rpn_head": {"anchor_generator": {"scales": [4, 8], "center_offset": 0.5}}},
            {
                "MODEL.ANCHOR_GENERATOR.SIZES": [[4.0 * s, 8.0 * s] for s in (4, 8, 16, 32, 64)],
                "MODEL.ANCHOR_GENERATOR.OFFSET": 0.5,
            },
        ),
        (
            {"test_cfg": {"rcnn": {"nms": {"type": "soft_nms", "iou_threshold": 0.4, "min_score": 0.05}}}},
            {"MODEL.ROI_HEADS.SUPPRESSION": "soft_linear", "MODEL.ROI_HEADS.SOFT_NMS_MIN_SCORE": 0.05},
        ),
    ],
    ids=["caffe", "pixels", "test_cfg", "pooling", "anchors", "soft_nms"],
)
def test_values_of_the_config_become_our_keys(
    changes: dict[str, Any], settings: dict[str, Any], case: MMDetectionCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "rpn_head" in changes:  # twice the anchors need twice the outputs
        doubled = {name: torch.cat([value] * 2) for name, value in case.weights.items() if "rpn_cls" in name}
        doubled |= {name: torch.cat([value] * 2) for name, value in case.weights.items() if "rpn_reg" in name}
        monkeypatch.setattr(case, "weights", case.weights | doubled)
    converted = case.convert({"settings": merged(case.settings, changes)}).settings
    assert {key: converted[key] for key in settings} == settings


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    result = dict(values)
    for key, change in changes.items():
        is_section = isinstance(change, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], change) if is_section else change
    return result


def test_unsupported_types_are_refused_by_name(case: MMDetectionCase) -> None:
    with pytest.raises(ValueError, match=r"roi_head.type = 'CascadeRoIHead' cannot be imported"):
        case.convert({"settings": merged(case.settings, {"roi_head": {"type": "CascadeRoIHead"}})})


def test_values_without_a_key_are_noted(case: MMDetectionCase) -> None:
    changed = merged(case.settings, {"test_cfg": {"rcnn": {"mask_thr_binary": 0.3}}})
    (note,) = case.convert({"settings": changed}).notes
    assert note.startswith("test_cfg.rcnn.mask_thr_binary = 0.3")


def test_delta_means_are_added_to_the_bias(case: MMDetectionCase) -> None:
    coder = {"target_means": [0.1, 0.0, 0.0, 0.0], "target_stds": [0.1, 0.1, 0.2, 0.2]}
    plain = case.convert()
    shifted = case.convert({"settings": merged(case.settings, {"roi_head": {"bbox_head": {"bbox_coder": coder}}})})
    name = "roi_heads.box_predictor.bbox_pred.bias"
    difference = (shifted.weights[name] - plain.weights[name]).reshape(-1, 4)
    torch.testing.assert_close(difference, torch.tensor([[1.0, 0, 0, 0]]).expand(7, 4))


def test_unknown_names_are_leftovers(case: MMDetectionCase) -> None:
    extra = case.weights | {"roi_head.bbox_head.extra.weight": torch.zeros(1)}
    conversion = MMDetectionConverter().convert(extra, {"settings": case.settings})
    assert conversion.leftovers == ("roi_head.bbox_head.extra.weight",)


def test_masks_are_imported_without_a_config(case: MMDetectionCase) -> None:
    settings = case.convert({}).settings
    assert settings["MODEL.MASK_ON"] == case.has("masks")
    assert settings.get("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION") == (14 if case.has("masks") else None)


def test_without_a_config_only_limits_differ(case: MMDetectionCase) -> None:
    known, assumed = case.convert().settings, case.convert({}).settings
    assert {key for key in known.keys() | assumed.keys() if known.get(key) != assumed.get(key)} == {
        "MODEL.RPN.PRE_NMS_TOPK_TEST",
        "MODEL.RPN.POST_NMS_TOPK_TEST",
        "TEST.DETECTIONS_PER_IMAGE",
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("backbone.gn1.weight", "backbone.bottom_up.stem.conv1.norm.weight"),
        ("backbone.layer3.0.conv2.conv_offset.bias", "backbone.bottom_up.res4.0.conv2_offset.bias"),
        ("backbone.layer2.3.bn2.running_var", "backbone.bottom_up.res3.3.conv2.norm.running_var"),
        ("neck.lateral_convs.1.gn.weight", "backbone.fpn_lateral3.norm.weight"),
        ("neck.fpn_convs.3.conv.weight", "backbone.fpn_output5.weight"),
        ("roi_head.bbox_head.shared_convs.3.conv.weight", "roi_heads.box_head.conv4.weight"),
        ("roi_head.bbox_head.shared_convs.0.gn.bias", "roi_heads.box_head.conv1.norm.bias"),
        ("roi_head.mask_head.convs.2.gn.weight", "roi_heads.mask_head.mask_fcn3.norm.weight"),
        ("roi_head.mask_iou_head.convs.3.bias", "roi_heads.mask_iou_head.conv4.bias"),
        ("roi_head.mask_iou_head.fc_mask_iou.weight", "roi_heads.mask_iou_head.predictor.weight"),
    ],
)
def test_names_of_other_variants(name: str, expected: str) -> None:
    pyramid = "neck.fpn_convs.0.conv.bias"
    ours, leftovers = under_our_names({name: torch.zeros(1), pyramid: torch.zeros(1)})
    assert list(ours) == [expected, "backbone.fpn_output2.bias"]
    assert leftovers == ()


def test_names_without_a_pyramid() -> None:
    names = ("backbone.layer1.0.downsample.1.weight", "roi_head.shared_head.layer4.0.downsample.0.weight")
    ours, _ = under_our_names({name: torch.zeros(1) for name in names})
    assert list(ours) == ["backbone.res2.0.shortcut.norm.weight", "roi_heads.res5.0.shortcut.weight"]


def test_command_writes_a_config_under_which_the_detections_agree(case: MMDetectionCase, tmp_path: Path) -> None:
    target = tmp_path / "converted.safetensors"
    weights, config = case.write(tmp_path)
    assert main([str(weights), str(target), "--source-config", str(config)]) == 0
    model, cfg, _ = load_trained(config=target.with_suffix(".yaml"), overrides=["MODEL.DEVICE", "cpu"])
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 7
    (table,) = model.predict([case.sample()])  # type: ignore[operator]
    assert torch.equal(table.classes, case.tensor("labels"))
    torch.testing.assert_close(table.scores, case.box_scores(), atol=1e-4, rtol=0)
    assert (table.mask_scores is None) == (not case.has("mask_iou_preds"))
    assert relative_error(table.boxes, case.tensor("boxes")) < 1e-4


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "is not valid JSON: Expecting"),
        ("a.json", "[1]", "not a list"),
        ("b.py", None, "does not exist"),
    ],
)
def test_bad_config_files_are_named(name: str, text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_config_file(tmp_path / name)


def test_code_in_a_config_is_not_run() -> None:
    text = "base = dict(lr=0.1)\nmodel = dict(type='X', **base, size=(1, -2), bad=open('f'))\nimport os\n"
    config = parse_config(text)
    assert config.values == {"base": {"lr": 0.1}, "model": {"type": "X", "lr": 0.1, "size": (1, -2)}}
    assert config.unreadable == ("bad = open('f')", "import os")


def test_invalid_python_is_listed_as_unreadable() -> None:
    config = parse_config("model = dict(\n")
    assert config.values == {}
    assert len(config.unreadable) == 1
    assert parse_config("").values == {}


def test_settings_of_version_2_configs_are_read(case: MMDetectionCase) -> None:
    pixels = {"mean": [103.53, 116.28, 123.675], "std": [1.0, 1.0, 1.0], "to_rgb": False}
    model = {key: value for key, value in case.settings.items() if key not in ("data_preprocessor", "test_cfg")}
    test_cfg = {
        "rpn": {"nms_pre": 300, "max_num": 150, "nms_thr": 0.6},
        "rcnn": {"score_thr": 0.1, "nms": {"type": "nms", "iou_threshold": 0.4}, "max_per_img": 20},
    }
    pipeline = [{"type": "LoadImageFromFile"}, {"type": "MultiScaleFlipAug", "img_scale": (640, 400)}]
    values = {"model": model, "test_cfg": test_cfg, "img_norm_cfg": pixels, "test_pipeline": pipeline}
    settings = case.convert({"meta": {"cfg": values}}).settings
    expected = {
        "INPUT.FORMAT": "BGR",
        "INPUT.MIN_SIZE_TEST": 400,
        "INPUT.MAX_SIZE_TEST": 640,
        "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
        "MODEL.RPN.PRE_NMS_TOPK_TEST": 300,
        "MODEL.RPN.POST_NMS_TOPK_TEST": 150,
        "MODEL.RPN.NMS_THRESH": 0.6,
        "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.4,
        "TEST.DETECTIONS_PER_IMAGE": 20,
    }
    assert {key: settings[key] for key in expected} == expected
