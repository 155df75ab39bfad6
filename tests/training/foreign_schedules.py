# ruff: noqa: ARG001, ARG002 - hooks, schedules and what prepares a stage have fixed signatures
"""Training schedules that tests name in a config as `foreign_schedules:...`, and hooks for one of their stages."""

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from foreign_hooks import At

from mrcnn_zoo.checkpoint import read_weights
from mrcnn_zoo.config import CfgNode, changed_config
from mrcnn_zoo.data import load_dataset
from mrcnn_zoo.data.proposals import write_proposals
from mrcnn_zoo.distributed.processes import is_main_process
from mrcnn_zoo.evaluation.evaluator import build_prediction_loader
from mrcnn_zoo.evaluation.proposals import compute_proposals
from mrcnn_zoo.inference.trained import fill_model
from mrcnn_zoo.training import FinishedStage, Stage
from mrcnn_zoo.training.hook import Hook

HEADS_ONLY = {"SOLVER.FREEZE": ["backbone.*"], "SOLVER.MAX_ITER": 3, "SOLVER.BASE_LR": 0.02}


def heads_then_all(cfg: CfgNode) -> list[Stage]:
    """The heads on a backbone that stays, then all of the model."""
    heads = changed_config(cfg, HEADS_ONLY, source="heads_then_all")
    return [Stage("heads", heads), Stage("all", cfg, starts_from="heads")]


def two_configs(cfg: CfgNode) -> list[CfgNode]:
    """As a schedule without Stages has it."""
    weights = {"MODEL.WEIGHTS": str(Path(cfg.OUTPUT_DIR) / "model_final.pth")}
    return [changed_config(cfg, HEADS_ONLY, source="two_configs"), changed_config(cfg, weights, source="two_configs")]


def misspelt_dataset(cfg: CfgNode) -> list[Stage]:
    """Its second stage cannot be trained."""
    return [Stage("one", cfg), Stage("two", changed_config(cfg, {"DATASETS.TRAIN": ["digits_trian"]}, source="test"))]


def misspelt_parameter(cfg: CfgNode) -> list[Stage]:
    """Its second stage freezes what the model does not have."""
    two = changed_config(cfg, {"SOLVER.FREEZE": ["backbon.*"]}, source="test")
    return [Stage("one", cfg), Stage("two", two, starts_from="one")]


# --- a stage that hands over proposals --------------------------------------------------------------------------------


def proposals_then_detector(cfg: CfgNode) -> list[Stage]:
    """The first two of the four steps of alternating training."""
    proposing = {"MODEL.META_ARCHITECTURE": "ProposalNetwork", "MODEL.MASK_ON": False, "SOLVER.MAX_ITER": 2}
    return [
        Stage("rpn", changed_config(cfg, proposing, source="proposals_then_detector"), hand_over=propose),
        Stage("detector", cfg, prepare=take_proposals),
    ]


def propose(cfg: CfgNode) -> Mapping[str, Path]:
    """Proposals for the training and the test images."""
    if not is_main_process():
        return {}
    folder = Path(cfg.OUTPUT_DIR)
    model, _ = fill_model(cfg, read_weights(folder / "model_final.pth"))
    files = {}
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        proposals = compute_proposals(model, build_prediction_loader(cfg, load_dataset(cfg, name), model))
        files[name] = write_proposals(folder / f"{name}.npz", proposals)
    return files


def take_proposals(cfg: CfgNode, finished: Mapping[str, FinishedStage]) -> CfgNode:
    """The config with the proposals of the stage before."""
    files = finished["rpn"].handed_over
    settings = {
        "MODEL.LOAD_PROPOSALS": True,
        "MODEL.PROPOSAL_GENERATOR.NAME": "PrecomputedProposals",
        "DATASETS.PROPOSAL_FILES_TRAIN": [str(files[name]) for name in cfg.DATASETS.TRAIN],
        "DATASETS.PROPOSAL_FILES_TEST": [str(files[name]) for name in cfg.DATASETS.TEST],
    }
    return changed_config(cfg, settings, source="take_proposals")


# --- faults -----------------------------------------------------------------------------------------------------------


def in_stage(name: str, workspace: Any, hook: Hook) -> Hook:
    return hook if workspace.output_dir.name == name else Hook()


def interrupt_all_after_2(cfg: CfgNode, workspace: Any) -> Hook:
    """Ctrl-C in the second stage."""
    return in_stage("all", workspace, At(2, lambda: signal.raise_signal(signal.SIGINT)))


def interrupt_heads_after_2(cfg: CfgNode, workspace: Any) -> Hook:
    """Ctrl-C in the first stage."""
    return in_stage("heads", workspace, At(2, lambda: signal.raise_signal(signal.SIGINT)))


def kill_all_after_4(cfg: CfgNode, workspace: Any) -> Hook:
    """SIGKILL in the second stage, one iteration after its checkpoint."""
    return in_stage("all", workspace, At(4, lambda: os.kill(os.getpid(), signal.SIGKILL)))


def kill_rpn_2_after_1(cfg: CfgNode, workspace: Any) -> Hook:
    """SIGKILL in the third of four steps, after its first checkpoint."""
    return in_stage("rpn_2", workspace, At(1, lambda: os.kill(os.getpid(), signal.SIGKILL)))


class AfterEvaluation(Hook):
    """Calls a function after each evaluation."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action

    def after_evaluation(self, trainer: Any, results: Any) -> None:
        self._action()


def terminate_after_heads(cfg: CfgNode, workspace: Any) -> Hook:
    """SIGTERM when the training of the first stage is over and only its evaluation runs."""
    return in_stage("heads", workspace, AfterEvaluation(lambda: signal.raise_signal(signal.SIGTERM)))
