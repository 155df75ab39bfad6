"""Published weights on this machine: copied out of the cache and verified."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from iopath.common.file_io import PathManager

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.model_zoo.checksum import RECORD_SUFFIX, checksum_of_entry, recorded_checksum
from mrcnn_zoo.model_zoo.download import cache_folder, cached_path, local_path
from mrcnn_zoo.model_zoo.index import PREFIX, ZooEntry, read_index, weights_address
from mrcnn_zoo.output_files import write_atomically


@dataclass(frozen=True)
class Check:
    """What comparing one file with its checksum gave."""

    path: Path
    is_right: bool
    what: str  # in words


def copy_weights(entry: ZooEntry, output: str = "", *, paths: PathManager | None = None) -> Path:
    """Fetch the weights of a model and check them.

    Args:
        entry: of the model.
        output: a file, or a folder, to copy them to; empty leaves them where they are.
        paths: as for `local_path`.

    Returns:
        Where they are.

    Raises:
        UserError: they cannot be had, or not be written.
    """
    source = local_path(PREFIX + entry.name, paths=paths)
    if not output:
        return source
    target = Path(output).expanduser()
    if target.is_dir() or output.endswith(("/", os.sep)):
        target = target / source.name
    with source.open("rb") as original:
        return write_atomically(target, lambda file: shutil.copyfileobj(original, file))


def check_entry(entry: ZooEntry) -> Check:
    """Compare a model's weights, shipped or cached, with their checksum.

    Raises:
        UserError: they are not here.
    """
    path = place_of(entry)
    if not path.is_file():
        raise UserError(f"{path} does not exist: `mrcnn-zoo zoo download {entry.name}` fetches it.")
    return _compare(path, entry)


def check_file(file: str, entry: ZooEntry | None = None) -> Check:
    """Compare any file with the checksum of a model.

    Args:
        file: its path.
        entry: the model; None finds the one whose published file has the same name.

    Raises:
        UserError: there is no such file or no such model.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    if entry is None:
        entry = next((entry for entry in read_index().values() if _file_name(entry) == path.name), None)
    if entry is None:
        raise UserError(f"no model of the zoo has a file {path.name}: say which one it should be, by its NAME.")
    return _compare(path, entry)


def check_cache() -> list[Check]:
    """Compare whatever the cache has with its checksum: published, or else recorded when it was downloaded."""
    entries = [entry for entry in read_index().values() if entry.weights]
    published = {place_of(entry): entry for entry in entries}
    checks = [_compare(path, entry) for path, entry in published.items() if path.is_file()]
    records = sorted(cache_folder().rglob(f"*{RECORD_SUFFIX}"))
    others = [record.with_name(record.name.removesuffix(RECORD_SUFFIX)) for record in records]
    return checks + [_compare_with_record(path) for path in others if path.is_file() and path not in published]


def place_of(entry: ZooEntry) -> Path:
    """Where the weights of a model are, or would be once they are downloaded."""
    address = weights_address(entry)
    return Path(address) if entry.is_shipped else cached_path(address)


def _compare(path: Path, entry: ZooEntry) -> Check:
    checksum = checksum_of_entry(entry)
    if checksum is None:
        return Check(path, is_right=True, what=f"{entry.name} has no published checksum to compare with")
    difference = checksum.difference(path)
    found = f"it is {entry.name} ({checksum.algorithm} {checksum.digits[:12]})"
    return Check(path, is_right=not difference, what=f"it is not {entry.name}: {difference}" if difference else found)


def _compare_with_record(path: Path) -> Check:
    checksum = recorded_checksum(path)
    difference = checksum.difference(path) if checksum else ""
    return Check(path, is_right=not difference, what=difference or "it is as it was downloaded")


def _file_name(entry: ZooEntry) -> str:
    return PurePosixPath(urlsplit(entry.weights or "").path).name
