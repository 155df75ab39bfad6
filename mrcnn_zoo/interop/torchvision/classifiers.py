"""torchvision's classification ResNets, ResNeXts and VGGs as backbones.

The names there are positions in a list of layers, so the table has one line for each of the eight networks.
"""

from functools import partial

from mrcnn_zoo.interop.converter import Converter
from mrcnn_zoo.registries import CHECKPOINT_CONVERTERS

# The ImageNet statistics of torchvision's transforms, times 255.
TRAINED_WITH = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
}
RENAMES = (
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    (r"^layer1\.", "res2."),
    (r"^layer2\.", "res3."),
    (r"^layer3\.", "res4."),
    (r"^layer4\.", "res5."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
)


@CHECKPOINT_CONVERTERS.register("torchvision_resnet")
def build_torchvision_resnet_converter() -> Converter:
    """torchvision's classification ResNets and ResNeXts."""
    return Converter(
        source="torchvision ResNet",
        signature=("conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "layer4.1.bn2.weight"),
        renames=RENAMES,
        expected_settings=TRAINED_WITH,
        bottleneck_settings={"MODEL.RESNETS.STRIDE_IN_1X1": False},
        bottleneck_signature="layer1.0.conv3.weight",
    )


# Positions of the convolutions of each stage in `features`; with batch norm, its position is one later.
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
CLASSIFIER = ((r"^classifier\.0\.", "box_head.fc1."), (r"^classifier\.3\.", "box_head.fc2."))

Positions = tuple[tuple[int, ...], ...]


def build_torchvision_vgg_converter(depth: int, positions: Positions, *, has_batch_norm: bool) -> Converter:
    """The converter of one of the eight networks; `positions` are those of its convolutions, stage by stage."""
    renames = []
    signature = ["classifier.0.weight"]
    for stage, places in enumerate(positions, start=1):
        for number, place in enumerate(places, start=1):
            renames.append((rf"^features\.{place}\.", f"conv{stage}_{number}."))
            signature.append(f"features.{place}.bias")
            if has_batch_norm:
                renames.append((rf"^features\.{place + 1}\.", f"norm{stage}_{number}."))
                signature.append(f"features.{place + 1}.running_mean")
    return Converter(
        source=f"torchvision VGG-{depth}{' with batch norm' if has_batch_norm else ''}",
        signature=tuple(signature),
        renames=(*renames, *CLASSIFIER),
        # The ImageNet statistics of torchvision's transforms, times 255.
        expected_settings={
            "INPUT.FORMAT": "RGB",
            "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
            "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
            "MODEL.VGG.DEPTH": depth,
        },
        optional=r"box_head\.fc[12]\.",  # of other widths, or behind an FPN
    )


for _depth in PLAIN:
    CHECKPOINT_CONVERTERS.register(f"torchvision_vgg{_depth}")(
        partial(build_torchvision_vgg_converter, _depth, PLAIN[_depth], has_batch_norm=False)
    )
    CHECKPOINT_CONVERTERS.register(f"torchvision_vgg{_depth}_bn")(
        partial(build_torchvision_vgg_converter, _depth, WITH_BATCH_NORM[_depth], has_batch_norm=True)
    )
