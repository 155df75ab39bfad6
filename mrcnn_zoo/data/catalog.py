"""Datasets by name: built-in ones, those of DATASETS.DEFINITIONS, and paths."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.known_datasets import KNOWN_DATASETS, Definition
from mrcnn_zoo.config.own_data import AUTO, split_name
from mrcnn_zoo.data.classes import with_distinct_names
from mrcnn_zoo.data.field_rules import FIELD_RULES
from mrcnn_zoo.data.paths import candidate_paths, how_to_set_root
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registries import ANNOTATION_FORMATS, DATASET_FORMATS
from mrcnn_zoo.registry import did_you_mean

logger = logging.getLogger(__name__)


def load_dataset(cfg: CfgNode, name: str, *, source: Dataset | None = None, side: str = "all") -> Dataset:
    """Load a whole dataset and log the repairs of its annotations; `data/run_datasets.py` loads those of a run.

    Args:
        cfg: DATASETS.DEFINITIONS, and the keys of the formats.
        name: a built-in dataset, a key of DATASETS.DEFINITIONS, or the path of a folder or file with annotations; with
            ":train", ":val", ":test" or ":all" one side of it.
        side: of a dataset whose files have sides, where neither the name nor SPLIT chooses one.
        source: the images to derive it from, where they are only a part of the dataset `source_of(cfg, name)`.

    Raises:
        UserError: an unknown name, missing files, or annotations that cannot be used.
    """
    definition = definition_of(cfg, name, side=side)
    build = _format_of(cfg, name, definition)
    made = build(cfg, name, definition) if source is None else build(cfg, name, definition, source=source)
    dataset = with_distinct_names(made)
    for note in dataset.notes:
        logger.warning("%s: %s", split_name(cfg, name)[0], note)
    return dataset


def _is_annotated(definition: Definition) -> bool:
    return definition["FORMAT"] == AUTO or definition["FORMAT"] in ANNOTATION_FORMATS


def source_of(cfg: CfgNode, name: str) -> str:
    """The dataset with the image files of another one, e.g. of which one has crops; `name` itself where it has them.

    Args:
        cfg: DATASETS.DEFINITIONS.
        name: as for `load_dataset`.

    Raises:
        UserError: an unknown name or format.
    """
    definition = definition_of(cfg, name)
    is_derived = "source" in inspect.signature(_format_of(cfg, name, definition)).parameters
    source = definition.get("DATASET", name) if is_derived else name
    return source if isinstance(source, str) else name


def _format_of(cfg: CfgNode, name: str, definition: Definition) -> Callable[..., Dataset]:
    base = split_name(cfg, name)[0]
    is_default = "FORMAT" not in cfg.DATASETS.DEFINITIONS.get(base, {})
    key = "DATASETS.DEFAULTS.FORMAT" if is_default else f"DATASETS.DEFINITIONS.{base}.FORMAT"
    if not isinstance(definition["FORMAT"], str):
        raise UserError(f"{key} = {definition['FORMAT']!r} must be one of {', '.join(DATASET_FORMATS.names())}.")
    return DATASET_FORMATS.get(definition["FORMAT"], key=key)


def dataset_names(cfg: CfgNode) -> list[str]:
    """The built-in names and those of DATASETS.DEFINITIONS, sorted."""
    return sorted({*KNOWN_DATASETS, *cfg.DATASETS.DEFINITIONS})


def definition_of(cfg: CfgNode, name: str, *, side: str = "all") -> Definition:
    """The definition of a dataset: FORMAT and its fields.

    Args:
        cfg: DATASETS.DEFINITIONS and DEFAULTS.
        name: as for `load_dataset`.
        side: as for `load_dataset`; the field SIDE of definitions whose format is detected.

    Raises:
        UserError: an unknown name.
    """
    base, chosen = split_name(cfg, name)
    defined = cfg.DATASETS.DEFINITIONS.get(base)
    if defined is not None and not isinstance(defined, Mapping):
        raise UserError(f"DATASETS.DEFINITIONS.{base} = {defined!r} must be a mapping with FORMAT and its fields.")
    if defined is None and base in KNOWN_DATASETS:
        defined = KNOWN_DATASETS[base]
    if defined is None:
        found = next((path for path in candidate_paths(base) if path.exists()), None)
        defined = None if found is None else {"IMAGES" if found.is_dir() else "ANNOTATIONS": base}
    if defined is None:
        raise UserError(_unknown_name(cfg, base))
    definition = {"FORMAT": cfg.DATASETS.DEFAULTS.FORMAT, **defined}
    if chosen:
        definition["SPLIT"] = chosen
    elif isinstance(definition["FORMAT"], str) and _is_annotated(definition):
        definition.setdefault("SIDE", side)
    return definition


def _unknown_name(cfg: CfgNode, name: str) -> str:
    known = dataset_names(cfg)
    if "/" in name or "\\" in name:
        searched = " and ".join(str(path.absolute()) for path in candidate_paths(Path(name)))
        return f"dataset {name!r}: there is no such folder, searched {searched}. {how_to_set_root()}"
    return (
        f"unknown dataset {name!r}.{did_you_mean(name, known)} Known are {', '.join(known)}, what you define under "
        "DATASETS.DEFINITIONS, and the path of a folder or file with annotations."
    )


def read_fields(
    name: str, definition: Mapping[str, Any], *, required: Sequence[str], optional: Mapping[str, Any]
) -> dict[str, Any]:
    """The fields of a dataset definition, with defaults for the optional ones.

    Args:
        name: of the dataset, for messages.
        definition: the mapping under DATASETS.DEFINITIONS.
        required: names of mandatory fields, all strings, besides FORMAT.
        optional: defaults by name; a value must have the type of its default.

    Raises:
        UserError: a field that is missing, unknown, empty, or of the wrong type or range.
    """
    known = ["FORMAT", *required, *optional]
    where = f"DATASETS.DEFINITIONS.{name}"
    for field in definition:
        if field not in known:
            raise UserError(
                f"{where} has no field {field!r}; its fields are {', '.join(known)}.{did_you_mean(field, known)}"
            )
    for field in required:
        if field not in definition:
            raise UserError(f"{where} needs the field {field}; it has only {', '.join(definition) or 'none'}.")
    values = {**optional, **definition}
    for field, default in (*((field, "") for field in required), *optional.items()):
        allowed = (int, float) if isinstance(default, float) else (type(default),)
        value = values[field]
        if not isinstance(value, allowed) or (isinstance(value, bool) and not isinstance(default, bool)):
            raise UserError(f"{where}.{field} = {value!r} must be of type {allowed[-1].__name__}.")
        rule = FIELD_RULES.get(field)
        if rule is not None and not rule.accepts(value):
            raise UserError(f"{where}.{field} = {value!r} must be {rule.words}.")
        if field in required and isinstance(value, str) and not value.strip():
            raise UserError(f"{where}.{field} is empty; name a file or folder.")
    return values
