"""Precomputed proposals on their way from files to samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.paths import find_path
from mrcnn_zoo.data.proposal_files import StoredProposals, read_proposals
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.data.transforms import Geometry
from mrcnn_zoo.downloads.download import local_path
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.structures import Proposals

TOPK_TRAIN = "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN"
TOPK_TEST = "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST"

RecordKey = tuple[int, str]  # image id and file: ids alone may occur in several datasets


@dataclass(frozen=True, kw_only=True)
class ProposalMaker:
    """Gives each image its precomputed proposals, moved as its pixels and its objects are."""

    stored: Mapping[RecordKey, StoredProposals]
    topk: int  # of an image, at most
    min_size: float = 0.0  # pixels of the network's input; a box with a side of at most that is left out

    def __call__(self, record: ImageRecord, geometry: Geometry) -> Proposals:
        """The proposals of an image that are left after a transform, best first.

        Args:
            record: of the image.
            geometry: from the image file to the network's input.
        """
        stored = self.stored[_key(record)]
        boxes = geometry.clip_boxes(geometry.map_boxes(stored.boxes.astype(np.float64)))
        rows = np.flatnonzero(((boxes[:, 2:] - boxes[:, :2]) > self.min_size).all(axis=1))
        rows = rows[np.argsort(-stored.objectness[rows], kind="stable")[: self.topk]]
        return Proposals(
            geometry.size,
            torch.from_numpy(boxes[rows].astype(np.float32)),
            objectness=torch.from_numpy(stored.objectness[rows]),
        )


def build_proposal_maker(
    cfg: CfgNode, datasets: Sequence[Dataset], records: Sequence[ImageRecord], *, is_training: bool
) -> ProposalMaker | None:
    """What reads `DATASETS.PROPOSAL_FILES_*`; None where MODEL.LOAD_PROPOSALS is off.

    Args:
        cfg: DATASETS and MODEL.
        datasets: that the records are from; each has a file of its own.
        records: the images that need proposals.
        is_training: take the keys of training instead of those of testing.

    Raises:
        UserError: no file for a dataset, or a file that lacks an image.
    """
    if not cfg.MODEL.LOAD_PROPOSALS:
        return None
    wanted = {_key(record) for record in records}
    stored: dict[RecordKey, StoredProposals] = {}
    for dataset in datasets:
        path = _local_file(_file_of(cfg, dataset.name, is_training=is_training), dataset.name)
        stored |= _proposals_of([record for record in dataset.records if _key(record) in wanted], path, dataset.name)
    topk_key = TOPK_TRAIN if is_training else TOPK_TEST
    topk = cfg.value_of(topk_key)
    if topk < 1:
        raise UserError(f"{topk_key} = {topk} must be at least 1.")
    return ProposalMaker(stored=stored, topk=topk, min_size=cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE)


def _key(record: ImageRecord) -> RecordKey:
    return record.image_id, record.source.name


def _proposals_of(records: Sequence[ImageRecord], path: Path, dataset: str) -> dict[RecordKey, StoredProposals]:
    in_file = read_proposals(path)
    missing = [record for record in records if str(record.image_id) not in in_file]
    if missing:
        raise UserError(
            f"{path} has no proposals for {len(missing)} of {len(records)} images of {dataset!r}, the first of them "
            f"image {missing[0].image_id} ({missing[0].source.name}). Write the file for this dataset with `mrcnn-zoo "
            "precompute-proposals`."
        )
    return {_key(record): in_file[str(record.image_id)] for record in records}


def _local_file(file: str, dataset: str) -> Path:
    if "://" in file:
        return local_path(file)
    return find_path(file, dataset=dataset, what="file of proposals")


def _file_of(cfg: CfgNode, name: str, *, is_training: bool) -> str:
    """The file for a dataset: that of its own split, else that of the other."""
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
                f"file for each dataset of DATASETS.{split} = {list(names)}, in the same order. `mrcnn-zoo "
                "precompute-proposals` writes them."
            )
        return files[list(names).index(name)]
    raise UserError(
        f"MODEL.LOAD_PROPOSALS is True, and dataset {name!r} is neither in DATASETS.TRAIN nor in DATASETS.TEST, so no "
        "file of proposals is named for it."
    )
