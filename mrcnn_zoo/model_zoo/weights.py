"""Published weights on this machine: copied from the cache and verified."""

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
class Verification:
    """The result of comparing a file with its checksum.

    Args:
        path: of the file.
        is_correct: False where the checksum differs.
        text: the result as a sentence.
    """

    path: Path
    is_correct: bool
    text: str


def copy_weights(entry: ZooEntry, output: str = "", *, paths: PathManager | None = None) -> Path:
    """Download the weights of a model, verify and copy them.

    Args:
        entry: of the model.
        output: a file or folder to copy them to; empty leaves them in the cache.
        paths: as for `local_path`.

    Returns:
        Their path.

    Raises:
        UserError: they cannot be downloaded or written.
    """
    source = local_path(PREFIX + entry.name, paths=paths)
    if not output:
        return source
    target = Path(output).expanduser()
    if target.is_dir() or output.endswith(("/", os.sep)):
        target = target / source.name
    with source.open("rb") as original:
        return write_atomically(target, lambda file: shutil.copyfileobj(original, file))


def check_entry(entry: ZooEntry) -> Verification:
    """Compare a model's weights, shipped or cached, with their checksum.

    Args:
        entry: of the model.

    Raises:
        UserError: they are not downloaded.
    """
    path = path_of(entry)
    if not path.is_file():
        raise UserError(f"{path} does not exist: `mrcnn-zoo zoo download {entry.name}` downloads it.")
    return _compare(path, entry)


def check_file(file: str, entry: ZooEntry | None = None) -> Verification:
    """Compare any file with the checksum of a model.

    Args:
        file: its path.
        entry: of the model; None takes the model with a published file of the same name.

    Raises:
        UserError: the file does not exist, or no model has a file of its name.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    if entry is None:
        entry = next((entry for entry in read_index().values() if _file_name(entry) == path.name), None)
    if entry is None:
        raise UserError(f"no model of the zoo has a file {path.name}: give the NAME of the model that it should be.")
    return _compare(path, entry)


def check_cache() -> list[Verification]:
    """Compare all files of the cache with their checksums: published ones, or those recorded at the download."""
    entries = [entry for entry in read_index().values() if entry.weights]
    published = {path_of(entry): entry for entry in entries}
    checks = [_compare(path, entry) for path, entry in published.items() if path.is_file()]
    records = sorted(cache_folder().rglob(f"*{RECORD_SUFFIX}"))
    others = [record.with_name(record.name.removesuffix(RECORD_SUFFIX)) for record in records]
    return checks + [_compare_with_record(path) for path in others if path.is_file() and path not in published]


def path_of(entry: ZooEntry) -> Path:
    """The path of a model's weights, whether they are downloaded or not.

    Args:
        entry: of the model.
    """
    address = weights_address(entry)
    return Path(address) if entry.is_shipped else cached_path(address)


def _compare(path: Path, entry: ZooEntry) -> Verification:
    checksum = checksum_of_entry(entry)
    if checksum is None:
        return Verification(path, is_correct=True, text=f"{entry.name} has no published checksum to compare with")
    difference = checksum.difference(path)
    found = f"it is {entry.name} ({checksum.algorithm} {checksum.digits[:12]})"
    return Verification(
        path, is_correct=not difference, text=f"it is not {entry.name}: {difference}" if difference else found
    )


def _compare_with_record(path: Path) -> Verification:
    checksum = recorded_checksum(path)
    difference = checksum.difference(path) if checksum else ""
    return Verification(path, is_correct=not difference, text=difference or "it is as it was downloaded")


def _file_name(entry: ZooEntry) -> str:
    return PurePosixPath(urlsplit(entry.weights or "").path).name
