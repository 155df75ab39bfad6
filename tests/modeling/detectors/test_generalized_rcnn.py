from collections.abc import Callable

import pytest
import torch
from torch import nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.registries import DETECTORS
from mrcnn_zoo.structures import Sample, Targets, TrainingOutput
from support.scenes import filled_boxes

# What a detector needs besides its name on top of the small Mask R-CNN.
OVERRIDES_OF: dict[str, tuple[object, ...]] = {
    "RetinaNet": (
        *("MODEL.MASK_ON", False),
        *("MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone"),
        *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"]),
        *("MODEL.RETINANET.NUM_CLASSES", 5),
        *("MODEL.RETINANET.SCORE_THRESH_TEST", 0.0),
    ),
}


def of_detector(name: str) -> tuple[object, ...]:
    return ("MODEL.META_ARCHITECTURE", name, *OVERRIDES_OF.get(name, ()))


def sample(height: int, width: int, *, objects: int = 2, seed: int = 0, has_targets: bool = True) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, min(height, width) // 2, (objects, 2), generator=generator)
    boxes = torch.cat((corners, corners + 20), dim=1).float()
    size = (height, width)
    targets = Targets(size, boxes, torch.arange(objects) % 5, masks=filled_boxes(boxes, size))
    return Sample(
        image=torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8),
        image_id=seed,
        original_size=(2 * height, 3 * width),
        targets=targets if has_targets else None,
    )


@pytest.fixture
def model(small_cfg: Callable[..., CfgNode]) -> nn.Module:
    torch.manual_seed(0)
    return build_model(small_cfg())


@pytest.mark.parametrize("name", DETECTORS.names())
def test_every_detector_trains(name: str, small_cfg: Callable[..., CfgNode]) -> None:
    model = build_model(small_cfg(*of_detector(name)))
    output = model.losses([sample(64, 96), sample(80, 64, seed=1)])
    output.total().backward()
    assert all(loss.isfinite() and loss.dim() == 0 for loss in output.losses.values())
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    assert all(not metric.requires_grad and metric.dim() == 0 for metric in output.metrics.values())


@pytest.mark.parametrize("name", DETECTORS.names())
def test_every_detector_predicts_in_original_coordinates(name: str, small_cfg: Callable[..., CfgNode]) -> None:
    model = build_model(small_cfg(*of_detector(name))).eval()
    samples = [sample(64, 96, has_targets=False), sample(80, 64, seed=1, has_targets=False)]
    for table, item in zip(model.predict(samples), samples, strict=True):
        height, width = item.original_size
        assert table.image_size == item.original_size
        assert len(table) > 0
        assert not table.boxes.requires_grad
        assert (table.boxes >= 0).all()
        assert (table.boxes <= torch.tensor([width, height] * 2)).all()
        assert (table.boxes[:, 2:] > table.boxes[:, :2]).all()
        assert table.scores.tolist() == sorted(table.scores.tolist(), reverse=True)
        if table.masks is not None:
            assert table.masks.bitmaps().shape == (len(table), height, width)
            assert [rle["size"] for rle in table.masks.rles()] == [[height, width]] * len(table)


@pytest.mark.parametrize("name", DETECTORS.names())
def test_every_detector_trains_without_any_object(name: str, small_cfg: Callable[..., CfgNode]) -> None:
    model = build_model(small_cfg(*of_detector(name)))
    output = model.losses([sample(64, 64, objects=0)])
    output.total().backward()
    assert all(loss.isfinite() for loss in output.losses.values())
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


def test_gradients_have_the_memory_format_of_their_weights(model: nn.Module) -> None:
    # DistributedDataParallel warns of any other layout, and copies.
    model.losses([sample(64, 64)]).total().backward()
    gradients = {name: weight.grad.stride() for name, weight in model.named_parameters() if weight.grad is not None}
    weights = dict(model.named_parameters())
    assert {name for name, strides in gradients.items() if strides != weights[name].stride()} == set()


def test_forward_is_losses_in_training_and_predict_otherwise(model: nn.Module) -> None:
    assert isinstance(model.train()([sample(64, 64)]), TrainingOutput)
    (found,) = model.eval()([sample(64, 64)])
    assert len(found) > 0


def test_losses_can_be_called_in_evaluation_mode(model: nn.Module) -> None:
    with torch.no_grad():
        output = model.eval().losses([sample(64, 64)])
    assert set(output.losses) == {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"}


def test_samples_without_targets_have_no_losses(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="without targets"):
        model.losses([sample(64, 64), sample(64, 64, has_targets=False)])


def test_detections_do_not_depend_on_the_batch(model: nn.Module) -> None:
    model.eval()
    samples = [sample(64, 96), sample(64, 96, seed=1)]
    together = model.predict(samples)
    for table, item in zip(together, samples, strict=True):
        (alone,) = model.predict([item])
        torch.testing.assert_close(table.boxes, alone.boxes, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(table.scores, alone.scores, atol=1e-5, rtol=1e-4)


def test_pixel_statistics_are_not_in_the_state_dict(model: nn.Module) -> None:
    assert not any("pixel" in name for name in model.state_dict())
    assert model.collate.pixel_mean.flatten().tolist() == pytest.approx([103.53, 116.28, 123.675])


def test_samples_are_not_changed(model: nn.Module) -> None:
    item = sample(64, 64)
    image, boxes = item.image.clone(), item.targets.boxes.clone()
    model.losses([item])
    model.eval().predict([item])
    assert torch.equal(item.image, image)
    assert torch.equal(item.targets.boxes, boxes)


def test_images_of_more_channels(small_cfg: Callable[..., CfgNode]) -> None:
    model = build_model(small_cfg("MODEL.PIXEL_MEAN", [1.0] * 4, "MODEL.PIXEL_STD", [1.0] * 4)).eval()
    item = Sample(image=torch.rand(4, 64, 64), image_id=0, original_size=(64, 64))
    assert len(model.predict([item])) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_mixed_precision_trains_and_predicts(model: nn.Module, dtype: torch.dtype) -> None:
    with torch.autocast("cpu", dtype=dtype):
        output = model.losses([sample(64, 64)])
        (found,) = model.eval().predict([sample(64, 64)])
    assert all(loss.dtype == torch.float32 for loss in output.losses.values())
    output.total().backward()
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    assert len(found.masks.rles()) == len(found)
