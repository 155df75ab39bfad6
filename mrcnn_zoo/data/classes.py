"""Classes of datasets and models, matched by name: a class index has a meaning only in its own list."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from mrcnn_zoo.config import CfgNode, changed_config
from mrcnn_zoo.config.own_data import TRAIN, is_own
from mrcnn_zoo.config.rules import POINT_CLASSES, class_count, class_count_key, has_point_head
from mrcnn_zoo.data.keypoints import FlipPairs
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.registry import did_you_mean

NAMES_SHOWN = 20

logger = logging.getLogger(__name__)


def merge_datasets(datasets: Sequence[Dataset]) -> Dataset:
    """The concatenation of datasets, with the union of their classes by name.

    Args:
        datasets: at least one, with the same keypoints.

    Raises:
        UserError: no dataset, or keypoints that differ.
    """
    if not datasets:
        raise UserError("no training data: DATASETS.TRAIN is empty.")
    if len(datasets) == 1:
        return datasets[0]
    first, *others = unite_classes(datasets)
    for other in others:
        _check_same_keypoints(first, other)
    return replace(
        first,
        name=_joined_name(datasets),
        records=tuple(chain.from_iterable(dataset.records for dataset in (first, *others))),
        annotation_file="",
        keypoint_flip_pairs=_common_flip_pairs(first, others),
        is_labelled=all(dataset.is_labelled for dataset in datasets),
        notes=tuple(f"{dataset.name}: {note}" for dataset in datasets for note in dataset.notes),
    )


def _common_flip_pairs(first: Dataset, others: Sequence[Dataset]) -> FlipPairs | None:
    """The pairs that a mirror exchanges, from the datasets that have them; None if no dataset does."""
    known = [dataset for dataset in (first, *others) if dataset.keypoint_flip_pairs is not None]
    for dataset in known[1:]:
        if dataset.keypoint_flip_pairs != known[0].keypoint_flip_pairs:
            raise UserError(
                f"datasets {known[0].name!r} and {dataset.name!r} differ in the pairs of keypoints that a mirror "
                "exchanges. Set DATASETS.KEYPOINT_FLIP_PAIRS to the right ones, as pairs of names."
            )
    return known[0].keypoint_flip_pairs if known else None


def unite_classes(datasets: Sequence[Dataset]) -> list[Dataset]:
    """The datasets with the union of their classes: those of the first dataset, then the new ones of the others.

    A new class keeps its category id if no other class has it. Differences between the lists are logged.

    Args:
        datasets: with distinct class names each.
    """
    names = tuple(dict.fromkeys(chain.from_iterable(dataset.class_names for dataset in datasets)))
    ids: dict[str, int] = {}
    for dataset in datasets:
        for name, category_id in zip(dataset.class_names, dataset.category_ids, strict=True):
            if name not in ids:
                ids[name] = max(ids.values()) + 1 if category_id in ids.values() else category_id
    differences = [
        f"{dataset.name} has no {listed([name for name in names if name not in dataset.class_names])}"
        for dataset in datasets
        if set(dataset.class_names) != set(names)
    ]
    if differences:
        logger.warning(
            "%s: the union by name has %d classes: %s. Objects of a class that a dataset lacks are background "
            "in its images: %s.",
            _joined_name(datasets),
            len(names),
            listed(names),
            "; ".join(differences),
        )
    elif any(tuple(dataset.class_names) != names for dataset in datasets):
        logger.info("%s: the orders of the classes differ; they are matched by name", _joined_name(datasets))
    return [in_classes(dataset, names, tuple(ids.values())) for dataset in datasets]


def in_classes(dataset: Dataset, class_names: Sequence[str], category_ids: Sequence[int] = ()) -> Dataset:
    """A dataset with the class indices of another list, such as a model's, matched by name.

    Args:
        dataset: whose class names are all in the list.
        class_names: (K,) of the list.
        category_ids: (K,) of the list; 1, 2, ... by default.

    Raises:
        UserError: see `require_known_classes`.
    """
    ids = tuple(category_ids) or tuple(range(1, len(class_names) + 1))
    if tuple(dataset.class_names) == tuple(class_names):
        return dataset if dataset.category_ids == ids else replace(dataset, category_ids=ids)
    require_known_classes(dataset, class_names)
    places = [class_names.index(name) for name in dataset.class_names]
    records = tuple(_with_places(record, places) for record in dataset.records)
    frequencies = dict(zip(dataset.class_names, dataset.class_frequencies, strict=False))
    return replace(
        dataset,
        records=records,
        class_names=tuple(class_names),
        category_ids=ids,
        class_frequencies=tuple(frequencies[name] for name in class_names if name in frequencies)
        if frequencies.keys() >= set(class_names)
        else (),
    )


def in_classes_of_checkpoint(
    datasets: Sequence[Dataset], class_names: Sequence[str], category_ids: Sequence[int], *, source: str
) -> list[Dataset]:
    """The training data of a resumed run, with the classes in the order of the checkpoint.

    Args:
        datasets: with one list of classes, see `unite_classes`.
        class_names: of the checkpoint; () keeps the order of the data.
        category_ids: of the checkpoint; () keeps those of the data.
        source: the checkpoint, for messages.

    Raises:
        UserError: the data has other classes than the checkpoint.
    """
    if not class_names:
        logger.warning("%s has no class names: the classes of the training data are taken in their order", source)
        return list(datasets)
    names, _ = distinct_names(class_names, category_ids or range(1, len(class_names) + 1))
    present = tuple(datasets[0].class_names)
    appeared = [name for name in present if name not in names]
    vanished = [name for name in names if name not in present]
    if appeared or vanished:
        changes = [f"{listed(appeared)} appeared"] * bool(appeared) + [f"{listed(vanished)} vanished"] * bool(vanished)
        raise UserError(
            f"{source} cannot be resumed from with other classes: of the classes of the training data, "
            f"{' and '.join(changes)} since then. Resume with the data that the run began with, or start a new run "
            f"from its weights, which keeps what the classes have in common: MODEL.WEIGHTS {source}, with another "
            "OUTPUT_DIR."
        )
    if names != present:
        logger.warning(
            "the classes of the training data are in another order than in %s; they are matched by name", source
        )
    ids = category_ids or [datasets[0].category_ids[present.index(name)] for name in names]
    return [in_classes(dataset, names, ids) for dataset in datasets]


def require_known_classes(dataset: Dataset, class_names: Sequence[str]) -> None:
    """Refuse a dataset with classes that a model lacks, or with class names that are not distinct.

    Args:
        dataset: to be evaluated.
        class_names: of the model.

    Raises:
        UserError: with the names, and the nearest ones of the model.
    """
    unknown = [name for name in dataset.class_names if name not in class_names]
    if unknown:
        similar = [f" {name!r}:{nearest}" for name in unknown if (nearest := did_you_mean(name, class_names))]
        renaming = f"{{{class_names[0]}: [{unknown[0]}]}}"
        raise UserError(
            f"{dataset.name} has {counted(len(unknown), 'class')} that the model lacks: {listed(unknown)}."
            f"{''.join(similar[:NAMES_SHOWN])} The model has {counted(len(class_names), 'class')}: "
            f"{listed(class_names)}. Choose a test set with classes of the model, or rename its classes: "
            f"DATASETS.DEFAULTS.CLASSES '{renaming}'."
        )
    for owner, names in (("the model", class_names), (dataset.name, dataset.class_names)):
        repeated = [name for name, count in Counter(names).items() if count > 1 and name in dataset.class_names]
        if repeated:
            raise UserError(
                f"{owner} has several classes of the same name, so they cannot be matched by name: "
                f"{listed(repeated)}. Give each class a distinct name."
            )


def with_distinct_names(dataset: Dataset) -> Dataset:
    """The dataset with stripped and distinct class names, see `distinct_names`; changes are added to its notes."""
    names, notes = distinct_names(dataset.class_names, dataset.category_ids)
    ids = tuple(dataset.category_ids)  # formats of the user's own may give lists
    return replace(dataset, class_names=names, category_ids=ids, notes=(*dataset.notes, *notes))


def distinct_names(names: Sequence[str], category_ids: Sequence[int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Stripped and distinct class names: the category id is appended to a name that several classes share.

    Args:
        names: (K,) of the classes.
        category_ids: (K,).

    Returns:
        (K,) names, and a note for the log per change.
    """
    notes = []
    padded = [name for name in names if name != name.strip()]
    if padded:
        notes.append(f"white space around class names is left out: {', '.join(map(repr, padded[:NAMES_SHOWN]))}")
    result = [name.strip() for name in names]
    repeated = [name for name, count in Counter(result).items() if count > 1]
    for name in repeated:
        places = [place for place, other in enumerate(result) if other == name]
        for place in places:
            result[place] = _free_name(f"{name} (id {category_ids[place]})", result)
        notes.append(
            f"{len(places)} categories have the name {name!r}; they are kept apart as "
            f"{', '.join(repr(result[place]) for place in places)}. Give each its own name, or if they are the same, "
            f"all annotations the category_id {category_ids[places[0]]}"
        )
    return tuple(result), tuple(notes)


def fit_num_classes(cfg: CfgNode, count: int, *, owner: str) -> CfgNode:
    """The config with the number of classes of the user's own training data, where a file below has another.

    A number that is set as close to the user as DATASETS.TRAIN stays, and is checked by `check_num_classes`.

    Args:
        cfg: of the model.
        count: of the training data, or of the weights that were trained on it; 0 if unknown.
        owner: the data or the weights, for the log.
    """
    key, value = class_count_key(cfg), class_count(cfg)
    is_closer = bool(key) and cfg.closeness_of(TRAIN) > cfg.closeness_of(key)
    if (
        not count
        or value in (None, count)
        or not is_closer
        or not all(is_own(cfg, name) for name in cfg.DATASETS.TRAIN)
    ):
        return cfg
    logger.info("%s is %d, the number of classes of %s (was %s, %s)", key, count, owner, value, cfg.origin_of(key))
    changes = {key: count} | ({POINT_CLASSES: count} if has_point_head(cfg) else {})
    return changed_config(cfg, changes, source="data")


def check_num_classes(cfg: CfgNode, dataset: Dataset) -> None:
    """Refuse a model with another number of classes or keypoints than its training data.

    Args:
        cfg: of the model.
        dataset: to train on.

    Raises:
        UserError: with the right value and the names of the classes or keypoints.
    """
    check_class_count(cfg, len(dataset.class_names), f"dataset {dataset.name!r} has", dataset.class_names)
    check_num_keypoints(cfg, dataset)


def check_class_count(cfg: CfgNode, count: int, owner: str, class_names: Sequence[str] = ()) -> None:
    """Refuse a model with another number of classes than its training data or weights.

    Args:
        cfg: of the model.
        count: number of classes of the data or weights.
        owner: subject and verb for the message: "dataset 'a' has".
        class_names: of the data or weights; () if unknown.

    Raises:
        UserError: with the right value and the names.
    """
    key, value = class_count_key(cfg), class_count(cfg)
    if value is not None and value != count:
        names = f": {listed(class_names)}" if class_names else ""
        raise UserError(f"{key} = {value}, but {owner} {counted(count, 'class')}{names}. Set {key} to {count}.")


def check_num_keypoints(cfg: CfgNode, dataset: Dataset) -> None:
    """Refuse a keypoint model with another number of keypoints than the dataset, if that has any.

    Args:
        cfg: of the model.
        dataset: to train or evaluate on.

    Raises:
        UserError: with the right value and the names of the keypoints.
    """
    count, names = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, dataset.keypoint_names
    if cfg.MODEL.KEYPOINT_ON and names and count != len(names):
        raise UserError(
            f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = {count}, but dataset {dataset.name!r} has {len(names)} "
            f"keypoints: {listed(names)}. Set it to {len(names)}."
        )


def listed(names: Sequence[str], *, count: int = NAMES_SHOWN) -> str:
    """The first names of a list, for messages; the number of the others is added.

    Args:
        names: any number.
        count: of the names that are shown.
    """
    shown = ", ".join(names[:count])
    return f"{shown}, and {len(names) - count} more" if len(names) > count else shown


def _joined_name(datasets: Sequence[Dataset]) -> str:
    return "+".join(dataset.name for dataset in datasets)


def _with_places(record: ImageRecord, places: Sequence[int]) -> ImageRecord:
    instances = tuple(replace(instance, class_index=places[instance.class_index]) for instance in record.instances)
    federated = record.federated and record.federated.mapped(places)
    return replace(record, instances=instances, federated=federated)


def _free_name(name: str, taken: Sequence[str]) -> str:
    while name in taken:
        name = f"{name}'"
    return name


def _check_same_keypoints(first: Dataset, other: Dataset) -> None:
    ours, theirs = first.keypoint_names, other.keypoint_names
    if tuple(ours) == tuple(theirs):
        return
    if len(ours) == len(theirs):
        row = next(row for row, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
        difference = f"number {row} is {ours[row]!r} in one and {theirs[row]!r} in the other"
    else:
        difference = f"{len(ours)} ({listed(ours)}) and {len(theirs)} ({listed(theirs)})"
    raise UserError(
        f"the keypoints of {first.name!r} and {other.name!r} differ: {difference}. "
        f"Datasets that are trained on together need the same keypoints in the same order."
    )
