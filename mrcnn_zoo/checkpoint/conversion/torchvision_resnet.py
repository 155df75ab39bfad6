"""torchvision's classification ResNets and ResNeXts, as `torchvision.models.resnet50().state_dict()` has them."""

from mrcnn_zoo.checkpoint.conversion.converter import Converter
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
