import pytest
import torch
from torch import Tensor, nn

from mrcnn_zoo.config import load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.backbones.fpn import FPN, ConvLevels, MaxPoolLevel, add, average, build_fpn
from mrcnn_zoo.structures import FeatureSpec


class TwoMaps(nn.Module):
    """Pixels with one channel as they are, and every second one."""

    size_divisibility = 1

    def __init__(self) -> None:
        super().__init__()
        self.output_specs = {"fine": FeatureSpec(1, stride=4), "coarse": FeatureSpec(1, stride=8)}

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        return {"fine": pixels, "coarse": pixels[..., ::2, ::2]}


def build(fuse=add, in_features: tuple[str, ...] = ("fine", "coarse")) -> FPN:
    fpn = FPN(
        TwoMaps(),
        in_features=list(in_features),
        out_channels=1,
        build_norm=lambda _: None,
        fuse=fuse,
        top_block=MaxPoolLevel(),
    )
    # Laterals are the identity, outputs too: the middle tap of a 3 x 3 kernel.
    for name, weight in fpn.named_parameters():
        nn.init.zeros_(weight)
        if name.endswith("weight"):
            weight.data[..., weight.shape[2] // 2, weight.shape[3] // 2] = 1
    return fpn


PIXELS = torch.arange(16.0).reshape(1, 1, 4, 4)


@pytest.mark.parametrize(("fuse", "divisor"), [(add, 1), (average, 2)])
def test_level_is_the_lateral_map_plus_the_upsampled_coarser_level(fuse, divisor: int) -> None:
    maps = build(fuse)(PIXELS)
    coarse = torch.tensor([[0.0, 2.0], [8.0, 10.0]])
    assert maps["p3"][0, 0].tolist() == coarse.tolist()
    expected = (PIXELS[0, 0] + coarse.repeat_interleave(2, 0).repeat_interleave(2, 1)) / divisor
    assert maps["p2"][0, 0].tolist() == expected.tolist()


def test_max_pool_level_takes_every_second_cell() -> None:
    maps = build()(PIXELS)
    assert list(maps) == ["p2", "p3", "p4"]
    assert maps["p4"].tolist() == [[[[0.0]]]]


def test_levels_are_named_after_the_logarithm_of_their_stride() -> None:
    fpn = build()
    assert {name: spec.stride for name, spec in fpn.output_specs.items()} == {"p2": 4, "p3": 8, "p4": 16}
    assert {name.split(".")[0] for name in fpn.state_dict()} == {
        "fpn_lateral2",
        "fpn_lateral3",
        "fpn_output2",
        "fpn_output3",
    }
    assert fpn.size_divisibility == 8


def test_fusion_does_not_change_bottom_up_maps() -> None:
    pixels = PIXELS.clone()
    build()(pixels)
    assert torch.equal(pixels, PIXELS)


def test_gradients_reach_the_pixels_through_every_level() -> None:
    pixels = PIXELS.clone().requires_grad_()
    sum(level.sum() for level in build()(pixels).values()).backward()
    # Pixel (0, 0): itself in p2, in p3, in p4, and in four cells of p2 through the enlarged p3.
    assert pixels.grad is not None
    assert pixels.grad[0, 0, 0].tolist() == [7.0, 1.0, 6.0, 1.0]


def test_no_images_give_empty_levels() -> None:
    assert build()(torch.zeros(0, 1, 4, 4))["p2"].shape == (0, 1, 4, 4)


@pytest.mark.parametrize(
    ("in_features", "message"),
    [(("fine", "missing"), "returns: fine, coarse"), ((), "should name maps"), (("coarse", "fine"), r"\[8, 4\]")],
)
def test_missing_maps_and_wrong_strides_are_refused(in_features: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(in_features=in_features)


def configured(*overrides: object) -> FPN:
    settings = ["MODEL.FPN.IN_FEATURES", ["fine", "coarse"], "MODEL.FPN.OUT_CHANNELS", 2]
    return build_fpn(load_config(None, [*settings, *overrides]), TwoMaps())


def test_p7_is_a_convolution_of_the_activated_p6() -> None:
    block = ConvLevels(1, 1)
    for conv in (block.p6, block.p7):
        nn.init.zeros_(conv.weight)
        conv.weight.data[..., 1, 1] = 1
    p6, p7 = block(torch.tensor([[[[-1.0, 0.0, 2.0], [0.0, 0.0, 0.0], [3.0, 0.0, -4.0]]]]))
    assert p6[0, 0].tolist() == [[-1.0, 2.0], [3.0, -4.0]]
    assert p7[0, 0].tolist() == [[0.0]]


@pytest.mark.parametrize(
    ("name", "levels", "channels_of_p6"),
    [("", ["p2", "p3", "p4"], 0), ("none", ["p2", "p3"], 0), ("p6p7", ["p2", "p3", "p4", "p5"], 1)],
)
def test_top_block_adds_levels(name: str, levels: list[str], channels_of_p6: int) -> None:
    fpn = configured("MODEL.FPN.TOP_BLOCK", name)
    maps = fpn(torch.zeros(1, 1, 6, 6))
    assert list(maps) == list(fpn.output_specs) == levels
    assert [tuple(level.shape[1:]) for level in maps.values()] == [(2, 6, 6), (2, 3, 3), (2, 2, 2), (2, 1, 1)][
        : len(maps)
    ]
    if channels_of_p6:
        assert fpn.state_dict()["top_block.p6.weight"].shape == (2, channels_of_p6, 3, 3)


def test_p6_can_be_computed_from_the_coarsest_level() -> None:
    fpn = configured("MODEL.FPN.TOP_BLOCK", "p6p7", "MODEL.FPN.TOP_BLOCK_IN_FEATURE", "p3")
    assert fpn.state_dict()["top_block.p6.weight"].shape == (2, 2, 3, 3)
    maps = fpn(torch.randn(1, 1, 8, 8))
    assert fpn.top_block is not None
    torch.testing.assert_close(maps["p4"], fpn.top_block(maps["p3"])[0])


def test_top_block_source_that_skips_a_level_is_refused() -> None:
    with pytest.raises(UserError, match=r"TOP_BLOCK_IN_FEATURE = 'fine' should be 'coarse' or 'p3'"):
        configured("MODEL.FPN.TOP_BLOCK", "p6p7", "MODEL.FPN.TOP_BLOCK_IN_FEATURE", "fine")


def test_size_divisibility_includes_that_of_the_bottom_up_network() -> None:
    bottom_up = TwoMaps()
    bottom_up.size_divisibility = 12
    cfg = load_config(None, ["MODEL.FPN.IN_FEATURES", ["fine", "coarse"]])
    assert build_fpn(cfg, bottom_up).size_divisibility == 24


def test_unknown_fusion_is_refused() -> None:
    with pytest.raises(UserError, match=r"MODEL.FPN.FUSE_TYPE = 'max' is not one of 'sum', 'avg'"):
        configured("MODEL.FPN.FUSE_TYPE", "max")
