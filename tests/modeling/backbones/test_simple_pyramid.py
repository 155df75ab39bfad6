import pytest
import torch

from mrcnn_zoo.config import load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.backbones.simple_pyramid import SimplePyramid, build_timm_simple_fpn_backbone

pytest.importorskip("timm", reason="needs timm, which is optional: pip install timm")

VIT = ["MODEL.TIMM.NAME", "test_vit", "MODEL.FPN.NORM", "LN", "MODEL.FPN.OUT_CHANNELS", 8]


def build(*overrides: object) -> SimplePyramid:
    return build_timm_simple_fpn_backbone(load_config(None, [*VIT, "MODEL.FPN.IN_FEATURES", ["c4"], *overrides]), 3)


def test_simple_pyramid_has_five_levels_with_gradients() -> None:
    pyramid = build()
    maps = pyramid(torch.randn(2, 3, 64, 96))
    assert {name: spec.stride for name, spec in pyramid.output_specs.items()} == {
        **{"p2": 4, "p3": 8, "p4": 16},
        **{"p5": 32, "p6": 64},
    }
    for name, spec in pyramid.output_specs.items():
        assert maps[name].shape == (2, 8, 64 // spec.stride, -(-96 // spec.stride))
    sum(level.square().mean() for level in maps.values()).backward()
    assert all(weight.grad is not None for weight in pyramid.parameters())


def test_layers_have_the_names_and_shapes_of_detectron2s_vitdet() -> None:
    shapes = {k: tuple(v.shape) for k, v in build().state_dict().items() if k.startswith(("simfp_2", "simfp_5"))}
    assert shapes == {
        "simfp_2.0.weight": (64, 32, 2, 2),
        "simfp_2.0.bias": (32,),
        "simfp_2.1.weight": (32,),
        "simfp_2.1.bias": (32,),
        "simfp_2.3.weight": (32, 16, 2, 2),
        "simfp_2.3.bias": (16,),
        "simfp_2.4.weight": (8, 16, 1, 1),
        "simfp_2.4.norm.weight": (8,),
        "simfp_2.4.norm.bias": (8,),
        "simfp_2.5.weight": (8, 8, 3, 3),
        "simfp_2.5.norm.weight": (8,),
        "simfp_2.5.norm.bias": (8,),
        "simfp_5.1.weight": (8, 64, 1, 1),
        "simfp_5.1.norm.weight": (8,),
        "simfp_5.1.norm.bias": (8,),
        "simfp_5.2.weight": (8, 8, 3, 3),
        "simfp_5.2.norm.weight": (8,),
        "simfp_5.2.norm.bias": (8,),
    }


def test_no_images_give_empty_levels() -> None:
    assert build()(torch.zeros(0, 3, 32, 32))["p2"].shape == (0, 8, 8, 8)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("MODEL.FPN.IN_FEATURES", []), "should be one map"),
        (("MODEL.FPN.IN_FEATURES", ["c3"]), "of c4"),
        (("MODEL.TIMM.NAME", "vit_small_patch14_dinov2"), "multiple of 4"),
    ],
)
def test_impossible_settings_are_refused_with_their_key(overrides: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(*overrides)
