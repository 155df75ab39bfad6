"""Packed copies to a device, and masks pasted there, on the CPU as the device."""

import numpy as np
import pytest
import torch

from mrcnn_zoo.ops import mask_bitmaps
from mrcnn_zoo.ops.mask_bitmaps import paste_bitmaps
from mrcnn_zoo.ops.masks import paste_masks
from mrcnn_zoo.ops.transfer import free_memory, move_together

CPU = torch.device("cpu")


def test_packed_copies_have_the_values_shapes_and_dtypes() -> None:
    tensors = [
        torch.arange(15, dtype=torch.float32).view(5, 3)[:, 1:],  # not contiguous
        torch.zeros((0, 4)),
        torch.tensor(True),
        torch.arange(6, dtype=torch.uint8),
        torch.tensor([2**40, -1]),
        torch.zeros((2, 0, 3), dtype=torch.int64),
    ]
    moved = move_together(tensors, CPU)
    for copy, tensor in zip(moved, tensors, strict=True):
        assert copy.dtype == tensor.dtype
        assert torch.equal(copy, tensor)
        assert copy.numel() == 0 or copy.data_ptr() != tensor.data_ptr()
    assert len({copy.untyped_storage().data_ptr() for copy in moved if copy.numel()}) == 1
    assert move_together([], CPU) == []


def test_free_memory_is_measured_on_cuda_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert free_memory(CPU) == 0
    for name, value in {"memory_reserved": 70, "memory_allocated": 40, "mem_get_info": (500, 1000)}.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    assert free_memory(torch.device("cuda", 0)) == 530


@pytest.mark.parametrize("threshold", [0.5, 0.2])
def test_bitmaps_pasted_on_a_device_equal_those_pasted_on_the_host(
    threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.random((12, 14, 14), dtype=np.float32)
    corners = rng.uniform(-10, 60, (12, 2))
    boxes = np.concatenate((corners, corners + rng.uniform(1, 40, (12, 2))), axis=1).astype(np.float32)
    boxes[3], boxes[4] = [5, 5, 5, 20], [80, 80, 90, 90]  # without width, and outside
    expected = np.zeros((12, 50, 64), dtype=bool)
    for bitmap, (x, y, window) in zip(
        expected, paste_masks(probabilities, boxes, (50, 64), threshold=threshold), strict=True
    ):
        bitmap[y : y + window.shape[0], x : x + window.shape[1]] = window
    monkeypatch.setattr(mask_bitmaps, "MAX_VALUES", 50 * 64 * 5)  # five masks at a time
    found = paste_bitmaps(torch.from_numpy(probabilities), torch.from_numpy(boxes), (50, 64), threshold=threshold)
    assert expected.any(axis=(1, 2)).sum() >= 8
    np.testing.assert_array_equal(found.numpy(), expected)
