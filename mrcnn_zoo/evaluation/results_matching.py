"""Ground truth of any format for a file of results, and which of its images and classes the results belong to."""

import contextlib
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrcnn_zoo.config import CfgNode, changed_config
from mrcnn_zoo.data.catalog import dataset_names, load_dataset
from mrcnn_zoo.data.classes import listed
from mrcnn_zoo.data.formats.coco import load_coco
from mrcnn_zoo.data.given_boxes import common_tail, path_parts
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.result_rows import Row

IMAGE, CLASS = "file_name", "category_name"  # of results that name what they belong to

logger = logging.getLogger(__name__)


def load_ground_truth(annotations: str, cfg: CfgNode) -> Dataset:
    """The annotations of `--annotations`.

    Args:
        annotations: a COCO file, whose images are not read, or else anything that DATASETS.TEST takes.
        cfg: with DATASETS.

    Raises:
        UserError: there is no such file, or it cannot be read.
    """
    # Masks and keypoints are read where there are some, and not required.
    cfg = changed_config(cfg, {"MODEL.MASK_ON": False, "MODEL.KEYPOINT_ON": False})
    path = Path(annotations).expanduser()
    if path.is_file() and path.suffix.lower() == ".json":
        try:
            dataset = load_coco(path.stem, None, path, needs_masks=False, needs_keypoints=False)
        except UserError as error:
            with contextlib.suppress(UserError):  # the error of COCO is raised where no other format fits
                return load_dataset(cfg, annotations)
            raise error
        for note in dataset.notes:
            logger.info("%s: %s", path, note)
        return dataset
    place = Path(annotations.rpartition(":")[0] or annotations).expanduser()
    if not path.exists() and not place.exists() and annotations.partition(":")[0] not in dataset_names(cfg):
        raise UserError(f"--annotations {annotations}: there is no such file, folder or dataset.")
    return load_dataset(cfg, annotations)


def rows_with_names(content: Mapping[str, Any]) -> list[Any]:
    """The annotations of a COCO dataset of results, with the names of their images and classes.

    Args:
        content: of the file.
    """
    images = _names(content.get("images"), "file_name")
    classes = _names(content.get("categories"), "name")
    rows = []
    for row in content["annotations"]:
        if isinstance(row, dict):
            names = {IMAGE: images.get(str(row.get("image_id"))), CLASS: classes.get(str(row.get("category_id")))}
            row = {**{field: name for field, name in names.items() if name is not None}, **row}
        rows.append(row)
    return rows


def _names(entries: Any, field: str) -> dict[str, str]:
    rows = entries if isinstance(entries, list) else []
    return {str(row.get("id")): row[field] for row in rows if isinstance(row, dict) and isinstance(row.get(field), str)}


def matched_by_names(path: Path, rows: Sequence[Row], dataset: Dataset) -> list[Row]:
    """The results with the ids of the ground truth, where their images and classes are named.

    COCO's ids are kept where a name is missing or ambiguous in the ground truth.

    Args:
        path: of the results.
        rows: with or without IMAGE and CLASS.
        dataset: the ground truth.

    Raises:
        UserError: results without names, or of other images or classes, for a ground truth that is no COCO file.
    """
    is_coco = bool(dataset.annotation_file)
    unnamed = sum(not (isinstance(row.get(IMAGE), str) and isinstance(row.get(CLASS), str)) for row in rows)
    has_equal_names = len(set(dataset.class_names)) < len(dataset.class_names)
    if is_coco and (unnamed or has_equal_names):
        return list(rows)
    if unnamed:
        raise UserError(
            f"{path}: {unnamed} of {len(rows)} results have no {IMAGE!r} and {CLASS!r}, and {dataset.name} has no ids "
            "of images and classes, as only COCO has them. Give the predictions.json of `mrcnn-zoo predict`, or a "
            "COCO file as --annotations: `mrcnn-zoo data convert SRC DST --to coco`."
        )
    image_ids = _image_ids(sorted({row[IMAGE] for row in rows}), dataset)
    class_ids = dict(zip(dataset.class_names, dataset.category_ids, strict=True))
    for what, field, known in (("images", IMAGE, image_ids), ("classes", CLASS, class_ids)):
        missing = sorted({row[field] for row in rows} - set(known))
        if missing and is_coco:
            return list(rows)
        if missing:
            have = list(class_ids) if field == CLASS else [record.source.name for record in dataset.records]
            raise UserError(
                f"{path} has results of {what} that {dataset.name} does not have: {listed(missing)}. It has "
                f"{listed(have)}."
            )
    return [{**row, "image_id": image_ids[row[IMAGE]], "category_id": class_ids[row[CLASS]]} for row in rows]


def _image_ids(names: Sequence[str], dataset: Dataset) -> dict[str, int]:
    """The id of each image that is found: the one whose path ends in most of the same parts, if it is one."""
    by_name: dict[str, list[tuple[tuple[str, ...], int]]] = defaultdict(list)
    for record in dataset.records:
        parts = path_parts(record.source.name)
        by_name[parts[-1]].append((parts, record.image_id))
    found = {}
    for name in names:
        parts = path_parts(name)
        tails = [(common_tail(parts, other), image_id) for other, image_id in by_name.get(parts[-1], [])]
        best = [image_id for tail, image_id in tails if tail == max(tails)[0]]
        if len(best) == 1:
            found[name] = best[0]
    return found
