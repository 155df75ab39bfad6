"""A run: from a config to trained weights and their results."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mrcnn_zoo import data
from mrcnn_zoo.checkpoint import Checkpointer, load_checkpoint, read_weights
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.classes import in_classes_of_checkpoint, merge_datasets, unite_classes
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.data.selection import select_for_training
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.evaluation import check_evaluation, evaluate_datasets, verify_expected_results
from mrcnn_zoo.evaluation.class_mapping import check_classes, predicts_classes
from mrcnn_zoo.evaluation.coco import PROPOSAL_NETWORK
from mrcnn_zoo.evaluation.evaluator import load_test_datasets
from mrcnn_zoo.evaluation.limits import build_limits, cut_objects_message
from mrcnn_zoo.inference.trained import fill_model
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.ops.processes import world_size
from mrcnn_zoo.output_paths import RESULT_FOLDERS, check_output_folder
from mrcnn_zoo.registries import TRAINING_SCHEDULES
from mrcnn_zoo.training.assembly import build_trainer
from mrcnn_zoo.training.distributed import is_main_process, wait_for_all
from mrcnn_zoo.training.environment import describe_environment
from mrcnn_zoo.training.lengths import (
    check_remaining_length,
    choose_length,
    fit_to_epochs,
    fit_to_processes,
    fit_warmup,
    warn_of_early_stopping,
)
from mrcnn_zoo.training.logs import LogFile, logging_to
from mrcnn_zoo.training.output_folder import check_training_folder, clear_output_folder
from mrcnn_zoo.training.settings import check_best_metric, check_settings
from mrcnn_zoo.training.signals import StopSignals, TrainingInterrupted
from mrcnn_zoo.training.trainer import RESUMABLE_KEYS, Trainer
from mrcnn_zoo.training.validation import is_validation_task
from mrcnn_zoo.training.workspace import Workspace
from mrcnn_zoo.training.writers import MetricWriter, build_writers, closing

logger = logging.getLogger(__name__)

Results = dict[str, Any]  # {"bbox": {"AP": ...}, "segm": {...}}; with several test sets {dataset: that}


def run(cfg: CfgNode, *, resume: bool = False, eval_only: bool = False, overwrite: bool = False) -> Results:
    """Train and evaluate what a config describes; with several processes, each of them calls this.

    Args:
        cfg: of the run. OUTPUT_DIR gets everything that is written.
        resume: go on from the last checkpoint in OUTPUT_DIR; start afresh when there is none.
        eval_only: only evaluate MODEL.WEIGHTS, or with `resume` the last checkpoint.
        overwrite: start afresh in an OUTPUT_DIR that holds a training, and remove its checkpoints.

    Returns:
        {"bbox": {"AP": ...}, "segm": {...}} of the last weights; by dataset name when there are several test sets;
        empty when there is none.

    Raises:
        UserError: whatever the user can put right.
        TrainingInterrupted: by SIGTERM or Ctrl-C, after a checkpoint was saved.
        NonFiniteLossError: after the batch was saved.
    """
    output_dir = check_output_folder(cfg.OUTPUT_DIR, option="OUTPUT_DIR", subfolders=RESULT_FOLDERS)
    cfg = _with_output_dir(cfg, output_dir)
    if not eval_only:
        check_training_folder(output_dir, resume=resume, overwrite=overwrite)
    check_settings(cfg, is_training=not eval_only)
    with logging_to(output_dir) as log:
        cfg = fit_to_processes(choose_length(cfg), world_size())
        if eval_only:
            return _evaluate_only(cfg, log, resume=resume)
        results: Results = {}
        stages = TRAINING_SCHEDULES.get(cfg.SOLVER.TRAINING_SCHEDULE)(cfg)
        for stage in stages:
            results = _train_stage(stage, log, resume=resume, is_only=len(stages) == 1)
        return results


def _with_output_dir(cfg: CfgNode, folder: Path) -> CfgNode:
    """The config with `~` of OUTPUT_DIR written out."""
    if str(folder) == cfg.OUTPUT_DIR:
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = str(folder)
    cfg.freeze()
    return cfg


def _evaluate_only(cfg: CfgNode, log: LogFile, *, resume: bool) -> Results:
    output_dir = Path(cfg.OUTPUT_DIR)
    _set_up_torch(cfg, is_training=False)
    datasets = load_test_datasets(cfg)
    weights = str(Checkpointer(output_dir).last_path()) if resume else cfg.MODEL.WEIGHTS
    class_names: tuple[str, ...] = ()
    if weights:
        model, trained = fill_model(cfg, read_weights(weights))
        class_names = trained.class_names
    else:
        logger.warning("MODEL.WEIGHTS is empty: evaluating random weights")
        model = build_model(cfg)
    check_classes(cfg, datasets, class_names if predicts_classes(model) else ())
    log.open()
    return evaluate_datasets(model, cfg, output_dir=output_dir, class_names=class_names, datasets=datasets)


def _train_stage(cfg: CfgNode, log: LogFile, *, resume: bool, is_only: bool) -> Results:
    _set_up_torch(cfg, is_training=True)
    output_dir = Path(cfg.OUTPUT_DIR)
    if not cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN is empty: name the datasets to train on, e.g. DATASETS.TRAIN digits_train.")
    train_datasets = unite_classes(_load_datasets(cfg, cfg.DATASETS.TRAIN))
    test_datasets = _load_datasets(cfg, cfg.DATASETS.TEST)
    checkpointer = Checkpointer(output_dir)
    state = _last_state(checkpointer) if resume else None
    if cfg.MODEL.META_ARCHITECTURE != PROPOSAL_NETWORK:  # whose proposals have no class
        if state is not None:
            train_datasets = _in_classes_of_state(train_datasets, state, source=str(checkpointer.last_path()))
        data.check_num_classes(cfg, merge_datasets(train_datasets))
        check_classes(cfg, test_datasets, train_datasets[0].class_names)
    _log_data(cfg, train_datasets, test_datasets)
    check_best_metric(cfg, test_datasets)
    check_evaluation(cfg, test_datasets)
    if cfg.SOLVER.MAX_EPOCHS > 0:
        cfg = fit_to_epochs(cfg, len(select_for_training(cfg, merge_datasets(train_datasets))))
    cfg = fit_warmup(cfg)
    warn_of_early_stopping(cfg, len(test_datasets))
    if state is not None and is_only:  # the checkpoint of a later stage has passed the earlier ones
        check_remaining_length(cfg, state)
    writers: list[MetricWriter] = []  # the hooks keep this list; it is filled once nothing is left to be refused
    workspace = Workspace(
        output_dir=output_dir,
        checkpointer=checkpointer,
        writers=writers,
        train_datasets=train_datasets,
        test_datasets=test_datasets,
    )
    trainer = build_trainer(cfg, workspace, state)
    writers += _begin_writing(cfg, log, trainer, resume=resume)
    with closing(writers), StopSignals() as signals:
        trainer.train(signals=signals)
    return _conclude(cfg, trainer, test_datasets)


def _begin_writing(cfg: CfgNode, log: LogFile, trainer: Trainer, *, resume: bool) -> list[MetricWriter]:
    """The first changes to the output folder, made once all processes have found all in order."""
    output_dir = Path(cfg.OUTPUT_DIR)
    is_first_stage = not log.is_open  # the checkpoints of an earlier stage stay
    wait_for_all()
    log.open()
    writers = build_writers(
        cfg,
        output_dir,
        start_iteration=trainer.iteration,
        max_iterations=0 if cfg.SOLVER.MAX_MINUTES > 0 else cfg.SOLVER.MAX_ITER,
        start_seconds=trainer.elapsed,
        max_seconds=60 * cfg.SOLVER.MAX_MINUTES,
    )
    if is_main_process():
        if is_first_stage and not resume:
            clear_output_folder(output_dir)
        _record_run(cfg, output_dir)
    return writers


def _conclude(cfg: CfgNode, trainer: Trainer, test_datasets: Sequence[Dataset]) -> Results:
    if trainer.interrupted:
        raise TrainingInterrupted(
            f"stopped after {counted(trainer.iteration, 'iteration')}, saved in {cfg.OUTPUT_DIR}. Go on with the same "
            f"command and --resume.",
            signal_number=trainer.interrupted,
        )
    if trainer.has_stopped_early:
        logger.info("training stopped early: %s", trainer.stop_reason)
    if not test_datasets:
        return {}
    results = _by_dataset(trainer.results, test_datasets)
    verify_expected_results(results, cfg.TEST.EXPECTED_RESULTS)
    return results


def _by_dataset(results: Mapping[str, Mapping[str, float]], datasets: Sequence[Dataset]) -> Results:
    """From "<dataset>/<task>" to one level each, as `evaluate_datasets` returns them, without validation losses."""
    results = {task: metrics for task, metrics in results.items() if not is_validation_task(task)}
    if len(datasets) == 1:
        return {task: dict(metrics) for task, metrics in results.items()}
    nested: Results = {dataset.name: {} for dataset in datasets}
    for name, metrics in results.items():
        dataset_name, _, task = name.rpartition("/")
        nested[dataset_name][task] = dict(metrics)
    return nested


def _last_state(checkpointer: Checkpointer) -> dict[str, Any] | None:
    if not checkpointer.has_checkpoint():
        logger.info("nothing to resume: starting afresh")
        return None
    path = checkpointer.last_path()
    state = load_checkpoint(path)
    missing = [key for key in RESUMABLE_KEYS if key not in state]
    if missing:
        raise UserError(
            f"{path} cannot be resumed from: it has no {', '.join(missing)}. Start a new run from its weights: "
            f"MODEL.WEIGHTS {path}, with another OUTPUT_DIR."
        )
    logger.info("resuming from %s", path)
    return state


def _in_classes_of_state(datasets: Sequence[Dataset], state: Mapping[str, Any], *, source: str) -> list[Dataset]:
    return in_classes_of_checkpoint(
        datasets, state.get("class_names", ()), state.get("category_ids", ()), source=source
    )


def _load_datasets(cfg: CfgNode, names: Sequence[str]) -> list[Dataset]:
    return [data.load_dataset(cfg, name) for name in names]


def _log_data(cfg: CfgNode, train_datasets: Sequence[Dataset], test_datasets: Sequence[Dataset]) -> None:
    """What was read, and what the limits of the region proposals leave out of it in training."""
    for split, datasets in (("train", train_datasets), ("test", test_datasets)):
        for dataset in datasets:
            logger.info("%s %s: %s", split, dataset.name, dataset.summary())
    limits = build_limits(cfg, is_training=True)
    for message in filter(None, (cut_objects_message(dataset, limits) for dataset in train_datasets)):
        logger.warning("%s", message)


def _record_run(cfg: CfgNode, output_dir: Path) -> None:
    environment = describe_environment()
    (output_dir / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    (output_dir / "environment.json").write_text(json.dumps(environment, indent=2) + "\n", encoding="utf-8")
    logger.info("%s", " ".join(f"{name} {version}" for name, version in environment["versions"].items()))
    logger.info("output folder: %s", output_dir)


def _set_up_torch(cfg: CfgNode, *, is_training: bool) -> None:
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK and is_training
