"""A run: from a config to trained weights and their results."""

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mrcnn_zoo import data
from mrcnn_zoo.checkpoint import Checkpointer, load_checkpoint, load_weights
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation import evaluate_datasets, verify_expected_results
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.ops.processes import rank, value_of_main_process, world_size
from mrcnn_zoo.registries import HOOKS, TRAINING_SCHEDULES
from mrcnn_zoo.structures import Sample
from mrcnn_zoo.training.budget import Budget, IterationBudget, TimeBudget
from mrcnn_zoo.training.clipping import build_clipper
from mrcnn_zoo.training.distributed import is_main_process, wait_for_all
from mrcnn_zoo.training.ema import build_weights_average
from mrcnn_zoo.training.environment import describe_environment
from mrcnn_zoo.training.hook import Hook
from mrcnn_zoo.training.lengths import fit_to_epochs, fit_to_processes
from mrcnn_zoo.training.logs import logging_to
from mrcnn_zoo.training.lr_schedule import build_lr_schedule
from mrcnn_zoo.training.optimizer import build_optimizer
from mrcnn_zoo.training.output_folder import check_output_folder, clear_output_folder
from mrcnn_zoo.training.precision import build_precision
from mrcnn_zoo.training.randomness import choose_seed, derived_seed, seed_everything
from mrcnn_zoo.training.signals import StopSignals, TrainingInterrupted
from mrcnn_zoo.training.trainer import Trainer, TrainingPlan
from mrcnn_zoo.training.updater import Updater
from mrcnn_zoo.training.workspace import Workspace
from mrcnn_zoo.training.writers import build_writers

logger = logging.getLogger(__name__)

Results = dict[str, Any]  # {"bbox": {"AP": ...}, "segm": {...}}; with several test sets {dataset: that}

# In the order in which they are called. Checkpoints come before evaluations: an evaluation that fails loses no training.
DEFAULT_HOOKS = (
    "StopOnNonFinite",
    "DrawTrainingBatches",
    "WriteMetrics",
    "SaveCheckpoints",
    "Evaluate",
    "SaveBest",
    "StopEarly",
    "DrawPredictions",
)


def run(cfg: CfgNode, *, resume: bool = False, eval_only: bool = False, overwrite: bool = False) -> Results:
    """Train and evaluate what a config describes; every process of the run calls this.

    Args:
        cfg: of the run. OUTPUT_DIR gets everything that is written.
        resume: go on from the last checkpoint in OUTPUT_DIR; start afresh when there is none.
        eval_only: only evaluate MODEL.WEIGHTS, or with `resume` the last checkpoint.
        overwrite: start afresh in an OUTPUT_DIR that holds a training, whose checkpoints are removed.

    Returns:
        {"bbox": {"AP": ...}, "segm": {...}} of the last weights; by dataset name when there are several test sets;
        empty when there is none.

    Raises:
        UserError: whatever the user can put right.
        TrainingInterrupted: by SIGTERM or Ctrl-C, after a checkpoint was saved.
        NonFiniteLossError: after the batch was saved.
    """
    cfg = fit_to_processes(cfg, world_size())
    if eval_only:
        return _evaluate_only(cfg, resume=resume)
    results: Results = {}
    for stage in TRAINING_SCHEDULES.get(cfg.SOLVER.TRAINING_SCHEDULE)(cfg):
        results = _train_stage(stage, resume=resume, overwrite=overwrite)
    return results


def _evaluate_only(cfg: CfgNode, *, resume: bool) -> Results:
    output_dir = Path(cfg.OUTPUT_DIR)
    with logging_to(output_dir):
        _set_up_torch(cfg)
        for name in cfg.DATASETS.TEST:
            data.check_num_classes(cfg, data.load_dataset(cfg, name))
        model = build_model(cfg)
        weights = str(Checkpointer(output_dir).last_path()) if resume else cfg.MODEL.WEIGHTS
        if weights:
            logger.info("%s", load_weights(model, weights))
        else:
            logger.warning("MODEL.WEIGHTS is empty: evaluating random weights")
        return evaluate_datasets(model, cfg, output_dir=output_dir)


def _train_stage(cfg: CfgNode, *, resume: bool, overwrite: bool) -> Results:
    output_dir = Path(cfg.OUTPUT_DIR)
    check_output_folder(output_dir, resume=resume, overwrite=overwrite)
    wait_for_all()  # until every process has looked, none may write
    if is_main_process() and not resume:
        clear_output_folder(output_dir)
    with logging_to(output_dir), StopSignals() as signals:
        _set_up_torch(cfg)
        train_datasets = _load_datasets(cfg, cfg.DATASETS.TRAIN)
        test_datasets = _load_datasets(cfg, cfg.DATASETS.TEST)
        cfg = _fit_to_data(cfg, train_datasets)
        checkpointer = Checkpointer(output_dir)
        state = load_checkpoint(checkpointer.last_path()) if resume and checkpointer.has_checkpoint() else None
        if is_main_process():
            _describe_run(cfg, output_dir)
        workspace = Workspace(
            output_dir=output_dir,
            checkpointer=checkpointer,
            writers=build_writers(
                cfg,
                output_dir,
                start_iteration=state["iteration"] if state else 0,
                max_iterations=0 if cfg.SOLVER.MAX_MINUTES > 0 else cfg.SOLVER.MAX_ITER,
            ),
            train_datasets=train_datasets,
            test_datasets=test_datasets,
        )
        try:
            trainer = _build_trainer(cfg, workspace, state)
            trainer.train(signals=signals)
        finally:
            for writer in workspace.writers:
                writer.close()
        return _conclude(cfg, trainer)
