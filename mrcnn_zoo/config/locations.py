"""Where config files are: at the path given, or among those that come with the package."""

import difflib
import stat
from pathlib import Path

from mrcnn_zoo.errors import UserError

PACKAGE_FOLDER = Path(__file__).resolve().parents[1]
INSTALLED_CONFIGS = PACKAGE_FOLDER / "_configs"
CHECKOUT = PACKAGE_FOLDER.parent
SUFFIX = ".yaml"
FOLDER = "is a folder"


def find_config(name: str | Path) -> Path:
    """The file of a config given by its path, or by its name among the configs of the package.

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
    """The path with `~` as the home folder, where there is one."""
    try:
        return Path(name).expanduser()
    except RuntimeError:  # no such user
        return Path(name)


def problem_of_place(path: Path) -> str:
    """Why a path is no file that could be read, as words after its name, e.g. "is a folder"; empty for a file."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except OSError as error:
        return f"cannot be reached ({error.strerror})"
    except ValueError as error:  # a zero byte
        return f"is no path ({error})"
    if stat.S_ISDIR(mode):
        return FOLDER
    return "" if stat.S_ISREG(mode) else "is a pipe or a device, not a file"


def find_packaged(name: str | Path) -> Path | None:
    """The file of a config of the package, e.g. "Base-RCNN-FPN.yaml"; None when there is none of that name."""
    for folder in config_folders():
        for candidate in (folder / name, folder / f"{name}{SUFFIX}"):
            if not problem_of_place(candidate) and folder in candidate.resolve().parents:
                return candidate
    return None


def packaged_names() -> list[str]:
    """The names of all configs that come with the package, sorted, e.g. "Base-RCNN-FPN.yaml"."""
    folders = config_folders()
    return sorted({path.relative_to(folder).as_posix() for folder in folders for path in folder.rglob(f"*{SUFFIX}")})


def config_folders() -> list[Path]:
    """The folders that hold the package's configs: the checkout's own, and the installed one."""
    is_checkout = (CHECKOUT / "pyproject.toml").is_file()  # and not some other `configs` beside site-packages
    folders = [CHECKOUT / "configs"] if is_checkout else []
    return [folder for folder in (*folders, INSTALLED_CONFIGS) if folder.is_dir()]


def did_you_mean_config(name: str | Path) -> str:
    """` Did you mean ...?` with the nearest config of the package, or an empty string.

    A name without a folder is compared with the files' names alone.
    """
    wanted = Path(name)
    if not wanted.name:
        return ""
    is_bare = len(wanted.parts) == 1
    known: dict[str, str] = {}
    for full in packaged_names():
        known.setdefault(Path(full).stem if is_bare else full.removesuffix(SUFFIX), full)
    near = difflib.get_close_matches(wanted.stem if is_bare else str(wanted.with_suffix("")), known, n=1)
    return f" Did you mean {known[near[0]]!r}?" if near else ""
