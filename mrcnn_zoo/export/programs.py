"""Exported programs as files: what is stored beside the graph, and how the files are read and run."""

import contextlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrcnn_zoo.choices import ONNX, PROGRAM_FORMATS
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.export.archive_check import check_archive
from mrcnn_zoo.structures import ImageSize

SUFFIXES = tuple(f".{name}" for name in PROGRAM_FORMATS)
INPUTS = ("image", "image_size")
OUTPUTS = ("boxes", "scores", "classes", "count", "masks")
METADATA = "mrcnn_zoo"  # ONNX property; name of the extra file of a .pt2
EXTRA_FILE = f"{METADATA}.json"
FORMAT_VERSION = 1
INSTALL = "pip install 'mrcnn_zoo[onnx]'"

Run = Callable[[Tensor, Tensor], list[Tensor]]  # the inputs and outputs of `StaticRCNN`


@dataclass(frozen=True)
class Program:
    """A program that was read from a file."""

    source: str
    size: ImageSize  # (height, width) of the padded image
    meta: Mapping[str, Any]  # config, class_names, category_ids, ...
    run: Run


def is_program(path: str | Path) -> bool:
    """Whether a path or address has the suffix of an exported program."""
    return str(path).lower().endswith(SUFFIXES)


def read_program(path: Path) -> Program:
    """Open an exported program on the CPU; no code in the file is run.

    Args:
        path: a file of `mrcnn-zoo export`.

    Raises:
        UserError: it is damaged, of another tool, or its runtime is not installed.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    text, run, shape = _read_onnx(path) if path.suffix.lower() == f".{ONNX}" else _read_pt2(path)
    if text is None:
        raise UserError(
            f"{path} was not written by `mrcnn-zoo export`: it holds no config and class names (no {METADATA} in its "
            "metadata). Export the model with that command."
        )
    meta = _read_metadata(text, path, shape)
    height, width = meta["input_size"]
    return Program(str(path), (height, width), meta, run)


def _read_metadata(text: str, path: Path, shape: list[Any]) -> dict[str, Any]:
    """The metadata of a file whose graph takes an image of this shape."""
    try:
        meta = json.loads(text)
        if not isinstance(meta, dict):
            raise ValueError("no JSON object")
        version = meta.get("format_version")
        if version == FORMAT_VERSION:
            _check_values(meta, shape)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: its metadata {METADATA} are damaged: {error}. Export the model again, or copy the file again."
        ) from error
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {version}, and this version of mrcnn_zoo reads {FORMAT_VERSION}. Export the "
            "model again."
        )
    return meta


def _check_values(meta: Mapping[str, Any], shape: list[Any]) -> None:
    if meta.get("input_size") != shape[-2:]:
        raise ValueError(f"input_size is {meta.get('input_size')}, but its graph takes images of {shape[-2:]}")
    if not isinstance(meta.get("config", ""), str):
        raise ValueError("config is no text")
    for name, kind in (("class_names", str), ("category_ids", int)):
        if not _is_list(meta.get(name, []), kind):
            raise ValueError(f"{name} is no list of {'texts' if kind is str else 'whole numbers'}")


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(type(item) is kind for item in value)


def _read_onnx(path: Path) -> tuple[str | None, Run, list[Any]]:
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"{path} needs the package onnxruntime: `{INSTALL}`.") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of any kind, on bytes that are not an ONNX model's
        raise UserError(
            f"{path} ({path.stat().st_size:,} bytes) is cut short or no ONNX model: {str(error).strip()[:200]}."
        ) from error

    def run(image: Tensor, image_size: Tensor) -> list[Tensor]:
        values = dict(zip(INPUTS, (image.numpy(), image_size.numpy()), strict=True))
        return [torch.from_numpy(output) for output in session.run(None, values)]

    return session.get_modelmeta().custom_metadata_map.get(METADATA), run, session.get_inputs()[0].shape


def _read_pt2(path: Path) -> tuple[str | None, Run, list[Any]]:
    import torchvision  # noqa: F401, registers the operations that programs contain

    check_archive(path)
    extra = {EXTRA_FILE: ""}
    try:
        with quiet():
            program = torch.export.load(path, extra_files=extra)
            module = program.module(check_guards=False)
    except Exception as error:  # of any kind: torch has no error of its own for a graph of another version
        raise UserError(
            f"{path} cannot be read by torch {torch.__version__}: {error}. Export the model again with this version."
        ) from error

    def run(image: Tensor, image_size: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return list(module(image, image_size))

    shapes = [list(node.meta["val"].shape) for node in program.graph.nodes if node.name == INPUTS[0]]
    return extra[EXTRA_FILE] or None, run, shapes[0] if shapes else []


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of torch's exporters about their own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
