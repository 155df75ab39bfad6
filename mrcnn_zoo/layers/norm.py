"""Normalisation layers, registered in NORMS. Builders are called with the number of channels."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional as F
from torch.nn.modules._functions import SyncBatchNorm as TorchSyncBatchNormFunction

from mrcnn_zoo.distributed.processes import world_size
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registries import NORMS

GROUPS = 32  # Wu & He 2018 (Group Normalization), sec. 4


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation with constant statistics and affine parameters.

    It is the affine map `x * scale + shift`, which `Conv2d` folds into its weights.

    Args:
        num_channels: C.
        eps: added to the variance.
    """

    weight: Tensor  # (C,) all four
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_channels))
        self.register_buffer("bias", torch.zeros(num_channels))
        self.register_buffer("running_mean", torch.zeros(num_channels))
        # Minus eps, so that a new layer is exactly the identity.
        self.register_buffer("running_var", torch.ones(num_channels) - eps)
        # Not updated; kept for checkpoints of batch norms that were frozen later, as in Detectron2.
        self.register_buffer("num_batches_tracked", None)

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """The affine map of each channel: (C,), (C,)."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        scale, shift = self.scale_and_shift()
        return torch.addcmul(shift[:, None, None], features, scale[:, None, None])

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"


class ChannelLayerNorm(nn.Module):
    """Layer normalisation over the channels of each pixel of (N, C, H, W) maps.

    Args:
        num_channels: C.
        eps: added to the variance.
    """

    def __init__(self, num_channels: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        channels_last = features.permute(0, 2, 3, 1)
        return F.layer_norm(channels_last, self.weight.shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


class GroupNorm(nn.GroupNorm):
    """Group normalisation that is as precise for channels-last maps as for contiguous ones.

    On the CPU, torch's kernel for that order has a 25 times larger error, 2e-5 of the deviation, which deep networks
    amplify, and its gradient takes three times longer. Copying the map to the other order and back is cheaper.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape and order in memory."""
        if input.is_cuda or input.is_contiguous():
            return super().forward(input)
        return super().forward(input.contiguous()).contiguous(memory_format=torch.channels_last)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that accepts batches without statistics: no value or a single value per channel.

    Those are normalised with the running statistics, which they do not change. Heads get such batches from images with
    one region or none; torch's own layer raises an error then.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        return super().forward(input) if has_statistics(self, input) else normalise_as_in_evaluation(self, input)


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation with the statistics of the images of all processes, on any device.

    On GPUs it is torch's implementation, which runs only there. Processes are weighted by their numbers of pixels. If
    all together have no value or a single value per channel, the running statistics do not change, and on the CPU they
    normalise the maps, as in `BatchNorm2d`.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        if not self.training or world_size() == 1:
            return super().forward(input) if has_statistics(self, input) else normalise_as_in_evaluation(self, input)
        self._check_input_dim(input)
        return self._by_torch(input) if input.is_cuda else self._by_sums(input)

    def _by_torch(self, input: Tensor) -> Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        mean, variance, features = self.running_mean, self.running_var, input
        if has_statistics(self, input):
            self.num_batches_tracked += 1
        else:
            # If no process has a value, torch computes the mean of an empty map. It also sends the statistics of an
            # empty map in the precision of the map, while the others send theirs in float32.
            mean, variance, features = mean.clone(), variance.clone(), input.float()
        others = (self.eps, self.momentum, dist.group.WORLD, world_size())
        output = TorchSyncBatchNormFunction.apply(features, self.weight, self.bias, mean, variance, *others)
        return output.to(input.dtype)

    def _by_sums(self, input: Tensor) -> Tensor:
        features = input.float()
        sums = torch.cat(
            (
                features.sum(dim=(0, 2, 3)),
                features.square().sum(dim=(0, 2, 3)),
                features.new_tensor([features.numel() / self.num_features]),
            )
        )
        sums = all_reduce(sums)
        count = sums[-1]
        mean, mean_square = (sums[:-1] / count.clamp(min=1)).chunk(2)
        # In float32 the difference can be negative for nearly constant features; its root would be NaN.
        variance = (mean_square - mean.square()).clamp(min=0)
        mean, variance = self._or_running(mean, variance, count)
        self._update_statistics(mean.detach(), variance.detach(), count.detach())
        scale = (variance + self.eps).rsqrt() * self.weight
        shift = self.bias - mean * scale
        return torch.addcmul(shift[:, None, None], features, scale[:, None, None]).to(input.dtype)

    def _or_running(self, mean: Tensor, variance: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        assert self.running_mean is not None
        assert self.running_var is not None
        # Cloned: they are updated in place below, and the gradient needs their values before that.
        running_mean, running_var = self.running_mean.clone(), self.running_var.clone()
        return torch.where(count > 1, mean, running_mean), torch.where(count > 1, variance, running_var)

    @torch.no_grad()
    def _update_statistics(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        assert self.num_batches_tracked is not None
        momentum = torch.where(count > 1, self.momentum, 0.0)
        self.num_batches_tracked += count > 1
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * count / (count - 1).clamp(min=1), momentum)


class TorchSyncBatchNorm(nn.SyncBatchNorm):
    """torch's synchronised batch norm, which in a single process also accepts batches without statistics."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        if world_size() > 1 or has_statistics(self, input):
            return super().forward(input)
        return normalise_as_in_evaluation(self, input)


def has_statistics(norm: nn.Module, features: Tensor) -> bool:
    """Whether batch norm can normalise: always in evaluation, in training with at least two values per channel.

    Args:
        norm: the batch norm.
        features: (N, C, H, W).
    """
    return not norm.training or features.numel() > features.shape[1]


def normalise_as_in_evaluation(norm: nn.BatchNorm2d | nn.SyncBatchNorm, features: Tensor) -> Tensor:
    """Normalise with the running statistics; the affine parameters get gradients.

    Args:
        norm: the batch norm.
        features: (N, C, H, W).
    """
    return F.batch_norm(features, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


def build_norm(name: str, channels: int, *, key: str = "") -> nn.Module | None:
    """The norm registered under a name.

    Args:
        name: name in NORMS; "" for no norm.
        channels: C.
        key: config key of the name, for messages.
    """
    return NORMS.get(name, key=key)(channels) if name else None


def freeze_batch_norms(module: nn.Module) -> nn.Module:
    """Replace the batch norms of a module by frozen ones with the same statistics and parameters.

    Args:
        module: changed in place.

    Returns:
        The module, or its replacement if it is a batch norm itself.
    """
    if type(module).__module__.startswith("timm."):
        from timm.layers import freeze_batch_norm_2d  # its batch norms may contain the activation

        return freeze_batch_norm_2d(module)
    if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
        return _frozen(module)
    for name, child in module.named_children():
        frozen = freeze_batch_norms(child)
        if frozen is not child:
            setattr(module, name, frozen)
    return module


def _frozen(norm: nn.BatchNorm2d | nn.SyncBatchNorm) -> FrozenBatchNorm2d:
    frozen = FrozenBatchNorm2d(norm.num_features, eps=norm.eps).to(norm.weight.device)
    for name, buffer in frozen.named_buffers():
        buffer.copy_(getattr(norm, name).detach())
    if norm.num_batches_tracked is not None:
        frozen.num_batches_tracked = norm.num_batches_tracked.clone()
    return frozen.train(norm.training)


@NORMS.register("FrozenBN")
def build_frozen_batch_norm(channels: int) -> nn.Module:
    """Batch norm as a constant affine map.

    Args:
        channels: C.
    """
    return FrozenBatchNorm2d(channels)


@NORMS.register("BN")
def build_batch_norm(channels: int) -> nn.Module:
    """Batch norm over the images of one process.

    Args:
        channels: C.
    """
    return BatchNorm2d(channels)


@NORMS.register("SyncBN")
def build_sync_batch_norm(channels: int) -> nn.Module:
    """Batch norm over the images of all processes, on any device.

    Args:
        channels: C.
    """
    return SyncBatchNorm2d(channels)


@NORMS.register("nnSyncBN")
def build_torch_sync_batch_norm(channels: int) -> nn.Module:
    """torch's batch norm over the images of all processes; several processes need GPUs.

    Args:
        channels: C.
    """
    return TorchSyncBatchNorm(channels)


@NORMS.register("GN")
def build_group_norm(channels: int) -> nn.Module:
    """Group norm with 32 groups.

    Args:
        channels: C.
    """
    if channels % GROUPS:
        raise UserError(
            f"norm GN has {GROUPS} groups and cannot normalise {channels} channels; choose a multiple, or LN."
        )
    return GroupNorm(GROUPS, channels)


@NORMS.register("LN")
def build_layer_norm(channels: int) -> nn.Module:
    """Layer norm over the channels of each pixel.

    Args:
        channels: C.
    """
    return ChannelLayerNorm(channels)
