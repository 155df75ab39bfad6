"""Precomputed proposals: files of them, and the proposals of a sample.

A `.pkl` holds a dict of lists with one element per image: `ids` (or `indexes`), `boxes` (R, 4) and `objectness_logits`
(or `scores`) (R,), and the number `bbox_mode`, 0 for x1 y1 x2 y2 or 1 for x y width height.
A `.npz` holds `image_ids` (N,) and `counts` (N,), and the concatenated rows of all images: `boxes` (T, 4), x1 y1 x2 y2,
and `objectness` (T,). Coordinates are pixels of the image files.
Both may have an `origin`, a JSON text with the fields of `ProposalOrigin`, and `fingerprints` (N,) of the images.
"""

import hashlib
import json
import logging
import pickle
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.choices import PROPOSAL_FORMATS
from mrcnn_zoo.data.field_rules import FIELD_RULES
from mrcnn_zoo.data.records import ImageRecord, RepairLog
from mrcnn_zoo.data.synthetic.scenes import SceneImage
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.output_files import write_atomically
from mrcnn_zoo.restricted_pickle import load_numpy_pickle
from mrcnn_zoo.structures.summary import summary

logger = logging.getLogger(__name__)

CORNERS, CORNER_AND_SIDES = 0, 1  # Detectron2's BoxMode.XYXY_ABS and XYWH_ABS
KEYS_OF_DETECTRON1: dict[Any, str] = {"indexes": "ids", "scores": "objectness_logits"}
ORIGIN, FINGERPRINTS = "origin", "fingerprints"  # optional parts of both formats
FINGERPRINT_BYTES = 8


@dataclass(frozen=True, repr=False)
class StoredProposals:
    """The proposals of one image, in any order."""

    boxes: NDArray[np.float32]  # (R, 4) x1 y1 x2 y2, pixels of the image file
    objectness: NDArray[np.float32]  # (R,) logits

    def __repr__(self) -> str:
        return summary(self)


@dataclass(frozen=True, kw_only=True)
class ProposalOrigin:
    """The dataset of a file of proposals, and how they were computed."""

    dataset: str
    num_images: int
    generator: str  # registered name
    settings: Mapping[str, Any]  # config keys of the generator and its input that differ from their defaults
    weights: str = ""  # name and checksum of the file with the weights; empty without


@dataclass(frozen=True)
class ProposalFile:
    """The content of a file; keys are image ids as text."""

    proposals: Mapping[str, StoredProposals]
    origin: ProposalOrigin | None = None  # of files that name it
    fingerprints: Mapping[str, int] = field(default_factory=dict)  # see `image_fingerprint`


def image_fingerprint(record: ImageRecord) -> int:
    """64 bits of the id, file name and size of an image, and of the settings of a synthetic scene.

    Folders do not count, as a dataset may be moved; annotations do not, as proposals do not depend on them.

    Args:
        record: of the image.
    """
    source = record.source
    name = repr(source) if isinstance(source, SceneImage) else PurePath(source.name).name
    text = f"{record.image_id} {record.image_size} {name}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=FINGERPRINT_BYTES).digest(), "little")


def read_proposals(path: Path) -> Mapping[str, StoredProposals]:
    """The proposals of a file, see `read_proposal_file`.

    Args:
        path: a `.pkl` or `.npz`.
    """
    return read_proposal_file(path).proposals


def read_proposal_file(path: Path) -> ProposalFile:
    """Read the proposals of images by their ids, as text; pickles are read without running code.

    Args:
        path: a `.pkl` or `.npz`.

    Raises:
        UserError: another format, or columns of different lengths.
    """
    if path.suffix not in PROPOSAL_FORMATS:
        raise UserError(f"{path} is not a proposal file: these end in {' or '.join(PROPOSAL_FORMATS)}.")
    columns = _read_pickle(path) if path.suffix == ".pkl" else _read_arrays(path)
    ids, boxes, objectness = columns.ids, columns.boxes, columns.objectness
    if not len(ids) == len(boxes) == len(objectness):
        raise UserError(
            f"{path} has {len(ids)} image ids, boxes of {len(boxes)} and scores of {len(objectness)} images; "
            "there must be equally many."
        )
    repairs = RepairLog()
    names = [_id_text(image_id) for image_id in ids]
    proposals = {
        name: _checked(path, image_id, image_boxes, logits, repairs=repairs)
        for name, image_id, image_boxes, logits in zip(names, ids, boxes, objectness, strict=True)
    }
    for note in repairs.notes():
        logger.warning("%s: %s", path, note)
    origin = _read_origin(path, columns.extra.get(ORIGIN))
    fingerprints = columns.extra.get(FINGERPRINTS, ()) if origin else ()
    return ProposalFile(proposals, origin, dict(zip(names, map(int, fingerprints), strict=False)))


def _read_origin(path: Path, text: Any) -> ProposalOrigin | None:
    if text is None:
        return None
    try:
        return ProposalOrigin(**json.loads(str(text)))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path}: its origin {str(text)[:80]!r} cannot be read ({error}). Write the file again."
        ) from error


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


def write_proposals(
    path: Path,
    proposals: Mapping[int | str, StoredProposals],
    *,
    origin: ProposalOrigin | None = None,
    records: Sequence[ImageRecord] = (),
) -> Path:
    """Write proposals atomically in the format of the path's suffix.

    Args:
        path: ends in `.pkl` or `.npz`; its folder is created.
        proposals: by image id.
        origin: their dataset, which readers then require.
        records: of the same images in the same order, for their fingerprints.

    Returns:
        the path.

    Raises:
        UserError: another suffix, or a file that cannot be written.
    """
    if path.suffix not in PROPOSAL_FORMATS:
        raise UserError(
            f"{path}: proposals are written as {' or '.join(PROPOSAL_FORMATS)}; give the file one of these suffixes."
        )
    extra: dict[str, Any] = {}
    if origin is not None:
        extra[ORIGIN] = json.dumps(asdict(origin))
        extra[FINGERPRINTS] = np.array([image_fingerprint(record) for record in records], dtype=np.uint64)
    write = _write_pickle if path.suffix == ".pkl" else _write_arrays
    return write_atomically(path, lambda file: write(proposals, extra, file))


@dataclass(frozen=True)
class _Columns:
    """The columns of a file, one element per image, and its optional parts by name."""

    ids: Sequence[Any]
    boxes: Sequence[Any]
    objectness: Sequence[Any]
    extra: Mapping[str, Any]


def _read_pickle(path: Path) -> _Columns:
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
    return _Columns(ids, [_corners(table, mode) for table in boxes], logits, columns)


def _corners(table: Any, mode: int) -> NDArray[np.float32]:
    try:
        boxes = np.asarray(table, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        return table  # `_checked` refuses it with the image's id
    if mode == CORNERS or boxes.ndim != 2 or boxes.shape[1] != 4:
        return boxes
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _read_arrays(path: Path) -> _Columns:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            columns = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read as an .npz file: {error}. Write it again.") from error
    ids, counts, boxes, logits = (
        _column(path, columns, name) for name in ("image_ids", "counts", "boxes", "objectness")
    )
    if not np.issubdtype(counts.dtype, np.integer) or counts.ndim != 1 or (len(counts) and counts.min() < 0):
        raise UserError(f"{path}: counts must be {FIELD_RULES['proposals.counts'].words} for each image.")
    if counts.sum() != len(boxes) or len(boxes) != len(logits):
        raise UserError(f"{path}: counts add up to {counts.sum()}, of {len(boxes)} boxes and {len(logits)} scores.")
    ends = np.cumsum(counts)[:-1]
    tables, scores = (np.split(rows, ends) if len(ids) else [] for rows in (boxes, logits))
    return _Columns(ids.tolist(), tables, scores, columns)


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


def _write_pickle(proposals: Mapping[int | str, StoredProposals], extra: Mapping[str, Any], file: BinaryIO) -> None:
    content = {
        "ids": list(proposals),
        "boxes": [table.boxes for table in proposals.values()],
        "objectness_logits": [table.objectness for table in proposals.values()],
        "bbox_mode": CORNERS,
        **extra,
    }
    pickle.dump(content, file, protocol=4)


def _write_arrays(proposals: Mapping[int | str, StoredProposals], extra: Mapping[str, Any], file: BinaryIO) -> None:
    tables = list(proposals.values())
    np.savez_compressed(
        file,
        image_ids=np.array(list(proposals)),
        counts=np.array([len(table.boxes) for table in tables], dtype=np.int64),
        boxes=np.concatenate([np.zeros((0, 4), np.float32), *(table.boxes for table in tables)]),
        objectness=np.concatenate([np.zeros(0, np.float32), *(table.objectness for table in tables)]),
        **extra,
    )
