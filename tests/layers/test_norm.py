from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.layers import norm as norm_module
from mrcnn_zoo.layers.norm import ChannelLayerNorm, FrozenBatchNorm2d, SyncBatchNorm2d, build_norm, freeze_batch_norms
from support.processes import run_in_processes

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def batch_norm_with_statistics(channels: int) -> nn.BatchNorm2d:
    generator = torch.Generator().manual_seed(0)
    norm = nn.BatchNorm2d(channels)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            assert tensor is not None
            tensor.copy_(torch.rand(channels, generator=generator) + 0.5)
    return norm


def test_frozen_batch_norm_has_buffers_but_no_parameters() -> None:
    norm = FrozenBatchNorm2d(3)
    assert list(norm.state_dict()) == ["weight", "bias", "running_mean", "running_var"]
    assert not list(norm.parameters())


def test_initial_frozen_batch_norm_is_the_identity() -> None:
    features = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(FrozenBatchNorm2d(3)(features), features, rtol=1e-6, atol=1e-7)


def test_frozen_batch_norm_equals_batch_norm_in_evaluation() -> None:
    norm = batch_norm_with_statistics(3).eval()
    features = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(freeze_batch_norms(norm)(features), norm(features))


def test_frozen_batch_norm_keeps_channels_last_layout() -> None:
    features = torch.randn(2, 8, 4, 5).to(memory_format=torch.channels_last)
    assert FrozenBatchNorm2d(8)(features).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["BN", "SyncBN", "nnSyncBN"])
def test_frozen_batch_norm_keeps_num_batches_tracked(name: str) -> None:
    norm = build_norm(name, 3)
    assert norm is not None
    norm(torch.randn(2, 3, 4, 4)) if name != "nnSyncBN" else norm.num_batches_tracked.add_(1)
    frozen = freeze_batch_norms(norm)
    assert isinstance(frozen, FrozenBatchNorm2d)
    assert set(frozen.state_dict()) == set(norm.state_dict())
    assert frozen.state_dict()["num_batches_tracked"] == 1


@pytest.mark.parametrize("name", ["BN", "SyncBN", "nnSyncBN"])
@pytest.mark.parametrize("shape", [(0, 3, 7, 7), (0, 3, 1, 1), (1, 3, 1, 1)])
def test_batch_without_statistics_is_normalised_by_running_statistics(name: str, shape: tuple[int, ...]) -> None:
    norm = build_norm(name, 3)
    assert norm is not None
    norm.load_state_dict(batch_norm_with_statistics(3).state_dict())
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    features = torch.randn(shape, requires_grad=True)
    output = norm(features)
    assert output.shape == shape
    output.sum().backward()
    torch.testing.assert_close(output, norm.eval()(features))
    torch.testing.assert_close(norm.state_dict(), before, atol=0, rtol=0)
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in norm.parameters())


def test_batch_norm_of_two_values_equals_torch() -> None:
    norm, torchs = build_norm("BN", 3), nn.BatchNorm2d(3)
    assert norm is not None
    features = torch.randn(2, 3, 1, 1)
    torch.testing.assert_close(norm(features), torchs(features), atol=0, rtol=0)
    torch.testing.assert_close(norm.state_dict(), torchs.state_dict(), atol=0, rtol=0)


def test_freezing_replaces_nested_batch_norms_but_not_group_norms() -> None:
    network = nn.Sequential(batch_norm_with_statistics(4), nn.Sequential(nn.GroupNorm(2, 4)))
    assert freeze_batch_norms(network) is network
    assert isinstance(network[0], FrozenBatchNorm2d)
    assert isinstance(network[1][0], nn.GroupNorm)


def test_channel_layer_norm_normalises_each_pixel() -> None:
    features = torch.randn(2, 6, 3, 5) * 3 + 1
    normalised = ChannelLayerNorm(6)(features)
    expected = (features - features.mean(1, keepdim=True)) / features.std(1, correction=0, keepdim=True)
    torch.testing.assert_close(normalised, expected, atol=1e-4, rtol=1e-4)


def test_empty_name_builds_no_norm() -> None:
    assert build_norm("", 8) is None


def test_unknown_norm_raises_with_its_key() -> None:
    with pytest.raises(UserError, match=r"MODEL\.FPN\.NORM = 'GNN'.*'GN'"):
        build_norm("GNN", 8, key="MODEL.FPN.NORM")


def test_group_norm_names_the_channels_it_cannot_divide() -> None:
    with pytest.raises(UserError, match="48 channels"):
        build_norm("GN", 48)


def test_norms_accept_empty_batch() -> None:
    for name in ("FrozenBN", "GN", "LN"):
        norm = build_norm(name, 32)
        assert norm is not None
        assert norm(torch.zeros(0, 32, 3, 3)).shape == (0, 32, 3, 3)


def normalise_part(rank: int, features: Tensor, device: str) -> list[Tensor]:
    norm = SyncBatchNorm2d(features.shape[1]).to(device)
    normalise_empty_batch(norm)
    if device == "cpu":
        normalise_single_value(rank)
    part = features[:1] if rank == 0 else features[1:]  # one and two images: processes are weighted by their pixels
    part = part.to(device, copy=True).requires_grad_()
    output = norm(part)
    (output**3).sum().backward()
    return [value.to("cpu") for value in (output.detach(), part.grad, norm.running_mean, norm.running_var)]


def normalise_empty_batch(norm: SyncBatchNorm2d) -> None:
    """Without pixels in any process, nothing changes."""
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    norm(torch.zeros(0, norm.num_features, 5, 6, device=norm.weight.device, dtype=torch.bfloat16)).sum().backward()
    torch.testing.assert_close(norm.state_dict(), before, rtol=0, atol=0)
    norm.zero_grad()


def normalise_single_value(rank: int) -> None:
    """Statistics are undefined if all processes together have one value per channel or none."""
    norm = SyncBatchNorm2d(3)
    for value in (torch.full((rank, 3, 1, 1), 2.0, requires_grad=True), torch.zeros(0, 3, 1, 1, requires_grad=True)):
        output = norm(value)
        output.sum().backward()
        torch.testing.assert_close(output, value.detach() / (1 + norm.eps) ** 0.5)
    torch.testing.assert_close(norm.running_mean, torch.zeros(3))
    torch.testing.assert_close(norm.running_var, torch.ones(3))
    assert norm.num_batches_tracked == 0


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NEEDS_GPU])])
def test_sync_batch_norm_in_two_processes_equals_batch_norm_in_one(device: str, tmp_path: Path) -> None:
    features = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0)) * 2 + 1
    parts = run_in_processes(normalise_part, features, device, folder=tmp_path)
    whole, norm = features.clone().requires_grad_(), nn.BatchNorm2d(4)
    output = norm(whole)
    (output**3).sum().backward()
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), output.detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), whole.grad, atol=1e-4, rtol=1e-4)
    for part in parts:
        torch.testing.assert_close(part[2], norm.running_mean)
        torch.testing.assert_close(part[3], norm.running_var)


def test_group_norm_is_precise_in_channels_last_layout() -> None:
    features = torch.randn((2, 64, 40, 40), generator=torch.Generator().manual_seed(0)) + 5
    exact = torch.nn.functional.group_norm(features.double(), 32)
    norm = build_norm("GN", 64)
    for order in (torch.contiguous_format, torch.channels_last):
        made = norm(features.to(memory_format=order))
        assert made.is_contiguous(memory_format=order)
        assert (made - exact).abs().max() < 3e-6


def test_sync_batch_norm_of_constant_features_is_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norm_module, "world_size", lambda: 2)
    monkeypatch.setattr(norm_module, "all_reduce", lambda sums: 2 * sums)  # the other process has equal features
    norm = SyncBatchNorm2d(64)
    features = torch.linspace(1000.1, 3000.7, 64)[None, :, None, None].expand(2, 64, 5, 5)
    assert (features.square().mean((0, 2, 3)) - features.mean((0, 2, 3)).square()).min() < -norm.eps
    assert norm(features).isfinite().all()
    assert (norm.running_var >= 0).all()


class OnGPU(Tensor):
    """A CPU tensor with `is_cuda` True."""

    is_cuda = True


def test_sync_batch_norm_on_gpu_calls_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[Any]] = []

    def apply(features: Tensor, *others: Any) -> Tensor:
        _weight, _bias, mean, variance, *rest = others
        given.append(rest)
        for statistic in (mean, variance):
            statistic.fill_(torch.nan if not features.numel() else 7)
        return features + 1

    monkeypatch.setattr(norm_module, "world_size", lambda: 2)
    monkeypatch.setattr(norm_module.TorchSyncBatchNormFunction, "apply", apply)
    norm = SyncBatchNorm2d(3)
    output = norm(torch.zeros(2, 3, 4, 4, dtype=torch.bfloat16).as_subclass(OnGPU))
    assert output.dtype == torch.bfloat16
    assert (output == 1).all()
    assert given == [[1e-5, 0.1, dist.group.WORLD, 2]]
    assert norm(torch.zeros(0, 3, 4, 4).as_subclass(OnGPU)).shape == (
        0,
        3,
        4,
        4,
    )  # statistics of the empty map are discarded
    assert (norm.running_mean.tolist(), norm.running_var.tolist()) == ([7] * 3, [7] * 3)
    assert norm.num_batches_tracked == 1
