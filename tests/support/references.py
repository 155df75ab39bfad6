"""Results recorded from other projects: small ones in tests/references, the others in ../shared."""

import functools
import importlib
import json
import lzma
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

REPOSITORY = Path(__file__).resolve().parents[2]
REFERENCES = REPOSITORY / "tests" / "references"
SHARED = REPOSITORY.parent / "shared"
COMMITTED_CASES = frozenset({"mask_rcnn_R_50_FPN", "retinanet_R_50_FPN", "mmdetection/mask_rcnn_r50_fpn"})
SPLIT_BYTES = ".float32"  # suffix of arrays stored as four byte planes, which compress better


def shared_folder() -> Path:
    """`../shared`, with large references and real images; without it the test is skipped, or fails if CI is set."""
    if (SHARED / "reference").is_dir():
        return SHARED
    message = f"needs the reference data in {SHARED}, which does not exist"
    if os.environ.get("CI"):
        pytest.fail(f"{message} (CI is set)", pytrace=False)
    pytest.skip(message)


def other_tool(name: str) -> Any:
    """A library that only tests use; without it their module is skipped, or fails if CI is set."""
    return importlib.import_module(name) if os.environ.get("CI") else pytest.importorskip(name)


@dataclass(frozen=True)
class RecordedCase:
    """A recorded model of another project: random weights, inputs and results."""

    name: str  # `<case>` for Detectron2, `mmdetection/<case>` for MMDetection
    folder: Path

    @functools.cached_property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Inputs and results, described in ../shared/README.md."""
        return read_arrays(self.folder / "io.npz")

    @functools.cached_property
    def weights(self) -> dict[str, Tensor]:
        """The state dict, with the names of the project."""
        packed = self.folder / "weights.npz"
        if packed.is_file():
            return {name: torch.from_numpy(array) for name, array in read_arrays(packed).items()}
        content = torch.load(self.folder / "model.pth", weights_only=True)
        return content["model"] if "model" in content else content["state_dict"]

    @functools.cached_property
    def gradient_norms(self) -> dict[str, float]:
        """Parameter name -> L2 norm of its gradient; only for Detectron2."""
        return json.loads((self.folder / "grad_norms.json").read_text())

    @property
    def config(self) -> Path:
        """Detectron2's config of the model, with all its keys."""
        return self.folder / "config.yaml"

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    def bitmaps(self, name: str, width: int) -> Tensor:
        """Masks (R, H, width) bool, stored as bits along the last axis."""
        return torch.from_numpy(np.unpackbits(self.arrays[name], axis=-1)[..., :width].astype(bool))


def find_case(name: str) -> RecordedCase:
    """Find a recorded case, e.g. `mask_rcnn_R_50_FPN` (Detectron2) or `mmdetection/mask_rcnn_r50_fpn`.

    Cases that are not committed need `shared_folder`.
    """
    path = name if name.startswith("mmdetection/") else f"detectron2/fixtures/{name}"
    root = REFERENCES if name in COMMITTED_CASES else shared_folder() / "reference"
    return RecordedCase(name, root / path)


def detectron2_defaults() -> dict[str, Any]:
    """Config keys of Detectron2 and their defaults."""
    return json.loads((REFERENCES / "detectron2" / "config_defaults.json").read_text())


@functools.cache
def detectron2_values() -> dict[str, dict[str, Any]]:
    """Config name without `.yaml` -> the keys whose effective values differ from Detectron2's defaults."""
    return json.loads((REFERENCES / "detectron2" / "config_effective.json").read_text())


def detectron2_overrides(name: str, sections: tuple[str, ...]) -> list[Any]:
    """[key, value, ...] of the effective values of a config whose keys start with one of `sections`."""
    values = detectron2_values()[name]
    return [part for key, value in values.items() if key.startswith(sections) for part in (key, value)]


@functools.cache
def detectron2_shapes() -> dict[str, dict[str, str]]:
    """Config name -> {parameter or buffer name: "64x3x7x7"} of Detectron2's model; "" is the shape of a scalar."""
    with lzma.open(REFERENCES / "detectron2" / "state_dict_keys.txt.xz", "rt", encoding="utf-8") as file:
        lines = file.read().splitlines()
    models: dict[str, dict[str, str]] = {}
    for line in lines:
        if line.startswith("# "):
            shapes: dict[str, str] = {}
            models |= dict.fromkeys(line.removeprefix("# ").split(), shapes)
        else:
            name, _, shape = line.partition(" ")
            shapes[name] = shape
    return models


class UnchangedMetaTensors(TorchFunctionMode):
    """Skips the random initialisation of tensors on the meta device, which have no values but take most of the time."""

    IN_PLACE = frozenset({Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_})

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0] if func in self.IN_PLACE and args[0].is_meta else func(*args, **(kwargs or {}))


@contextmanager
def on_meta_device() -> Iterator[None]:
    """Modules that are built inside have the shapes of their parameters only."""
    with torch.device("meta"), UnchangedMetaTensors():
        yield


def shapes_of(module: torch.nn.Module) -> dict[str, str]:
    """Shapes of the state dict of `module`, in the format of `detectron2_shapes`."""
    return {name: "x".join(map(str, value.shape)) for name, value in module.state_dict().items()}


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of an .npz file; those with suffix `SPLIT_BYTES` are joined from byte planes."""
    with np.load(path) as stored:
        return dict(_joined(name, stored[name]) for name in stored.files)


def _joined(name: str, array: NDArray[Any]) -> tuple[str, NDArray[Any]]:
    if not name.endswith(SPLIT_BYTES):
        return name, array
    return name.removesuffix(SPLIT_BYTES), np.ascontiguousarray(np.moveaxis(array, 0, -1)).view(np.float32)[..., 0]


def relative_error(ours: Tensor, recorded: Tensor) -> float:
    """Largest absolute difference, relative to the largest recorded magnitude."""
    assert ours.shape == recorded.shape
    return ((ours - recorded).abs().max() / recorded.abs().max()).item()
