"""Randomness that a checkpoint can keep: every draw of a step follows from the seed, the iteration and the process."""

import hashlib
import random
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

SEED_BITS = 31  # fits every library's seed and a YAML integer


def choose_seed(configured: int) -> int:
    """The configured seed, or a fresh random one when it is negative."""
    return configured if configured >= 0 else secrets.randbits(SEED_BITS)


def derived_seed(seed: int, *purpose: int | str) -> int:
    """A seed in [0, 2**63) for one purpose, e.g. `derived_seed(seed, "step", iteration, rank)`."""
    text = ":".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's global generators, those of the accelerators included."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_step(seed: int, iteration: int, rank: int) -> None:
    """Seed one training step, so that a resumed run draws what the uninterrupted one drew, whatever ran in between."""
    seed_everything(derived_seed(seed, "step", iteration, rank))


def generator_states() -> dict[str, Any]:
    """The states of all global generators, of types that `torch.load(weights_only=True)` accepts."""
    version, internal, gauss_next = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(internal), gauss_next],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore_generator_states(states: dict[str, Any]) -> None:
    """Put all global generators back, that of the current GPU where there was and is one."""
    version, internal, gauss_next = states["python"]
    random.setstate((version, tuple(internal), gauss_next))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


@contextmanager
def generators_aside(seed: int) -> Iterator[None]:
    """Seed the generators for the block alone; afterwards they are as they were."""
    states = generator_states()
    seed_everything(seed)
    try:
        yield
    finally:
        restore_generator_states(states)
