"""Every YAML file of a folder, loaded one by one: another project's configs before anything is trained with them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mrcnn_zoo.config.loading import load_config
from mrcnn_zoo.config.locations import FOLDER, SUFFIX, expanded, find_config, problem_of_place
from mrcnn_zoo.errors import UserError


@dataclass(frozen=True)
class Finding:
    """Whether one file loads."""

    path: Path
    problem: str = ""  # empty when it loads


def check_configs(places: Iterable[str | Path]) -> Iterator[Finding]:
    """Load every file as `load_config` does.

    Args:
        places: folders, searched with all folders inside, files, or names of configs of the package.

    Raises:
        UserError: a place that is neither, or a folder without a YAML file.
    """
    for place in places:
        for path in _files_of(place):
            yield Finding(path, _problem_of(path))


def _files_of(place: str | Path) -> list[Path]:
    if not str(place) or problem_of_place(expanded(place)) != FOLDER:
        return [find_config(place)]
    paths = sorted(expanded(place).rglob(f"*{SUFFIX}"))
    if not paths:
        raise UserError(f"{place} holds no {SUFFIX} file.")
    return paths


def _problem_of(path: Path) -> str:
    try:
        load_config(path)
    except UserError as error:
        return str(error)
    return ""
