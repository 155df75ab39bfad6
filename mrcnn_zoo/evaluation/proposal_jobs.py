"""Computations of proposals: a model with or without weights, and the description of it that a proposal file has."""

import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mrcnn_zoo.checkpoint import read_weights
from mrcnn_zoo.config import CfgNode, changed_config
from mrcnn_zoo.config.defaults import KEYS_BY_NAME
from mrcnn_zoo.data.proposals import ProposalOrigin
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.data.transforms.resize import shortest_edge_size
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.coco import PROPOSAL_NETWORK
from mrcnn_zoo.evaluation.limits import RETINANET
from mrcnn_zoo.inference.trained import fill_model
from mrcnn_zoo.model_zoo.checksum import sha256_of
from mrcnn_zoo.modeling import build_model

SECTIONS = ("MODEL.", "INPUT.", "TEST.BATCH_SIZE")  # of keys that change proposals
OTHER_KEYS = ("MODEL.WEIGHTS", "MODEL.DEVICE", "MODEL.LOAD_PROPOSALS", "MODEL.META_ARCHITECTURE")
SHOWN_DIGITS = 16  # of a checksum
MIN_BOX_AREAS = {  # generator -> key
    "SelectiveSearch": "MODEL.SELECTIVE_SEARCH.MIN_BOX_AREA",
    "EdgeBoxes": "MODEL.EDGE_BOXES.MIN_BOX_AREA",
}
LEAST_BOX_AREA = 16.0  # square pixels; datasets such as COCO have objects of one pixel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProposalJob:
    """Config and weights with which a process computes proposals; picklable.

    Args:
        cfg: of the model.
        weights: file of its weights; empty for a generator without parameters.
    """

    cfg: CfgNode
    weights: str = ""


def fit_min_box_area(cfg: CfgNode, datasets: Sequence[Dataset]) -> CfgNode:
    """The config with half the area of the smallest object as MIN_BOX_AREA of its generator, where that is 0.

    Args:
        cfg: of the model.
        datasets: with annotations; crowds are left out.
    """
    key = MIN_BOX_AREAS.get(cfg.MODEL.PROPOSAL_GENERATOR.NAME)
    if key is None or cfg.value_of(key) > 0 or cfg.MODEL.META_ARCHITECTURE == RETINANET:
        return cfg
    areas = [area for dataset in datasets for record in dataset.records for area in _object_areas(cfg, record)]
    if not areas:
        return cfg
    area = max(min(areas) / 2, LEAST_BOX_AREA)
    names = ", ".join(dataset.name for dataset in datasets)
    logger.info(
        "%s is %.4g square pixels of the network input, after the smallest object of %s (%.4g)",
        key,
        area,
        names,
        min(areas),
    )
    return changed_config(cfg, {key: area}, source="the smallest object")


def _object_areas(cfg: CfgNode, record: ImageRecord) -> Iterator[float]:
    """Areas of the objects' boxes in the smallest network input of their image."""
    height, width = record.image_size
    lengths = (
        ((cfg.INPUT.MIN_SIZE_TEST,), cfg.INPUT.MAX_SIZE_TEST),
        (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN),
    )
    scales = [
        math.prod(shortest_edge_size(record.image_size, length, max_size)) / (height * width)
        for several, max_size in lengths
        for length in several
    ]
    for item in record.instances:
        x1, y1, x2, y2 = item.box
        if not item.is_crowd and x2 > x1 and y2 > y1:
            yield (x2 - x1) * (y2 - y1) * min(scales)


def build_job_without_network(cfg: CfgNode) -> tuple[ProposalJob, nn.Module]:
    """The proposal generator of a config alone, with its model.

    Args:
        cfg: with any META_ARCHITECTURE.

    Raises:
        UserError: the generator only returns proposals of a file.
    """
    name = cfg.MODEL.PROPOSAL_GENERATOR.NAME
    if name == "PrecomputedProposals":
        raise UserError(
            f"MODEL.PROPOSAL_GENERATOR.NAME is {name}, which has no proposals of its own: set it to the generator "
            "whose proposals are to be written, e.g. SelectiveSearch, or name trained weights with --weights."
        )
    alone = {"MODEL.META_ARCHITECTURE": PROPOSAL_NETWORK, "MODEL.LOAD_PROPOSALS": False, "MODEL.WEIGHTS": ""}
    job = ProposalJob(changed_config(cfg, alone))
    return job, open_job(job)


def needs_weights(model: nn.Module) -> bool:
    """Whether the proposals of a model depend on its backbone or other parameters.

    Args:
        model: with a proposal generator.
    """
    generator = model.proposal_generator
    has_parameters = isinstance(generator, nn.Module) and any(True for _ in generator.parameters())
    return has_parameters or getattr(generator, "needs_features", True)


def open_job(job: ProposalJob) -> nn.Module:
    """The model of a job in evaluation mode.

    Args:
        job: with or without weights.

    Raises:
        UserError: weights that do not fill the model.
    """
    return fill_model(job.cfg, read_weights(job.weights))[0] if job.weights else build_model(job.cfg).eval()


def describe_origin(job: ProposalJob, dataset: Dataset) -> ProposalOrigin:
    """The origin of proposals.

    Args:
        job: the model.
        dataset: with the images of the proposals.
    """
    cfg = job.cfg
    settings: dict[str, Any] = {
        name: cfg.value_of(name)
        for name, key in KEYS_BY_NAME.items()
        if name.startswith(SECTIONS)
        and name not in OTHER_KEYS
        and key.default != {}
        and cfg.value_of(name) != key.default
    }
    settings = json.loads(json.dumps(settings))  # as it is read from a file
    return ProposalOrigin(
        dataset=dataset.name,
        num_images=len(dataset),
        generator=settings.pop("MODEL.PROPOSAL_GENERATOR.NAME", cfg.MODEL.PROPOSAL_GENERATOR.NAME),
        settings=settings,
        weights=_described_file(job.weights) if job.weights else "",
    )


def _described_file(source: str) -> str:
    path = Path(source)
    if not path.is_file():
        return source
    return f"{path.name} (sha256 {sha256_of(path)[:SHOWN_DIGITS]})"
