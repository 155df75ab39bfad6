"""Evaluation of a COCO results file of any tool against an annotation file, without a model and without images."""

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.annotations.json_files import read_json
from mrcnn_zoo.data.annotations.segmentations import (
    MIN_NUMBERS,
    UnreadableSegmentationError,
    parse_segmentation,
    read_rles,
)
from mrcnn_zoo.data.classes import listed
from mrcnn_zoo.data.field_rules import short_repr
from mrcnn_zoo.data.masks import MAX_COORDINATE, encode_clipped_polygons
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.evaluation.backends import KEYPOINTS
from mrcnn_zoo.evaluation.coco import build_evaluator_of_tasks
from mrcnn_zoo.evaluation.ground_truth import BBOX, SEGM, has_masks
from mrcnn_zoo.evaluation.preflight import evaluated_part
from mrcnn_zoo.evaluation.result_rows import Row
from mrcnn_zoo.evaluation.results_matching import load_ground_truth, matched_by_names, rows_with_names
from mrcnn_zoo.evaluation.tables import Results, verify_expected_results
from mrcnn_zoo.ops import rle
from mrcnn_zoo.structures import ImageSize

FORM = (
    "It should be a list of COCO results: objects with image_id, category_id, score, and bbox [x, y, width, height], "
    "segmentation (polygons or run lengths) or keypoints."
)
OTHER_TASKS = {"caption": "captions", "segments_info": "panoptic segmentations"}  # by a field of their results

logger = logging.getLogger(__name__)


def evaluate_predictions(
    predictions: str | Path, annotations: str | Path, cfg: CfgNode, *, output_dir: str | Path | None = None
) -> tuple[Dataset, Results]:
    """Evaluate a results file: COCO's AP, and the metrics of EVAL.METRICS.

    Boxes are evaluated if the results have boxes or masks, masks and keypoints if both files have them.

    Args:
        predictions: a list of COCO results, or a COCO dataset whose annotations have scores, as `predict` writes it.
        annotations: a COCO file, whose images are not read; or a folder, file or name of a dataset of any format, for
            results that name their images and classes, as `predict` writes them.
        cfg: with EVAL and TEST.
        output_dir: see `evaluate`.

    Returns:
        The evaluated dataset, and the results by task.

    Raises:
        UserError: a file that cannot be read, or results that do not belong to the annotations.
        UnexpectedResultsError: see `verify_expected_results`.
    """
    source = Path(predictions).expanduser()
    if not source.is_file():
        raise UserError(f"--predictions {source}: {'it is a folder' if source.is_dir() else 'there is no such file'}.")
    if cfg.EVAL.FUNNEL:
        raise UserError("EVAL.FUNNEL True traces the stages of a model, which a results file does not have: set False.")
    dataset = load_ground_truth(str(annotations), cfg)
    by_image, tasks = read_predictions(source, dataset)
    dataset = evaluated_part(dataset, cfg)
    evaluator = build_evaluator_of_tasks(cfg, dataset, tasks)
    evaluator.check_dataset()
    _note_cut_results(source, by_image, limit=evaluator.max_detections)
    total = counted(sum(map(len, by_image.values())), "result")
    logger.info("%s: %s in %s; evaluating %s", source, total, counted(len(dataset), "image"), ", ".join(tasks))
    for record in dataset.records:
        evaluator.add_rows(record.image_id, by_image.get(record.image_id, []))
    results = evaluator.evaluate(output_dir)
    verify_expected_results(results, cfg.TEST.EXPECTED_RESULTS)
    return dataset, results


def read_predictions(path: Path, dataset: Dataset) -> tuple[dict[int, list[Row]], tuple[str, ...]]:
    """The results of a file by image id, checked, and the tasks that they can be evaluated on.

    Args:
        path: of the results.
        dataset: the ground truth.

    Raises:
        UserError: see `evaluate_predictions`.
    """
    rows = matched_by_names(path, _rows_of_file(path), dataset)
    fields = ("image_id", "category_id", "score")
    for name in fields:
        lacking = [number for number, row in enumerate(rows) if row.get(name) is None]
        if lacking:
            raise UserError(f"{path}: {_count(lacking, rows)} no {name!r} (first: result {lacking[0]}). {FORM}")
    _check_ids(path, rows, dataset)
    _check_scores(path, rows)
    tasks = _tasks_of(path, rows, dataset)
    sizes = {record.image_id: record.image_size for record in dataset.records}
    by_image: dict[int, list[Row]] = {}
    for number, row in enumerate(rows):
        read = _read_row(row, sizes[row["image_id"]], tasks, dataset, where=f"{path}: result {number}")
        by_image.setdefault(row["image_id"], []).append(read)
    _warn_of_duplicates(path, by_image)
    return by_image, tasks


def _rows_of_file(path: Path) -> list[Row]:
    content = read_json(path)
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        content = rows_with_names(content)  # of a COCO dataset, as `predict` writes it
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        what = "a list of other things than objects" if isinstance(content, list) else f"a {type(content).__name__}"
        raise UserError(f"{path} holds {what}. {FORM}")
    other = next((kind for name, kind in OTHER_TASKS.items() if content and name in content[0]), "")
    if other:
        raise UserError(f"{path} holds results of another task, {other}. {FORM}")
    if not content:
        logger.warning("%s is an empty list: every object counts as missed.", path)
    return content


def _check_ids(path: Path, rows: Sequence[Row], dataset: Dataset) -> None:
    image_ids = [record.image_id for record in dataset.records]
    for name, what, known in (
        ("image_id", "images", image_ids),
        ("category_id", "categories", dataset.category_ids),
    ):
        allowed = set(known)
        unknown = [row[name] for row in rows if not _is_id(row[name]) or row[name] not in allowed]
        if unknown:
            hint = " They are texts; the ids of COCO are numbers." if isinstance(unknown[0], str) else ""
            shown = listed(list(dict.fromkeys(map(str, unknown))))
            raise UserError(
                f"{path}: {_count(unknown, rows)} an unknown {name}: {shown}.{hint} The {what} of "
                f"{dataset.annotation_file or dataset.name} have the ids {listed([str(number) for number in known])}."
            )


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_scores(path: Path, rows: Sequence[Row]) -> None:
    for name in ("score", "mask_score"):
        scores = [(number, row[name]) for number, row in enumerate(rows) if name in row]
        wrong = next(((number, score) for number, score in scores if not _is_number(score)), None)
        if wrong:
            raise UserError(f"{path}: result {wrong[0]} has the {name} {short_repr(wrong[1])}, which is not a number.")
        outside = [score for _, score in scores if not 0 <= score <= 1]
        if outside:
            logger.warning(
                "%s: %d of %d results have a %s outside [0, 1], from %g to %g. AP needs only their order; calibration "
                "and thresholds need probabilities.",
                path,
                len(outside),
                len(rows),
                name,
                min(outside),
                max(outside),
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _tasks_of(path: Path, rows: Sequence[Row], dataset: Dataset) -> tuple[str, ...]:
    """The tasks of which all results have the column."""
    counts = {name: sum(name in row for row in rows) for name in ("bbox", "segmentation", "keypoints")}
    for name, count in counts.items():
        if 0 < count < len(rows) and (name != "bbox" or counts["segmentation"] < len(rows)):
            raise UserError(
                f"{path}: {count} of {len(rows)} results have {name!r}. Give it to all of them, or to none."
            )
    if rows and not any(counts.values()):
        raise UserError(f"{path}: the results have neither bbox, segmentation nor keypoints. {FORM}")
    place = dataset.annotation_file or dataset.name
    found = {BBOX: not rows or counts["bbox"] or counts["segmentation"], SEGM: counts["segmentation"]}
    found[KEYPOINTS] = counts["keypoints"]
    measurable = {BBOX: True, SEGM: has_masks(dataset), KEYPOINTS: bool(dataset.keypoint_names)}
    if not rows:
        found[SEGM] = measurable[SEGM]
    for task, what in ((SEGM, "masks"), (KEYPOINTS, "keypoints")):
        if found[task] and not measurable[task]:
            logger.warning("%s has no %s: those of the results are not evaluated.", place, what)
    tasks = tuple(task for task in (BBOX, SEGM, KEYPOINTS) if found[task] and measurable[task])
    if not tasks:
        raise UserError(f"{path}: the results have keypoints alone, and {place} has none.")
    return tasks


def _read_row(row: Row, size: ImageSize, tasks: Sequence[str], dataset: Dataset, *, where: str) -> Row:
    read: Row = {name: row[name] for name in ("image_id", "category_id")}
    mask = _mask(row["segmentation"], size, where=where) if "segmentation" in row else None
    read |= {"bbox": _box(row, mask, where=where), "score": float(row["score"])}
    if SEGM in tasks:
        read["segmentation"] = mask
        read |= {"mask_score": float(row["mask_score"])} if "mask_score" in row else {}
    if KEYPOINTS in tasks:
        read["keypoints"] = _points(row["keypoints"], len(dataset.keypoint_names), where=where)
    return read


def _mask(value: Any, size: ImageSize, *, where: str) -> rle.Rle:
    try:
        polygons, encodings, _ = parse_segmentation(value)
        if polygons:
            return encode_clipped_polygons([_corners(polygon) for polygon in polygons], size)
        found = read_rles(encodings, size)[0]
    except (UnreadableSegmentationError, ValueError, TypeError) as error:
        raise UserError(f"{where}: its segmentation {error}.") from error
    return found or rle.encode_runs([np.array([math.prod(size)])], size)[0]


def _corners(polygon: Sequence[Any]) -> NDArray[np.float64]:
    """(N, 2) x, y of a flat list."""
    if len(polygon) < MIN_NUMBERS or len(polygon) % 2 or not all(map(_is_number, polygon)):
        raise UnreadableSegmentationError(f"has the polygon {short_repr(polygon)}, which are not x and y of 3 points")
    corners = np.array(polygon, dtype=np.float64).reshape(-1, 2)
    if np.abs(corners).max() > MAX_COORDINATE:
        raise UnreadableSegmentationError(f"has a coordinate beyond {MAX_COORDINATE:g} pixels")
    return corners


def _box(row: Mapping[str, Any], mask: rle.Rle | None, *, where: str) -> list[float]:
    """x, y, width and height: as given, or those of the mask or of the keypoints."""
    box = row.get("bbox")
    if box is None and mask is not None:
        x1, y1, x2, y2 = rle.bounding_box(mask) or (0, 0, 0, 0)
        return [float(x1), float(y1), float(x2 - x1), float(y2 - y1)]
    if box is None:
        x, y = row["keypoints"][0::3], row["keypoints"][1::3]
        return [min(x), min(y), max(x) - min(x), max(y) - min(y)]
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)) or min(box[2:]) < 0:
        raise UserError(f"{where} has the bbox {short_repr(box)}; it should be four numbers, x, y, width and height.")
    return [float(value) for value in box]


def _points(value: Any, count: int, *, where: str) -> list[float]:
    if not isinstance(value, list) or len(value) != 3 * count or not all(map(_is_number, value)):
        raise UserError(
            f"{where} has the keypoints {short_repr(value)}; they should be {3 * count} numbers, x, y and score of "
            f"{counted(count, 'keypoint')}."
        )
    return [float(number) for number in value]


def _warn_of_duplicates(path: Path, by_image: Mapping[int, Sequence[Row]]) -> None:
    keys = Counter(
        (row["image_id"], row["category_id"], *row["bbox"], row["score"], str(row.get("segmentation")))
        for rows in by_image.values()
        for row in rows
    )
    repeated = sum(count - 1 for count in keys.values())
    if repeated:
        logger.warning(
            "%s: %s repeated, with equal box, mask and score (first: in image %s); the repetitions count as false "
            "detections.",
            path,
            counted(repeated, "result is", "results are"),
            next(key[0] for key, count in keys.items() if count > 1),
        )


def _note_cut_results(path: Path, by_image: Mapping[int, Sequence[Row]], *, limit: int) -> None:
    """Log that COCO's evaluation counts the results of highest score of each image and class alone."""
    most = {
        image_id: max(Counter(row["category_id"] for row in rows).values())
        for image_id, rows in by_image.items()
        if len(rows) > limit
    }
    cut = [count for count in most.values() if count > limit]
    if cut:
        logger.info(
            "%s: %s more than %d results of a class, at most %d; the others do not count. To count them, "
            "raise TEST.DETECTIONS_PER_IMAGE.",
            path,
            counted(len(cut), "image has", "images have"),
            limit,
            max(cut),
        )


def _count(some: Sequence[Any], rows: Sequence[Row]) -> str:
    return f"{len(some)} of {counted(len(rows), 'result')} {'has' if len(some) == 1 else 'have'}"
