"""Where a run takes place: versions, devices, and the state of the source code."""

import json
import logging
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import mrcnn_zoo

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "pycocotools", "hotcoco", "faster-coco-eval")

logger = logging.getLogger(__name__)


def record_environment(folder: Path) -> None:
    """Write `environment.json`, and log the versions."""
    environment = describe_environment()
    (folder / "environment.json").write_text(json.dumps(environment, indent=2) + "\n", encoding="utf-8")
    logger.info("%s", " ".join(f"{name} {version}" for name, version in environment["versions"].items()))


def describe_environment() -> dict[str, Any]:
    """Versions, devices and git state, as plain values."""
    return {"versions": installed_versions(), "devices": _devices(), "git": git_state(), "command": list(sys.argv)}


def installed_versions() -> dict[str, str]:
    """Of Python, of this package, and of what its numbers depend on; what is not installed is left out."""
    versions = {"python": platform.python_version(), "mrcnn_zoo": mrcnn_zoo.__version__}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions | ({"cuda": torch.version.cuda} if torch.version.cuda else {})


def git_state(folder: Path | None = None) -> dict[str, Any]:
    """Commit, branch and whether files are changed, of the checkout that holds this package; {} outside of one."""
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
