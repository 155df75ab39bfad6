"""Where weights come from: local files of several kinds, and downloads that are kept in a cache."""

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from torch import Tensor

from mrcnn_zoo.checkpoint.checkpointer import load_checkpoint
from mrcnn_zoo.checkpoint.numpy_pickle import load_numpy_pickle
from mrcnn_zoo.errors import UserError

logger = logging.getLogger(__name__)

URL_PREFIXES = {"detectron2://": "https://dl.fbaipublicfiles.com/detectron2/"}
WEIGHTS_KEYS = (
    "model",
    "state_dict",
    "model_state_dict",
)  # ours and Detectron2's; Lightning, MMDetection; the tutorials
WRAPPER_PREFIXES = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile


@dataclass(frozen=True)
class WeightsFile:
    """Weights as a file has them, by their names in it."""

    source: str  # the path or URL it was asked for by
    weights: dict[str, Tensor]


def read_weights(path_or_url: str | Path) -> WeightsFile:
    """The weights in a `.pth`, `.safetensors` or `.pkl` file or at a URL, on the CPU; no code in them is run.

    A checkpoint of ours that keeps an average of the weights gives the average. Prefixes of wrapped models are removed.

    Raises:
        UserError: the file cannot be had or read, or holds no weights.
    """
    source = str(path_or_url)
    path = local_path(source)
    try:
        content = _read(path)
    except UserError:
        if path != Path(source):
            path.unlink(missing_ok=True)  # else every later try would find the broken download in the cache
        raise
    weights = _weights_in(content)
    if not weights:
        keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else type(content).__name__
        raise UserError(f"{source} holds no weights, only: {keys or 'nothing'}.")
    return WeightsFile(source, _without_wrapper_prefixes(weights))


def local_path(path_or_url: str) -> Path:
    """The file itself, or the cached download of a URL (folder: FVCORE_CACHE, else ~/.torch/iopath_cache)."""
    for prefix, base in URL_PREFIXES.items():
        if path_or_url.startswith(prefix):
            return _download(base + path_or_url.removeprefix(prefix))
    if path_or_url.startswith(("http://", "https://")):
        return _download(path_or_url)
    if "://" in path_or_url:
        known = ", ".join([*URL_PREFIXES, "https://", "http://"])
        raise UserError(f"{path_or_url}: unknown kind of address; known are {known} and paths of files.")
    return Path(path_or_url)


def _download(url: str) -> Path:
    from iopath.common.download import download
    from iopath.common.file_io import file_lock, get_cache_dir

    address = urlparse(url)
    relative = address.path.lstrip("/")
    if not Path(relative).name:
        raise UserError(f"{url} names no file.")
    # iopath's own layout has no host in it, and two hosts may have a file at the same path.
    host = "" if url.startswith(tuple(URL_PREFIXES.values())) else address.netloc.replace(":", "_")
    target = Path(get_cache_dir()) / host / relative
    try:
        with file_lock(str(target)):
            # A bar in a log file would be thousands of fragments.
            download(url, str(target.parent), filename=target.name, progress=sys.stderr.isatty())
    except OSError as error:  # urllib's errors are of this kind, full disks too
        raise UserError(
            f"cannot download {url} to {target.parent}: {error}. Check the address and the connection, or download the "
            f"file by other means and give its path."
        ) from error
    return target


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    if path.suffix == ".pkl":
        if not path.is_file():
            raise UserError(f"weights {path} do not exist.")
        return load_numpy_pickle(path)
    return load_checkpoint(path)


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(f"{path} needs the package safetensors: `pip install safetensors`.") from error
    if not path.is_file():
        raise UserError(f"weights {path} do not exist.")
    try:
        weights: dict[str, Tensor] = load_file(str(path), device="cpu")
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} ({os.path.getsize(path):,} bytes) is cut short or not safetensors: {error}."
        ) from error
    return weights


def _weights_in(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    named = next((content[key] for key in WEIGHTS_KEYS if isinstance(content.get(key), Mapping)), content)
    average = content.get("ema")
    if isinstance(average, Mapping) and isinstance(average.get("weights"), Mapping):
        named = {**named, **average["weights"]}
    tensors = {name: _as_tensor(value) for name, value in named.items() if isinstance(name, str)}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def _as_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return torch.from_numpy(np.ascontiguousarray(value)).reshape(value.shape)
    return None


def _without_wrapper_prefixes(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in WRAPPER_PREFIXES * 2:  # both wrappers, in either order
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights
