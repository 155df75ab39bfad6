"""Computations of proposals: a model with or without weights, and the description of it that a proposal file has."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mrcnn_zoo.checkpoint import read_weights
from mrcnn_zoo.config import CfgNode, changed_config
from mrcnn_zoo.config.defaults import KEYS_BY_NAME
from mrcnn_zoo.data.proposals import ProposalOrigin
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.coco import PROPOSAL_NETWORK
from mrcnn_zoo.inference.trained import fill_model
from mrcnn_zoo.modeling import build_model

SECTIONS = ("MODEL.", "INPUT.", "TEST.BATCH_SIZE")  # of keys that change proposals
OTHER_KEYS = ("MODEL.WEIGHTS", "MODEL.DEVICE", "MODEL.LOAD_PROPOSALS", "MODEL.META_ARCHITECTURE")
CHUNK = 1 << 20  # bytes


@dataclass(frozen=True)
class ProposalJob:
    """What a process needs in order to compute proposals; picklable.

    Args:
        cfg: of the model.
        weights: file of its weights; empty for a model whose generator has no parameters.
    """

    cfg: CfgNode
    weights: str = ""


def build_job_without_network(cfg: CfgNode) -> tuple[ProposalJob, nn.Module] | None:
    """The proposal generator of a config alone, with its model; None if it has parameters, and so needs weights.

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
    model = open_job(job)
    has_parameters = any(name.startswith("proposal_generator.") for name, _ in model.named_parameters())
    return None if has_parameters else (job, model)


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
        dataset: whose images are meant.
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
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
    return f"{path.name} (sha256 {digest.hexdigest()[:16]})"
