"""Output files and folders: checked before the work starts, written atomically.

All commands check their output here, and so report the same problems with the same messages.
"""

import contextlib
import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mrcnn_zoo.errors import UserError, counted

RESULT_FOLDERS = ("inference", "pictures")  # in the output folder of a training or an evaluation
FILES_SHOWN = 3  # in a message
UNFINISHED_SUFFIX = ".unfinished"  # of a file that is being written, or whose process was killed


def check_output_folder(folder: str | Path, *, option: str, subfolders: Iterable[str] = ()) -> Path:
    """Refuse a folder that is a file, cannot be created or cannot be written; creates nothing.

    Args:
        folder: as it was typed; `~` is the home folder.
        option: its name in messages: "--output", "OUTPUT_DIR".
        subfolders: that will be created in it.

    Returns:
        Its path with `~` expanded; a missing folder is not created.

    Raises:
        UserError: with the reason.
    """
    path = _expanded(folder, option=option, kind="folder")
    _refuse_file_in_the_way(path, option=option)
    _try_to_write(path, option=option)
    for name in subfolders:
        _refuse_file_in_the_way(path / name, option=option)
    return path


def check_output_file(file: str | Path, *, option: str, overwrite: bool = True) -> Path:
    """Refuse a file that is a folder, cannot be written, or exists and may not be replaced.

    Args:
        file: as it was typed; `~` is the home folder.
        option: its name in messages.
        overwrite: whether an existing file may be replaced.

    Returns:
        Its path with `~` expanded.

    Raises:
        UserError: with the reason.
    """
    path = _expanded(file, option=option, kind="file")
    if os.path.isdir(path) or str(file).endswith(("/", os.sep)):
        raise UserError(f"{_named(option, path)} is a folder; name a file in it.")
    _refuse_file_in_the_way(path.parent, option=option, below=path)
    _try_to_write(path.parent, option=option)
    if os.path.exists(path) and not os.access(path, os.W_OK):
        raise UserError(f"{_named(option, path)} cannot be written: no permission. Name another file.")
    if not overwrite:
        refuse_to_replace([path], option=option)
    return path


def refuse_to_replace(paths: Iterable[Path], *, option: str) -> None:
    """Refuse to replace existing files.

    Args:
        paths: that will be written.
        option: that names the place, for messages.

    Raises:
        UserError: listing the first existing ones.
    """
    existing = [path for path in paths if os.path.lexists(path)]
    if not existing:
        return
    shown = ", ".join(map(str, existing[:FILES_SHOWN])) + (", ..." if len(existing) > FILES_SHOWN else "")
    raise UserError(
        f"{counted(len(existing), 'file')} would be replaced: {shown}. Choose another place with {option}, or replace "
        f"{'it' if len(existing) == 1 else 'them'} with --overwrite."
    )


def _named(option: str, path: Path) -> str:
    """ "--output x" of an option, "OUTPUT_DIR = x" of a key."""
    return f"{option} {path}" if "_" not in option else f"{option} = {path}"


def _expanded(path: str | Path, *, option: str, kind: str) -> Path:
    text = os.fspath(path)
    if not text.strip():
        raise UserError(f"{option} is empty; name a {kind}.")
    if "\0" in text:
        raise UserError(f"{option} {text!r} contains a zero byte, which is invalid in paths; name another {kind}.")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{option} {text}: that user has no home folder; write the full path.") from error


def _refuse_file_in_the_way(folder: Path, *, option: str, below: Path | None = None) -> None:
    shown = below or folder
    try:
        existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
        is_folder = existing.is_dir()
    except OSError as error:  # a name that is too long, for instance
        raise UserError(f"{_named(option, shown)} cannot be used ({error.strerror}); name another place.") from error
    is_writable = is_folder and os.access(existing, os.W_OK | os.X_OK)
    if is_writable or not os.path.lexists(existing):  # created and removed by another process (`_try_to_write`)
        return
    if is_folder:
        raise UserError(
            f"{_named(option, shown)} cannot be written: no permission in {existing}. Choose another folder."
        )
    what = "a broken link" if existing.is_symlink() and not existing.exists() else "a file"
    is_itself = existing == folder and below is None
    where = f"is {what}" if is_itself else f"lies below {existing}, which is {what}"
    raise UserError(f"{_named(option, shown)} {where}; name {'a folder' if below is None else 'another place'}.")


def _try_to_write(folder: Path, *, option: str) -> None:
    """Create the folder and a temporary file in it, then remove them: permissions alone do not show what is allowed.

    Only rank 0 does this: one process could remove the folder while another writes into it.
    """
    from mrcnn_zoo.distributed.processes import is_main_process

    if not is_main_process():
        return
    missing = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    made: list[Path] = []
    try:
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            made.append(path)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{_named(option, folder)} cannot be written ({reason}). Choose another folder.") from error
    finally:
        for path in reversed(made):
            remove_if_empty(path)


def remove_if_empty(folder: Path) -> None:
    """Remove a folder without files.

    Args:
        folder: that may have files.
    """
    try:
        folder.rmdir()
    except OSError:  # another process has written into it
        return


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> Path:
    """Write a file completely or not at all, in which case an existing one stays; creates its folder.

    Args:
        path: of the file.
        write: called with the open file to write to.

    Returns:
        The path.

    Raises:
        UserError: it cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except (OSError, RuntimeError) as error:
        cause = _os_error(error)
        if cause is None:
            raise
        raise UserError(
            f"cannot write {path}: {cause.strerror or cause}. An existing file is unchanged; "
            f"free space or choose another folder."
        ) from error
    finally:
        _remove_if_there(unfinished)
    return path


def write_text(path: Path, text: str) -> Path:
    """Write a UTF-8 text file; see `write_atomically`.

    Args:
        path: of the file.
        text: its content.
    """
    return write_atomically(path, lambda file: file.write(text.encode("utf-8")))


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Rows of values as CSV.

    Args:
        rows: the first one is the header.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_json(path: Path, content: Any, *, indent: int | None = None) -> Path:
    """Write a standard JSON file; see `write_atomically`.

    Args:
        path: of the file.
        content: without NaN, see `nan_as_null`.
        indent: spaces per level; None writes one line.
    """
    return write_text(path, json.dumps(content, indent=indent, allow_nan=False))


def nan_as_null(results: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    """Results with None for NaN, which JSON does not have.

    Args:
        results: metrics by name, by task.
    """
    return {
        task: {name: None if math.isnan(value) else value for name, value in metrics.items()}
        for task, metrics in results.items()
    }


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write a compressed .npz file; see `write_atomically`.

    Args:
        path: of the file.
        arrays: by their names in it.
    """
    return write_atomically(path, lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]


def _os_error(error: BaseException | None) -> OSError | None:
    # torch.save turns an error of the file into a RuntimeError of its zip writer.
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def _remove_if_there(path: Path) -> None:
    with contextlib.suppress(OSError):  # its folder may be missing
        path.unlink()
