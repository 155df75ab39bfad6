"""matterport's Keras weights here compute what Keras' definitions make of them.

The files are written with h5py under the project's layer names. What the layers should give is computed channels last,
with TensorFlow's paddings, straight from the arrays in the file.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrcnn_zoo.checkpoint import load_weights, read_weights
from mrcnn_zoo.config import load_config
from mrcnn_zoo.interop import Conversion, find_converter
from mrcnn_zoo.interop.matterport import MatterportConverter
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.ops.box_coding import LastPixelBoxCoder

h5py = pytest.importorskip("h5py", reason="h5py is an optional dependency")

CLASSES = 3  # and the background
BLOCKS = {2: "abc", 3: "abcd", 4: "abcdef", 5: "abc"}


def layers() -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of the weights of each layer of a narrow network: name -> weight -> shape."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}

    def conv(name: str, kernel: tuple[int, ...], norm: str = "") -> None:
        found[name] = {"kernel": kernel, "bias": (kernel[-1],)}
        if norm:
            found[norm] = dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), (kernel[-1],))

    conv("conv1", (7, 7, 3, 4), "bn_conv1")
    channels = 4
    for stage, letters in BLOCKS.items():
        inner, outer = 4 * 2 ** (stage - 2), 8 * 2 ** (stage - 2)
        for letter in letters:
            block = f"{stage}{letter}_branch"
            conv(f"res{block}2a", (1, 1, channels, inner), f"bn{block}2a")
            conv(f"res{block}2b", (3, 3, inner, inner), f"bn{block}2b")
            conv(f"res{block}2c", (1, 1, inner, outer), f"bn{block}2c")
            if letter == "a":
                conv(f"res{block}1", (1, 1, channels, outer), f"bn{block}1")
            channels = outer
    for level in range(2, 6):
        conv(f"fpn_c{level}p{level}", (1, 1, 8 * 2 ** (level - 2), 6))
        conv(f"fpn_p{level}", (3, 3, 6, 6))
    conv("rpn_conv_shared", (3, 3, 6, 10))
    conv("rpn_class_raw", (1, 1, 10, 6))
    conv("rpn_bbox_pred", (1, 1, 10, 12))
    conv("mrcnn_class_conv1", (7, 7, 6, 16), "mrcnn_class_bn1")
    conv("mrcnn_class_conv2", (1, 1, 16, 16), "mrcnn_class_bn2")
    conv("mrcnn_class_logits", (16, CLASSES + 1))
    conv("mrcnn_bbox_fc", (16, 4 * (CLASSES + 1)))
    for number in range(1, 5):
        conv(f"mrcnn_mask_conv{number}", (3, 3, 6, 6), f"mrcnn_mask_bn{number}")
    found["mrcnn_mask_deconv"] = {"kernel": (2, 2, 6, 6), "bias": (6,)}
    conv("mrcnn_mask", (1, 1, 6, CLASSES + 1))
    return found


def random_array(name: str, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    if name in ("gamma", "moving_variance"):
        return generator.uniform(0.3, 1.5, shape).astype(np.float32)
    scale = 0.2 if name != "kernel" else 1 / math.sqrt(math.prod(shape[:-1]))
    return generator.normal(0, scale, shape).astype(np.float32)


@pytest.fixture(scope="module")
def keras_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keras") / "mask_rcnn.h5"
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for layer, weights in layers().items():
            # The region proposal network is a model of its own there.
            group = file.require_group("rpn_model" if layer.startswith("rpn_") else layer)
            for name, shape in weights.items():
                group[f"{layer}/{name}:0"] = random_array(name, shape, generator)
        file.require_group("input_image").attrs["weight_names"] = []
    return path


@pytest.fixture(scope="module")
def arrays(keras_file: Path) -> dict[str, Tensor]:
    return read_weights(keras_file).weights


@pytest.fixture
def conversion(arrays: dict[str, Tensor]) -> Conversion:
    return MatterportConverter().convert(arrays, {})


@pytest.fixture
def model(conversion: Conversion, build_converted: Callable[[Conversion], nn.Module]) -> nn.Module:
    return build_converted(conversion)


# --- Keras' layers, from the arrays of a file; features are (N, H, W, C) ----------------------------------------------
class Keras:
    def __init__(self, arrays: dict[str, Tensor]) -> None:
        self.arrays = arrays

    def conv(self, name: str, x: Tensor, *, stride: int = 1, pad: int = 0) -> Tensor:
        kernel, bias = self.arrays[f"{name}/kernel"], self.arrays[f"{name}/bias"]
        height, width = kernel.shape[:2]
        x = F.pad(x, (0, 0, pad, pad, pad, pad))
        rows = range(0, x.shape[1] - height + 1, stride)
        columns = range(0, x.shape[2] - width + 1, stride)
        result = torch.stack(
            [
                torch.stack(
                    [torch.einsum("nijc,ijco->no", x[:, i : i + height, j : j + width], kernel) for j in columns], 1
                )
                for i in rows
            ],
            1,
        )
        return result + bias

    def norm(self, name: str, x: Tensor) -> Tensor:
        gamma, beta, mean, variance = (
            self.arrays[f"{name}/{value}"] for value in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return gamma * (x - mean) / torch.sqrt(variance + 1e-3) + beta

    def dense(self, name: str, x: Tensor) -> Tensor:
        return x @ self.arrays[f"{name}/kernel"] + self.arrays[f"{name}/bias"]

    def transposed_conv(self, name: str, x: Tensor) -> Tensor:
        kernel = self.arrays[f"{name}/kernel"]  # (2, 2, out, in)
        n, height, width, _ = x.shape
        result = torch.zeros(n, 2 * height, 2 * width, kernel.shape[2])
        for a in range(2):
            for b in range(2):
                result[:, a::2, b::2] = torch.einsum("nijc,oc->nijo", x, kernel[a, b])
        return result + self.arrays[f"{name}/bias"]

    def stem(self, x: Tensor) -> Tensor:
        x = self.norm("bn_conv1", self.conv("conv1", x, stride=2, pad=3)).relu()
        # MaxPooling2D((3, 3), strides=2, padding="same") of an even side: nothing before, one cell after.
        x = F.pad(x, (0, 0, 0, 1, 0, 1), value=-math.inf)
        return x.unfold(1, 3, 2).unfold(2, 3, 2).amax((-1, -2))

    def block(self, name: str, x: Tensor, *, stride: int = 1) -> Tensor:
        def part(branch: str, y: Tensor, **sizes: int) -> Tensor:
            return self.norm(f"bn{name}_branch{branch}", self.conv(f"res{name}_branch{branch}", y, **sizes))

        inner = part("2a", x, stride=stride).relu()
        inner = part("2c", part("2b", inner, pad=1).relu())
        return (inner + (part("1", x, stride=stride) if name.endswith("a") else x)).relu()


def channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def assert_near(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def keras(arrays: dict[str, Tensor]) -> Keras:
    return Keras(arrays)


def test_names_are_converted(arrays: dict[str, Tensor]) -> None:
    assert arrays.keys() == {f"{layer}/{name}" for layer, weights in layers().items() for name in weights}


@torch.no_grad()
def test_stem_and_stages_agree(keras: Keras, model: nn.Module) -> None:
    pixels = torch.randn(1, 64, 64, 3)
    features = keras.stem(pixels)
    bottom_up = model.backbone.bottom_up
    assert_near(bottom_up.stem(channels_first(pixels)), channels_first(features))
    ours = bottom_up(channels_first(pixels))
    for stage, letters in BLOCKS.items():
        for letter in letters:
            features = keras.block(f"{stage}{letter}", features, stride=2 if letter == "a" and stage > 2 else 1)
        assert_near(ours[f"res{stage}"], channels_first(features))


@torch.no_grad()
def test_finest_level_of_the_pyramid_agrees(keras: Keras, model: nn.Module) -> None:
    pixels = torch.randn(1, 3, 64, 64)
    stages = model.backbone.bottom_up(pixels)
    merged = None
    for level in (5, 4, 3, 2):
        lateral = keras.conv(f"fpn_c{level}p{level}", stages[f"res{level}"].permute(0, 2, 3, 1))
        up = 0 if merged is None else merged.repeat_interleave(2, 1).repeat_interleave(2, 2)
        merged = lateral + up
    assert merged is not None
    assert_near(model.backbone(pixels)["p2"], channels_first(keras.conv("fpn_p2", merged, pad=1)))


@torch.no_grad()
def test_objectness_softmax_becomes_a_sigmoid(keras: Keras, model: nn.Module) -> None:
    features = torch.randn(1, 4, 5, 6)
    shared = keras.conv("rpn_conv_shared", features, pad=1).relu()
    probabilities = keras.conv("rpn_class_raw", shared).reshape(-1, 2).softmax(-1)
    deltas = keras.conv("rpn_bbox_pred", shared).reshape(-1, 4)
    logits, our_deltas = model.proposal_generator.rpn_head([channels_first(features)])
    assert_near(logits[0].permute(0, 2, 3, 1).flatten().sigmoid(), probabilities[:, 1])
    assert_near(our_deltas[0].permute(0, 2, 3, 1).reshape(-1, 4), deltas[:, [1, 0, 3, 2]])


@torch.no_grad()
def test_box_head_agrees(keras: Keras, model: nn.Module) -> None:
    pooled = torch.randn(5, 7, 7, 6)
    shared = keras.norm("mrcnn_class_bn1", keras.conv("mrcnn_class_conv1", pooled)).relu()
    shared = keras.norm("mrcnn_class_bn2", keras.conv("mrcnn_class_conv2", shared)).relu().flatten(1)
    probabilities = keras.dense("mrcnn_class_logits", shared).softmax(-1)
    deltas = keras.dense("mrcnn_bbox_fc", shared).reshape(5, CLASSES + 1, 4)
    heads = model.roi_heads
    logits, our_deltas = heads.box_predictor(heads.box_head(channels_first(pooled)))
    assert_near(logits.softmax(-1)[:, :CLASSES], probabilities[:, 1:])
    assert_near(our_deltas.reshape(5, CLASSES, 4), deltas[:, 1:, [1, 0, 3, 2]])


@torch.no_grad()
def test_mask_head_agrees(keras: Keras, model: nn.Module) -> None:
    pooled = features = torch.randn(2, 14, 14, 6)
    for number in range(1, 5):
        features = keras.norm(f"mrcnn_mask_bn{number}", keras.conv(f"mrcnn_mask_conv{number}", features, pad=1)).relu()
    logits = keras.conv("mrcnn_mask", keras.transposed_conv("mrcnn_mask_deconv", features).relu())
    assert_near(model.roi_heads.mask_head(channels_first(pooled)), channels_first(logits)[:, 1:])


def test_anchors_agree(model: nn.Module) -> None:
    # Of one cell at stride 4 and size 32; the project's ratios are width over height, and its boxes y1 x1 y2 x2.
    ratios = np.array([0.5, 1, 2])
    heights, widths = 32 / np.sqrt(ratios), 32 * np.sqrt(ratios)
    expected = np.stack((-widths, -heights, widths, heights), 1) / 2
    levels = model.proposal_generator.anchor_generator([torch.zeros(1, 1, 2, 2)] * 5)
    np.testing.assert_allclose(levels[0][:3].numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(levels[0][3:6].numpy(), expected + np.array([4, 0, 4, 0]), rtol=1e-6)


def test_boxes_are_decoded_between_pixel_centres() -> None:
    # In matterport's coordinates: (x1, x2 - 1) / (side - 1), and back at the end.
    side, x1, x2, dx, dw = 128, 20.0, 52.0, 0.3, 0.4
    low, high = x1 / (side - 1), (x2 - 1) / (side - 1)
    center = low + 0.5 * (high - low) + dx * 0.1 * (high - low)
    width = (high - low) * math.exp(dw * 0.2)
    expected = [(center - width / 2) * (side - 1), (center + width / 2) * (side - 1) + 1]
    coder = LastPixelBoxCoder((10, 10, 5, 5))
    source = torch.tensor([[x1, x1, x2, x2]])
    decoded = coder.decode(torch.tensor([[dx, dx, dw, dw]]), source)
    assert decoded[0].tolist() == pytest.approx([expected[0], expected[0], expected[1], expected[1]], rel=1e-5)
    torch.testing.assert_close(coder.encode(source, decoded), torch.tensor([[dx, dx, dw, dw]]))


def test_load_weights_reads_the_h5_file(keras_file: Path, conversion: Conversion) -> None:
    settings = conversion.settings | {"MODEL.DEVICE": "cpu"}
    model = build_model(load_config(overrides=[part for item in settings.items() for part in item]))
    report = load_weights(model, keras_file)
    assert report.is_complete
    assert report.converter == "matterport Mask_RCNN"


def test_unknown_layers_are_leftovers(arrays: dict[str, Tensor]) -> None:
    assert isinstance(find_converter(arrays.keys()), MatterportConverter)
    conversion = MatterportConverter().convert(arrays | {"conv1000/kernel": torch.zeros(1)}, {})
    assert conversion.leftovers == ("conv1000/kernel",)
