"""A dataset as columns of numbers and text, for files: polygons are one array, of which the records have views."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import chain, islice, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.records import Dataset, FederatedLabels, ImageRecord, InstanceRecord, Polygons
from mrcnn_zoo.ops.rle import Rle
from mrcnn_zoo.structures import ImageSize

RUN_LENGTHS = -1  # in the column "parts", where polygons have their number
SEPARATOR = "\0"

Columns = dict[str, NDArray[Any]]


def to_columns(dataset: Dataset) -> Columns | None:
    """The arrays of a dataset; None if they cannot hold it: images that are not files, or masks of another size.

    Args:
        dataset: with N images, M objects, P polygons.

    Returns:
        image_ids, sizes, sides, strata, counts (N, ...); boxes, classes, crowds, areas, annotation_ids, scores, parts,
        has_keypoints (M, ...); lengths (P,) and points of the polygons; keypoints; texts as UTF-8.
    """
    records = dataset.records
    objects = [item for record in records for item in record.instances]
    if not all(record.source == FileImage(record.source.name) for record in records):
        return None
    masks = _mask_columns(objects, [record.image_size for record in records for _ in record.instances])
    if masks is None:
        return None
    sides = sorted({record.split for record in records})
    strata = sorted({record.stratum for record in records})
    keypoints = [item.keypoints for item in objects if item.keypoints is not None]
    names = [field.name for field in fields(dataset) if field.name not in ("name", "records")]
    header = {name: getattr(dataset, name) for name in names} | {
        "sides": sides,
        "strata": strata,
        "federated": _federated_classes(records),
    }
    return {
        "header": _from_text(json.dumps(header)),
        "paths": _from_text(SEPARATOR.join(record.source.name for record in records)),
        "image_ids": np.array([record.image_id for record in records], dtype=np.int64),
        "sizes": np.array([record.image_size for record in records], dtype=np.int64).reshape(-1, 2),
        "sides": np.array([sides.index(record.split) for record in records], dtype=np.uint8),
        "strata": np.array([strata.index(record.stratum) for record in records], dtype=np.int32),
        "counts": np.array([len(record.instances) for record in records], dtype=np.int64),
        "boxes": np.array([item.box for item in objects], dtype=np.float64).reshape(-1, 4),
        "classes": np.array([item.class_index for item in objects], dtype=np.int32),
        "crowds": np.array([item.is_crowd for item in objects], dtype=np.bool_),
        "areas": np.array([item.area for item in objects], dtype=np.float64),  # NaN for None
        "annotation_ids": np.array([item.annotation_id for item in objects], dtype=np.int64),
        "scores": np.array([item.score for item in objects], dtype=np.float64),
        "has_keypoints": np.array([item.keypoints is not None for item in objects], dtype=np.bool_),
        "keypoints": np.array(keypoints, dtype=np.float64).reshape(len(keypoints), -1 if keypoints else 0),
        **masks,
    }


def _federated_classes(records: Sequence[ImageRecord]) -> list[Any]:
    """The two lists of classes of each image, None for images without; empty where no image has any."""
    labels = [record.federated for record in records]
    return [label and (label.absent, label.incomplete) for label in labels] if any(labels) else []


def _mask_columns(objects: Sequence[InstanceRecord], sizes: Sequence[ImageSize]) -> Columns | None:
    parts, run_lengths = [], []
    polygons: list[Sequence[float]] = []
    for item, size in zip(objects, sizes, strict=True):
        mask = item.segmentation
        if isinstance(mask, dict):
            if mask["size"] != list(size) or not isinstance(mask["counts"], str):
                return None
            run_lengths.append(mask["counts"])
            parts.append(RUN_LENGTHS)
        elif mask is None:
            parts.append(0)
        else:
            polygons += mask
            parts.append(len(mask))
    return {
        "parts": np.array(parts, dtype=np.int32),
        "run_lengths": _from_text(SEPARATOR.join(run_lengths)),
        "lengths": np.array([len(polygon) for polygon in polygons], dtype=np.int64),
        "points": np.concatenate(polygons) if polygons else np.zeros(0),
    }


def from_columns(columns: Columns, *, name: str) -> Dataset:
    """The dataset that `to_columns` was given, with another name.

    Args:
        columns: see `to_columns`.
        name: of the dataset.

    Raises:
        ValueError, KeyError, IndexError, TypeError, StopIteration: columns that do not belong together.
    """
    header = json.loads(_to_text(columns["header"]))
    sides, strata, federated = (header.pop(name) for name in ("sides", "strata", "federated"))
    objects = _instances(columns)
    records = tuple(
        ImageRecord(
            number,
            FileImage(path),
            (height, width),
            tuple(islice(objects, count)),
            split=sides[side],
            stratum=strata[stratum],
            federated=labels and FederatedLabels(*_as_tuples(labels)),
        )
        for number, path, (height, width), side, stratum, labels, count in zip(
            columns["image_ids"].tolist(),
            _to_text(columns["paths"]).split(SEPARATOR),
            columns["sizes"].tolist(),
            columns["sides"].tolist(),
            columns["strata"].tolist(),
            federated or [None] * len(columns["sides"]),
            columns["counts"].tolist(),
            strict=True,
        )
    )
    return Dataset(name, records, **{field: _as_tuples(value) for field, value in header.items()})


def _instances(columns: Columns) -> Iterator[InstanceRecord]:
    sizes = np.repeat(columns["sizes"], columns["counts"], axis=0)
    keypoints = iter(map(tuple, columns["keypoints"].tolist()))
    for row in zip(
        map(tuple, columns["boxes"].tolist()),
        columns["classes"].tolist(),
        _masks(columns, sizes),
        (next(keypoints) if given else None for given in columns["has_keypoints"].tolist()),
        columns["crowds"].tolist(),
        _optional(columns["areas"]),
        columns["annotation_ids"].tolist(),
        _optional(columns["scores"]),
        strict=True,
    ):
        yield InstanceRecord(*row)


def _masks(columns: Columns, sizes: NDArray[np.int64]) -> Iterator[Polygons | Rle | None]:
    points = columns["points"]
    if len(points) != columns["lengths"].sum() or len(columns["lengths"]) != columns["parts"].clip(min=0).sum():
        raise ValueError("polygons do not have the number of points that is given")
    bounds = chain([0], np.cumsum(columns["lengths"]).tolist())
    polygons = (points[start:end] for start, end in pairwise(bounds))
    run_lengths = iter(_to_text(columns["run_lengths"]).split(SEPARATOR))
    for count, size in zip(columns["parts"].tolist(), sizes.tolist(), strict=True):
        if count == RUN_LENGTHS:
            yield {"size": size, "counts": next(run_lengths)}
        else:
            yield list(islice(polygons, count)) if count else None  # type: ignore[arg-type]


def _optional(column: NDArray[np.float64]) -> list[float | None]:
    """Numbers, None for NaN."""
    return [None if number != number else number for number in column.tolist()]


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _from_text(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode("utf-8", errors="surrogateescape"), dtype=np.uint8)


def _to_text(column: NDArray[np.uint8]) -> str:
    return column.tobytes().decode("utf-8", errors="surrogateescape")
