"""Memory of this process: its peak, and what the C library keeps after it is freed."""

import ctypes
import resource
import sys

import torch

# Parameters of glibc's mallopt(3), from its malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3

LARGEST_INT = 2**31 - 1  # mallopt takes a C int: blocks up to 2 GiB are kept
NEVER_TRIM = -1  # becomes the largest size there is


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed blocks for the next allocation; whether it could be told.

    By default glibc maps each large block anew from the system and unmaps it when it is freed, so every step on the CPU
    faults in the pages of every activation again, zeroed by the kernel: about a third of the time of a Mask R-CNN step.
    The price is a process that stays as large as it ever was, and a heap with some holes. Blocks allocated before the
    call are not affected. It does nothing where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    keeps_large = libc.mallopt(M_MMAP_THRESHOLD, LARGEST_INT)
    never_trims = libc.mallopt(M_TRIM_THRESHOLD, NEVER_TRIM)
    return bool(keeps_large and never_trims)


MEBIBYTE = 2**20


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MiB: of tensors on a CUDA device, else of the process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MEBIBYTE
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MEBIBYTE
