"""VGG and other plain networks: stages of convolutions with max-pooling between them.

Source: Simonyan & Zisserman 2015 (Very Deep Convolutional Networks), table 1; Girshick 2015 (Fast R-CNN), sec. 2.3 for
leaving out the last max-pooling and sec. 4.5 for which stages to freeze.

Source: Schwalbe 2018 (Image Segmentation with Mask R-CNN, seminar notes), sec. 2.2.1 and the example of sec. 4.4.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrcnn_zoo.config import CfgNode, choice_of
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.layers import Conv2d, build_norm, freeze_batch_norms, kaiming_init_
from mrcnn_zoo.registries import BACKBONES
from mrcnn_zoo.structures import FeatureSpec


class ConvStages(nn.Module):
    """Stages of 3 x 3 convolutions, conv1, conv2, ..., each at half the resolution of the one before.

    The map of a stage is the output of its last convolution. Max-pooling separates the stages; the map `pool{n}` is
    that of the last stage after one more. Convolution i of stage s is the module `conv{s}_{i}`, its norm
    `norm{s}_{i}`.

    Args:
        in_channels: C of the images.
        stages: output channels of each convolution of each stage.
        build_norm: channels -> norm after each convolution, which keeps its bias, or None.
        out_features: names of the maps to return.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        stages: Sequence[Sequence[int]],
        build_norm: Callable[[int], nn.Module | None],
        out_features: Sequence[str],
    ) -> None:
        super().__init__()
        self.lengths = [len(widths) for widths in stages]
        specs = {}
        channels = in_channels
        for stage, widths in enumerate(stages, start=1):
            for number, width in enumerate(widths, start=1):
                conv = Conv2d(channels, width, 3)
                kaiming_init_(conv)
                self.add_module(f"conv{stage}_{number}", conv)
                norm = build_norm(width)
                if norm is not None:
                    self.add_module(f"norm{stage}_{number}", norm)
                channels = width
            specs[f"conv{stage}"] = FeatureSpec(channels, stride=2 ** (stage - 1))
        specs[f"pool{len(stages)}"] = FeatureSpec(channels, stride=2 ** len(stages))
        self.output_specs = {name: spec for name, spec in specs.items() if name in out_features}
        self.size_divisibility = max(spec.stride for spec in self.output_specs.values())

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) pixels -> the requested maps, from fine to coarse."""
        features = pixels
        outputs = {}
        for stage, length in enumerate(self.lengths, start=1):
            if stage > 1:
                features = F.max_pool2d(features, kernel_size=2)
            for number in range(1, length + 1):
                features = self._convolve(features, f"{stage}_{number}")
            outputs[f"conv{stage}"] = features
        pooled = f"pool{len(self.lengths)}"
        if pooled in self.output_specs:
            outputs[pooled] = F.max_pool2d(features, kernel_size=2)
        return {name: outputs[name] for name in self.output_specs}

    def stage_of(self, name: str) -> int:
        """Number of the stage of a parameter.

        Args:
            name: e.g. "conv4_1.weight" or "norm4_1.bias".
        """
        return int(name.removeprefix("conv").removeprefix("norm").split("_")[0])

    def freeze(self, at: int) -> None:
        """Freeze the stages up to conv`at`; their batch norms become frozen batch norms.

        Args:
            at: number of the last frozen stage; 0 for none.
        """
        for name, module in list(self.named_children()):
            if self.stage_of(name) <= at:
                module.requires_grad_(False)
                self.add_module(name, freeze_batch_norms(module))

    def _convolve(self, features: Tensor, place: str) -> Tensor:
        features = self.get_submodule(f"conv{place}")(features)
        norm = self._modules.get(f"norm{place}")
        return torch.relu_(features if norm is None else norm(features))


# Convolutions of each stage by depth (configurations A, B, D and E), and the width of each stage relative to the first.
CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDENING = (1, 2, 4, 8, 8)
MAPS = ("conv1", "conv2", "conv3", "conv4", "conv5", "pool5")


@BACKBONES.register("build_vgg_backbone")
def build_vgg_backbone(cfg: CfgNode, input_channels: int) -> ConvStages:
    """The VGG of `MODEL.VGG` with the stages its outputs need, frozen up to stage `MODEL.BACKBONE.FREEZE_AT`.

    Args:
        cfg: the whole config.
        input_channels: C of the images.
    """
    settings = cfg.MODEL.VGG
    convolutions = choice_of(cfg, "MODEL.VGG.DEPTH", CONVOLUTIONS)
    wanted = settings.OUT_FEATURES
    if not wanted or not set(wanted) <= set(MAPS):
        raise UserError(f"MODEL.VGG.OUT_FEATURES = {wanted} should name some of {', '.join(MAPS)}.")
    needed = 1 + max(min(MAPS.index(name), len(WIDENING) - 1) for name in wanted)
    counts = convolutions[:needed]
    vgg = ConvStages(
        input_channels,
        stages=[
            [settings.CONV1_OUT_CHANNELS * factor] * count for factor, count in zip(WIDENING, counts, strict=False)
        ],
        build_norm=partial(build_norm, settings.NORM, key="MODEL.VGG.NORM"),
        out_features=wanted,
    )
    vgg.freeze(cfg.MODEL.BACKBONE.FREEZE_AT)
    return vgg


@BACKBONES.register("build_plain_cnn_backbone")
def build_plain_cnn_backbone(cfg: CfgNode, input_channels: int) -> ConvStages:
    """The network of `MODEL.PLAIN_CNN`, frozen up to stage `MODEL.BACKBONE.FREEZE_AT`.

    Args:
        cfg: the whole config.
        input_channels: C of the images.
    """
    settings = cfg.MODEL.PLAIN_CNN
    stages = [[channels] * settings.CONVS_PER_STAGE for channels in settings.CHANNELS]
    maps = [*(f"conv{number}" for number in range(1, len(stages) + 1)), f"pool{len(stages)}"]
    if not settings.OUT_FEATURES or not set(settings.OUT_FEATURES) <= set(maps):
        raise UserError(
            f"MODEL.PLAIN_CNN.OUT_FEATURES = {settings.OUT_FEATURES} should name some of {', '.join(maps)}, "
            "a stage for each of MODEL.PLAIN_CNN.CHANNELS."
        )
    network = ConvStages(
        input_channels,
        stages=stages,
        build_norm=partial(build_norm, settings.NORM, key="MODEL.PLAIN_CNN.NORM"),
        out_features=settings.OUT_FEATURES,
    )
    network.freeze(cfg.MODEL.BACKBONE.FREEZE_AT)
    return network
