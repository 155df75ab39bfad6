"""Precomputed proposals of the images of a dataset: read from its file, and transformed with each image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import torch

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.paths import find_path
from mrcnn_zoo.data.proposals import ProposalFile, StoredProposals, image_fingerprint, read_proposal_file
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.data.transforms import AffineTransform
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.model_zoo.download import local_path
from mrcnn_zoo.structures import Proposals

TOPK_TRAIN = "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN"
TOPK_TEST = "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST"

RecordKey = tuple[int, str]  # image id and file: several datasets may have the same ids


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
        UserError: the file cannot be read, was written for another dataset, or lacks an image.
    """
    file = read_proposal_file(path)
    _check_origin(file, records, path, dataset)
    missing = [record for record in records if str(record.image_id) not in file.proposals]
    if missing:
        raise UserError(
            f"{path} has no proposals for {len(missing)} of {len(records)} images of {dataset!r}, the first is "
            f"image {missing[0].image_id} ({missing[0].source.name}). {_remedy()}"
        )
    return {_key(record): file.proposals[str(record.image_id)] for record in records}


def _check_origin(file: ProposalFile, records: Sequence[ImageRecord], path: Path, dataset: str) -> None:
    """Refuse proposals of another dataset, or of one that has changed; files that name none are accepted."""
    origin = file.origin
    if origin is None:
        return
    if PurePath(origin.dataset).name != PurePath(dataset).name:  # the name may be a folder, which may be moved
        raise UserError(
            f"{path} has the proposals of the dataset {origin.dataset!r} ({counted(origin.num_images, 'image')}, "
            f"{origin.generator}), not of {dataset!r}. {_remedy()}"
        )
    for record in records:
        expected = file.fingerprints.get(str(record.image_id))
        if expected is not None and expected != image_fingerprint(record):
            raise UserError(
                f"{path} was written for other images of {dataset!r}: image {record.image_id} "
                f"({record.source.name}, {record.image_size[1]} x {record.image_size[0]}) has another file name, size "
                f"or scene now. {_remedy()}"
            )


def _remedy() -> str:
    return "Write the file for this dataset with `mrcnn-zoo precompute-proposals`."


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
