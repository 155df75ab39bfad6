"""torchvision's classification ResNets, ResNeXts and VGGs as backbones.

The names of a VGG are positions in a list of layers, so each of the eight VGGs has a table.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from mrcnn_zoo.interop.converter import BackboneConverter
from mrcnn_zoo.interop.renaming import RESIDUAL_BLOCK, Line, RenameTable
from mrcnn_zoo.registries import CHECKPOINT_CONVERTERS

# The ImageNet statistics of torchvision's transforms, times 255.
TRAINED_WITH = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
}
RESNET = RenameTable(
    (
        ("conv1.", "stem.conv1."),
        ("bn1.", "stem.conv1.norm."),
        ("layer1.", "res2."),
        ("layer2.", "res3."),
        ("layer3.", "res4."),
        ("layer4.", "res5."),
    ),
    inner=RESIDUAL_BLOCK,
)


@CHECKPOINT_CONVERTERS.register("torchvision_resnet")
def build_torchvision_resnet_converter() -> BackboneConverter:
    """torchvision's classification ResNets and ResNeXts."""
    return BackboneConverter(
        source="torchvision ResNet",
        signature=("conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "layer4.1.bn2.weight"),
        names=RESNET,
        expected_settings=TRAINED_WITH,
        settings_from_weights=_resnet_settings,
    )


def _resnet_settings(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    has_bottlenecks = "layer1.0.conv3.weight" in weights
    return {"MODEL.RESNETS.STRIDE_IN_1X1": False} if has_bottlenecks else {}


# Positions of the convolutions of each stage in `features`; a batch norm follows its convolution.
PLAIN = {
    11: ((0,), (3,), (6, 8), (11, 13), (16, 18)),
    13: ((0, 2), (5, 7), (10, 12), (15, 17), (20, 22)),
    16: ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)),
    19: ((0, 2), (5, 7), (10, 12, 14, 16), (19, 21, 23, 25), (28, 30, 32, 34)),
}
WITH_BATCH_NORM = {
    11: ((0,), (4,), (8, 11), (15, 18), (22, 25)),
    13: ((0, 3), (7, 10), (14, 17), (21, 24), (28, 31)),
    16: ((0, 3), (7, 10), (14, 17, 20), (24, 27, 30), (34, 37, 40)),
    19: ((0, 3), (7, 10), (14, 17, 20, 23), (27, 30, 33, 36), (40, 43, 46, 49)),
}
CLASSIFIER = (("classifier.0.", "box_head.fc1."), ("classifier.3.", "box_head.fc2."))

Positions = tuple[tuple[int, ...], ...]


def build_torchvision_vgg_converter(depth: int, positions: Positions, *, has_batch_norm: bool) -> BackboneConverter:
    """The converter of one of torchvision's eight VGGs.

    Args:
        depth: 11, 13, 16 or 19.
        positions: of the convolutions of each stage in `features`.
        has_batch_norm: whether a batch norm follows each convolution.
    """
    lines: list[Line] = []
    signature = ["classifier.0.weight"]
    for stage, indices in enumerate(positions, start=1):
        for number, index in enumerate(indices, start=1):
            lines.append((f"features.{index}.", f"conv{stage}_{number}."))
            signature.append(f"features.{index}.bias")
            if has_batch_norm:
                lines.append((f"features.{index + 1}.", f"norm{stage}_{number}."))
                signature.append(f"features.{index + 1}.running_mean")
    return BackboneConverter(
        source=f"torchvision VGG-{depth}{' with batch norm' if has_batch_norm else ''}",
        signature=tuple(signature),
        names=RenameTable((*lines, *CLASSIFIER)),
        expected_settings={**TRAINED_WITH, "MODEL.VGG.DEPTH": depth},
        optional=r"box_head\.fc[12]\.",  # other widths, or an FPN before them
    )


for _depth in PLAIN:
    CHECKPOINT_CONVERTERS.register(f"torchvision_vgg{_depth}")(
        partial(build_torchvision_vgg_converter, _depth, PLAIN[_depth], has_batch_norm=False)
    )
    CHECKPOINT_CONVERTERS.register(f"torchvision_vgg{_depth}_bn")(
        partial(build_torchvision_vgg_converter, _depth, WITH_BATCH_NORM[_depth], has_batch_norm=True)
    )
