"""Copies of many tensors from the host to an accelerator at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

ALIGNMENT = 16  # bytes; a multiple of the size of every dtype


def move_together(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Tensors of the host on an accelerator, in one copy that the host does not wait for.

    They are packed into one block of bytes, which on CUDA is page-locked: only from such memory can the device copy
    while the host goes on. The results share the memory of one block.

    Args:
        tensors: on the CPU, of any shapes and dtypes.
        device: an accelerator.

    Returns:
        The same values, contiguous.
    """
    sizes = [tensor.numel() * tensor.element_size() for tensor in tensors]
    places = [-(-size // ALIGNMENT) * ALIGNMENT for size in sizes]
    packed = torch.empty(sum(places), dtype=torch.uint8, pin_memory=device.type == "cuda")
    for tensor, part, size in zip(tensors, packed.split(places), sizes, strict=True):
        if size:
            part[:size].copy_(tensor.detach().contiguous().view(-1).view(torch.uint8))
    moved = packed.to(device, non_blocking=True)
    return [
        part[:size].view(tensor.dtype).view(tensor.shape)
        for tensor, part, size in zip(tensors, moved.split(places), sizes, strict=True)
    ]


def free_memory(device: torch.device) -> int:
    """Bytes that a process can still allocate on a CUDA device; 0 on others, where this is not measured.

    Args:
        device: of any kind.
    """
    if device.type != "cuda":
        return 0
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused
