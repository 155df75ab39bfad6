"""Rows of a COCO results file, and the detections of an image and of a dataset in a fraction of their memory."""

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.backends import KEYPOINTS
from mrcnn_zoo.evaluation.ground_truth import SEGM
from mrcnn_zoo.inference.prediction import coco_points
from mrcnn_zoo.output_files import write_atomically
from mrcnn_zoo.structures import Detections

ROWS_FILE = "coco_instances_results.json"
SEGM_ROWS_FILE = "coco_segm_results.json"

Row = dict[str, Any]  # of a COCO results file: image_id, category_id, bbox (x y w h), score, segmentation (RLE),
#                     keypoints (x, y, score each, pixels counted from 0), mask_score (if masks have their own)


@dataclass(frozen=True, slots=True)
class PackedRows:
    """The rows of one image as arrays: about 100 bytes per detection beside its run lengths and keypoints."""

    category_ids: NDArray[np.int64]  # (R,)
    boxes: NDArray[np.float64]  # (R, 4) x, y, width, height
    scores: NDArray[np.float64]  # (R,)
    run_lengths: tuple[bytes, ...] | None  # (R,) compressed counts; None without masks
    size: tuple[int, ...]  # (height, width) of the masks; empty without
    mask_scores: NDArray[np.float64] | None  # (R,)
    keypoints: NDArray[np.float64] | None  # (R, 3 J)

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "PackedRows":
        """Pack the rows of one image, all with the same columns.

        Args:
            rows: in their order.
        """
        first = rows[0] if rows else {}
        has_masks = "segmentation" in first
        return cls(
            category_ids=np.array([row["category_id"] for row in rows], dtype=np.int64),
            boxes=np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4),
            scores=np.array([row["score"] for row in rows], dtype=np.float64),
            run_lengths=tuple(row["segmentation"]["counts"].encode("ascii") for row in rows) if has_masks else None,
            size=tuple(first["segmentation"]["size"]) if has_masks else (),
            mask_scores=np.array([row["mask_score"] for row in rows]) if "mask_score" in first else None,
            keypoints=np.array([row["keypoints"] for row in rows], dtype=np.float64) if "keypoints" in first else None,
        )

    def part(self, numbers: Sequence[int]) -> "PackedRows":
        """Some of the rows.

        Args:
            numbers: of the rows, in the order of the result.
        """
        chosen = np.asarray(numbers, dtype=np.int64)
        return PackedRows(
            category_ids=self.category_ids[chosen],
            boxes=self.boxes[chosen],
            scores=self.scores[chosen],
            run_lengths=None if self.run_lengths is None else tuple(self.run_lengths[number] for number in numbers),
            size=self.size,
            mask_scores=None if self.mask_scores is None else self.mask_scores[chosen],
            keypoints=None if self.keypoints is None else self.keypoints[chosen],
        )

    def rows(self, image_id: int | str) -> list[Row]:
        """The rows again.

        Args:
            image_id: of the image.
        """
        columns: dict[str, Sequence[Any]] = {
            "category_id": self.category_ids.tolist(),
            "bbox": self.boxes.tolist(),
            "score": self.scores.tolist(),
        }
        if self.run_lengths is not None:
            size = list(self.size)
            columns["segmentation"] = [{"size": size, "counts": counts.decode("ascii")} for counts in self.run_lengths]
        if self.mask_scores is not None:
            columns["mask_score"] = self.mask_scores.tolist()
        if self.keypoints is not None:
            columns["keypoints"] = self.keypoints.tolist()
        names = ("image_id", *columns)
        return [dict(zip(names, (image_id, *values), strict=True)) for values in zip(*columns.values(), strict=True)]


class RowsOfImages(Sequence[Row]):
    """The rows of a dataset, of which those of one image at a time are unpacked.

    Args:
        images: by image id, in their order.
    """

    def __init__(self, images: Mapping[int | str, PackedRows]) -> None:
        self.images = images
        self._ids = tuple(images)
        self._ends = list(accumulate(len(packed.scores) for packed in images.values()))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Row]:
        for image_id, packed in self.images.items():
            yield from packed.rows(image_id)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        image = bisect_right(self._ends, number)
        image_id = self._ids[image]
        return self.images[image_id].rows(image_id)[number - self._ends[image]]  # counted from the last row


def has_mask_scores(rows: Sequence[Row]) -> bool:
    """Whether a row has a score of its mask.

    Args:
        rows: of all images.
    """
    if isinstance(rows, RowsOfImages):
        return any(packed.mask_scores is not None for packed in rows.images.values())
    return any("mask_score" in row for row in rows)


def category_counts(rows: Sequence[Row]) -> Counter[int]:
    """Number of rows by category id.

    Args:
        rows: of all images.
    """
    if not isinstance(rows, RowsOfImages):
        return Counter(row["category_id"] for row in rows)
    ids = [packed.category_ids for packed in rows.images.values()]
    values, counts = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *ids]), return_counts=True)
    return Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))


def rows_of_categories(rows: Sequence[Row], category_ids: Collection[int]) -> list[Row]:
    """The rows of some categories, in their order.

    Args:
        rows: of all images.
        category_ids: wanted ones.
    """
    if not isinstance(rows, RowsOfImages):
        return [row for row in rows if row["category_id"] in category_ids]
    found = []
    for image_id, packed in rows.images.items():
        wanted = [number for number, category in enumerate(packed.category_ids.tolist()) if category in category_ids]
        found += packed.rows(image_id) if len(wanted) == len(packed.scores) else packed.part(wanted).rows(image_id)
    return found


def write_results(folder: Path, rows: Sequence[Row]) -> None:
    """Write ROWS_FILE, and SEGM_ROWS_FILE if masks have scores of their own.

    Args:
        folder: `inference/`.
        rows: of all images.
    """
    write_rows(folder / ROWS_FILE, rows)
    if has_mask_scores(rows):
        write_rows(folder / SEGM_ROWS_FILE, mask_rows(rows))


def write_rows(path: Path, rows: Iterable[Row]) -> Path:
    """Write a COCO results file a row at a time; see `write_atomically`.

    Args:
        path: of the file.
        rows: its content.
    """

    def write(file: BinaryIO) -> None:
        separator = "["
        for row in rows:
            file.write(f"{separator}{json.dumps(row, allow_nan=False)}".encode())
            separator = ", "
        file.write(b"]" if separator == ", " else b"[]")

    return write_atomically(path, write)


def rows_of_detections(
    found: Detections, image_id: int | str, *, category_ids: Sequence[int], tasks: Sequence[str]
) -> list[Row]:
    """The detections of one image as rows.

    Args:
        found: in pixels of the original image.
        image_id: of the image.
        category_ids: of the dataset, by class index.
        tasks: of "bbox", "segm" and "keypoints"; each adds its columns.

    Raises:
        UserError: the detections have no masks, but they are evaluated.
    """
    corners = found.boxes.detach().cpu().double().reshape(-1, 4).numpy()
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
    rows: list[Row] = [
        {"image_id": image_id, "category_id": category_ids[index], "bbox": box, "score": score}
        for box, score, index in zip(boxes, found.scores.tolist(), found.classes.tolist(), strict=True)
    ]
    if SEGM in tasks:
        if found.masks is None:
            raise UserError("MODEL.MASK_ON is True, so masks are evaluated, but the detections of the model have none.")
        rows = [row | {"segmentation": rle} for row, rle in zip(rows, found.masks.rles(), strict=True)]
        if found.mask_scores is not None:
            mask_scores = found.mask_scores.tolist()
            rows = [row | {"mask_score": score} for row, score in zip(rows, mask_scores, strict=True)]
    if KEYPOINTS in tasks:
        rows = [row | {"keypoints": points} for row, points in zip(rows, coco_points(found), strict=True)]
    return rows


def mask_rows(rows: Iterable[Row]) -> Iterator[Row]:
    """Rows of a results file of masks, with the score of the mask as `score`, as COCO's server requires.

    Args:
        rows: of `coco_instances_results.json`, with `mask_score`.
    """
    columns = ("image_id", "category_id", "segmentation")
    return ({column: row[column] for column in columns} | {"score": row["mask_score"]} for row in rows)
