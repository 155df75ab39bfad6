"""Reads a config file and the files it is based on."""

from pathlib import Path

from mrcnn_zoo.config.locations import did_you_mean_config, find_config, find_packaged
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
    assignments = read_yaml(_read_text(path), typed_path(path))
    bases = [assignment for assignment in assignments if assignment.name == BASE_KEY]
    if not bases:
        return assignments
    own = [assignment for assignment in assignments if assignment.name != BASE_KEY]
    chain = (*derived, path.resolve())
    base = _base_path(bases[0], path)
    if base.resolve() in chain:
        loop = " -> ".join(typed_path(file) for file in (*chain[chain.index(base.resolve()) :], base))
        raise UserError(f"{bases[0].origin}: {BASE_KEY} goes round in a circle: {loop}.")
    return _read_chain(base, chain) + own


def _base_path(assignment: Assignment, derived: Path) -> Path:
    name = assignment.value
    if not isinstance(name, str) or not name:
        raise UserError(f"{assignment.origin}: {BASE_KEY} takes the name of one file, not {name!r}.")
    beside = derived.parent / Path(name).expanduser()
    if beside.is_file():
        return beside
    packaged = find_packaged(name)
    if packaged is None:
        raise UserError(
            f"{assignment.origin}: {BASE_KEY} names {name!r}, but there is no file {typed_path(beside)}, "
            f"and no config of that name in the package.{did_you_mean_config(name)}"
        )
    return packaged


def _read_text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UserError(f"{typed_path(path)} has {size} bytes, too many for a config; is it the right file?")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read the config {typed_path(path)}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{typed_path(path)} is not a YAML file: it is not UTF-8 text ({error.reason}).") from error
