"""Memory of this process: peak use, whether the C library keeps freed blocks, and Python's garbage collection."""

import contextlib
import ctypes
import gc
import resource
import sys
from collections.abc import Iterator

import torch

# Parameters of glibc's mallopt(3), from its malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3

LARGEST_INT = 2**31 - 1  # mallopt takes a C int: blocks up to 2 GiB are kept
NEVER_TRIM = -1  # converted to the largest size


def keep_freed_memory() -> bool:
    """Make glibc keep freed blocks for the next allocation.

    By default glibc maps each large block from the system and unmaps it when freed, so each step on the CPU faults in
    the pages of all activations again, zeroed by the kernel: about a third of the time of a Mask R-CNN step. In return
    the process does not shrink below its peak size. Blocks allocated before the call are not affected.

    Returns:
        Whether the setting is active; False if the C library is not glibc.
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


@contextlib.contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Without it, while millions of objects are made, Python's collector searches all earlier ones again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MiB: of the tensors on a CUDA device, otherwise of the resident set of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MEBIBYTE
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MEBIBYTE
