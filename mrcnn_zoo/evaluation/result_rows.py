"""Rows of a COCO results file, and the detections of an image in a fraction of their memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.backends import KEYPOINTS
from mrcnn_zoo.evaluation.ground_truth import SEGM
from mrcnn_zoo.inference.prediction import coco_points
from mrcnn_zoo.structures import Detections

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


def mask_rows(rows: Sequence[Row]) -> list[Row]:
    """Rows of a results file of masks, with the score of the mask as `score`, as COCO's server requires.

    Args:
        rows: of `coco_instances_results.json`, with `mask_score`.
    """
    columns = ("image_id", "category_id", "segmentation")
    return [{column: row[column] for column in columns} | {"score": row["mask_score"]} for row in rows]
