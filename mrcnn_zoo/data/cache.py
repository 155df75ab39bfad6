"""Results of slow parsing kept between runs, as compressed JSON files that may be deleted at any time."""

import contextlib
import gzip
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CACHE_VARIABLE = "MRCNN_ZOO_CACHE"
KEY_LENGTH = 16  # characters of the hash in file names


def dataset_cache_folder() -> Path:
    """MRCNN_ZOO_CACHE, else mrcnn_zoo in XDG_CACHE_HOME, else ~/.cache/mrcnn_zoo."""
    if os.environ.get(CACHE_VARIABLE):
        return Path(os.environ[CACHE_VARIABLE]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "mrcnn_zoo"


def cache_key(lines: Sequence[str]) -> str:
    """A hash of everything that a result depends on."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:KEY_LENGTH]


def read_cache(name: str, key: str) -> Any | None:
    """What was written under this name and key; None where there is nothing or it cannot be read."""
    try:
        with gzip.open(_file_of(name, key), "rt", encoding="utf-8") as file:
            return json.load(file)
    except (OSError, EOFError, ValueError):
        return None


def write_cache(name: str, key: str, content: Any) -> None:
    """Keep a result of plain lists, dicts, numbers and strings; nothing happens where the folder cannot be written.

    The file appears complete or not at all, also when several processes write it at once.
    """
    path = _file_of(name, key)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as raw, gzip.open(raw, "wt", encoding="utf-8", compresslevel=1) as file:
                json.dump(content, file, separators=(",", ":"))
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise


def _file_of(name: str, key: str) -> Path:
    return dataset_cache_folder() / f"{name}-{key}.json.gz"
