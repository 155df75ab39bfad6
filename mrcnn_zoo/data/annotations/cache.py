"""Cache of parsed datasets: on disk, so that many annotation files are parsed once, and the last dataset in memory.

A dataset is one uncompressed .npz without pickles. Its key is a hash of everything that the result depends on: format,
options, names, sizes and times of the files, and the code of `mrcnn_zoo.data`.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

import mrcnn_zoo.data
from mrcnn_zoo.data.annotations.columns import Columns, from_columns, to_columns
from mrcnn_zoo.data.annotations.listing import FileListing
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.paths import cache_key, dataset_cache_folder
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.ops.memory import garbage_collection_paused
from mrcnn_zoo.output_files import write_atomically

MIN_SECONDS = 0.3  # datasets that are read faster are not written
MAX_BYTES = 4 << 30  # of all files together; those that were not used for the longest time are removed
SECONDS_LOGGED = 5.0  # reading that takes longer is logged
OUTSIDE = "outside"  # column of the sizes and times of images outside the listed folders
PREFIX, SUFFIX = "annotations-", ".npz"
DAMAGE = (OSError, EOFError, ValueError, KeyError, IndexError, TypeError, RuntimeError, BadZipFile)

logger = logging.getLogger(__name__)


class _Entry(NamedTuple):
    """A dataset, its images outside the listings, and their sizes and times; None if one of them is missing."""

    dataset: Dataset
    outside: list[str]
    states: NDArray[np.int64] | None

    def is_current(self) -> bool:
        """Whether these images are as they were."""
        states = _states(self.outside)
        return states is not None and self.states is not None and np.array_equal(states, self.states)


class DatasetCache:
    """Parsed datasets by key; the last one is kept in memory, so that two sides of one dataset are read once.

    Args:
        max_bytes: of all files of the folder.
        min_seconds: of the datasets that are written, the time it takes to read them.
    """

    def __init__(self, *, max_bytes: int = MAX_BYTES, min_seconds: float = MIN_SECONDS) -> None:
        self.max_bytes = max_bytes
        self.min_seconds = min_seconds
        self._last: tuple[str, _Entry] | None = None

    def get(self, key: str, read: Callable[[], Dataset], *, name: str, listings: Sequence[FileListing]) -> Dataset:
        """The dataset of a key, from memory, else from its file, else read and written.

        Args:
            key: see `dataset_key`.
            read: called where there is no usable file.
            name: of the dataset, which is not part of the key.
            listings: that the key depends on. Other image files are compared with their sizes and times.
        """
        if self._last is not None and self._last[0] == key and self._last[1].is_current():
            return replace(self._last[1].dataset, name=name)
        self._last = None  # before the next one takes memory
        path = dataset_cache_folder() / f"{PREFIX}{key}{SUFFIX}"
        with garbage_collection_paused():
            entry = _load(path, name, listings) or self._read(path, read, listings)
        self._last = key, entry
        return entry.dataset

    def _read(self, path: Path, read: Callable[[], Dataset], listings: Sequence[FileListing]) -> _Entry:
        start = time.perf_counter()
        dataset = read()
        seconds = time.perf_counter() - start
        outside = _outside(dataset, listings)
        entry = _Entry(dataset, outside, _states(outside))
        if seconds < self.min_seconds or entry.states is None:
            return entry
        columns = to_columns(dataset)
        if columns is not None and _save(path, columns | {OUTSIDE: entry.states}):
            if seconds > SECONDS_LOGGED:
                logger.info("%s: read in %.0f s; the next time from the cache %s", dataset.name, seconds, path)
            _remove_oldest(path.parent, self.max_bytes)
        return entry


DATASET_CACHE = DatasetCache()


def dataset_key(values: Sequence[Any], listings: Sequence[FileListing]) -> str:
    """A hash of what a dataset depends on.

    Args:
        values: the format and the options; of paths, the size and time count, too.
        listings: of all folders that are read.
    """
    lines = [_hash_of_code(), *(line for value in values for line in _described(value))]
    for listing in listings:
        # Records have the path as it was given, which may be relative to the current folder.
        lines += [str(listing.path), str(listing.path.resolve()), *listing.fingerprint(listing.files)]
    return cache_key(lines)


def _described(value: Any) -> Iterator[str]:
    """Lines that change with a value or with the file that it names."""
    if isinstance(value, Mapping):
        value = list(value.items())
    if isinstance(value, FileListing):
        yield from [str(value.path), *value.fingerprint(value.files)]
    elif isinstance(value, Path):
        stat = value.stat() if value.is_file() else None
        yield f"{value}:{stat.st_size}:{stat.st_mtime_ns}" if stat else str(value)
    elif isinstance(value, list | tuple):
        yield str(len(value))
        for item in value:
            yield from _described(item)
    else:
        yield repr(value)


@cache
def _hash_of_code() -> str:
    """A hash of the code that reads annotations, so that no file of another version is used."""
    folder = Path(mrcnn_zoo.data.__file__).parent
    return cache_key([path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.py"))])


def _outside(dataset: Dataset, listings: Sequence[FileListing]) -> list[str]:
    """The image files that are not in the listings."""
    roots = [(f"{listing.root}{os.sep}", listing.stats) for listing in listings]
    paths = [record.source.path for record in dataset.records if isinstance(record.source, FileImage)]
    for root, stats in roots:
        start = len(root)
        paths = [path for path in paths if path[start:].replace(os.sep, "/") not in stats or path[:start] != root]
    return paths


def _states(paths: Sequence[str]) -> NDArray[np.int64] | None:
    """(N, 2) size and time of files; None if one is missing."""
    try:
        stats = [(stat.st_size, stat.st_mtime_ns) for stat in map(os.stat, paths)]
    except OSError:
        return None
    return np.array(stats, dtype=np.int64).reshape(-1, 2)


def _load(path: Path, name: str, listings: Sequence[FileListing]) -> _Entry | None:
    """The dataset of a file; None if there is none, it is damaged, or an image outside the listings has changed."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            columns = dict(arrays)
        dataset = from_columns(columns, name=name)
        entry = _Entry(dataset, _outside(dataset, listings), columns[OUTSIDE])
        os.utime(path)  # the time of its last use
    except DAMAGE:
        return None
    return entry if entry.is_current() else None


def _save(path: Path, columns: Columns) -> bool:
    """Whether the file was written: the folder may be read-only, or the disk full."""

    def write(file: BinaryIO) -> None:
        np.savez(file, **columns)  # type: ignore[arg-type]

    try:
        write_atomically(path, write)
    except UserError as error:
        logger.debug("no cache of the dataset: %s", error)
        return False
    return True


def _remove_oldest(folder: Path, max_bytes: int) -> None:
    """Remove the files that were not used for the longest time until the rest is small enough; the last one stays."""
    with contextlib.suppress(OSError):  # another process may have removed one
        files = sorted(_files(folder), key=lambda item: item[1].st_mtime_ns, reverse=True)
        total = 0
        for number, (path, stat) in enumerate(files):
            total += stat.st_size
            if number and total > max_bytes:
                path.unlink()


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    return ((path, path.stat()) for path in folder.glob(f"{PREFIX}*{SUFFIX}"))
