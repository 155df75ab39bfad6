"""Files of the Caffe2 Detectron: backbones whose norms are affine maps, and whole detectors."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mrcnn_zoo.checkpoint import load_weights
from mrcnn_zoo.config import load_config
from mrcnn_zoo.interop import BackboneConverter, find_converter
from mrcnn_zoo.layers.norm import FrozenBatchNorm2d
from mrcnn_zoo.modeling import build_model

SMALL: tuple[Any, ...] = (
    *("MODEL.DEVICE", "cpu", "MODEL.RESNETS.STEM_OUT_CHANNELS", 32, "MODEL.RESNETS.RES2_OUT_CHANNELS", 32),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 32, "MODEL.FPN.OUT_CHANNELS", 32, "MODEL.ROI_BOX_HEAD.FC_DIM", 8),
    *("MODEL.ROI_BOX_HEAD.CONV_DIM", 32, "MODEL.ROI_MASK_HEAD.CONV_DIM", 32, "MODEL.ROI_HEADS.NUM_CLASSES", 3),
)
FPN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
C4 = "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml"


def model_of(base: str, *overrides: Any) -> nn.Module:
    return build_model(load_config(base, ["MODEL.WEIGHTS", "", *SMALL, *overrides]))


def caffe2_name(name: str) -> str:
    """Written from Detectron's own names: what it calls one of our weights."""
    ending = {"weight": "w", "bias": "b"}[name.rpartition(".")[2]] if ".norm." not in name else ""
    if ending == "":
        ending = {"weight": "s", "bias": "b"}[name.rpartition(".")[2]]
    parts = name.split(".")
    if "stem" in parts:
        return f"res_conv1_bn_{ending}" if "norm" in parts else f"conv1_{ending}"
    stage = next((part for part in parts if part.startswith("res") and part[3:].isdigit()), None)
    if stage is not None:
        block, layer = parts[parts.index(stage) + 1 : parts.index(stage) + 3]
        branch = {"shortcut": "1", "conv1": "2a", "conv2": "2b", "conv3": "2c"}[layer]
        return f"{stage}_{block}_branch{branch}_{'bn_' if 'norm' in parts else ''}{ending}"
    last = {"2": 2, "3": 3, "4": 5, "5": 2}
    for kind in ("lateral", "output"):
        if f"fpn_{kind}" in name:
            level = parts[1][-1]
            block = f"res{level}_{last[level]}_sum"
            if kind == "output":
                return f"fpn_{block}_{ending}"
            return f"fpn_inner_{block}_{ending}" if level == "5" else f"fpn_inner_{block}_lateral_{ending}"
    level = "_fpn2" if name.startswith("proposal_generator") else ""
    layers = {
        "rpn_head.conv": "conv_rpn",
        "objectness_logits": "rpn_cls_logits",
        "anchor_deltas": "rpn_bbox_pred",
        "box_head.fc1": "fc6",
        "box_head.fc2": "fc7",
        "cls_score": "cls_score",
        "bbox_pred": "bbox_pred",
        "mask_fcn1": "_[mask]_fcn1",
        "mask_fcn2": "_[mask]_fcn2",
        "mask_fcn3": "_[mask]_fcn3",
        "mask_fcn4": "_[mask]_fcn4",
        "deconv": "conv5_mask",
        "mask_head.predictor": "mask_fcn_logits",
    }
    return next(theirs for ours, theirs in layers.items() if ours in name) + f"{level}_{ending}"


def caffe2_blobs(model: nn.Module) -> dict[str, np.ndarray]:
    """Random weights of the model's shapes as Detectron would save them: affine norms, the background first."""
    generator = np.random.default_rng(0)
    blobs = {}
    for name, tensor in model.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            continue
        value = generator.normal(size=tuple(tensor.shape)).astype(np.float32)
        if "bbox_pred" in name or "mask_head.predictor" in name:
            unused = np.full((4 if "bbox_pred" in name else 1, *value.shape[1:]), 99.0, dtype=np.float32)
            value = np.concatenate([unused, value])
        if "cls_score" in name:
            value = np.roll(value, 1, axis=0)
        blobs[caffe2_name(name)] = value
    return blobs


def pickled(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path


@pytest.mark.parametrize("base", [FPN, C4])
@pytest.mark.parametrize("wrap", [lambda blobs: {"blobs": blobs, "cfg": "TEXT"}, lambda blobs: blobs])
def test_caffe2_detector_fills_the_model(base: str, wrap: Callable[[object], object], tmp_path: Path) -> None:
    model = model_of(base)
    blobs = caffe2_blobs(model)
    report = load_weights(model, pickled(tmp_path, wrap({**blobs, "fc6_w_momentum": np.zeros(3, np.float32)})))
    assert report.is_complete
    assert report.skipped == ()
    assert report.converter == "Caffe2 Detectron"
    state = model.state_dict()
    scores = torch.from_numpy(blobs["cls_score_b"])
    assert torch.equal(state["roi_heads.box_predictor.cls_score.bias"], torch.cat([scores[1:], scores[:1]]))
    boxes = torch.from_numpy(blobs["bbox_pred_w"])
    assert torch.equal(state["roi_heads.box_predictor.bbox_pred.weight"], boxes[4:])
    masks = torch.from_numpy(blobs["mask_fcn_logits_w"])
    assert torch.equal(state["roi_heads.mask_head.predictor.weight"], masks[1:])


def test_affine_norms_compute_their_scale_and_shift(tmp_path: Path) -> None:
    model = model_of(FPN)
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):  # as after another file
            module.running_mean.fill_(3.0)
            module.running_var.fill_(7.0)
    blobs = caffe2_blobs(model)
    load_weights(model, pickled(tmp_path, {"blobs": blobs}))
    norm = model.get_submodule("backbone.bottom_up.res2.0.conv1.norm")
    assert isinstance(norm, FrozenBatchNorm2d)
    scale, shift = norm.scale_and_shift()
    torch.testing.assert_close(scale, torch.from_numpy(blobs["res2_0_branch2a_bn_s"]), rtol=1e-7, atol=0)
    assert torch.equal(shift, torch.from_numpy(blobs["res2_0_branch2a_bn_b"]))


def test_statistics_in_the_file_are_kept() -> None:
    converter = find_converter(["conv1_w", "res2_0_branch2a_w"])
    assert isinstance(converter, BackboneConverter)
    norm = {f"res2_0_branch2a_bn_{kind}": torch.full((2,), 5.0) for kind in ("s", "b", "rm", "riv")}
    prepared = converter.prepare(norm)
    assert prepared.keys() == norm.keys()
    assert converter.names.rename("res2_0_branch2a_bn_rm") == "res2.0.conv1.norm.running_mean"
    assert converter.names.rename("res2_0_branch2a_bn_riv") == "res2.0.conv1.norm.running_var"


def test_group_norms_get_no_statistics(tmp_path: Path) -> None:
    norms = [
        part for key in ("RESNETS", "FPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD") for part in (f"MODEL.{key}.NORM", "GN")
    ]
    model = model_of(FPN, *norms, "MODEL.ROI_BOX_HEAD.NUM_CONV", 4, "MODEL.ROI_BOX_HEAD.NUM_FC", 1)
    names = {
        "conv1_w": "backbone.bottom_up.stem.conv1.weight",
        "conv1_gn_s": "backbone.bottom_up.stem.conv1.norm.weight",
        "res2_0_branch2a_w": "backbone.bottom_up.res2.0.conv1.weight",
        "res2_0_branch2a_gn_b": "backbone.bottom_up.res2.0.conv1.norm.bias",
        "fpn_inner_res4_5_sum_lateral_gn_s": "backbone.fpn_lateral4.norm.weight",
        "fpn_inner_res5_2_sum_gn_s": "backbone.fpn_lateral5.norm.weight",
        "fpn_res2_2_sum_gn_b": "backbone.fpn_output2.norm.bias",
        "head_conv1_w": "roi_heads.box_head.conv1.weight",
        "head_conv4_gn_s": "roi_heads.box_head.conv4.norm.weight",
        "_[mask]_fcn2_gn_b": "roi_heads.mask_head.mask_fcn2.norm.bias",
    }
    state = model.state_dict()
    blobs = {theirs: np.full(tuple(state[ours].shape), 5.0, np.float32) for theirs, ours in names.items()}
    # All blocks, so that the depths agree.
    for name, tensor in state.items():
        if ".res" in name and name.endswith("conv1.weight"):
            blobs.setdefault(caffe2_name(name), np.full(tuple(tensor.shape), 5.0, np.float32))
    report = load_weights(model, pickled(tmp_path, {"blobs": blobs}))
    assert report.skipped == ()
    assert set(names.values()) <= set(report.converted)
    assert report.expected_settings["MODEL.RESNETS.STRIDE_IN_1X1"] is False


def weights_like(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def test_stride_setting_depends_on_the_network() -> None:
    converter = find_converter(["conv1_w", "res2_0_branch2a_w"])
    assert isinstance(converter, BackboneConverter)
    msra = converter.settings(weights_like(res2_0_branch2b_w=(64, 64, 3, 3)))
    assert msra["MODEL.RESNETS.STRIDE_IN_1X1"] is True
    assert msra["MODEL.PIXEL_STD"] == [1.0, 1.0, 1.0]
    resnext = converter.settings(weights_like(res2_0_branch2b_w=(256, 8, 3, 3)))
    assert resnext["MODEL.RESNETS.STRIDE_IN_1X1"] is False
    assert "MODEL.PIXEL_STD" not in resnext  # there are files of both kinds


def test_unknown_names_are_reported_as_skipped(tmp_path: Path) -> None:
    model = model_of(FPN)
    blobs = {**caffe2_blobs(model), "fc1000_w": np.zeros((10, 8), np.float32), "retnet_x": np.zeros(3, np.float32)}
    report = load_weights(model, pickled(tmp_path, {"blobs": blobs}))
    assert report.skipped == ("fc1000_w", "retnet_x")
