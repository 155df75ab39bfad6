"""Datasets made of other ones: divided into sides, sampled, merged."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count

from mrcnn_zoo.config.own_data import SIDES
from mrcnn_zoo.data.classes import merge_datasets
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.data.splits import assign_parts, nested_subset, rows_of, units_of
from mrcnn_zoo.errors import UserError, counted


def sides_of(dataset: Dataset) -> dict[str, Dataset]:
    """The sides of a dataset that have images, train first; the whole dataset by "" where no image has a side.

    Images without a side, where others have one, are training images.

    Args:
        dataset: any.
    """
    by_side: dict[str, list[ImageRecord]] = {}
    for record in dataset.records:
        by_side.setdefault(record.split, []).append(record)
    if by_side.keys() <= {""}:
        return {"": dataset}
    by_side["train"] = by_side.get("train", []) + by_side.pop("", [])
    return {side: replace(dataset, records=tuple(by_side[side])) for side in SIDES if by_side.get(side)}


def divided(dataset: Dataset, shares: Mapping[str, float], *, group: str = "", seed: int = 0) -> Dataset:
    """The dataset with new sides, stratified by classes; equal whatever the order of the images.

    Args:
        dataset: to divide.
        shares: of the images, by side; the rest is the training side.
        group: see `units_of`; images of a group are on one side.
        seed: another one gives other sides.

    Raises:
        UserError: shares of 1 or more in all, or fewer images or groups than sides.
    """
    rest = 1 - sum(shares.values())
    if rest <= 1e-9:
        raise UserError(f"the shares {' + '.join(f'{share:g}' for share in shares.values())} leave no training image.")
    all_shares = {"train": rest, **shares}
    units = units_of([dataset], group=group)
    if len(units) < len(all_shares):
        what = counted(len(units), "group" if group else "image")
        raise UserError(f"{dataset.name} has {what}, too few for {', '.join(all_shares)}.")
    parts = assign_parts(units, list(all_shares.values()), seed=seed)
    side_of_row = {row: list(all_shares)[part] for unit, part in zip(units, parts, strict=True) for row in unit.rows}
    records = tuple(replace(record, split=side_of_row[row]) for row, record in enumerate(dataset.records))
    return replace(dataset, records=records)


def sampled(dataset: Dataset, num_images: int, *, group: str = "", seed: int = 0) -> Dataset:
    """A stratified part of the dataset; a smaller one of the same seed is contained in it.

    Args:
        dataset: to take images from; they keep their sides.
        num_images: of the part; nearly, where images belong to groups.
        group: see `units_of`; groups are taken as a whole.
        seed: another one takes other images.

    Raises:
        UserError: more images than the dataset has.
    """
    if num_images > len(dataset):
        raise UserError(f"{dataset.name} has {counted(len(dataset), 'image')}, fewer than the {num_images:,} to take.")
    units = units_of([dataset], group=group)
    kept = nested_subset(units, num_images / max(len(dataset), 1), seed=seed)
    rows = rows_of([units[number] for number in kept])
    return replace(dataset, records=tuple(dataset.records[row] for row in rows))


def merged(datasets: Sequence[Dataset]) -> Dataset:
    """One dataset with all images, and with the union of the classes by name; images and objects are counted from 1.

    Args:
        datasets: at least one, with the same keypoints.

    Raises:
        UserError: see `merge_datasets`.
    """
    return renumbered(merge_datasets(datasets))


def renumbered(dataset: Dataset) -> Dataset:
    """The dataset with images and objects counted from 1.

    Args:
        dataset: whose ids may repeat.
    """
    annotation_ids = count(1)
    records = tuple(
        replace(
            record,
            image_id=number,
            instances=tuple(replace(item, annotation_id=next(annotation_ids)) for item in record.instances),
        )
        for number, record in enumerate(dataset.records, start=1)
    )
    return replace(dataset, records=records)
