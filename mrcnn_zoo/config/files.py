"""Config files: found by path or by packaged name, and read with the files they are based on."""

import codecs
import stat
from pathlib import Path

from mrcnn_zoo.config.keys import Assignment, typed_path
from mrcnn_zoo.config.safe_yaml import read_yaml
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registry import closest_name

PACKAGE_FOLDER = Path(__file__).resolve().parents[1]
INSTALLED_CONFIGS = PACKAGE_FOLDER / "_configs"
CHECKOUT = PACKAGE_FOLDER.parent
SUFFIX = ".yaml"
SWEEPS = "Sweeps"  # name of folders with sweeps
SWEEP_FIELDS = ("BASE", "VARIANTS", "GRID", "SPACE")  # of which a sweep has one; no config has such keys
FOLDER = "is a folder"


def find_config(name: str | Path) -> Path:
    """The file of a config, given by its path or by its name in the package.

    Args:
        name: e.g. "my.yaml", "~/my.yaml", or "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x" with or without suffix.

    Raises:
        UserError: when there is no such file, with the nearest name.
    """
    if not str(name).strip():
        raise UserError("the path of the config is empty; name a YAML file, or a config of the package.")
    path = expanded(name)
    problem = problem_of_place(path)
    if not problem:
        return path
    packaged = find_packaged(name)
    if packaged is not None:
        return packaged
    raise UserError(
        f"the config {str(name)!r} {problem}, and the package has none of that name.{did_you_mean_config(name)}"
    )


def expanded(name: str | Path) -> Path:
    """The path with `~` expanded, where that user exists.

    Args:
        name: as typed.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError:  # no such user
        return Path(name)


def problem_of_place(path: Path) -> str:
    """Why a path is not a readable file, as words after its name, e.g. "is a folder"; empty for a file."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except OSError as error:
        return f"cannot be reached ({error.strerror})"
    except ValueError as error:  # a zero byte
        return f"is not a valid path ({error})"
    if stat.S_ISDIR(mode):
        return FOLDER
    return "" if stat.S_ISREG(mode) else "is a pipe or a device, not a file"


def find_packaged(name: str | Path) -> Path | None:
    """The file of a packaged config; None when there is none of that name.

    Args:
        name: e.g. "Base-RCNN-FPN.yaml", with or without suffix.
    """
    for folder in config_folders():
        for candidate in (folder / name, folder / f"{name}{SUFFIX}"):
            if not problem_of_place(candidate) and folder in candidate.resolve().parents:
                return candidate
    return None


def packaged_names() -> list[str]:
    """The names of all packaged configs, sorted, e.g. "Base-RCNN-FPN.yaml"; without sweeps."""
    return [name for name in _packaged_files() if not is_place_of_sweep(Path(name))]


def packaged_sweeps() -> list[str]:
    """The names of all packaged sweeps, sorted, e.g. "Sweeps/roi_layer_digits.yaml"."""
    return [name for name in _packaged_files() if is_place_of_sweep(Path(name))]


def _packaged_files() -> list[str]:
    folders = config_folders()
    return sorted({path.relative_to(folder).as_posix() for folder in folders for path in folder.rglob(f"*{SUFFIX}")})


def is_place_of_sweep(path: Path) -> bool:
    """Whether a file is in a folder of sweeps and not the base of one: it describes many runs and is no config.

    Args:
        path: of a YAML file.
    """
    return SWEEPS in path.parts[:-1] and not path.name.startswith("Base-")


def config_folders() -> list[Path]:
    """The folders with packaged configs: that of the checkout, and the installed one."""
    is_checkout = (CHECKOUT / "pyproject.toml").is_file()  # not an unrelated `configs` beside site-packages
    folders = [CHECKOUT / "configs"] if is_checkout else []
    return [folder for folder in (*folders, INSTALLED_CONFIGS) if folder.is_dir()]


def did_you_mean_config(name: str | Path) -> str:
    """` Did you mean ...?` with the nearest packaged config, or an empty string.

    Args:
        name: that was not found; without a folder it is compared with the file names alone.
    """
    wanted = Path(name)
    if not wanted.name:
        return ""
    is_bare = len(wanted.parts) == 1
    known: dict[str, str] = {}
    for full in _packaged_files():
        known.setdefault(Path(full).stem if is_bare else full.removesuffix(SUFFIX), full)
    nearest = closest_name(wanted.stem if is_bare else str(wanted.with_suffix("")), known)
    return f" Did you mean {known[nearest]!r}?" if nearest else ""


BASE_KEY = "_BASE_"
MAX_BYTES = 1_000_000


def read_config_file(path: str | Path) -> list[Assignment]:
    """The values of a YAML file, after those of the file that its `_BASE_` names, recursively; later values win.

    Raises:
        UserError: for a file that is missing, not YAML or based on itself, with the file and the line.
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
        raise UserError(f"{bases[0].origin}: the {BASE_KEY} files form a cycle: {loop}.")
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
    """The text of a config file of any project, without its byte order mark.

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
    """Decode UTF-8, or UTF-16 where the text starts with its byte order mark, as some editors write it."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    return content.decode("utf-8-sig")


def is_sweep_file(path: Path) -> bool:
    """Whether a YAML file describes a sweep rather than a config.

    Args:
        path: of a file; one that is not valid YAML is no sweep.
    """
    try:
        return any(assignment.path[0] in SWEEP_FIELDS for assignment in read_yaml(read_text_file(path), str(path)))
    except UserError:
        return False
