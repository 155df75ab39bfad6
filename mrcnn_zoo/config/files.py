"""Reads a config file and the files it is based on."""

import codecs
from pathlib import Path

from mrcnn_zoo.config.locations import did_you_mean_config, expanded, find_config, find_packaged, problem_of_place
from mrcnn_zoo.config.provenance import Assignment, typed_path
from mrcnn_zoo.config.safe_yaml import read_yaml
from mrcnn_zoo.errors import UserError

BASE_KEY = "_BASE_"
MAX_BYTES = 1_000_000


def read_config_file(path: str | Path) -> list[Assignment]:
    """The values of a YAML file after those of the `_BASE_` file it names, and so on; a later value wins.

    Raises:
        UserError: for a file that is missing, no YAML or based on itself, naming the file and the line.
    """
    return _read_chain(find_config(path), ())


def _read_chain(path: Path, derived: tuple[Path, ...]) -> list[Assignment]:
    assignments = read_yaml(read_text_file(path), typed_path(path))
    bases = [assignment for assignment in assignments if assignment.path[0] == BASE_KEY]
    if not bases:
        return assignments
    own = [assignment for assignment in assignments if assignment not in bases]
    chain = (*derived, path.resolve())
    base = _base_path(bases[0], path)
    if base.resolve() in chain:
        loop = " -> ".join(typed_path(file) for file in (*chain[chain.index(base.resolve()) :], base))
        raise UserError(f"{bases[0].origin}: {BASE_KEY} goes round in a circle: {loop}.")
    return _read_chain(base, chain) + own


def _base_path(assignment: Assignment, derived: Path) -> Path:
    name = assignment.value
    if assignment.name != BASE_KEY:
        raise UserError(f"{assignment.origin}: {BASE_KEY} takes the name of one file, not a mapping.")
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"{assignment.origin}: {BASE_KEY} takes the name of one file, not {name!r}.")
    beside = derived.parent / expanded(name)
    problem = problem_of_place(beside)
    if not problem:
        return beside
    packaged = find_packaged(name)
    if packaged is None:
        place = typed_path(beside)
        what = f"there is no file {place}" if problem == "does not exist" else f"{place} {problem}"
        raise UserError(
            f"{assignment.origin}: {BASE_KEY} names {name!r}, but {what}, "
            f"and no config of that name in the package.{did_you_mean_config(name)}"
        )
    return packaged


def read_text_file(path: Path) -> str:
    """The text of a config file, of whichever project; a byte order mark is left out.

    Raises:
        UserError: it is missing, a folder, a pipe, unreadable, too large, or not UTF-8.
    """
    problem = problem_of_place(path)
    if problem:
        raise UserError(f"the config {typed_path(path)} {problem}.")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UserError(f"{typed_path(path)} has {size} bytes, too many for a config; is it the right file?")
        return _decoded(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read the config {typed_path(path)}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{typed_path(path)} is not a config: it is not UTF-8 text ({error.reason}). Is it the right file?"
        ) from error


def _decoded(content: bytes) -> str:
    """UTF-8, or UTF-16 where it begins with its byte order mark, as some editors write it."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    return content.decode("utf-8-sig")
