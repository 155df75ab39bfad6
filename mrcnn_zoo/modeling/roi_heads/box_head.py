"""Box heads: from a pooled map to the vector that a region is judged by."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.layers.conv import Conv2d, caffe2_xavier_init_, kaiming_init_, relu_
from mrcnn_zoo.layers.norm import build_norm
from mrcnn_zoo.registries import BOX_HEADS
from mrcnn_zoo.structures import FeatureSpec


class FastRCNNConvFCHead(nn.Sequential):
    """3 x 3 convolutions, then fully connected layers, each with a ReLU: (R, C, S, S) -> (R, D), or a map without fc.

    Source: Lin et al. 2017 (FPN), section 4.2 for two fc; Wu & He 2018 (Group Normalization) for four conv and one fc;
    Girshick 2015 (Fast R-CNN), section 2.1 for VGG's fc6 and fc7, two of 4096 with dropout.

    Args:
        input_spec: channels and side of the pooled maps.
        conv_channels: output channels of each convolution.
        fc_channels: outputs of each fully connected layer.
        norm: registered name of the norm after each convolution, "" for none.
        dropout: share of the outputs of each fully connected layer that training sets to 0.
    """

    def __init__(
        self,
        input_spec: FeatureSpec,
        *,
        conv_channels: Sequence[int] = (),
        fc_channels: Sequence[int] = (),
        norm: str = "",
        dropout: float = 0.0,
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = input_spec.channels
        for number, width in enumerate(conv_channels, start=1):
            conv = Conv2d(
                channels, width, 3, norm=build_norm(norm, width, key="MODEL.ROI_BOX_HEAD.NORM"), activation=relu_
            )
            kaiming_init_(conv)
            layers[f"conv{number}"] = conv
            channels = width
        side = input_spec.side
        if fc_channels:
            layers["flatten"] = nn.Flatten()
            channels, side = channels * side**2, 1
        for number, width in enumerate(fc_channels, start=1):
            linear = nn.Linear(channels, width)
            caffe2_xavier_init_(linear)
            layers[f"fc{number}"] = linear
            layers[f"fc_relu{number}"] = nn.ReLU(inplace=True)
            if dropout > 0:
                layers[f"fc_dropout{number}"] = nn.Dropout(dropout)
            channels = width
        super().__init__(layers)
        self.output_spec = FeatureSpec(channels=channels, side=side)


@BOX_HEADS.register("FastRCNNConvFCHead")
def build_fast_rcnn_conv_fc_head(cfg: CfgNode, input_spec: FeatureSpec) -> FastRCNNConvFCHead:
    """The box head with the layers that `MODEL.ROI_BOX_HEAD` counts."""
    head = cfg.MODEL.ROI_BOX_HEAD
    if head.NUM_CONV + head.NUM_FC == 0:
        raise UserError(
            "FastRCNNConvFCHead has no layer: set MODEL.ROI_BOX_HEAD.NUM_FC or MODEL.ROI_BOX_HEAD.NUM_CONV above 0."
        )
    return FastRCNNConvFCHead(
        input_spec,
        conv_channels=[head.CONV_DIM] * head.NUM_CONV,
        fc_channels=[head.FC_DIM] * head.NUM_FC,
        norm=head.NORM,
        dropout=head.DROPOUT,
    )
