"""ResNet and ResNeXt.

Source: He et al. 2016 (Deep Residual Learning); Xie et al. 2017 (ResNeXt) for groups; Dai et al. 2017 (Deformable
Convolutional Networks) for deformation.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode, choice_of
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.layers import build_norm, freeze_batch_norms
from mrcnn_zoo.modeling.backbones.residual_blocks import (
    STEM_POOLS,
    BasicBlock,
    BottleneckBlock,
    BottleneckWidth,
    Deformation,
    Stem,
)
from mrcnn_zoo.registries import BACKBONES
from mrcnn_zoo.structures import FeatureSpec

BlockBuilder = Callable[[int, int, int], nn.Module]  # channels of input and output, stride -> block

STAGES = ("res2", "res3", "res4", "res5")  # the stem counts as stage 1
# Blocks of each stage. Source: He et al. 2016, table 1.
BASIC_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
BOTTLENECK_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
BOTTLENECK_RES2_CHANNELS = 256


class ResNet(nn.Module):
    """A stem and stages res2, res3, ..., each at half the resolution of the one before unless dilated.

    Args:
        stem: pixels to features.
        stages: blocks of each stage by name, from fine to coarse.
        specs: channels and stride of the stem ("stem") and of each stage.
        out_features: names of the maps to return.
    """

    size_divisibility = 1

    def __init__(
        self,
        stem: Stem,
        *,
        stages: Mapping[str, Iterable[nn.Module]],
        specs: Mapping[str, FeatureSpec],
        out_features: list[str],
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stage_names = tuple(stages)
        for name, blocks in stages.items():
            self.add_module(name, nn.Sequential(*blocks))
        self.output_specs = {name: spec for name, spec in specs.items() if name in out_features}

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) pixels -> the requested maps, from fine to coarse."""
        features = self.stem(pixels)
        outputs = {"stem": features} if "stem" in self.output_specs else {}
        for name in self.stage_names:
            features = self.get_submodule(name)(features)
            if name in self.output_specs:
                outputs[name] = features
        return outputs

    def stage_of(self, name: str) -> int:
        """Number of the stage of a parameter; 1 for the stem.

        Args:
            name: e.g. "res4.0.conv1.weight".
        """
        stage = name.split(".")[0]
        return int(stage.removeprefix("res")) if stage in self.stage_names else 1

    def freeze(self, at: int) -> None:
        """Freeze the stem (1) and the stages up to res`at`; their batch norms become frozen batch norms.

        Args:
            at: number of the last frozen stage; 0 for none.
        """
        frozen: list[nn.Module] = [self.stem] if at >= 1 else []
        frozen += [self.get_submodule(name) for name in self.stage_names if int(name.removeprefix("res")) <= at]
        for part in frozen:
            part.requires_grad_(False)
            freeze_batch_norms(part)


@BACKBONES.register("build_resnet_backbone")
def build_resnet_backbone(cfg: CfgNode, input_channels: int) -> ResNet:
    """The ResNet of `MODEL.RESNETS` with the stages its outputs need, frozen up to `MODEL.BACKBONE.FREEZE_AT`.

    Args:
        cfg: the whole config.
        input_channels: C of the images.

    Raises:
        UserError: settings that exclude each other.
    """
    settings = cfg.MODEL.RESNETS
    _check_settings(cfg)
    channels, stride = settings.STEM_OUT_CHANNELS, Stem.stride
    stem = Stem(
        input_channels,
        channels,
        build_norm=partial(build_norm, settings.NORM, key="MODEL.RESNETS.NORM"),
        pool=choice_of(cfg, "MODEL.RESNETS.STEM_POOL", STEM_POOLS),
    )
    stages, specs = {}, {"stem": FeatureSpec(channels, stride)}
    for index, name in enumerate(_needed_stages(settings.OUT_FEATURES)):
        first_stride = 1 if index == 0 or _dilation(settings, index) > 1 else 2
        stages[name] = _build_stage(settings, index, in_channels=channels, first_stride=first_stride)
        channels, stride = _out_channels(settings, index), stride * first_stride
        specs[name] = FeatureSpec(channels, stride)
    resnet = ResNet(stem, stages=stages, specs=specs, out_features=settings.OUT_FEATURES)
    resnet.freeze(cfg.MODEL.BACKBONE.FREEZE_AT)
    return resnet


def build_res5_stage(cfg: CfgNode) -> tuple[nn.Sequential, FeatureSpec]:
    """The last stage alone, for the shared head of C4 models; its stride is 2 and it is never frozen.

    Returns:
        The blocks, whose input has the channels of res4, and the spec of their output; its stride, 2, is relative to
        their input.
    """
    settings = cfg.MODEL.RESNETS
    _check_settings(cfg)
    index = STAGES.index("res5")
    blocks = _build_stage(settings, index, in_channels=_out_channels(settings, index - 1), first_stride=2)
    return nn.Sequential(*blocks), FeatureSpec(_out_channels(settings, index), stride=2)


def _build_stage(settings: CfgNode, index: int, *, in_channels: int, first_stride: int) -> list[nn.Module]:
    """The blocks of stage `index` (0 is res2); the first one changes the channels and the resolution."""
    build_block = _block_builder(settings, index)
    out_channels = _out_channels(settings, index)
    blocks = (BASIC_BLOCKS | BOTTLENECK_BLOCKS)[settings.DEPTH][index]
    first = build_block(in_channels, out_channels, first_stride)
    return [first, *(build_block(out_channels, out_channels, 1) for _ in range(blocks - 1))]


def _block_builder(settings: CfgNode, index: int) -> BlockBuilder:
    norm = partial(build_norm, settings.NORM, key="MODEL.RESNETS.NORM")
    if settings.DEPTH in BASIC_BLOCKS:
        return lambda inputs, outputs, stride: BasicBlock(inputs, outputs, stride=stride, build_norm=norm)
    width = BottleneckWidth(settings.NUM_GROUPS * settings.WIDTH_PER_GROUP * 2**index, settings.NUM_GROUPS)
    deformation = None
    if settings.DEFORM_ON_PER_STAGE[index]:
        deformation = Deformation(settings.DEFORM_NUM_GROUPS, settings.DEFORM_MODULATED)

    def build_bottleneck(inputs: int, outputs: int, stride: int) -> nn.Module:
        return BottleneckBlock(
            inputs,
            outputs,
            width=width,
            strides=(stride, 1) if settings.STRIDE_IN_1X1 else (1, stride),
            dilation=_dilation(settings, index),
            build_norm=norm,
            deformation=deformation,
        )

    return build_bottleneck


def _out_channels(settings: CfgNode, index: int) -> int:
    return settings.RES2_OUT_CHANNELS * 2**index


def _dilation(settings: CfgNode, index: int) -> int:
    return settings.RES5_DILATION if STAGES[index] == "res5" else 1


def _needed_stages(out_features: list[str]) -> tuple[str, ...]:
    return STAGES[: max((STAGES.index(name) + 1 for name in out_features if name in STAGES), default=0)]


def _check_settings(cfg: CfgNode) -> None:
    settings = cfg.MODEL.RESNETS
    choice_of(cfg, "MODEL.RESNETS.DEPTH", BASIC_BLOCKS | BOTTLENECK_BLOCKS)
    known = ("stem", *STAGES)
    if not settings.OUT_FEATURES or not set(settings.OUT_FEATURES) <= set(known):
        raise UserError(f"MODEL.RESNETS.OUT_FEATURES = {settings.OUT_FEATURES} should name some of {', '.join(known)}.")
    if settings.RES5_DILATION not in (1, 2):
        raise UserError(f"MODEL.RESNETS.RES5_DILATION = {settings.RES5_DILATION} should be 1 or 2.")
    _check_deformation(settings)
    if settings.DEPTH not in BASIC_BLOCKS:
        return
    if settings.RES2_OUT_CHANNELS == BOTTLENECK_RES2_CHANNELS:
        raise UserError(
            f"MODEL.RESNETS.RES2_OUT_CHANNELS = {BOTTLENECK_RES2_CHANNELS} belongs to ResNet-50 and deeper; "
            f"set it to 64 for ResNet-{settings.DEPTH}."
        )
    if settings.NUM_GROUPS != 1 or settings.RES5_DILATION != 1:
        raise UserError(
            f"ResNet-{settings.DEPTH} has neither groups nor dilation: set MODEL.RESNETS.NUM_GROUPS and "
            f"MODEL.RESNETS.RES5_DILATION to 1 (they are {settings.NUM_GROUPS} and {settings.RES5_DILATION})."
        )


def _check_deformation(settings: CfgNode) -> None:
    stages, groups = settings.DEFORM_ON_PER_STAGE, settings.DEFORM_NUM_GROUPS
    if len(stages) != len(STAGES):
        raise UserError(
            f"MODEL.RESNETS.DEFORM_ON_PER_STAGE = {stages} should have {len(STAGES)} values: {', '.join(STAGES)}."
        )
    if not any(stages):
        return
    if settings.DEPTH in BASIC_BLOCKS:
        raise UserError(
            f"ResNet-{settings.DEPTH} has no deformable blocks: MODEL.RESNETS.DEFORM_ON_PER_STAGE needs "
            "MODEL.RESNETS.DEPTH 50 or more."
        )
    width = settings.NUM_GROUPS * settings.WIDTH_PER_GROUP * 2 ** stages.index(True)
    if groups < 1 or width % groups:
        raise UserError(f"MODEL.RESNETS.DEFORM_NUM_GROUPS = {groups} should divide the {width} channels it splits.")
