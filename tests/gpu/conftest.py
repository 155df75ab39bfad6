"""Fixtures of the GPU tests."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def torch_settings() -> Iterator[None]:
    """Restore the global float32 precision after each module; building a model sets it."""
    precision, allows_tf32 = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = allows_tf32
