"""Networks that are nothing but convolutions with max-pooling between their stages."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrcnn_zoo.layers import Conv2d, fill_for_relu, freeze_batch_norms
from mrcnn_zoo.structures import FeatureSpec


class ConvStages(nn.Module):
    """Stages of 3 x 3 convolutions named conv1, conv2, ..., each at half the resolution of the one before.

    The map of a stage is what its last convolution returns. Max-pooling comes between the stages; the map `pool{n}` is
    the last stage's after one more. Convolution i of stage s is the module `conv{s}_{i}`, its norm `norm{s}_{i}`.

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
                fill_for_relu(conv)
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

    def freeze(self, at: int) -> None:
        """Turn the stages up to conv`at` into constants, batch norms into frozen ones."""
        for name, module in list(self.named_children()):
            if int(name.removeprefix("conv").removeprefix("norm").split("_")[0]) <= at:
                module.requires_grad_(False)
                self.add_module(name, freeze_batch_norms(module))

    def _convolve(self, features: Tensor, place: str) -> Tensor:
        features = self.get_submodule(f"conv{place}")(features)
        norm = self._modules.get(f"norm{place}")
        return torch.relu_(features if norm is None else norm(features))
