"""Any network of the library timm that can return feature maps.

The maps of a network, its valid image sizes and the parameters that its maps depend on are found by running it once on
torch's meta device. So this file has no code for any one architecture.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.layers import build_norm
from mrcnn_zoo.modeling.backbones.residual_blocks import NormBuilder
from mrcnn_zoo.registries import BACKBONES
from mrcnn_zoo.registry import did_you_mean
from mrcnn_zoo.structures import FeatureSpec

logger = logging.getLogger(__name__)

# Arguments with which transformers take images of any size; other networks do not have them.
ANY_SIZE_ARGUMENTS: tuple[dict[str, bool], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
# Some networks partition their coarsest map into windows: its sides must be multiples of the window's.
WINDOW_SIDES = (1, 2, 4, 7, 8)


@dataclass(frozen=True)
class FeatureInfo:
    """Feature maps and parameters of a network, found without its weights.

    Args:
        indices: timm's index of each map to return, by name, from fine to coarse.
        specs: of the same maps.
        is_channels_last: whether the maps come as (N, H, W, C).
        size_divisibility: height and width of the pixels must be multiples of this.
        frozen_parameters: parameters not to train.
        unused_parameters: parameters that none of the maps depends on.
        stages: for each parameter the number of the finest map that depends on it, 2 for c2.
    """

    indices: Mapping[str, int]
    specs: Mapping[str, FeatureSpec]
    is_channels_last: bool
    size_divisibility: int
    frozen_parameters: frozenset[str]
    unused_parameters: frozenset[str]
    stages: Mapping[str, int]


class TimmFeatures(nn.Module):
    """A network of timm with maps named c2, c3, ... after the rounded logarithm of their stride.

    Args:
        network: returns a list of maps.
        specs: of each of them, by name, from fine to coarse.
        is_channels_last: whether they come as (N, H, W, C).
        size_divisibility: height and width of the pixels must be multiples of this.
        build_norm: channels -> norm of each map, or None.
        stages: number of the stage of each parameter of the network, see `FeatureInfo`.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        specs: Mapping[str, FeatureSpec],
        is_channels_last: bool,
        size_divisibility: int,
        build_norm: NormBuilder,
        stages: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.stages = dict(stages or {})
        self.output_specs = dict(specs)
        self.is_channels_last = is_channels_last
        self.size_divisibility = size_divisibility
        for name, spec in specs.items():
            norm = build_norm(spec.channels)
            if norm is not None:
                self.add_module(f"norm_{name}", norm)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) pixels -> the requested maps, from fine to coarse."""
        if len(pixels) == 0:  # window attention cannot reshape empty batches
            return {name: self._no_maps(pixels, spec) for name, spec in self.output_specs.items()}
        maps = self.network(pixels)
        outputs = {}
        for name, features in zip(self.output_specs, maps, strict=True):
            features = features.permute(0, 3, 1, 2) if self.is_channels_last else features
            norm = self._modules.get(f"norm_{name}")
            outputs[name] = features if norm is None else norm(features)
        return outputs

    def stage_of(self, name: str) -> int:
        """Number of the stage of a parameter: 3 where c3 depends on it and no finer map.

        Args:
            name: e.g. "network.layer2.0.conv1.weight" or "norm_c4.weight".
        """
        module, _, rest = name.partition(".")
        return self.stages[rest] if module == "network" else int(module.removeprefix("norm_c"))

    def _no_maps(self, pixels: Tensor, spec: FeatureSpec) -> Tensor:
        height, width = pixels.shape[-2:]
        return pixels.new_zeros((0, spec.channels, height // spec.stride, width // spec.stride))


@BACKBONES.register("build_timm_backbone")
def build_timm_backbone(cfg: CfgNode, input_channels: int) -> TimmFeatures:
    """The network of timm that `MODEL.TIMM.NAME` names.

    Args:
        cfg: the whole config.
        input_channels: C of the images.
    """
    settings = cfg.MODEL.TIMM
    timm = _import_timm()
    _check_name(settings.NAME, timm)
    with torch.device("meta"):
        meta_model, arguments = _create(timm, settings.NAME, input_channels)
    info = _feature_info(meta_model, settings, input_channels, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)
    # Weights of a detector would overwrite the pretrained ones.
    is_pretrained = settings.PRETRAINED and not cfg.MODEL.WEIGHTS
    arguments = arguments | {"out_indices": tuple(info.indices.values()), "pretrained": is_pretrained}
    try:
        network, _ = _create(timm, settings.NAME, input_channels, (arguments,))
    except OSError as error:
        raise UserError(f"timm cannot download the weights of MODEL.TIMM.NAME = {settings.NAME!r}: {error}") from error
    if is_pretrained:
        _compare_photometry(cfg, network)
    _freeze(network, info.frozen_parameters)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name not in info.unused_parameters)
    return TimmFeatures(
        network,
        specs=info.specs,
        is_channels_last=info.is_channels_last,
        size_divisibility=info.size_divisibility,
        build_norm=partial(build_norm, settings.OUT_NORM, key="MODEL.TIMM.OUT_NORM"),
        stages=info.stages,
    )


def _import_timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise UserError("MODEL.BACKBONE.NAME needs timm, which is not installed: pip install timm") from error
    return timm


def _check_name(name: str, timm: ModuleType) -> None:
    if ":" in name or timm.is_model(name):  # hf-hub:... is looked up by timm itself
        return
    example = "set it to one of timm.list_models(), e.g. convnext_tiny" if not name else "timm has no such network"
    raise UserError(f"MODEL.TIMM.NAME = {name!r}: {example}.{did_you_mean(name, timm.list_models())}")


def _create(
    timm: ModuleType, name: str, input_channels: int, candidates: Sequence[dict] = ANY_SIZE_ARGUMENTS
) -> tuple[nn.Module, dict]:
    """The network with the first arguments that it accepts, and these arguments."""
    refusal: Exception | None = None
    for arguments in candidates:
        try:
            return timm.create_model(name, features_only=True, in_chans=input_channels, **arguments), arguments
        except (TypeError, RuntimeError) as error:
            refusal = error
    raise UserError(f"MODEL.TIMM.NAME = {name!r} cannot be built as a feature extractor: {refusal}") from refusal


def _feature_info(meta_model: nn.Module, settings: CfgNode, input_channels: int, *, freeze_at: int) -> FeatureInfo:
    """Run a network on the meta device to find its maps and their parameters."""
    timm_info: Any = meta_model.feature_info
    names = [f"c{round(math.log2(stride))}" for stride in timm_info.reduction()]
    last = {name: position for position, name in enumerate(names)}  # of several maps at one stride the last counts
    wanted = settings.OUT_FEATURES or list(last)
    unknown = [name for name in wanted if name not in last]
    if unknown:
        raise UserError(
            f"MODEL.TIMM.OUT_FEATURES = {wanted}: {settings.NAME} returns {', '.join(last)}, named after the logarithm "
            "of their stride."
        )
    chosen = sorted(last[name] for name in set(wanted))
    specs = {names[p]: FeatureSpec(timm_info.channels()[p], stride=timm_info.reduction()[p]) for p in chosen}
    is_channels_last = "NHWC" in str(getattr(meta_model, "output_fmt", ""))
    maps, divisibility = _trial(meta_model, settings.NAME, specs, chosen, (input_channels, is_channels_last))
    frozen = [
        maps[position] for position, stride in enumerate(timm_info.reduction()) if round(math.log2(stride)) <= freeze_at
    ]
    everything = {name for name, _ in meta_model.named_parameters()}
    return FeatureInfo(
        indices={names[position]: timm_info.out_indices[position] for position in chosen},
        specs=specs,
        is_channels_last=is_channels_last,
        size_divisibility=divisibility,
        frozen_parameters=frozenset(_dependencies(meta_model, frozen)) if freeze_at > 0 else frozenset(),
        unused_parameters=frozenset(everything - _dependencies(meta_model, [maps[position] for position in chosen])),
        stages=_stages(meta_model, maps, [round(math.log2(stride)) for stride in timm_info.reduction()]),
    )


def _stages(network: nn.Module, maps: Sequence[Tensor], numbers: Sequence[int]) -> dict[str, int]:
    """For each parameter the number of the finest map that depends on it; the last for those without a map."""
    stages = {name: max(numbers) for name, _ in network.named_parameters()}
    for number in sorted(set(numbers), reverse=True):
        of_number = [features for features, own in zip(maps, numbers, strict=True) if own == number]
        stages |= dict.fromkeys(_dependencies(network, of_number), number)
    return stages


def _trial(
    meta_model: nn.Module, name: str, specs: Mapping[str, FeatureSpec], chosen: list[int], pixels: tuple[int, bool]
) -> tuple[list[Tensor], int]:
    """All maps of images of a valid size, and the size divisibility."""
    channels, is_channels_last = pixels
    refusal = ""
    for side in WINDOW_SIDES:
        divisibility = side * math.lcm(*(spec.stride for spec in specs.values()))
        height, width = 6 * divisibility, 5 * divisibility
        try:
            with torch.enable_grad():
                maps = meta_model(torch.zeros(1, channels, height, width, device="meta"))
        except (AssertionError, RuntimeError, ValueError) as error:
            refusal = refusal or str(error)
            continue
        shapes = [(height // spec.stride, width // spec.stride) for spec in specs.values()]
        found = [tuple(maps[p].shape[1:3] if is_channels_last else maps[p].shape[2:]) for p in chosen]
        if shapes == found:
            return list(maps), divisibility
        refusal = refusal or f"images of {height} x {width} give maps of {found}, not of {shapes}"
    raise UserError(
        f"MODEL.TIMM.NAME = {name!r} does not take images of every size, which a detector needs: {refusal}. "
        "Networks of convolutions, Swin and plain ViT do."
    )


def _dependencies(network: nn.Module, maps: Sequence[Tensor]) -> set[str]:
    """The parameters that some of the maps depend on."""
    if not maps:
        return set()
    names, parameters = zip(*network.named_parameters(), strict=True)
    gradients = torch.autograd.grad([m.sum() for m in maps], parameters, allow_unused=True, retain_graph=True)
    return {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}


def _freeze(network: nn.Module, names: frozenset[str]) -> None:
    """Freeze the parameters, and replace their batch norms by frozen batch norms."""
    from timm.layers import freeze_batch_norm_2d

    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in names)
    for path, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm) and f"{path}.weight" in names:
            network.set_submodule(path, freeze_batch_norm_2d(module))


def _compare_photometry(cfg: CfgNode, network: nn.Module) -> None:
    """Warn if pretrained weights were trained with another mean, std or channel order than the config has."""
    pretrained: Any = getattr(network, "pretrained_cfg", None) or {}
    if "mean" not in pretrained or len(cfg.MODEL.PIXEL_MEAN) != len(pretrained["mean"]):
        return
    mean, std = ([round(255 * value, 3) for value in pretrained[key]] for key in ("mean", "std"))
    expected: dict[str, Any] = {"INPUT.FORMAT": "RGB", "MODEL.PIXEL_MEAN": mean, "MODEL.PIXEL_STD": std}
    if any(_differs(cfg.value_of(key), value) for key, value in expected.items()):
        settings = ", ".join(f"{key} {value}" for key, value in expected.items())
        logger.warning("the weights of %s were trained with: %s.", cfg.MODEL.TIMM.NAME, settings)


def _differs(value: Any, expected: Any) -> bool:
    if isinstance(expected, str):
        return value != expected
    return any(abs(a - b) > 0.01 for a, b in zip(value, expected, strict=True))
