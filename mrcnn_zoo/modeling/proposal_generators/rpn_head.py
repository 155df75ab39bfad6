"""RPN heads: objectness logits and box deltas of every anchor, from feature maps."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.layers import Conv2d, relu_
from mrcnn_zoo.registries import RPN_HEADS

WEIGHT_STD = 0.01  # Ren et al. 2015 (Faster R-CNN), sec. 3.1.3

ObjectnessLayer = Callable[[int, int], nn.Module]  # (C, A) -> (N, C, H, W) to logits (N, A, H, W)


class SoftmaxObjectness(nn.Module):
    """Softmax over background and object, as one logit per anchor: the difference of their scores.

    The softmax of two scores is the sigmoid of their difference, so the ranking is that of the object's probability,
    and the binary cross-entropy is the cross-entropy over the two classes. Models of matterport need it.

    Source: Ren et al. 2015 (Faster R-CNN), sec. 3.1, footnote on the two-class softmax layer.

    Args:
        in_channels: C.
        num_anchors: A, anchors per cell.
    """

    def __init__(self, in_channels: int, num_anchors: int) -> None:
        super().__init__()
        self.conv = Conv2d(in_channels, 2 * num_anchors, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, A, H, W) logits."""
        background, thing = self.conv(hidden).unflatten(1, (-1, 2)).unbind(2)
        return thing - background


def sigmoid_objectness(in_channels: int, num_anchors: int) -> nn.Module:
    """One output per anchor, the logit itself.

    Args:
        in_channels: C.
        num_anchors: A, anchors per cell.
    """
    return Conv2d(in_channels, num_anchors, 1)


class StandardRPNHead(nn.Module):
    """3 x 3 convolutions, then a 1 x 1 convolution for objectness and one for boxes; the same layers on every level.

    Source: Ren et al. 2015 (Faster R-CNN), sec. 3.1.

    Args:
        in_channels: C of every level.
        num_anchors: A, anchors per cell.
        hidden_channels: C after each 3 x 3 convolution.
        objectness: makes the layer that scores anchors.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        num_anchors: int,
        hidden_channels: Sequence[int],
        objectness: ObjectnessLayer = sigmoid_objectness,
    ) -> None:
        super().__init__()
        inputs = (in_channels, *hidden_channels)
        convs = [Conv2d(a, b, 3, activation=relu_) for a, b in zip(inputs, hidden_channels, strict=False)]
        # One convolution is named conv, several conv.conv0, conv.conv1, ..., as in Detectron2's checkpoints.
        self.conv = convs[0] if len(convs) == 1 else nn.Sequential()
        if len(convs) > 1:
            for index, conv in enumerate(convs):
                self.conv.add_module(f"conv{index}", conv)
        self.objectness_logits = objectness(inputs[-1], num_anchors)
        self.anchor_deltas = Conv2d(inputs[-1], 4 * num_anchors, 1)
        for layer in self.modules():
            if isinstance(layer, Conv2d):
                nn.init.normal_(layer.weight, std=WEIGHT_STD)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """For each level (N, C, H, W): logits (N, A, H, W) and deltas (N, 4 A, H, W), those of an anchor adjacent."""
        hidden = [self.conv(level) for level in features]
        return [self.objectness_logits(level) for level in hidden], [self.anchor_deltas(level) for level in hidden]


@RPN_HEADS.register("StandardRPNHead")
def build_standard_rpn_head(cfg: CfgNode, channels: int, num_anchors: int) -> StandardRPNHead:
    """The head with the convolutions of `MODEL.RPN.CONV_DIMS` and a sigmoid.

    Args:
        cfg: the whole config.
        channels: C of every level.
        num_anchors: A, anchors per cell.
    """
    return StandardRPNHead(channels, num_anchors=num_anchors, hidden_channels=_hidden_channels(cfg, channels))


@RPN_HEADS.register("SoftmaxRPNHead")
def build_softmax_rpn_head(cfg: CfgNode, channels: int, num_anchors: int) -> StandardRPNHead:
    """The head with the convolutions of `MODEL.RPN.CONV_DIMS` and a softmax over background and object.

    Args:
        cfg: the whole config.
        channels: C of every level.
        num_anchors: A, anchors per cell.
    """
    hidden = _hidden_channels(cfg, channels)
    return StandardRPNHead(channels, num_anchors=num_anchors, hidden_channels=hidden, objectness=SoftmaxObjectness)


def _hidden_channels(cfg: CfgNode, channels: int) -> list[int]:
    """Those of `MODEL.RPN.CONV_DIMS`, where -1 keeps the number of channels."""
    hidden: list[int] = []
    for dim in cfg.MODEL.RPN.CONV_DIMS:
        hidden.append(dim if dim > 0 else (hidden[-1] if hidden else channels))
    return hidden
