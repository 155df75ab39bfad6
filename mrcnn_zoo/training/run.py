"""A run: from a config to trained weights and their results."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from mrcnn_zoo.config import CfgNode, changed_config
from mrcnn_zoo.distributed.processes import is_main_process, maximum_over_processes, wait_for_all
from mrcnn_zoo.errors import counted
from mrcnn_zoo.evaluation import evaluate_datasets, verify_expected_results
from mrcnn_zoo.evaluation.tables import stages_table
from mrcnn_zoo.inspection.run_report.config import record_config
from mrcnn_zoo.inspection.run_report.page import log_run_report
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.training.build import build_evaluated_model, build_trainer
from mrcnn_zoo.training.hooks.evaluation import results_by_dataset
from mrcnn_zoo.training.log_files import LogFile, logging_from, logging_to
from mrcnn_zoo.training.preflight import (
    RunPlan,
    check_output_dir,
    plan_evaluation,
    plan_stages,
    plan_training,
    resume_after_restart,
)
from mrcnn_zoo.training.run_context import record_datasets, record_environment
from mrcnn_zoo.training.stages.files import (
    evaluated_config,
    finish_stage,
    has_final_checkpoint,
    read_finished,
    remove_final_checkpoint,
    write_final_checkpoint,
)
from mrcnn_zoo.training.stages.inheritance import ModelDescription, check_inheritance, describe_model
from mrcnn_zoo.training.stages.listed import log_stage_list
from mrcnn_zoo.training.stages.stage import (
    FinishedStage,
    Results,
    Stage,
    clear_training_folders,
    naming_stage,
    prepared_config,
)
from mrcnn_zoo.training.stopping import StopSignals, TrainingInterrupted
from mrcnn_zoo.training.trainer import Trainer
from mrcnn_zoo.training.writers import MetricWriter, StageOfRun, build_writers, closing

logger = logging.getLogger(__name__)


def run(cfg: CfgNode, *, resume: bool = False, eval_only: bool = False, overwrite: bool = False) -> Results:
    """Train and evaluate what a config describes; with several processes, each of them calls this.

    Args:
        cfg: of the run. OUTPUT_DIR gets everything that is written; SOLVER.TRAINING_SCHEDULE names its stages.
        resume: continue from the last checkpoint in OUTPUT_DIR, in the stage that was interrupted; start afresh when
            there is none. A run that an elastic agent has restarted after a failure does so, too.
        eval_only: only evaluate MODEL.WEIGHTS, or with `resume` the last checkpoint, as the last stage does.
        overwrite: start afresh in an OUTPUT_DIR that holds a training, and remove the checkpoints of all stages.

    Returns:
        {"bbox": {"AP": ...}, "segm": {...}} of the last weights; by dataset name when there are several test sets;
        empty when there is none. A run of several stages returns those of the last one, and as "stages" those of each
        by its name.

    Raises:
        UserError: for mistakes of the user. Those of any stage are found before the first is trained, as far as they
            do not depend on an earlier one.
        TrainingInterrupted: by SIGTERM or Ctrl-C, after a checkpoint was saved.
        NonFiniteLossError: after the batch was saved.
    """
    cfg = check_output_dir(cfg)
    output_dir = Path(cfg.OUTPUT_DIR)
    if not eval_only:
        resume, overwrite = resume_after_restart(output_dir, resume=resume, overwrite=overwrite)
    stages = plan_stages(cfg, resume=resume, eval_only=eval_only, overwrite=overwrite)
    with logging_to(output_dir) as log:
        if eval_only:
            return _evaluate(plan_evaluation(evaluated_config(cfg, stages, resume=resume), resume=resume), log)
        finished = read_finished(stages) if resume else {}
        waiting = [stage for stage in stages if stage.name not in finished]
        _check_stages(stages, waiting)
        log_stage_list(cfg, stages)
        place_of = partial(_place_of, output_dir, stages, finished, waiting)
        begin_run = partial(_begin_run, cfg, stages, log, clears=not resume)
        for number, stage in enumerate(stages, start=1):
            title = f"stage {number} of {len(stages)}, {stage.name}"
            if stage not in waiting:
                logger.info("%s, is finished: %s", title, stage.folder)
                continue
            with logging_to(stage.folder) if stage.name else nullcontext(log) as stage_log:
                if stage.name:
                    logger.info("%s", title)
                begin = begin_run if stage is waiting[0] else None
                finished[stage.name], signal_number = _train_stage(
                    stage, finished, stage_log, resume=resume, begin=begin, place=place_of(stage)
                )
            if signal_number and stage is not stages[-1]:
                raise TrainingInterrupted(
                    f"stopped after stage {stage.name!r}, which is finished. Continue with the same command and "
                    "--resume.",
                    signal_number=signal_number,
                )
        log.open()
        last = finished[stages[-1].name]
        if last.name and is_main_process() and (waiting or not has_final_checkpoint(output_dir, last)):
            path = write_final_checkpoint(output_dir, last)
            logger.info("saved %s, the weights of the last stage", path)
            if cfg.VIS.REPORT:
                log_run_report(output_dir)
        return _results_of_run(stages, finished)


def _evaluate(plan: RunPlan, log: LogFile) -> Results:
    model = build_evaluated_model(plan)
    log.open()
    return evaluate_datasets(
        model, plan.cfg, output_dir=plan.output_dir, class_names=plan.class_names, datasets=plan.test_datasets
    )


def _check_stages(stages: Sequence[Stage], waiting: Sequence[Stage]) -> None:
    """Build all but the first of the waiting stages, and compare the models between which weights are passed on.

    Raises:
        UserError: naming the stage.
    """
    # A stage is logged when it is trained; here it lacks the weights of earlier stages.
    with logging_from(logging.ERROR):
        models = {stage.name: _try_to_build(stage) for stage in waiting[1:]}
        if waiting and any(stage.inherited or stage.proposals_of for stage in waiting[1:]):
            with naming_stage(waiting[0]):
                models[waiting[0].name] = describe_model(build_model(waiting[0].cfg))
    check_inheritance(stages, models)


def _try_to_build(stage: Stage) -> ModelDescription:
    """Build all of a later stage and discard it, so that its mistakes show before an earlier one is trained.

    Raises:
        UserError: naming the stage.
    """
    cfg = changed_config(stage.cfg, {"MODEL.WEIGHTS": ""}, source="stage") if stage.starts_from else stage.cfg
    with naming_stage(stage):
        return describe_model(build_trainer(plan_training(cfg, resume=False), writers=[]).model)


def _train_stage(
    stage: Stage,
    finished: Mapping[str, FinishedStage],
    log: LogFile,
    *,
    resume: bool,
    begin: Callable[[], None] | None,
    place: StageOfRun | None,
) -> tuple[FinishedStage, int]:
    """Train a stage to its end.

    Args:
        stage: that is not finished.
        finished: the stages before it, by name.
        log: of the stage.
        resume: continue from its last checkpoint, if it has one.
        begin: of the first stage that is trained, called when nothing is left that could be refused.
        place: in a run of several stages.

    Returns:
        The finished stage, and the number of a signal that came too late to interrupt it; 0 for none.
    """
    cfg = prepared_config(stage, finished)
    wait_for_all()
    writers: list[MetricWriter] = []  # the hooks keep this list
    with naming_stage(stage):
        plan = plan_training(cfg, resume=resume)
        trainer = build_trainer(plan, writers)
    plan = plan.without_weights()
    wait_for_all()
    log.open()
    writers += _writers_of(plan.cfg, trainer, place)
    if begin is not None:
        begin()
    if is_main_process():
        record_config(plan.cfg, plan.output_dir)
        record_environment(plan.output_dir)
        record_datasets(plan.output_dir, plan.train_datasets, plan.test_datasets, groups=plan.groups)
        logger.info("output folder: %s", plan.output_dir)
    with closing(writers), StopSignals() as signals:
        trainer.train(signals=signals)
        if trainer.interrupted:
            for writer in writers:
                writer.interrupt(trainer.interrupted)
    (received,) = maximum_over_processes([float(signals.received)])
    results = _results_of(trainer, plan)
    return finish_stage(stage, plan.cfg, results, iterations=trainer.iteration), int(received)


def _begin_run(cfg: CfgNode, stages: Sequence[Stage], log: LogFile, *, clears: bool) -> None:
    """The first changes to the output folder: the config is saved, checkpoints of an earlier training are removed."""
    log.open()
    if is_main_process():
        record_config(cfg, Path(cfg.OUTPUT_DIR))
        if clears:
            clear_training_folders(Path(cfg.OUTPUT_DIR), stages)
        elif stages[-1].name:
            remove_final_checkpoint(Path(cfg.OUTPUT_DIR))


def _place_of(
    output_dir: Path,
    stages: Sequence[Stage],
    finished: Mapping[str, FinishedStage],
    waiting: Sequence[Stage],
    stage: Stage,
) -> StageOfRun | None:
    """The place of a stage among those of its run; None in a run of one stage without a folder of its own."""
    if not stage.name:
        return None
    number = stages.index(stage) + 1
    return StageOfRun(
        stage.name,
        number=number,
        run_dir=output_dir,
        first_iteration=sum(finished[earlier.name].iterations for earlier in stages[: number - 1]),
        is_last=number == len(stages),
        begins_session=stage is waiting[0],
    )


def _writers_of(cfg: CfgNode, trainer: Trainer, stage: StageOfRun | None) -> list[MetricWriter]:
    return build_writers(
        cfg,
        cfg.OUTPUT_DIR,
        start_iteration=trainer.iteration,
        max_iterations=0 if cfg.SOLVER.MAX_MINUTES > 0 else cfg.SOLVER.MAX_ITER,
        start_seconds=trainer.elapsed,
        max_seconds=60 * cfg.SOLVER.MAX_MINUTES,
        stage=stage,
    )


def _results_of(trainer: Trainer, plan: RunPlan) -> Results:
    if trainer.interrupted:
        raise TrainingInterrupted(
            f"stopped after {counted(trainer.iteration, 'iteration')}, saved in {plan.output_dir}. Continue with the "
            "same command and --resume.",
            signal_number=trainer.interrupted,
        )
    if trainer.has_stopped_early:
        logger.info("training stopped early: %s", trainer.stop_reason)
    return results_by_dataset(trainer.results, plan.test_datasets) if plan.test_datasets else {}


def _results_of_run(stages: Sequence[Stage], finished: Mapping[str, FinishedStage]) -> Results:
    """The results of the last stage, compared with TEST.EXPECTED_RESULTS; with several stages those of each, too."""
    last = stages[-1]
    results = finished[last.name].results
    if last.name:
        by_stage = {stage.name: finished[stage.name].results for stage in stages}
        logger.info("results of %s:\n%s", counted(len(stages), "stage"), stages_table(by_stage))
        results = {**results, "stages": by_stage}
    if last.cfg.DATASETS.TEST:
        verify_expected_results(results, last.cfg.TEST.EXPECTED_RESULTS)
    return results
