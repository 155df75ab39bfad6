"""Precomputed proposals: files of them, and the proposals of a sample.

A `.pkl` holds a dict of lists with one element per image: `ids` (or `indexes`), `boxes` (R, 4) and `objectness_logits`
(or `scores`) (R,), and the number `bbox_mode`, 0 for x1 y1 x2 y2 or 1 for x y width height.
A `.npz` holds `image_ids` (N,) and `counts` (N,), and the concatenated rows of all images: `boxes` (T, 4), x1 y1 x2 y2,
and `objectness` (T,). Coordinates are pixels of the image files.
"""

import logging
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.field_rules import FIELD_RULES
from mrcnn_zoo.data.paths import find_path
from mrcnn_zoo.data.records import Dataset, ImageRecord, RepairLog
from mrcnn_zoo.data.transforms import AffineTransform
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.model_zoo.download import local_path
from mrcnn_zoo.output_files import write_atomically
from mrcnn_zoo.restricted_pickle import load_numpy_pickle
from mrcnn_zoo.structures import Proposals
from mrcnn_zoo.structures.summary import summary

logger = logging.getLogger(__name__)

FORMATS = (".pkl", ".npz")
CORNERS, CORNER_AND_SIDES = 0, 1  # Detectron2's BoxMode.XYXY_ABS and XYWH_ABS
KEYS_OF_DETECTRON1: dict[Any, str] = {"indexes": "ids", "scores": "objectness_logits"}
TOPK_TRAIN = "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN"
TOPK_TEST = "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST"

RecordKey = tuple[int, str]  # image id and file: several datasets may have the same ids


@dataclass(frozen=True, repr=False)
class StoredProposals:
    """The proposals of one image, in any order."""

    boxes: NDArray[np.float32]  # (R, 4) x1 y1 x2 y2, pixels of the image file
    objectness: NDArray[np.float32]  # (R,) logits

    def __repr__(self) -> str:
        return summary(self)


def read_proposals(path: Path) -> dict[str, StoredProposals]:
    """Read the proposals of images by their ids, as text; pickles are read without running code.

    Args:
        path: a `.pkl` or `.npz`.

    Raises:
        UserError: another format, or columns of different lengths.
    """
    if path.suffix not in FORMATS:
        raise UserError(f"{path} is not a proposal file: these end in {' or '.join(FORMATS)}.")
    ids, boxes, objectness = _read_pickle(path) if path.suffix == ".pkl" else _read_arrays(path)
    if not len(ids) == len(boxes) == len(objectness):
        raise UserError(
            f"{path} has {len(ids)} image ids, boxes of {len(boxes)} and scores of {len(objectness)} images; "
            "there must be equally many."
        )
    repairs = RepairLog()
    proposals = {
        _id_text(image_id): _checked(path, image_id, image_boxes, logits, repairs=repairs)
        for image_id, image_boxes, logits in zip(ids, boxes, objectness, strict=True)
    }
    for note in repairs.notes():
        logger.warning("%s: %s", path, note)
    return proposals


def is_proposal_file(path: Path) -> bool:
    """Whether a file holds proposals; a `.pkl` may hold weights instead.

    Args:
        path: a `.pkl` or `.npz`.
    """
    if path.suffix != ".pkl" or not path.is_file():
        return path.suffix == ".npz"
    content = load_numpy_pickle(path)
    return isinstance(content, Mapping) and "boxes" in content


def _id_text(image_id: Any) -> str:
    """An id as text; equal for 7, 7.0 and "7"."""
    return str(int(image_id)) if isinstance(image_id, float) and image_id.is_integer() else str(image_id).strip()


def write_proposals(path: Path, proposals: Mapping[int | str, StoredProposals]) -> Path:
    """Write proposals atomically in the format of the path's suffix.

    Args:
        path: ends in `.pkl` or `.npz`; its folder is created.
        proposals: by image id.

    Returns:
        the path.

    Raises:
        UserError: another suffix, or a file that cannot be written.
    """
    if path.suffix not in FORMATS:
        raise UserError(
            f"{path}: proposals are written as {' or '.join(FORMATS)}; give the file one of these suffixes."
        )
    write = _write_pickle if path.suffix == ".pkl" else _write_arrays
    return write_atomically(path, lambda file: write(proposals, file))


def _read_pickle(path: Path) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
    content = load_numpy_pickle(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__} instead of a dict with ids and boxes.")
    columns: dict[Any, Any] = {KEYS_OF_DETECTRON1.get(key, key): value for key, value in content.items()}
    ids, boxes, logits = (_column(path, columns, name) for name in ("ids", "boxes", "objectness_logits"))
    for name, column in (("ids", ids), ("boxes", boxes), ("objectness_logits", logits)):
        if not isinstance(column, list | tuple | np.ndarray):
            raise UserError(
                f"{path}: {name} is a {type(column).__name__} instead of a list with one element per image."
            )
    mode = columns.get("bbox_mode", CORNERS)
    if mode not in (CORNERS, CORNER_AND_SIDES):
        raise UserError(
            f"{path} has bbox_mode {mode!r}; known are {CORNERS} (x1 y1 x2 y2) and {CORNER_AND_SIDES} (x y width "
            "height), both in pixels."
        )
    return ids, [_corners(table, mode) for table in boxes], logits


def _corners(table: Any, mode: int) -> NDArray[np.float32]:
    try:
        boxes = np.asarray(table, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        return table  # `_checked` refuses it with the image's id
    if mode == CORNERS or boxes.ndim != 2 or boxes.shape[1] != 4:
        return boxes
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _read_arrays(path: Path) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            columns = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as an .npz file: {error}. Write it again.") from error
    ids, counts, boxes, logits = (
        _column(path, columns, name) for name in ("image_ids", "counts", "boxes", "objectness")
    )
    if not np.issubdtype(counts.dtype, np.integer) or counts.ndim != 1 or (len(counts) and counts.min() < 0):
        raise UserError(f"{path}: counts must be {FIELD_RULES['proposals.counts'].words} for each image.")
    if counts.sum() != len(boxes) or len(boxes) != len(logits):
        raise UserError(f"{path}: counts add up to {counts.sum()}, of {len(boxes)} boxes and {len(logits)} scores.")
    ends = np.cumsum(counts)[:-1]
    return ids.tolist(), np.split(boxes, ends) if len(ids) else [], np.split(logits, ends) if len(ids) else []


def _column(path: Path, columns: Mapping[str, Any], name: str) -> Any:
    if name not in columns:
        raise UserError(
            f"{path} has no {name!r} among {', '.join(map(str, columns)) or 'nothing'}: it is not a proposal file."
        )
    return columns[name]


def _checked(path: Path, image_id: Any, boxes: Any, objectness: Any, *, repairs: RepairLog) -> StoredProposals:
    try:
        with np.errstate(over="ignore"):
            boxes = np.asarray(boxes, dtype=np.float32)
            objectness = np.asarray(objectness, dtype=np.float32).reshape(-1)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path}, image {image_id}: boxes or scores are not numbers ({error}).") from error
    if boxes.size == 0:
        boxes = boxes.reshape(0, 4)
    if boxes.shape != (len(objectness), 4):
        raise UserError(
            f"{path}, image {image_id}: boxes of shape {boxes.shape} with {len(objectness)} scores; it should be "
            f"({len(objectness)}, 4)."
        )
    is_usable = np.isfinite(boxes).all(axis=1) & ~np.isnan(objectness)
    is_usable &= (boxes[:, 2:] >= boxes[:, :2]).all(axis=1)
    repairs.add(
        "proposals that are NaN, infinite or turned inside out left out",
        [image_id] * int((~is_usable).sum()),
        name="image",
    )
    return StoredProposals(boxes[is_usable], objectness[is_usable])


def _write_pickle(proposals: Mapping[int | str, StoredProposals], file: BinaryIO) -> None:
    content = {
        "ids": list(proposals),
        "boxes": [table.boxes for table in proposals.values()],
        "objectness_logits": [table.objectness for table in proposals.values()],
        "bbox_mode": CORNERS,
    }
    pickle.dump(content, file, protocol=4)


def _write_arrays(proposals: Mapping[int | str, StoredProposals], file: BinaryIO) -> None:
    tables = list(proposals.values())
    np.savez(
        file,
        image_ids=np.array(list(proposals)),
        counts=np.array([len(table.boxes) for table in tables], dtype=np.int64),
        boxes=np.concatenate([np.zeros((0, 4), np.float32), *(table.boxes for table in tables)]),
        objectness=np.concatenate([np.zeros(0, np.float32), *(table.objectness for table in tables)]),
    )


@dataclass(frozen=True, kw_only=True)
class ProposalMapper:
    """Maps the precomputed proposals of an image into its augmented pixels.

    Args:
        stored: the proposals of all images.
        topk: the largest number of proposals per image.
        min_size: pixels of the network's input; boxes with a side of at most that are left out.
    """

    stored: Mapping[RecordKey, StoredProposals]
    topk: int
    min_size: float = 0.0

    def __call__(self, record: ImageRecord, affine: AffineTransform) -> Proposals:
        """The proposals of an image inside its frame after the transform, best first.

        Args:
            record: of the image.
            affine: from the image file to the network's input.
        """
        stored = self.stored[_key(record)]
        boxes = affine.clip_boxes(affine.map_boxes(stored.boxes.astype(np.float64)))
        rows = np.flatnonzero(((boxes[:, 2:] - boxes[:, :2]) > self.min_size).all(axis=1))
        rows = rows[np.argsort(-stored.objectness[rows], kind="stable")[: self.topk]]
        return Proposals(
            affine.size,
            torch.from_numpy(boxes[rows].astype(np.float32)),
            objectness=torch.from_numpy(stored.objectness[rows]),
        )


def build_proposal_mapper(
    cfg: CfgNode, datasets: Sequence[Dataset], records: Sequence[ImageRecord], *, is_training: bool
) -> ProposalMapper | None:
    """The proposals of DATASETS.PROPOSAL_FILES_*; None if MODEL.LOAD_PROPOSALS is False.

    Args:
        cfg: DATASETS and MODEL.
        datasets: of the records, one file each.
        records: the images that need proposals.
        is_training: whether the keys of training are read instead of those of testing.

    Raises:
        UserError: no file for a dataset, or a file without an image.
    """
    if not cfg.MODEL.LOAD_PROPOSALS:
        return None
    needed = {_key(record) for record in records}
    stored: dict[RecordKey, StoredProposals] = {}
    for dataset in datasets:
        path = _local_file(_file_of(cfg, dataset.name, is_training=is_training), dataset.name)
        stored |= proposals_of_images(
            [record for record in dataset.records if _key(record) in needed], path, dataset.name
        )
    topk_key = TOPK_TRAIN if is_training else TOPK_TEST
    topk = cfg.value_of(topk_key)
    if topk < 1:
        raise UserError(f"{topk_key} = {topk} must be at least 1.")
    return ProposalMapper(stored=stored, topk=topk, min_size=cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE)


def _key(record: ImageRecord) -> RecordKey:
    return record.image_id, record.source.name


def proposals_of_images(records: Sequence[ImageRecord], path: Path, dataset: str) -> dict[RecordKey, StoredProposals]:
    """The proposals of some images in a file.

    Args:
        records: of the images.
        path: a `.pkl` or `.npz`.
        dataset: name of the records' dataset, for messages.

    Raises:
        UserError: the file cannot be read, or lacks an image.
    """
    in_file = read_proposals(path)
    missing = [record for record in records if str(record.image_id) not in in_file]
    if missing:
        raise UserError(
            f"{path} has no proposals for {len(missing)} of {len(records)} images of {dataset!r}, the first is "
            f"image {missing[0].image_id} ({missing[0].source.name}). Write the file for this dataset with `mrcnn-zoo "
            "precompute-proposals`."
        )
    return {_key(record): in_file[str(record.image_id)] for record in records}


def _local_file(file: str, dataset: str) -> Path:
    if "://" in file:
        return local_path(file)
    return find_path(file, dataset=dataset, what="proposal file")


def _file_of(cfg: CfgNode, name: str, *, is_training: bool) -> str:
    """The file of a dataset: that of the given split, else that of the other one."""
    splits = [
        ("TRAIN", cfg.DATASETS.TRAIN, cfg.DATASETS.PROPOSAL_FILES_TRAIN),
        ("TEST", cfg.DATASETS.TEST, cfg.DATASETS.PROPOSAL_FILES_TEST),
    ]
    for split, names, files in splits if is_training else reversed(splits):
        if name not in names:
            continue
        if len(files) != len(names):
            raise UserError(
                f"MODEL.LOAD_PROPOSALS is True, but DATASETS.PROPOSAL_FILES_{split} = {list(files)} should name one "
                f"file per dataset of DATASETS.{split} = {list(names)}, in the same order. `mrcnn-zoo "
                "precompute-proposals` writes them."
            )
        return files[list(names).index(name)]
    raise UserError(
        f"MODEL.LOAD_PROPOSALS is True, and dataset {name!r} is neither in DATASETS.TRAIN nor in DATASETS.TEST, so it "
        "has no proposal file."
    )
