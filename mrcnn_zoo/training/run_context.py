"""Environment and random seeds of a run."""

import hashlib
import logging
import os
import platform
import random
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

import mrcnn_zoo
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.output_files import write_json

DATASETS_FILE = "datasets.json"
PACKAGES = ("torch", "torchvision", "numpy", "pillow", "pycocotools", "hotcoco", "faster-coco-eval")

logger = logging.getLogger(__name__)


def record_environment(folder: Path) -> None:
    """Write `environment.json`, and log the versions.

    Args:
        folder: of the file.
    """
    environment = describe_environment()
    write_json(folder / "environment.json", environment, indent=2)
    logger.info("%s", " ".join(f"{name} {version}" for name, version in environment["versions"].items()))


def record_datasets(
    folder: Path,
    train: Sequence[Dataset],
    test: Sequence[Dataset],
    *,
    groups: Mapping[str, Mapping[int, str]],
) -> None:
    """Write `datasets.json`: number of images, objects and classes with objects of each dataset.

    Args:
        folder: of the file.
        train: as trained on, with DATASETS.FRACTION and FOLDS.
        test: as evaluated on.
        groups: group of each held-out image of DATASETS.FOLDS by its id, by dataset; empty without DATASETS.GROUP.
    """
    content = {
        side: {item.name: _counts_of(item) for item in items} for side, items in (("train", train), ("test", test))
    }
    write_json(folder / DATASETS_FILE, {**content, "groups": groups} if groups else content, indent=1)


def _counts_of(dataset: Dataset) -> dict[str, int]:
    objects = [item for record in dataset.records for item in record.instances if not item.is_crowd]
    return {
        "images": len(dataset),
        "objects": len(objects),
        "classes": len({item.class_index for item in objects}),
    }


def describe_environment() -> dict[str, Any]:
    """Versions, devices and git state, as plain values."""
    return {"versions": installed_versions(), "devices": _devices(), "git": git_state(), "command": list(sys.argv)}


def installed_versions() -> dict[str, str]:
    """Versions of Python, this package and the packages that numbers depend on, if installed."""
    versions = {"python": platform.python_version(), "mrcnn_zoo": mrcnn_zoo.__version__}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions | ({"cuda": torch.version.cuda} if torch.version.cuda else {})


def git_state(folder: Path | None = None) -> dict[str, Any]:
    """Commit, branch and `is_changed` of a git checkout; {} outside of one.

    Args:
        folder: in the checkout; by default that of this package.
    """
    folder = folder or Path(mrcnn_zoo.__file__).parent
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return {}
    changed = _git(folder, "status", "--porcelain", "--", ".")
    return {
        "commit": commit,
        "branch": _git(folder, "rev-parse", "--abbrev-ref", "HEAD"),
        "is_changed": bool(changed),
    }


def _devices() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):  # no git on this machine
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def changed_keys(former: str, present: str) -> dict[str, tuple[Any, Any]]:
    """Dotted keys with different values in two dumped configs, with both values.

    Args:
        former: YAML.
        present: YAML.
    """
    before, after = (dict(_leaves(yaml.safe_load(text))) for text in (former, present))
    names = sorted(before.keys() | after.keys())
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


SEED_BITS = 31  # valid as a seed in every library and as an integer in YAML


def choose_seed(configured: int) -> int:
    """The configured seed, or a fresh random one where it is negative.

    Args:
        configured: SEED.
    """
    return configured if configured >= 0 else secrets.randbits(SEED_BITS)


def derived_seed(seed: int, *purpose: int | str) -> int:
    """A seed in [0, 2**63) for one purpose, e.g. `derived_seed(seed, "step", iteration, rank)`.

    Args:
        seed: of the run.
        *purpose: names and numbers.
    """
    text = ":".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and PyTorch, including those of accelerators.

    Args:
        seed: at least 0.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_step(seed: int, iteration: int, rank: int) -> None:
    """Seed one training step, so that a resumed run draws the same numbers as an uninterrupted one.

    Args:
        seed: of the run.
        iteration: of the step.
        rank: of the process.
    """
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
    """Restore all global generators, that of the current GPU where the state has one.

    Args:
        states: from `generator_states`.
    """
    version, internal, gauss_next = states["python"]
    random.setstate((version, tuple(internal), gauss_next))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


@contextmanager
def generators_aside(seed: int) -> Iterator[None]:
    """Seed the generators inside the block; their states are restored afterwards.

    Args:
        seed: at least 0.
    """
    states = generator_states()
    seed_everything(seed)
    try:
        yield
    finally:
        restore_generator_states(states)
