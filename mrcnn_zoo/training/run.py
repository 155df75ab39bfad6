"""A run: from a config to trained weights and their results."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mrcnn_zoo import data
from mrcnn_zoo.checkpoint import Checkpointer, read_weights
from mrcnn_zoo.config import CfgNode, changed_config
from mrcnn_zoo.data.classes import in_classes_of_checkpoint, merge_datasets, unite_classes
from mrcnn_zoo.data.loading.selection import select_for_training
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.distributed.processes import (
    is_main_process,
    maximum_over_processes,
    value_of_main_process,
    wait_for_all,
    world_size,
)
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.evaluation import check_evaluation, evaluate_datasets, verify_expected_results
from mrcnn_zoo.evaluation.class_mapping import check_classes, predicts_classes
from mrcnn_zoo.evaluation.coco import PROPOSAL_NETWORK
from mrcnn_zoo.evaluation.evaluator import load_test_datasets
from mrcnn_zoo.evaluation.limits import build_limits, cut_objects_message
from mrcnn_zoo.evaluation.tables import stages_table
from mrcnn_zoo.inference.trained import fill_model
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.output_files import RESULT_FOLDERS, check_output_folder, write_text
from mrcnn_zoo.training.build import build_trainer
from mrcnn_zoo.training.hook import Workspace
from mrcnn_zoo.training.hooks.evaluation import results_by_dataset
from mrcnn_zoo.training.lengths import (
    check_remaining_length,
    choose_length,
    fit_to_epochs,
    fit_to_processes,
    fit_warmup,
    warn_of_early_stopping,
)
from mrcnn_zoo.training.run_context import LogFile, logging_to, record_environment
from mrcnn_zoo.training.settings import check_best_metric, check_settings
from mrcnn_zoo.training.stages import (
    WEIGHTS,
    FinishedStage,
    Results,
    Stage,
    build_stages,
    check_training_folders,
    clear_training_folders,
    finish_stage,
    read_finished,
    resume_after_restart,
)
from mrcnn_zoo.training.stopping import StopSignals, TrainingInterrupted
from mrcnn_zoo.training.trainer import Trainer, last_training_state
from mrcnn_zoo.training.writers import MetricWriter, build_writers, closing

logger = logging.getLogger(__name__)


def run(cfg: CfgNode, *, resume: bool = False, eval_only: bool = False, overwrite: bool = False) -> Results:
    """Train and evaluate what a config describes; with several processes, each of them calls this.

    Args:
        cfg: of the run. OUTPUT_DIR gets everything that is written; SOLVER.TRAINING_SCHEDULE names its stages.
        resume: go on from the last checkpoint in OUTPUT_DIR, in the stage that was interrupted; start afresh when there
            is none. A run that an elastic agent has restarted after a failure does so, too.
        eval_only: only evaluate MODEL.WEIGHTS, or with `resume` the last checkpoint, as the last stage does.
        overwrite: start afresh in an OUTPUT_DIR that holds a training, and remove the checkpoints of all stages.

    Returns:
        {"bbox": {"AP": ...}, "segm": {...}} of the last weights; by dataset name when there are several test sets;
        empty when there is none. A run of several stages returns those of the last one, and as "stages" those of each
        by its name.

    Raises:
        UserError: whatever the user can put right. What is wrong with any stage is found before the first is trained,
            as far as it does not depend on an earlier one.
        TrainingInterrupted: by SIGTERM or Ctrl-C, after a checkpoint was saved.
        NonFiniteLossError: after the batch was saved.
    """
    output_dir = check_output_folder(cfg.OUTPUT_DIR, option="OUTPUT_DIR", subfolders=RESULT_FOLDERS)
    cfg = _with_output_dir(cfg, output_dir)
    stages = build_stages(cfg)
    if not eval_only:
        resume, overwrite = resume_after_restart(output_dir, resume=resume, overwrite=overwrite)
        check_training_folders(output_dir, stages, resume=resume, overwrite=overwrite)
    for stage in stages:
        check_output_folder(stage.folder, option="OUTPUT_DIR", subfolders=RESULT_FOLDERS)
        check_settings(stage.cfg, is_training=not eval_only)
    with logging_to(output_dir) as log:
        if eval_only:
            return _evaluate_only(cfg, stages, log, resume=resume)
        if len(stages) == 1 and not stages[0].name:
            clears = () if resume else stages
            finished = _train_stage(stages[0], {}, log, resume=resume, clears=clears)
            return _verified(finished.results, stages[0].cfg)
        return _train_stages(cfg, stages, log, resume=resume)


def _with_output_dir(cfg: CfgNode, folder: Path) -> CfgNode:
    """The config with `~` of OUTPUT_DIR written out."""
    is_same = str(folder) == cfg.OUTPUT_DIR
    return cfg if is_same else changed_config(cfg, {"OUTPUT_DIR": str(folder)}, source="run")


def _fitted(cfg: CfgNode) -> CfgNode:
    """With one length, for this number of processes."""
    return fit_to_processes(choose_length(cfg), world_size())


def _evaluate_only(cfg: CfgNode, stages: Sequence[Stage], log: LogFile, *, resume: bool) -> Results:
    last, earlier = stages[-1], stages[:-1]
    own = last.cfg
    if resume and last.prepare and all(stage.is_finished for stage in earlier):
        own = _prepared(last, read_finished(earlier))
    elif not resume and last.name:
        own = changed_config(own, {"MODEL.WEIGHTS": cfg.MODEL.WEIGHTS, "OUTPUT_DIR": cfg.OUTPUT_DIR}, source="run")
    own = _fitted(own)
    output_dir = Path(own.OUTPUT_DIR)
    _set_up_torch(own, is_training=False)
    datasets = load_test_datasets(own)
    weights = str(Checkpointer(output_dir).last_path()) if resume else own.MODEL.WEIGHTS
    class_names: tuple[str, ...] = ()
    if weights:
        model, trained = fill_model(own, read_weights(weights))
        class_names = trained.class_names
    else:
        logger.warning("MODEL.WEIGHTS is empty: evaluating random weights")
        model = build_model(own)
    check_classes(own, datasets, class_names if predicts_classes(model) else ())
    log.open()
    return evaluate_datasets(model, own, output_dir=output_dir, class_names=class_names, datasets=datasets)


# --- several stages ---------------------------------------------------------------------------------------------------


def _train_stages(cfg: CfgNode, stages: Sequence[Stage], log: LogFile, *, resume: bool) -> Results:
    finished = read_finished(stages) if resume else {}
    waiting = [stage for stage in stages if stage.name not in finished]
    for stage in waiting:
        if not (resume and stage.has_begun):  # that one is the next to be built, with its checkpoint
            _build_and_discard(stage)
    wait_for_all()
    log.open()
    if is_main_process():
        if not resume:
            clear_training_folders(Path(cfg.OUTPUT_DIR), stages)
        write_text(Path(cfg.OUTPUT_DIR) / "config.yaml", cfg.dump())
    wait_for_all()
    for number, stage in enumerate(stages, start=1):
        what = f"stage {number} of {len(stages)}, {stage.name}"
        if stage.name in finished:
            logger.info("%s, is finished: %s", what, stage.folder)
            continue
        with logging_to(stage.folder) as stage_log:
            logger.info("%s", what)
            is_last = number == len(stages)
            finished[stage.name] = _train_stage(stage, finished, stage_log, resume=resume, stops_after=not is_last)
    by_stage = {stage.name: finished[stage.name].results for stage in stages}
    logger.info("results of %d stages:\n%s", len(stages), stages_table(by_stage))
    return _verified({**by_stage[stages[-1].name], "stages": by_stage}, stages[-1].cfg)


def _build_and_discard(stage: Stage) -> None:
    """Build all of a stage and forget it: what is wrong with a later one must show before the first is trained.

    Raises:
        UserError: naming the stage.
    """
    ours = logging.getLogger("mrcnn_zoo")
    level = ours.level
    ours.setLevel(logging.WARNING)  # what is built is described when it is trained
    cfg = changed_config(stage.cfg, {"MODEL.WEIGHTS": ""}, source="stage") if stage.starts_from else stage.cfg
    try:
        _assemble(_fitted(cfg), resume=False, writers=[])
    except UserError as error:
        raise UserError(f"stage {stage.name!r}: {error}") from error
    finally:
        ours.setLevel(level)


def _prepared(stage: Stage, finished: Mapping[str, FinishedStage]) -> CfgNode:
    """The config to train a stage with, now that the earlier ones are finished; the same in all processes."""
    cfg = stage.cfg
    if stage.starts_from:
        weights = finished[stage.starts_from].handed_over[WEIGHTS]
        cfg = changed_config(cfg, {"MODEL.WEIGHTS": str(weights)}, source=f"stage {stage.starts_from!r}")
    if stage.prepare:
        cfg = value_of_main_process(stage.prepare(cfg, dict(finished)))
        if not isinstance(cfg, CfgNode) or str(stage.folder) != cfg.OUTPUT_DIR:
            raise UserError(
                f"`prepare` of stage {stage.name!r} must return the config that it got, with keys changed by "
                f"`changed_config`; OUTPUT_DIR stays {stage.folder}."
            )
    return cfg


# --- one stage --------------------------------------------------------------------------------------------------------


def _train_stage(
    stage: Stage,
    finished: Mapping[str, FinishedStage],
    log: LogFile,
    *,
    resume: bool,
    clears: Sequence[Stage] = (),
    stops_after: bool = False,
) -> FinishedStage:
    """Train a stage to its end.

    Args:
        stage: that is not finished.
        finished: those before it.
        log: of the stage.
        resume: go on from its last checkpoint, if it has one.
        clears: stages whose checkpoints are removed once nothing is left to be refused.
        stops_after: whether a signal that comes too late to interrupt the training keeps the next stage from starting.
    """
    cfg = _prepared(stage, finished)
    wait_for_all()
    cfg, results, signal_number = _train(_fitted(cfg), log, resume=resume, clears=clears)
    done = finish_stage(stage, cfg, results)
    if signal_number and stops_after:
        raise TrainingInterrupted(
            f"stopped after stage {stage.name!r}, which is finished. Go on with the same command and --resume.",
            signal_number=signal_number,
        )
    return done


def _train(cfg: CfgNode, log: LogFile, *, resume: bool, clears: Sequence[Stage]) -> tuple[CfgNode, Results, int]:
    """The config as it was trained with, its results, and the number of a signal that arrived."""
    writers: list[MetricWriter] = []  # the hooks keep this list; it is filled once nothing is left to be refused
    cfg, trainer, test_datasets = _assemble(cfg, resume=resume, writers=writers)
    writers += _begin_writing(cfg, log, trainer, clears)
    with closing(writers), StopSignals() as signals:
        trainer.train(signals=signals)
    (received,) = maximum_over_processes([float(signals.received)])
    return cfg, _conclude(cfg, trainer, test_datasets), int(received)


def _assemble(cfg: CfgNode, *, resume: bool, writers: list[MetricWriter]) -> tuple[CfgNode, Trainer, Sequence[Dataset]]:
    """Read the data, refuse what would fail, and build the trainer; nothing is written."""
    _set_up_torch(cfg, is_training=True)
    output_dir = Path(cfg.OUTPUT_DIR)
    if not cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN is empty: name the datasets to train on, e.g. DATASETS.TRAIN digits_train.")
    train_datasets = unite_classes(_load_datasets(cfg, cfg.DATASETS.TRAIN))
    test_datasets = _load_datasets(cfg, cfg.DATASETS.TEST)
    checkpointer = Checkpointer(output_dir)
    state = last_training_state(checkpointer) if resume else None
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
    if state is not None:
        check_remaining_length(cfg, state)
    workspace = Workspace(
        output_dir=output_dir,
        checkpointer=checkpointer,
        writers=writers,
        train_datasets=train_datasets,
        test_datasets=test_datasets,
    )
    return cfg, build_trainer(cfg, workspace, state), test_datasets


def _begin_writing(cfg: CfgNode, log: LogFile, trainer: Trainer, clears: Sequence[Stage]) -> list[MetricWriter]:
    """The first changes to the output folder, made once all processes have found all in order."""
    output_dir = Path(cfg.OUTPUT_DIR)
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
        if clears:
            clear_training_folders(output_dir, clears)
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
    return results_by_dataset(trainer.results, test_datasets) if test_datasets else {}


def _verified(results: Results, cfg: CfgNode) -> Results:
    """The results, once they are found to be what the config promises."""
    if cfg.DATASETS.TEST:
        verify_expected_results(results, cfg.TEST.EXPECTED_RESULTS)
    return results


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
    (output_dir / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    record_environment(output_dir)
    logger.info("output folder: %s", output_dir)


def _set_up_torch(cfg: CfgNode, *, is_training: bool) -> None:
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK and is_training
