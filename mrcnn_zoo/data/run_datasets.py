"""The datasets of a run: those of DATASETS.TRAIN and TEST, or the parts of them that FRACTION and FOLDS select.

The split is that of the image files of DATASETS.TRAIN: crops of a dataset are cut from its part, so that no crop of a
held-out image is trained on.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.own_data import is_own
from mrcnn_zoo.data.catalog import load_dataset, source_of
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.data.splits import CLASS, Unit, assign_parts, nested_subset, rows_of, units_of
from mrcnn_zoo.errors import UserError, counted

NAMES_SHOWN = 5
SPLIT_KEYS = ("DATASETS.FOLDS", "DATASETS.FOLD", "DATASETS.GROUP")  # equal in all stages of a run

logger = logging.getLogger(__name__)

Parts = Mapping[str, Dataset]  # name of a dataset of image files -> a part of it


@dataclass(frozen=True)
class RunDatasets:
    """The datasets of a run.

    Args:
        train: one per name of DATASETS.TRAIN.
        test: one per name of DATASETS.TEST.
        groups: group of each held-out image by its id, by name of the dataset; empty without DATASETS.GROUP.
    """

    train: Sequence[Dataset]
    test: Sequence[Dataset]
    groups: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


def load_train_and_test(cfg: CfgNode, *, seed: int | None = None) -> RunDatasets:
    """The datasets of DATASETS.TRAIN and TEST, restricted to FRACTION and FOLDS.

    Args:
        cfg: DATASETS.
        seed: of the run, where a resumed run keeps its own; SEED by default.

    Raises:
        UserError: a dataset that cannot be loaded or divided.
    """
    if not (is_split(cfg) and cfg.DATASETS.TRAIN):
        train = [_load_side(cfg, name, "train") for name in cfg.DATASETS.TRAIN]
        return RunDatasets(train, [_load_side(cfg, name, "val") for name in cfg.DATASETS.TEST])
    split = _split_sources(cfg, cfg.SEED if seed is None else seed)
    return RunDatasets(
        _load_parts(cfg, cfg.DATASETS.TRAIN, split.training),
        _load_parts(cfg, cfg.DATASETS.TEST, split.held_out),
        split.groups,
    )


def load_train(cfg: CfgNode) -> list[Dataset]:
    """The datasets of DATASETS.TRAIN alone, see `load_train_and_test`.

    Args:
        cfg: DATASETS.
    """
    if not (is_split(cfg) and cfg.DATASETS.TRAIN):
        return [_load_side(cfg, name, "train") for name in cfg.DATASETS.TRAIN]
    return _load_parts(cfg, cfg.DATASETS.TRAIN, _split_sources(cfg, cfg.SEED).training)


def load_test(cfg: CfgNode) -> list[Dataset]:
    """The datasets of DATASETS.TEST alone, see `load_train_and_test`.

    Args:
        cfg: DATASETS.
    """
    if not (cfg.DATASETS.FOLDS and _tests_training_images(cfg)):
        return [_load_side(cfg, name, "val") for name in cfg.DATASETS.TEST]
    return _load_parts(cfg, cfg.DATASETS.TEST, _split_sources(cfg, cfg.SEED).held_out)


def _load_side(cfg: CfgNode, name: str, side: str) -> Dataset:
    """A dataset of one of the two lists; built-in ones have no sides."""
    has_sides = name in cfg.DATASETS.DEFINITIONS or is_own(cfg, name)
    return load_dataset(cfg, name, side=side) if has_sides else load_dataset(cfg, name)


def _tests_training_images(cfg: CfgNode) -> bool:
    divided = {source_of(cfg, name) for name in cfg.DATASETS.TRAIN}
    return any(source_of(cfg, name) in divided for name in cfg.DATASETS.TEST)


def is_split(cfg: CfgNode) -> bool:
    """Whether the training images are only a part of those in DATASETS.TRAIN.

    Args:
        cfg: DATASETS.
    """
    return cfg.DATASETS.FOLDS > 0 or cfg.DATASETS.FRACTION < 1


def check_common_split(configs: Mapping[str, CfgNode]) -> None:
    """Refuse stages whose folds differ: held-out images of one would be trained on in another.

    Args:
        configs: of the stages by name.

    Raises:
        UserError: naming two stages and what differs.
    """
    divided = {name: cfg for name, cfg in configs.items() if any(other.DATASETS.FOLDS for other in configs.values())}
    names = list(divided)
    for first, second in pairwise(names):
        ours, theirs = divided[first], divided[second]
        for key in SPLIT_KEYS:
            if ours.value_of(key) != theirs.value_of(key):
                raise UserError(
                    f"{key} = {ours.value_of(key)!r} in stage {first!r}, but {theirs.value_of(key)!r} in stage "
                    f"{second!r}. The stages of a run have the same folds: set the key for the whole run."
                )
    sources = {name: {source_of(cfg, dataset) for dataset in cfg.DATASETS.TRAIN} for name, cfg in divided.items()}
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            if sources[first] != sources[second] and sources[first] & sources[second]:
                raise UserError(
                    f"stage {first!r} is trained on images of {', '.join(sorted(sources[first]))}, stage {second!r} on "
                    f"images of {', '.join(sorted(sources[second]))}. With DATASETS.FOLDS their folds would differ, "
                    "and held-out images would be trained on: give DATASETS.TRAIN of both the same datasets, or "
                    "crops of the same."
                )


@dataclass(frozen=True)
class _Split:
    training: Parts
    held_out: Parts  # empty without folds
    groups: Mapping[str, Mapping[int, str]]  # of held-out images


def _split_sources(cfg: CfgNode, seed: int) -> _Split:
    names = list(dict.fromkeys(source_of(cfg, name) for name in cfg.DATASETS.TRAIN))
    sources = [_load_side(cfg, name, "train") for name in names]
    training = whole = units_of(sources, group=cfg.DATASETS.GROUP)
    held_out: list[Unit] = []
    if cfg.DATASETS.FOLDS:
        training, held_out = _without_fold(cfg, training, names)
    if cfg.DATASETS.FRACTION < 1:
        training = _fraction(cfg, training, seed=seed)
    parts = _parts_of(sources, training), _parts_of(sources, held_out)
    _log_split(cfg, sources, whole, training, held_out)
    for name, part in (*parts[0].items(), *(parts[1] if held_out else {}).items()):
        if not len(part):
            raise UserError(_empty_part(cfg, name, is_training=part is parts[0].get(name)))
    groups = _groups_of(sources, held_out) if cfg.DATASETS.GROUP else {}
    return _Split(parts[0], parts[1] if held_out else {}, groups)


def _groups_of(sources: Sequence[Dataset], units: Sequence[Unit]) -> dict[str, dict[int, str]]:
    owners = [(source.name, record.image_id) for source in sources for record in source.records]
    groups: dict[str, dict[int, str]] = {}
    for unit in units:
        for name, image_id in (owners[row] for row in unit.rows):
            groups.setdefault(name, {})[image_id] = unit.key
    return groups


def _without_fold(cfg: CfgNode, units: Sequence[Unit], names: Sequence[str]) -> tuple[list[Unit], list[Unit]]:
    """The units outside and inside of DATASETS.FOLD."""
    folds = cfg.DATASETS.FOLDS
    if len(units) < folds:
        unit, plural = ("group", "groups") if cfg.DATASETS.GROUP else ("image", "images")
        pattern = f" of the pattern {cfg.DATASETS.GROUP!r} (DATASETS.GROUP)" if cfg.DATASETS.GROUP else ""
        raise UserError(
            f"DATASETS.FOLDS = {folds}, but {', '.join(names)} (DATASETS.TRAIN) has only "
            f"{counted(len(units), unit, plural)}{pattern}, and each fold needs one. Set DATASETS.FOLDS to at most "
            f"{len(units)}."
        )
    parts = assign_parts(units, [1 / folds] * folds)  # no seed: equal folds make runs comparable
    training = [unit for unit, part in zip(units, parts, strict=True) if part != cfg.DATASETS.FOLD]
    return training, [unit for unit, part in zip(units, parts, strict=True) if part == cfg.DATASETS.FOLD]


def _fraction(cfg: CfgNode, units: Sequence[Unit], *, seed: int) -> list[Unit]:
    own = cfg.DATASETS.FRACTION_SEED
    kept = nested_subset(units, cfg.DATASETS.FRACTION, seed=own if own >= 0 else max(seed, 0))
    if not kept:
        total = sum(map(len, units))
        groups = f" in {counted(len(units), 'group')} (DATASETS.GROUP)" if cfg.DATASETS.GROUP else ""
        raise UserError(
            f"DATASETS.FRACTION = {cfg.DATASETS.FRACTION:g} of {counted(total, 'image')}{groups} is no image. "
            f"Set it to at least {max(min(map(len, units)) / total, 0.0001):.2g}."
        )
    return [units[number] for number in kept]


def _parts_of(sources: Sequence[Dataset], units: Sequence[Unit]) -> dict[str, Dataset]:
    rows = set(rows_of(units))
    parts, start = {}, 0
    for source in sources:
        records = tuple(record for row, record in enumerate(source.records, start) if row in rows)
        parts[source.name] = replace(source, records=records, notes=())
        start += len(source)
    return parts


def _load_parts(cfg: CfgNode, names: Sequence[str], parts: Parts) -> list[Dataset]:
    """The datasets of some names, those of divided sources restricted to the parts."""
    loaded = []
    for name in names:
        source = source_of(cfg, name)
        part = parts.get(source)
        loaded.append(part if part is not None and source == name else load_dataset(cfg, name, source=part))
    return loaded


def _empty_part(cfg: CfgNode, name: str, *, is_training: bool) -> str:
    side = "training" if is_training else f"fold {cfg.DATASETS.FOLD} of DATASETS.FOLDS = {cfg.DATASETS.FOLDS}"
    return (
        f"no image of dataset {name!r} is left for {side}: it is too small for DATASETS.FRACTION = "
        f"{cfg.DATASETS.FRACTION:g} and DATASETS.FOLDS = {cfg.DATASETS.FOLDS}. Leave it out of DATASETS.TRAIN, or "
        "choose a larger fraction or fewer folds."
    )


def _log_split(
    cfg: CfgNode, sources: Sequence[Dataset], whole: Sequence[Unit], training: Sequence[Unit], held_out: Sequence[Unit]
) -> None:
    """One line with the images, objects, classes and groups of each side; a warning about missing classes."""
    keys = [f"DATASETS.FOLD {cfg.DATASETS.FOLD} of {cfg.DATASETS.FOLDS}"] if cfg.DATASETS.FOLDS else []
    if cfg.DATASETS.FRACTION < 1:
        keys.append(f"DATASETS.FRACTION {cfg.DATASETS.FRACTION:g} of {counted(_num_images(whole, held_out), 'image')}")
    sides = [("training", training), *([("held out", held_out)] if held_out else [])]
    texts = [f"{side} {_contents(sources, units, is_grouped=bool(cfg.DATASETS.GROUP))}" for side, units in sides]
    logger.info("%s: %s", ", ".join(keys), "; ".join(texts))
    missing = sorted(_classes_of(whole) - _classes_of(training))
    if missing:
        logger.warning(
            "%s of %s: no training image has an object of %s%s, so the model cannot learn %s",
            ", ".join(keys),
            ", ".join(source.name for source in sources),
            ", ".join(missing[:NAMES_SHOWN]),
            f" and {len(missing) - NAMES_SHOWN} more" if len(missing) > NAMES_SHOWN else "",
            "it" if len(missing) == 1 else "them",
        )


def _num_images(whole: Sequence[Unit], held_out: Sequence[Unit]) -> int:
    return sum(map(len, whole)) - sum(map(len, held_out))


def _classes_of(units: Sequence[Unit]) -> set[str]:
    return {name for unit in units for kind, name in unit.labels if kind == CLASS}


def _contents(sources: Sequence[Dataset], units: Sequence[Unit], *, is_grouped: bool) -> str:
    records = [record for source in sources for record in source.records]
    rows = rows_of(units)
    objects = sum(not item.is_crowd for row in rows for item in records[row].instances)
    parts = [
        counted(len(rows), "image"),
        counted(objects, "object"),
        counted(len(_classes_of(units)), "class"),
        *([counted(len(units), "group")] if is_grouped else []),
    ]
    return f"{parts[0]} ({', '.join(parts[1:])})"
