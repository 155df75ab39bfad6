"""Loading the weights of a file into a model: loaded, left out and refused weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mrcnn_zoo.checkpoint import LoadReport, load_weights
from mrcnn_zoo.config import load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.layers.norm import FrozenBatchNorm2d
from mrcnn_zoo.modeling import build_model
from support.references import detectron2_shapes, find_case

Shapes = dict[str, tuple[int, ...]]

DETECTOR: Shapes = {
    "backbone.res2.0.conv1.weight": (8, 3, 3, 3),
    "backbone.res2.0.conv1.norm.weight": (8,),
    "backbone.res2.0.conv1.norm.running_mean": (8,),
    "backbone.res2.1.conv1.weight": (8, 8, 3, 3),
    "roi_heads.box_head.fc1.weight": (16, 8),
    "roi_heads.box_predictor.cls_score.weight": (81, 16),
    "roi_heads.box_predictor.cls_score.bias": (81,),
    "roi_heads.box_predictor.bbox_pred.weight": (320, 16),
    "roi_heads.mask_head.predictor.weight": (80, 4, 1, 1),
}


def module_with(shapes: Shapes) -> nn.Module:
    """A module whose state dict has these names and shapes, all zeros."""
    root = nn.Module()
    for name, shape in shapes.items():
        *path, leaf = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_buffer(leaf, torch.zeros(shape))
    return root


def ones(shapes: Shapes) -> dict[str, Tensor]:
    return {name: torch.ones(shape) for name, shape in shapes.items()}


def saved(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    return path


def is_filled(model: nn.Module, name: str) -> bool:
    return bool((model.state_dict()[name] == 1).all())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,
        lambda weights: {"model": weights, "optimizer": {}, "iteration": 3},
        lambda weights: {"state_dict": weights},
        lambda weights: {f"module.{name}": value for name, value in weights.items()},
        lambda weights: {f"_orig_mod.module.{name}": value for name, value in weights.items()},
    ],
    ids=["bare", "Detectron2", "state_dict", "module.", "_orig_mod.module."],
)
def test_every_file_layout_fills_the_model(wrap: object, tmp_path: Path) -> None:
    model = module_with(DETECTOR)
    report = load_weights(model, saved(tmp_path, wrap(ones(DETECTOR))))  # type: ignore[operator]
    assert all(is_filled(model, name) for name in DETECTOR)
    assert report.is_complete
    assert report.loaded == tuple(DETECTOR)
    assert report.skipped == ()


def test_average_of_our_checkpoints_is_preferred(tmp_path: Path) -> None:
    model = module_with({"a.weight": (2,), "a.running_mean": (2,)})
    weights = {"a.weight": torch.full((2,), 5.0), "a.running_mean": torch.ones(2)}
    ema = {"num_updates": 3, "weights": {"a.weight": torch.ones(2)}}
    load_weights(model, saved(tmp_path, {"model": weights, "ema": ema}))
    assert is_filled(model, "a.weight")
    assert is_filled(model, "a.running_mean")


def for_classes(number: int) -> Shapes:
    return DETECTOR | {
        "roi_heads.box_predictor.cls_score.weight": (number + 1, 16),
        "roi_heads.box_predictor.cls_score.bias": (number + 1,),
        "roi_heads.box_predictor.bbox_pred.weight": (4 * number, 16),
        "roi_heads.mask_head.predictor.weight": (number, 4, 1, 1),
    }


def test_heads_for_other_classes_keep_their_initial_values(tmp_path: Path) -> None:
    model = module_with(for_classes(3))
    report = load_weights(model, saved(tmp_path, ones(DETECTOR)))
    assert sorted(report.reinitialized) == [name for name in sorted(DETECTOR) if "predictor" in name]
    assert report.reinitialized["roi_heads.box_predictor.cls_score.bias"] == ((81,), (4,))
    assert not any(is_filled(model, name) for name in report.reinitialized)
    assert all(is_filled(model, name) for name in report.loaded)
    assert len(report.loaded) == 5
    assert not report.is_complete


def test_head_that_differs_in_more_than_its_classes_is_a_mismatch(tmp_path: Path) -> None:
    model = module_with(for_classes(3) | {"roi_heads.mask_head.predictor.weight": (3, 8, 1, 1)})
    report = load_weights(model, saved(tmp_path, ones(DETECTOR)))
    assert report.mismatched == {"roi_heads.mask_head.predictor.weight": ((80, 4, 1, 1), (3, 8, 1, 1))}


def test_one_mismatched_layer_is_reported_and_not_loaded(tmp_path: Path) -> None:
    wide = DETECTOR | {"roi_heads.box_head.fc1.weight": (16, 10)}
    model = module_with(wide)
    report = load_weights(model, saved(tmp_path, ones(DETECTOR)))
    assert list(report.mismatched) == ["roi_heads.box_head.fc1.weight"]
    assert not is_filled(model, "roi_heads.box_head.fc1.weight")


def test_missing_and_skipped_names_are_reported(tmp_path: Path) -> None:
    model = module_with(DETECTOR | {"keypoints.weight": (2,)})
    report = load_weights(model, saved(tmp_path, ones(DETECTOR | {"semantic.weight": (2,)})))
    assert report.missing == ("keypoints.weight",)
    assert report.skipped == ("semantic.weight",)


def test_backbone_file_is_loaded_into_a_larger_model(tmp_path: Path) -> None:
    backbone = {name: shape for name, shape in DETECTOR.items() if name.startswith("backbone.")}
    report = load_weights(module_with(DETECTOR | {"head.weight": (1000, 100)}), saved(tmp_path, ones(backbone)))
    assert report.loaded == tuple(backbone)


@pytest.mark.parametrize(
    "name",
    [
        "backbone.res2.0.conv1.norm.num_batches_tracked",
        "pixel_mean",
        "proposal_generator.anchor_generator.cell_anchors.0",
    ],
)
@pytest.mark.parametrize("side", ["file", "model"])
def test_counters_and_constants_are_not_reported(name: str, side: str, tmp_path: Path) -> None:
    extended = DETECTOR | {name: (3,)}
    model = module_with(extended if side == "model" else DETECTOR)
    report = load_weights(model, saved(tmp_path, ones(extended if side == "file" else DETECTOR)))
    assert report.is_complete
    assert report.skipped == ()


def test_batch_norm_and_frozen_batch_norm_exchange_weights(tmp_path: Path) -> None:
    for source, target in ((nn.BatchNorm2d(4), FrozenBatchNorm2d(4)), (FrozenBatchNorm2d(4), nn.BatchNorm2d(4))):
        source.running_mean.fill_(7.0)
        report = load_weights(target, saved(tmp_path, source.state_dict()))
        assert report.is_complete
        assert report.skipped == ()
        assert torch.equal(target.running_mean, torch.full((4,), 7.0))


def test_half_precision_weights_become_the_models_precision(tmp_path: Path) -> None:
    model = module_with({"weight": (2,)})
    load_weights(model, saved(tmp_path, {"weight": torch.ones(2, dtype=torch.float16)}))
    assert model.weight.dtype == torch.float32
    assert is_filled(model, "weight")


# --- refused ----------------------------------------------------------------------------------------------------------


def refusal(model: nn.Module, path: Path) -> str:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_weights(model, path)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    return str(caught.value)


def test_weights_of_another_model_are_refused_and_nothing_is_loaded(tmp_path: Path) -> None:
    other = {f"encoder.{number}.weight": (8, 8) for number in range(5)}
    message = refusal(module_with(DETECTOR), saved(tmp_path, ones(other)))
    assert "weights.pth holds the weights of another model: only 0 of" in message
    assert "encoder.0.weight" in message
    assert "backbone.res2.0.conv1.weight" in message


def test_weights_of_a_wider_model_are_refused_and_nothing_is_loaded(tmp_path: Path) -> None:
    wide = {name: tuple(2 * side for side in shape) for name, shape in DETECTOR.items()}
    message = refusal(module_with(DETECTOR), saved(tmp_path, ones(wide)))
    assert "backbone.res2.0.conv1.weight is 16x6x6x6 in the file, 8x3x3x3 in the model" in message


def test_many_small_mismatches_are_refused(tmp_path: Path) -> None:
    shapes = {f"backbone.conv{number}.weight": (4, 4) for number in range(8)} | {"head.fc.weight": (100, 100)}
    wider = {name: (5, 5) if "conv" in name else shape for name, shape in shapes.items()}
    assert "another model" in refusal(module_with(shapes), saved(tmp_path, ones(wider)))


@pytest.mark.parametrize("blocks", [1, 3])
def test_deeper_or_shallower_network_is_refused(blocks: int, tmp_path: Path) -> None:
    # Its blocks would fit one by one, and the model would compute nonsense.
    other = {name: shape for name, shape in DETECTOR.items() if "res2" not in name}
    other |= {f"backbone.res2.{number}.conv1.weight": (8, 8 if number else 3, 3, 3) for number in range(blocks)}
    message = refusal(module_with(DETECTOR), saved(tmp_path, ones(other)))
    assert f"res2 has {blocks} blocks in the file, 2 in the model" in message
    assert "MODEL.RESNETS.DEPTH" in message


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"model": {}}, {"model": {"name": "x"}}])
def test_file_without_weights_is_refused(content: dict[str, object], tmp_path: Path) -> None:
    assert "holds no weights" in refusal(module_with(DETECTOR), saved(tmp_path, content))


# --- real names -------------------------------------------------------------------------------------------------------


def reference_shapes(name: str) -> Shapes:
    shapes = detectron2_shapes()[name].items()
    return {key: tuple(map(int, shape.split("x"))) if shape else () for key, shape in shapes}


def meta_report(tmp_path: Path, *, model: str, weights: str) -> LoadReport:
    """Load one reference model into another; every side is a sixteenth, which is quick and keeps what differs apart."""
    small = [
        {name: tuple(-(-side // 16) for side in shape) for name, shape in reference_shapes(which).items()}
        for which in (model, weights)
    ]
    return load_weights(module_with(small[0]), saved(tmp_path, {"model": ones(small[1])}))


def test_detectron2_names_fill_mask_rcnn(tmp_path: Path) -> None:
    name = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x"
    report = meta_report(tmp_path, model=name, weights=name)
    assert report.is_complete
    assert len(report.loaded) == 307


def test_detectron2_faster_rcnn_starts_a_mask_rcnn(tmp_path: Path) -> None:
    report = meta_report(
        tmp_path,
        model="COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x",
        weights="COCO-Detection/faster_rcnn_R_50_FPN_1x",
    )
    assert {name.split(".")[1] for name in report.missing} == {"mask_head"}
    assert report.skipped == ()


def test_resnet_101_does_not_load_into_resnet_50(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="res4 has 23 blocks in the file, 6 in the model"):
        meta_report(
            tmp_path,
            model="COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x",
            weights="COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x",
        )


def test_c4_does_not_load_into_fpn(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="another model"):
        meta_report(
            tmp_path,
            model="COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x",
            weights="COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x",
        )


def test_detectron2_weights_fill_our_model(tmp_path: Path) -> None:
    case = find_case("mask_rcnn_R_50_FPN")
    model = build_model(load_config(case.config, ["MODEL.DEVICE", "cpu"]))
    report = load_weights(model, saved(tmp_path, {"model": case.weights}))
    assert report.is_complete
    assert report.skipped == ()
