"""CLASSES of a dataset: its classes merged, renamed and left out by name."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mrcnn_zoo.choices import CLASSES_EXAMPLE
from mrcnn_zoo.data.classes import listed
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.registry import did_you_mean

IGNORE = "ignore"  # the entry of CLASSES with the classes whose objects are left out
FREQUENCY_ORDER = "rcf"  # of LVIS: rare, common, frequent


def with_classes(dataset: Dataset, classes: Any, *, name: str) -> Dataset:
    """The dataset in the classes of a CLASSES field.

    Classes that CLASSES does not name stay as they are, after those of CLASSES. A list of names keeps these alone.

    Args:
        dataset: in the classes of its files.
        classes: new name -> former names, or one name; under "ignore" those whose objects are left out. A list: the
            classes that are kept, in this order. Empty: all stay.
        name: of the dataset, for messages.

    Raises:
        UserError: another kind of value, a name that the dataset lacks, or one that is named twice.
    """
    if not classes:
        return dataset
    where = f"dataset {name!r}: CLASSES"
    groups = _groups_of(classes, dataset.class_names, where=where)
    ignored = set(groups.pop(IGNORE, ()))
    target = {former: new for new, formers in groups.items() for former in formers}
    if not isinstance(classes, Mapping):
        ignored = {former for former in dataset.class_names if former not in target}
    names = list(dict.fromkeys([*groups, *(former for former in dataset.class_names if former not in ignored)]))
    names = [new for new in names if new in groups or new not in target]
    if not names:
        raise UserError(f"{where} leaves no class: all of {listed(dataset.class_names)} are under {IGNORE!r}.")
    places = [-1 if former in ignored else names.index(target.get(former, former)) for former in dataset.class_names]
    records = tuple(_with_places(record, places) for record in dataset.records)
    removed = sum(len(record.instances) for record in dataset.records) - sum(len(item.instances) for item in records)
    notes = dataset.notes
    if ignored:
        what = f"{counted(removed, 'object')} of the classes {listed(sorted(ignored))} left out by CLASSES"
        notes = (*notes, what)
    ids = tuple(range(1, len(names) + 1))
    return replace(
        dataset,
        records=records,
        class_names=tuple(names),
        category_ids=ids,
        class_frequencies=_merged_frequencies(dataset.class_frequencies, places, len(names)),
        notes=notes,
    )


def _merged_frequencies(frequencies: Sequence[str], places: Sequence[int], count: int) -> tuple[str, ...]:
    """The frequency of each new class: the highest of those that it merges."""
    merged = [""] * count
    for value, place in zip(frequencies, places, strict=False):
        if place >= 0:
            merged[place] = max(merged[place], value, key=FREQUENCY_ORDER.find)
    return tuple(merged) if frequencies else ()


def _groups_of(classes: Any, present: Sequence[str], *, where: str) -> dict[str, list[str]]:
    """Former names by new name."""
    if isinstance(classes, list | tuple):
        classes = {str(item): [str(item)] for item in classes}
    if not isinstance(classes, Mapping):
        raise UserError(f"{where} = {classes!r} must be a mapping of names to lists of names, e.g. {CLASSES_EXAMPLE}.")
    groups: dict[str, list[str]] = {}
    owner: dict[str, str] = {}
    for new, formers in classes.items():
        members = [str(former) for former in (formers if isinstance(formers, list | tuple) else [formers])]
        for former in members:
            if former not in present:
                raise UserError(
                    f"{where} names {former!r} under {new!r}, which the dataset lacks.{did_you_mean(former, present)} "
                    f"It has {listed(present)}."
                )
            if former in owner:
                raise UserError(f"{where} names {former!r} under {owner[former]!r} and {new!r}; keep one.")
            owner[former] = str(new)
        groups[str(new)] = members
    return groups


def _with_places(record: ImageRecord, places: Sequence[int]) -> ImageRecord:
    instances = tuple(
        replace(item, class_index=places[item.class_index])
        for item in record.instances
        if places[item.class_index] >= 0
    )
    federated = record.federated and record.federated.mapped(places)
    return replace(record, instances=instances, federated=federated)
