"""Optimised models in the recorder, test-time augmentation, given boxes, tiles and threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import pytest
import torch
from torch import nn

from mrcnn_zoo.config import CfgNode, changed_config, load_config
from mrcnn_zoo.data.tiles import Tiling
from mrcnn_zoo.inference.given_boxes import build_given_box_detector
from mrcnn_zoo.inference.image_detector import ImageDetector
from mrcnn_zoo.inference.image_inputs import LoadedImage
from mrcnn_zoo.inference.optimization import build_optimized
from mrcnn_zoo.inference.tta import build_augmented_detector, build_prediction_mapper
from mrcnn_zoo.modeling.recording import Recording
from mrcnn_zoo.structures import Detections, Sample
from support.scenes import random_boxes, smooth_sample
from support.small_models import CLASS_NAMES, DIGITS, SIX_DETECTIONS, TINY_LAYERS, varied_model

BOX_TOLERANCE = 0.05  # pixels
Way = Callable[[CfgNode, nn.Module], list[Detections]]


@pytest.fixture(scope="module")
def cfg() -> CfgNode:
    return load_config(DIGITS, [*TINY_LAYERS, *SIX_DETECTIONS])


@pytest.fixture(scope="module")
def plain(cfg: CfgNode) -> nn.Module:
    """With random statistics of the batch norms, of which each changes the detections."""
    model = varied_model(cfg)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                nn.init.uniform_(tensor, 0.7, 1.4)
            for tensor in (module.bias.data, module.running_mean):
                nn.init.normal_(tensor, std=0.3)
    return model


@pytest.fixture(scope="module")
def fused(cfg: CfgNode, plain: nn.Module) -> nn.Module:
    return optimized(cfg, plain, "fused", "float32")


def optimized(cfg: CfgNode, model: nn.Module, way: str, dtype: str) -> nn.Module:
    return build_optimized(changed_config(cfg, {"MODEL.OPTIMIZE": way, "MODEL.DTYPE": dtype}), deepcopy(model))


def with_augmentation(cfg: CfgNode, model: nn.Module) -> list[Detections]:
    cfg = changed_config(cfg, {"TEST.AUG.ENABLED": True, "TEST.AUG.MIN_SIZES": [0, 96]})
    return build_augmented_detector(cfg, model).predict([smooth_sample()])  # type: ignore[operator]


def in_given_boxes(cfg: CfgNode, model: nn.Module) -> list[Detections]:
    boxes, classes = random_boxes(5, extent=50, sides=(10, 40)), torch.full((5,), -1)
    detector = build_given_box_detector(cfg, model, lambda _: (boxes, classes))
    return detector.predict([smooth_sample()])  # type: ignore[operator]


def by_tiles(cfg: CfgNode, model: nn.Module) -> list[Detections]:
    mapper = build_prediction_mapper(cfg, model)
    detector = ImageDetector(model, mapper, CLASS_NAMES, category_ids=(1, 2, 3), tiling=Tiling(64, 16))
    pixels = smooth_sample(64, 110).image.permute(1, 2, 0).numpy()
    return [prediction.detections for prediction in detector.stream([LoadedImage("smooth", pixels)])]


@pytest.mark.parametrize("way", [with_augmentation, in_given_boxes, by_tiles])
def test_fused_model_gives_the_detections_of_the_plain_one(
    cfg: CfgNode, plain: nn.Module, fused: nn.Module, way: Way
) -> None:
    (expected,), (found,) = way(cfg, plain), way(cfg, fused)
    assert len(expected) >= 5
    assert_near(found, expected)


@pytest.mark.filterwarnings("ignore:.*bfloat16")
@pytest.mark.parametrize("way", ["none", "fused"])
def test_given_boxes_are_predicted_in_the_type_of_the_key(cfg: CfgNode, plain: nn.Module, way: str) -> None:
    (expected,), (found,) = (in_given_boxes(cfg, model) for model in (plain, optimized(cfg, plain, way, "bfloat16")))
    assert torch.equal(found.boxes, expected.boxes)
    assert 1e-5 < (found.scores - expected.scores).abs().max() < 0.05


def test_recording_of_a_fused_model_has_the_stages_of_the_plain_one(plain: nn.Module, fused: nn.Module) -> None:
    expected, found = Recording(), Recording()
    for model, recording in ((plain, expected), (fused, found)):
        model.predict([smooth_sample()], recorder=recording)
    assert [report.stage for report in found.reports] == [report.stage for report in expected.reports] != []
    for report, other in zip(found.reports, expected.reports, strict=True):
        assert report.counts() == other.counts()
        kept, other_kept = report.boxes[report.kept], other.boxes[other.kept]
        torch.testing.assert_close(kept, other_kept, atol=BOX_TOLERANCE, rtol=0)
    assert [values.stage for values in found.values] == [values.stage for values in expected.values]
    for name, features in expected.values_of_image(0)["features"].values.items():
        torch.testing.assert_close(found.values_of_image(0)["features"].values[name], features, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:.*bfloat16")
@pytest.mark.parametrize(("way", "dtype"), [("fused", "float32"), ("none", "bfloat16"), ("fused", "bfloat16")])
def test_threads_get_the_detections_of_calls_one_after_the_other(
    cfg: CfgNode, plain: nn.Module, way: str, dtype: str
) -> None:
    model = optimized(cfg, plain, way, dtype)
    samples = [smooth_sample(64, width) for width in (64, 96, 150, 333)]
    serial = [predict(model, sample) for sample in samples]
    with ThreadPoolExecutor(4) as pool:
        for found, expected in zip(pool.map(lambda sample: predict(model, sample), samples), serial, strict=True):
            assert torch.equal(found.boxes, expected.boxes)
            assert torch.equal(found.scores, expected.scores)
            assert torch.equal(found.masks.bitmaps(), expected.masks.bitmaps())


def predict(model: nn.Module, sample: Sample) -> Detections:
    return model.predict([sample])[0]  # type: ignore[operator]


def assert_near(found: Detections, expected: Detections) -> None:
    assert torch.equal(found.classes, expected.classes)
    torch.testing.assert_close(found.boxes, expected.boxes, atol=BOX_TOLERANCE, rtol=0)
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)
    assert found.masks is not None
    assert expected.masks is not None
    bitmaps = expected.masks.bitmaps()
    assert bitmaps.any()
    assert (found.masks.bitmaps() != bitmaps).sum() <= max(1, 1e-3 * bitmaps.sum())
