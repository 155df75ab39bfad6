"""Datasets by name: built-in ones, those of DATASETS.DEFINITIONS, and paths of COCO folders."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.classes import with_distinct_names
from mrcnn_zoo.data.field_rules import FIELD_RULES
from mrcnn_zoo.data.paths import candidate_paths, how_to_set_root
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registries import DATASET_FORMATS
from mrcnn_zoo.registry import did_you_mean

logger = logging.getLogger(__name__)

Definition = Mapping[str, Any]

# The splits of COCO as Detectron2 names them: name -> (image folder, suffix of the annotation file).
COCO_SPLITS = {
    "coco_2014_train": ("train2014", "train2014"),
    "coco_2014_val": ("val2014", "val2014"),
    "coco_2014_minival": ("val2014", "minival2014"),
    "coco_2014_valminusminival": ("val2014", "valminusminival2014"),
    "coco_2017_train": ("train2017", "train2017"),
    "coco_2017_val": ("val2017", "val2017"),
    "coco_2017_val_100": ("val2017", "val2017_100"),
}


def _coco(folder: str, annotations: str) -> Definition:
    return {"FORMAT": "coco", "IMAGES": f"coco/{folder}", "ANNOTATIONS": f"coco/annotations/{annotations}.json"}


def _nuclei(split: str) -> Definition:
    return {"FORMAT": "dsb2018", "IMAGES": "dsb2018/stage1_train", "SPLIT": split}


KNOWN_DATASETS: dict[str, Definition] = {
    **{name: _coco(folder, f"instances_{suffix}") for name, (folder, suffix) in COCO_SPLITS.items()},
    **{
        f"keypoints_{name}": _coco(folder, f"person_keypoints_{suffix}")
        for name, (folder, suffix) in COCO_SPLITS.items()
    },
    **{
        f"lvis_v1_{split}": {"FORMAT": "coco", "IMAGES": "coco", "ANNOTATIONS": f"lvis/lvis_v1_{split}.json"}
        for split in ("train", "val")
    },
    **{f"dsb2018_{split}": _nuclei(split) for split in ("train", "val")},
    **{
        f"{kind}_{split}": {"FORMAT": kind, "SPLIT": split}
        for kind in ("digits", "shapes")
        for split in ("train", "val")
    },
}


def load_dataset(cfg: CfgNode, name: str, *, source: Dataset | None = None) -> Dataset:
    """Load a whole dataset and log the repairs of its annotations; `data/run_datasets.py` loads those of a run.

    Args:
        cfg: DATASETS.DEFINITIONS, and the keys of the formats.
        name: a built-in dataset, a key of DATASETS.DEFINITIONS, or the path of a folder in COCO's layout.
        source: the images to derive it from, where they are only a part of the dataset `source_of(cfg, name)`.

    Raises:
        UserError: an unknown name, missing files, or annotations that cannot be used.
    """
    definition = definition_of(cfg, name)
    build = _format_of(name, definition)
    made = build(cfg, name, definition) if source is None else build(cfg, name, definition, source=source)
    dataset = with_distinct_names(made)
    for note in dataset.notes:
        logger.warning("%s: %s", name, note)
    return dataset


def source_of(cfg: CfgNode, name: str) -> str:
    """The dataset with the image files of another one, e.g. of which one has crops; `name` itself where it has them.

    Args:
        cfg: DATASETS.DEFINITIONS.
        name: as for `load_dataset`.

    Raises:
        UserError: an unknown name or format.
    """
    definition = definition_of(cfg, name)
    is_derived = "source" in inspect.signature(_format_of(name, definition)).parameters
    source = definition.get("DATASET", name) if is_derived else name
    return source if isinstance(source, str) else name


def _format_of(name: str, definition: Definition) -> Callable[..., Dataset]:
    key = f"DATASETS.DEFINITIONS.{name}.FORMAT"
    if "FORMAT" not in definition:
        raise UserError(f"{key} is missing; give one of {', '.join(DATASET_FORMATS.names())}.")
    if not isinstance(definition["FORMAT"], str):
        raise UserError(f"{key} = {definition['FORMAT']!r} must be one of {', '.join(DATASET_FORMATS.names())}.")
    return DATASET_FORMATS.get(definition["FORMAT"], key=key)


def dataset_names(cfg: CfgNode) -> list[str]:
    """The built-in names and those of DATASETS.DEFINITIONS, sorted."""
    return sorted({*KNOWN_DATASETS, *cfg.DATASETS.DEFINITIONS})


def definition_of(cfg: CfgNode, name: str) -> Definition:
    """The definition of a dataset: FORMAT and its fields.

    Args:
        cfg: DATASETS.DEFINITIONS.
        name: as for `load_dataset`.

    Raises:
        UserError: an unknown name.
    """
    defined = cfg.DATASETS.DEFINITIONS.get(name)
    if defined is not None:
        if not isinstance(defined, Mapping):
            raise UserError(f"DATASETS.DEFINITIONS.{name} = {defined!r} must be a mapping with FORMAT and its fields.")
        return defined
    if name in KNOWN_DATASETS:
        return KNOWN_DATASETS[name]
    if any(path.is_dir() for path in candidate_paths(name)):
        return {"FORMAT": "coco", "IMAGES": name}
    raise UserError(_unknown_name(cfg, name))


def _unknown_name(cfg: CfgNode, name: str) -> str:
    known = dataset_names(cfg)
    if "/" in name or "\\" in name:
        searched = " and ".join(str(path.absolute()) for path in candidate_paths(Path(name)))
        return f"dataset {name!r}: there is no such folder, searched {searched}. {how_to_set_root()}"
    return (
        f"unknown dataset {name!r}.{did_you_mean(name, known)} Known are {', '.join(known)}, what you define under "
        "DATASETS.DEFINITIONS, and the path of any folder with COCO annotations."
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
