"""How much memory this process has needed so far."""

import resource
import sys

import torch

MEBIBYTE = 2**20


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MiB: of tensors on a CUDA device, else of the process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MEBIBYTE
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MEBIBYTE
