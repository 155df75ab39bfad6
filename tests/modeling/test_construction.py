import os
import warnings
from collections.abc import Callable

import pytest
import torch

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling import build_model, construction, resolve_device
from mrcnn_zoo.registry import UnknownNameError


def test_cuda_falls_back_to_the_cpu_with_one_note(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    construction._note_no_cuda.cache_clear()
    caplog.set_level("INFO")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [resolve_device(name) for name in ("cuda", "cuda", "cpu")] == [torch.device("cpu")] * 3
    assert caplog.messages == ["MODEL.DEVICE is cuda, but there is no GPU here: running on the CPU"]


@pytest.mark.parametrize("name", ["mps", "meta", "mtia"])
def test_unavailable_device_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(construction, "_is_available", lambda _: False)
    with pytest.raises(UserError, match=rf"MODEL\.DEVICE = '{name}' is not available here"):
        resolve_device(name)


def test_gpu_beyond_the_last_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match="this machine has 2 GPUs, numbered from 0"):
        resolve_device("cuda:2")


def test_device_auto_is_the_available_device_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for is_available, expected in ((True, "cuda"), (False, "cpu")):
            monkeypatch.setattr(torch.cuda, "is_available", lambda value=is_available: value)
            assert resolve_device("auto") == torch.device(expected)


@pytest.mark.parametrize(("precision", "allows_tf32"), [("highest", False), ("high", True), ("medium", True)])
def test_float32_precision_holds_for_convolutions_too(
    small_cfg: Callable[..., CfgNode], precision: str, allows_tf32: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", not allows_tf32)  # put back after the test
    try:
        build_model(small_cfg("FLOAT32_PRECISION", precision))
        assert torch.get_float32_matmul_precision() == precision
        assert torch.backends.cudnn.allow_tf32 is allows_tf32
    finally:
        torch.set_float32_matmul_precision(before)


def test_deterministic_algorithms_are_used_on_request(
    small_cfg: Callable[..., CfgNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # removed after the test
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    try:
        build_model(small_cfg())
        assert not torch.are_deterministic_algorithms_enabled()
        build_model(small_cfg("DETERMINISTIC", True))
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)


def test_device_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match=r"MODEL\.DEVICE = 'gpu'"):
        resolve_device("gpu")


@pytest.mark.parametrize(
    ("key", "name", "meant"),
    [
        ("MODEL.META_ARCHITECTURE", "GeneralisedRCNN", "GeneralizedRCNN"),
        ("MODEL.ROI_HEADS.NAME", "StandartROIHeads", "StandardROIHeads"),
        ("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFcHead", "FastRCNNConvFCHead"),
        ("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsample", "MaskRCNNConvUpsampleHead"),
        ("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "RoIAlignV2", "ROIAlignV2"),
        ("MODEL.ROI_MASK_HEAD.POOLER_TYPE", "roipool", "ROIPool"),
        ("MODEL.ROI_HEADS.SUPPRESSION", "gready", "greedy"),
        ("MODEL.ROI_MASK_HEAD.LOSS", "sigmoids", "sigmoid"),
        ("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "smooth_l2", "smooth_l1"),
    ],
)
def test_misspelt_names_are_refused_with_the_nearest_one(
    key: str, name: str, meant: str, small_cfg: Callable[..., CfgNode]
) -> None:
    with pytest.raises(UnknownNameError, match=rf"{key}.*{name}.*Did you mean '{meant}'"):
        build_model(small_cfg(key, name))


def test_invalid_numbers_are_refused_with_their_key(small_cfg: Callable[..., CfgNode]) -> None:
    cfg = small_cfg()
    cfg.defrost()
    cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 0  # not through load_config, which has the same check
    with pytest.raises(UserError, match=r"MODEL\.ROI_MASK_HEAD\.POOLER_RESOLUTION = 0 must be at least 1"):
        build_model(cfg)
