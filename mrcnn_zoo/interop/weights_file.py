"""Writes weights into `.safetensors` and `.pth` files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.output_files import write_atomically

SAFETENSORS = ".safetensors"
PTH = ".pth"


def write_weights(
    path: Path, weights: Mapping[str, Tensor], *, metadata: Mapping[str, Any] | None = None, half: bool = False
) -> None:
    """Write weights into a file.

    Args:
        path: of the file, `.safetensors` or `.pth`; its folder is made.
        weights: by their names in the file, on any device.
        metadata: texts and lists beside the weights. With None a `.pth` is a bare state dict, else Detectron2's
            `{"model": weights, **metadata}`.
        half: write the weights in half precision.

    Raises:
        UserError: another suffix, a weight that half precision cannot hold, or a file that cannot be written.
    """
    if path.suffix not in (SAFETENSORS, PTH):
        raise UserError(f"{path} should end in {SAFETENSORS} or {PTH}.")
    copies = {name: _copy(name, tensor, half=half) for name, tensor in weights.items()}
    if path.suffix == PTH:
        content: dict[str, Any] = copies if metadata is None else {"model": copies, **metadata}
        write_atomically(path, lambda file: torch.save(content, file))
        return
    from safetensors.torch import save

    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in (metadata or {}).items()}
    write_atomically(path, lambda file: file.write(save(copies, metadata={"format": "pt", **texts})))


def _copy(name: str, tensor: Tensor, *, half: bool) -> Tensor:
    """A copy that shares no memory: torch.save writes a view with all of the memory below it."""
    value = tensor.detach().cpu()
    if half and value.is_floating_point():
        halved = value.half()
        if not halved.isfinite().all() and value.isfinite().all():
            raise UserError(
                f"{name} has values up to {float(value.abs().max()):.3g}, and half precision ends at "
                f"{torch.finfo(torch.half).max:.0f}: write it in full precision."
            )
        value = halved
    return value.clone(memory_format=torch.contiguous_format)
