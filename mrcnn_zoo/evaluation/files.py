"""Result files that are there whole or not at all."""

import io
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 into a file, whose folder is made if needed."""
    return _write_bytes(path, text.encode("utf-8"))


def _write_bytes(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_json(path: Path, content: Any, *, indent: int | None = None) -> Path:
    """Write JSON as every parser reads it; the content must not hold NaN (see `nan_as_null`)."""
    return write_text(path, json.dumps(content, indent=indent, allow_nan=False))


def nan_as_null(results: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    """Results by task with None for NaN, which JSON does not know."""
    return {
        task: {name: None if math.isnan(value) else value for name, value in metrics.items()}
        for task, metrics in results.items()
    }


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write a compressed .npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return _write_bytes(path, buffer.getvalue())
