"""What several datasets, and a dataset and the model, must agree on: the classes."""

from collections.abc import Sequence
from itertools import chain

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.class_count import class_count, class_count_key
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError

NAMES_SHOWN = 20


def merge_datasets(datasets: Sequence[Dataset]) -> Dataset:
    """Several datasets as one, their images one after the other.

    Raises:
        UserError: no dataset, or classes or key points that differ.
    """
    if not datasets:
        raise UserError("no training data: DATASETS.TRAIN is empty.")
    first = datasets[0]
    if len(datasets) == 1:
        return first
    for other in datasets[1:]:
        _check_same(first, other, "classes", first.class_names, other.class_names)
        _check_same(first, other, "key points", first.keypoint_names, other.keypoint_names)
    return Dataset(
        name="+".join(dataset.name for dataset in datasets),
        records=tuple(chain.from_iterable(dataset.records for dataset in datasets)),
        class_names=first.class_names,
        category_ids=first.category_ids,
        keypoint_names=first.keypoint_names,
        keypoint_flip_pairs=first.keypoint_flip_pairs,
        keypoint_skeleton=first.keypoint_skeleton,
        notes=tuple(f"{dataset.name}: {note}" for dataset in datasets for note in dataset.notes),
    )


def check_num_classes(cfg: CfgNode, dataset: Dataset) -> None:
    """Stop when the model has another number of classes or keypoints than the dataset.

    Raises:
        UserError: with the right value and the names of the classes or keypoints.
    """
    key, value = class_count_key(cfg), class_count(cfg)
    if value is not None and value != len(dataset.class_names):
        raise UserError(
            f"{key} = {value}, but dataset {dataset.name!r} has {len(dataset.class_names)} classes: "
            f"{_listed(dataset.class_names)}. Set {key} to {len(dataset.class_names)}."
        )
    check_num_keypoints(cfg, dataset)


def check_num_keypoints(cfg: CfgNode, dataset: Dataset) -> None:
    """Stop when a keypoint model has another number of keypoints than the dataset, if that has any.

    Raises:
        UserError: with the right value and the names of the keypoints.
    """
    count, names = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, dataset.keypoint_names
    if cfg.MODEL.KEYPOINT_ON and names and count != len(names):
        raise UserError(
            f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = {count}, but dataset {dataset.name!r} has {len(names)} "
            f"keypoints: {_listed(names)}. Set it to {len(names)}."
        )


def _check_same(first: Dataset, other: Dataset, what: str, ours: Sequence[str], theirs: Sequence[str]) -> None:
    if tuple(ours) == tuple(theirs):
        return
    if len(ours) == len(theirs):
        row = next(row for row, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
        difference = f"number {row} is {ours[row]!r} in one and {theirs[row]!r} in the other"
    else:
        difference = f"{len(ours)} ({_listed(ours)}) and {len(theirs)} ({_listed(theirs)})"
    raise UserError(
        f"the {what} of {first.name!r} and {other.name!r} differ: {difference}. "
        f"Datasets that are trained on together need the same {what} in the same order."
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN])
    return f"{shown}, and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else shown
