"""From a YAML file and overrides to the frozen config that builders read; checks of whole folders."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrcnn_zoo.config.files import FOLDER, SUFFIX, expanded, find_config, problem_of_place
from mrcnn_zoo.config.keys import Assignment, Origin
from mrcnn_zoo.config.node import CfgNode, default_config
from mrcnn_zoo.config.rules import check_values, refuse_unsupported, settle_contradictions, warn_of_unused
from mrcnn_zoo.config.safe_yaml import read_yaml
from mrcnn_zoo.config.trust import refuse_foreign_code
from mrcnn_zoo.config.values import flattened, read_overrides
from mrcnn_zoo.errors import UserError


def load_config(path: str | Path | None = None, overrides: Sequence[Any] = ()) -> CfgNode:
    """Load the frozen config of a YAML file, with `KEY VALUE` or `KEY=VALUE` overrides on top.

    Args:
        path: of the file, or the name of a packaged config; None for the defaults alone.
        overrides: e.g. `["SOLVER.BASE_LR", "0.01", "MODEL.MASK_ON=True"]`; values are texts or Python values.

    Raises:
        UserError: for a mistake in the file or the overrides, with its place.
    """
    return _checked(resolve_config(path, overrides))


def config_from_assignments(assignments: Iterable[Assignment]) -> CfgNode:
    """The frozen config of assignments, e.g. of a base file and of a variant of a sweep.

    Args:
        assignments: in order; those of a later source have priority over those of an earlier one.

    Raises:
        UserError: for a mistake, with its place.
    """
    config = default_config()
    config.assign(assignments)
    return _checked(config)


def _checked(config: CfgNode) -> CfgNode:
    settle_contradictions(config)
    check_config(config)
    warn_of_unused(config)
    config.freeze()
    return config


def resolve_config(path: str | Path | None = None, overrides: Sequence[Any] = ()) -> CfgNode:
    """As `load_config`, but mutable and unchecked, for display; also accepts keys of unsupported parts.

    Args:
        path: as for `load_config`.
        overrides: as for `load_config`.

    Raises:
        UserError: an unknown key, or a value of another type.
    """
    config = default_config()
    if path is not None:
        config.merge_from_file(path)
    config.merge_from_list(overrides)
    return config


def config_from_text(
    text: str, *, source: str = "text", overrides: Sequence[Any] = (), trust: Iterable[str] = ()
) -> CfgNode:
    """The frozen config of a YAML text without `_BASE_`, e.g. from `dump()` or a checkpoint.

    Args:
        text: the YAML, possibly downloaded: it may name no code to run, see `refuse_foreign_code`.
        source: its name in messages.
        overrides: on top, as for `load_config`.
        trust: modules with code that the text may name.

    Raises:
        UserError: for a mistake in the text or the overrides, with its place.
    """
    config = default_config()
    config.assign(read_yaml(text, source, is_foreign=True))
    return _finished(config, overrides, trust)


def config_from_settings(
    settings: Sequence[Any],
    *,
    source: str,
    path: str | Path | None = None,
    overrides: Sequence[Any] = (),
    trust: Iterable[str] = (),
) -> CfgNode:
    """The frozen config of `KEY VALUE` items of a downloaded file or of the index of the zoo.

    Args:
        settings: which may name no code to run, see `refuse_foreign_code`.
        source: their name in messages.
        path: of the config below them, as for `load_config`.
        overrides: on top, as for `load_config`.
        trust: modules with code that the settings may name.

    Raises:
        UserError: for a mistake in the settings or the overrides, with its place.
    """
    config = resolve_config(path)
    config.assign(read_overrides(settings, Origin(source, is_foreign=True)))
    config = _finished(config, overrides, trust)
    warn_of_unused(config)
    return config


def changed_config(config: CfgNode, settings: Mapping[str, Any], *, source: str = "") -> CfgNode:
    """A frozen copy of a config with some keys set by code, such as a training schedule; the config itself stays.

    Args:
        config: the root.
        settings: values by dotted key; a mapping sets the keys below it.
        source: origin of the values in messages, with priority over files and below the command line; empty keeps the
            origin of each key.

    Raises:
        UserError: an unknown key, or a value that does not fit.
    """
    changed: CfgNode = config.clone()
    changed.defrost()
    changed.assign(
        assignment
        for name, value in settings.items()
        for assignment in flattened((name,), value, Origin(source) if source else config.origin_of(name))
    )
    changed.freeze()
    return changed


def check_config(config: CfgNode, trust: Iterable[str] = ()) -> None:
    """Refuse keys of unsupported parts, invalid values, and code named by downloaded files.

    Args:
        config: the root.
        trust: modules with code that downloaded files may name.

    Raises:
        UserError: with the keys, their values and where they were set.
    """
    refuse_unsupported(config)
    check_values(config)
    refuse_foreign_code(config, trust)


def _finished(config: CfgNode, overrides: Sequence[Any], trust: Iterable[str]) -> CfgNode:
    config.merge_from_list(overrides)
    settle_contradictions(config)
    check_config(config, trust)
    config.freeze()
    return config


@dataclass(frozen=True)
class Finding:
    """The result of loading one file."""

    path: Path
    problem: str = ""  # empty when it loads


def check_configs(places: Iterable[str | Path], *, load: Callable[[Path], object] = load_config) -> Iterator[Finding]:
    """Load every file.

    Args:
        places: folders, searched recursively, files, or names of packaged configs.
        load: raises a UserError for a mistake in a file.

    Raises:
        UserError: a place that is neither, or a folder without a YAML file.
    """
    for place in places:
        for path in _files_of(place):
            yield Finding(path, _problem_of(path, load))


def _files_of(place: str | Path) -> list[Path]:
    if not str(place) or problem_of_place(expanded(place)) != FOLDER:
        return [find_config(place)]
    paths = sorted(expanded(place).rglob(f"*{SUFFIX}"))
    if not paths:
        raise UserError(f"{place} contains no {SUFFIX} file.")
    return paths


def _problem_of(path: Path, load: Callable[[Path], object]) -> str:
    try:
        load(path)
    except UserError as error:
        return str(error)
    return ""
