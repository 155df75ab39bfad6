"""Reads weights from `.pth`, `.safetensors`, `.pkl` and Keras' `.h5` files, local ones or downloads."""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrcnn_zoo.checkpoint.checkpointer import checkpoint_in, load_checkpoint, missing_checkpoint
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.interop.detectron2 import EARLY_POINTREND_NAMES
from mrcnn_zoo.model_zoo import index
from mrcnn_zoo.model_zoo.download import forget_download, local_path
from mrcnn_zoo.restricted_pickle import load_numpy_pickle, restricted_unpickling
from mrcnn_zoo.structures.summary import summary

logger = logging.getLogger(__name__)

KERAS_SUFFIXES = (".h5", ".hdf5")
PROGRAM_SUFFIXES = (".onnx", ".pt2")
KERAS_OPTIMIZER = "optimizer_weights/"
# ours and Detectron2's; Lightning's and MMDetection's; the tutorials'; Detectron's
WEIGHTS_KEYS = ("model", "state_dict", "model_state_dict", "blobs")
JSON_METADATA = {"class_names", "category_ids", "score_thresholds"}  # which the metadata of safetensors hold as text
WRAPPER_PREFIXES = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile


@dataclass(frozen=True, repr=False)
class WeightsFile:
    """The content of a file with weights.

    Args:
        source: the path or URL that it was read from.
        weights: by their names in the file, on the CPU.
        meta: the other content, by its keys in the file.
    """

    source: str
    weights: dict[str, Tensor]
    meta: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return summary(self)


def read_weights(path_or_url: str | Path) -> WeightsFile:
    """The weights in a file, on the CPU; no code in it is run.

    Of a checkpoint with averaged weights the average is read. Prefixes of wrapped models are removed.

    Args:
        path_or_url: see `find_weights`; a `.pth`, `.safetensors`, `.pkl` or Keras `.h5` file.

    Raises:
        UserError: the file cannot be found, downloaded or read, or holds no weights.
    """
    source = str(path_or_url)
    path = find_weights(source)
    if "://" not in source:
        source = str(path)
    try:
        content = _read(path)
    except UserError:
        if path != Path(source):
            forget_download(path)  # otherwise every later try would find the broken download in the cache
        raise
    weights = _weights_in(content)
    if not weights:
        keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else type(content).__name__
        raise UserError(f"{source} holds no weights, only: {keys or 'nothing'}.")
    weights = {
        EARLY_POINTREND_NAMES.rename(name): tensor for name, tensor in _without_wrapper_prefixes(weights).items()
    }
    return WeightsFile(source, weights, _meta_in(content))


def find_weights(source: str) -> Path:
    """The local path of a file with weights, which is not opened.

    Args:
        source: a path, the output folder of a training, a URL or `zoo://NAME`.

    Raises:
        UserError: it does not exist.
    """
    if not source.strip():
        raise UserError("the name of the weights is empty; name a file, a URL or zoo://NAME.")
    path = local_path(source).expanduser()
    if path.is_dir():
        file = checkpoint_in(path)
        logger.info("%s is a folder: reading %s in it", source, file.name)
        return file
    if not path.exists() and index.has_weights(source):
        raise UserError(f"weights {source} do not exist as a file. The zoo has them: {index.PREFIX}{source}")
    if not path.exists():
        raise UserError(missing_checkpoint(path))
    return path


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    if path.suffix == ".pkl":
        if not path.is_file():
            raise UserError(f"weights {path} do not exist.")
        return load_numpy_pickle(path)
    if path.suffix in PROGRAM_SUFFIXES:
        raise UserError(
            f"{path} is an exported program, which `predict`, `evaluate` and `Predictor` read. Here the checkpoint is "
            "needed that it was made from."
        )
    if path.suffix in KERAS_SUFFIXES:
        return read_keras_weights(path)
    with restricted_unpickling(path):
        return load_checkpoint(path)


def _load_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"weights {path} do not exist.")
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return {"model": weights, **_metadata_of(path, file.metadata() or {})}
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} ({os.path.getsize(path):,} bytes) is cut short or not safetensors: {error}."
        ) from error


def _metadata_of(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    content: dict[str, Any] = dict(metadata)
    for key in JSON_METADATA & content.keys():
        try:
            content[key] = json.loads(metadata[key])
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: {key} in its metadata is not JSON: {error}.") from error
    return content


def _weights_in(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    named = next((content[key] for key in WEIGHTS_KEYS if isinstance(content.get(key), Mapping)), content)
    average = content.get("ema")
    if isinstance(average, Mapping) and isinstance(average.get("weights"), Mapping):
        named = {**named, **average["weights"]}
    tensors = {name: _as_tensor(value) for name, value in named.items() if isinstance(name, str)}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def _meta_in(content: Mapping[str, Any]) -> dict[str, Any]:
    is_wrapped = any(isinstance(content.get(key), Mapping) for key in WEIGHTS_KEYS)
    return {key: value for key, value in content.items() if key not in WEIGHTS_KEYS} if is_wrapped else {}


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


def read_keras_weights(path: Path) -> dict[str, Tensor]:
    """The arrays of a Keras `.h5` file by "layer/weight", e.g. "conv1/kernel", in Keras' layout.

    Layers of nested models, such as a region proposal network in a detector, are not prefixed.

    Raises:
        UserError: h5py is missing, the file is missing or not HDF5, or two layers have one name.
    """
    try:
        import h5py
    except ImportError as error:
        raise UserError(f"{path} needs the package h5py: `pip install h5py`.") from error
    if not path.is_file():
        raise UserError(f"weights {path} do not exist.")
    arrays: dict[str, np.ndarray] = {}

    def collect(name: str, item: object) -> None:
        if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiu" or name.startswith(KERAS_OPTIMIZER):
            return
        short = "/".join(name.split("/")[-2:]).partition(":")[0]
        if short in arrays:
            raise UserError(f"{path} has two weights named {short}; they cannot be distinguished.")
        arrays[short] = item[()]

    try:
        with h5py.File(path, "r") as file:
            file.visititems(collect)
    except OSError as error:
        raise UserError(
            f"{path} ({path.stat().st_size:,} bytes) is cut short or not HDF5: {error}. Copy or download it again."
        ) from error
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
