import pytest
import torch

from mrcnn_zoo.config import load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.backbones.vgg import ConvStages, build_plain_cnn_backbone


def build(*overrides: object, channels: int = 1) -> ConvStages:
    return build_plain_cnn_backbone(load_config(None, ["MODEL.BACKBONE.FREEZE_AT", 0, *overrides]), channels)


def test_stages_have_the_given_channels_and_convolutions() -> None:
    network = build(
        "MODEL.PLAIN_CNN.CHANNELS",
        [4, 6],
        "MODEL.PLAIN_CNN.CONVS_PER_STAGE",
        2,
        "MODEL.PLAIN_CNN.OUT_FEATURES",
        ["conv2"],
    )
    assert {name: tuple(value.shape) for name, value in network.named_parameters() if name.endswith("weight")} == {
        "conv1_1.weight": (4, 1, 3, 3),
        "norm1_1.weight": (4,),
        "conv1_2.weight": (4, 4, 3, 3),
        "norm1_2.weight": (4,),
        "conv2_1.weight": (6, 4, 3, 3),
        "norm2_1.weight": (6,),
        "conv2_2.weight": (6, 6, 3, 3),
        "norm2_2.weight": (6,),
    }
    assert network(torch.randn(2, 1, 8, 8))["conv2"].shape == (2, 6, 4, 4)


def test_values_are_those_of_convolution_activation_and_pooling() -> None:
    network = build(
        *("MODEL.PLAIN_CNN.CHANNELS", [1, 1], "MODEL.PLAIN_CNN.NORM", ""),
        *("MODEL.PLAIN_CNN.OUT_FEATURES", ["conv1", "conv2", "pool2"]),
    )
    for weight in network.parameters():
        weight.data.zero_()
    for name in ("conv1_1", "conv2_1"):
        network.get_submodule(name).weight.data[..., 1, 1] = 2
    maps = network(torch.arange(-8.0, 8.0).reshape(1, 1, 4, 4))
    assert maps["conv1"][0, 0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 2, 4, 6], [8, 10, 12, 14]]
    assert maps["conv2"][0, 0].tolist() == [[0, 0], [20, 28]]
    assert maps["pool2"].tolist() == [[[[28]]]]


@pytest.mark.parametrize("channels", [1, 3, 4, 16])
def test_images_may_have_any_number_of_channels(channels: int) -> None:
    assert build(channels=channels)(torch.randn(1, channels, 16, 16))["conv4"].shape == (1, 128, 2, 2)


def test_no_images_give_empty_maps() -> None:
    assert build()(torch.zeros(0, 1, 16, 16))["conv4"].shape == (0, 128, 2, 2)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("MODEL.PLAIN_CNN.CHANNELS", []), r"CHANNELS = \[\] must hold at least 1 value"),
        (("MODEL.PLAIN_CNN.CONVS_PER_STAGE", 0), "CONVS_PER_STAGE = 0"),
        (("MODEL.PLAIN_CNN.CHANNELS", [4, 8]), r"OUT_FEATURES = \['conv4'\] should name some of conv1, conv2, pool2"),
    ],
)
def test_impossible_settings_are_refused_with_their_key(overrides: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(*overrides)
