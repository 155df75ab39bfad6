"""Checks before a run: the config and its data in; a plan that can be built, or an error for the user, out.

Nothing is built or written here. Only three kinds of mistakes show later, when the model is there: settings of its
architecture, patterns of SOLVER.FREEZE, and weights that do not fit it.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from mrcnn_zoo import data
from mrcnn_zoo.checkpoint import Checkpointer, WeightsFile, load_checkpoint, read_weights
from mrcnn_zoo.config import CfgNode, changed_config
from mrcnn_zoo.config.rules import check_values
from mrcnn_zoo.data.classes import in_classes_of_checkpoint, merge_datasets, unite_classes
from mrcnn_zoo.data.loading.proposals import build_proposal_mapper
from mrcnn_zoo.data.loading.selection import select_for_training
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.distributed.processes import (
    is_main_process,
    is_restarted,
    may_be_restarted,
    value_of_main_process,
    world_size,
)
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.coco import PROPOSAL_NETWORK
from mrcnn_zoo.evaluation.limits import build_limits, cut_objects_message
from mrcnn_zoo.evaluation.preflight import check_classes, check_evaluation, prepare_evaluation
from mrcnn_zoo.evaluation.proposal_jobs import fit_min_box_area
from mrcnn_zoo.evaluation.tables import is_of_class
from mrcnn_zoo.inference.trained import class_names_of, with_value_range_of
from mrcnn_zoo.output_files import RESULT_FOLDERS, check_output_folder
from mrcnn_zoo.registries import AP_BACKENDS, EVALUATORS, HOOKS, LR_SCHEDULES, METRIC_WRITERS, OPTIMIZERS
from mrcnn_zoo.registry import Registry, did_you_mean
from mrcnn_zoo.training.batch_size import fit_batch
from mrcnn_zoo.training.hooks.best import AUTO
from mrcnn_zoo.training.hooks.evaluation import VALIDATION_TASK
from mrcnn_zoo.training.lengths import fit_lengths
from mrcnn_zoo.training.parts import NOTHING
from mrcnn_zoo.training.stages.stage import OVERWRITE_MARKER, STAGE_FILE, Stage, build_stages, training_folders
from mrcnn_zoo.training.trainer import RESUMABLE_KEYS

LOSS_NAME = re.compile(r"loss_\w+")  # the names of the losses are not known before the model is built

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunPlan:
    """All that one training or one evaluation is built from.

    Args:
        cfg: with its lengths fitted to the data and to the number of processes.
        train_datasets: with one list of classes; none where nothing is trained.
        test_datasets: of DATASETS.TEST.
        class_names: of the model by class index; empty where they are not known.
        category_ids: of the training data, by class index.
        weights: to start from, or to evaluate; None for random ones.
        state: of the checkpoint that is resumed; None for a training that starts afresh.
        groups: see `RunDatasets`.
    """

    cfg: CfgNode
    train_datasets: Sequence[Dataset]
    test_datasets: Sequence[Dataset]
    class_names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    weights: WeightsFile | None = None
    state: Mapping[str, Any] | None = None
    groups: Mapping[str, Mapping[int, str]] = field(default_factory=dict)

    @property
    def output_dir(self) -> Path:
        """Folder of checkpoints, metrics and results."""
        return Path(self.cfg.OUTPUT_DIR)

    def without_weights(self) -> "RunPlan":
        """The plan without weights and state, which take memory and are not needed once the model is built."""
        return replace(self, weights=None, state=None)


def check_output_dir(cfg: CfgNode) -> CfgNode:
    """The config with `~` of OUTPUT_DIR expanded.

    Raises:
        UserError: the folder cannot be made or written.
    """
    folder = check_output_folder(cfg.OUTPUT_DIR, option="OUTPUT_DIR", subfolders=RESULT_FOLDERS)
    is_same = str(folder) == cfg.OUTPUT_DIR
    return cfg if is_same else changed_config(cfg, {"OUTPUT_DIR": str(folder)}, source="run")


def resume_after_restart(output_dir: Path, *, resume: bool, overwrite: bool) -> tuple[bool, bool]:
    """`resume` and `overwrite` of this attempt: a restarted run resumes, whatever the user typed.

    With `overwrite` it does so once the checkpoints of the earlier training are removed; until then it overwrites.

    Args:
        output_dir: of the run.
        resume: as typed.
        overwrite: as typed.
    """
    marker = output_dir / OVERWRITE_MARKER
    if is_restarted():
        overwrites = overwrite and value_of_main_process(marker.exists())
        return not overwrites, overwrites
    if overwrite and may_be_restarted() and is_main_process() and output_dir.is_dir():
        marker.touch()
    return resume, overwrite


def plan_stages(cfg: CfgNode, *, resume: bool, eval_only: bool, overwrite: bool) -> list[Stage]:
    """The stages of a run, with their folders, numbers and names checked; no data are read.

    Args:
        cfg: of the run, see `check_output_dir`.
        resume: see `run`.
        eval_only: see `run`.
        overwrite: see `run`.

    Raises:
        UserError: a folder that cannot be written or holds another training, a schedule other than that of the run
            that is resumed, or a value or name that cannot be used.
    """
    output_dir = Path(cfg.OUTPUT_DIR)
    if resume:
        _check_schedule(output_dir, cfg.SOLVER.TRAINING_SCHEDULE)
    stages = build_stages(cfg)
    data.check_common_split({stage.name: stage.cfg for stage in stages})
    if not eval_only:
        _check_training_folders(output_dir, stages, resume=resume, overwrite=overwrite)
    for stage in stages:
        check_output_folder(stage.folder, option="OUTPUT_DIR", subfolders=RESULT_FOLDERS)
        check_values(stage.cfg)
        check_registered_names(stage.cfg, is_training=not eval_only)
        if not eval_only:
            _refuse_inference_keys(stage.cfg)
    return stages


def plan_training(cfg: CfgNode, *, resume: bool) -> RunPlan:
    """Read the data of a training, and the checkpoint or weights that it starts from; check that they fit the config.

    Args:
        cfg: of a stage.
        resume: continue from the last checkpoint in OUTPUT_DIR, if there is one.

    Raises:
        UserError: data, classes, weights, lengths or settings of the evaluation that cannot be used.
    """
    checkpointer = Checkpointer(cfg.OUTPUT_DIR)
    state = last_training_state(checkpointer) if resume else None
    weights = read_weights(cfg.MODEL.WEIGHTS) if state is None and cfg.MODEL.WEIGHTS else None
    if not cfg.DATASETS.TRAIN:
        raise UserError(
            "DATASETS.TRAIN is empty: name the datasets to train on, e.g. DATASETS.TRAIN digits_train, or the folder "
            "of your annotations."
        )
    # A resumed run keeps its seed, and thereby the images of DATASETS.FRACTION.
    seed = state["seed"] if state is not None and cfg.SEED >= 0 else None
    loaded = data.load_train_and_test(cfg, seed=seed)
    train_datasets, test_datasets = unite_classes(loaded.train), list(loaded.test)
    has_classes = cfg.MODEL.META_ARCHITECTURE != PROPOSAL_NETWORK
    if state is not None and has_classes:
        train_datasets = in_classes_of_checkpoint(
            train_datasets,
            state.get("class_names", ()),
            state.get("category_ids", ()),
            source=str(checkpointer.last_path()),
        )
    _log_datasets("train", train_datasets)
    _log_datasets("test", test_datasets)
    merged = merge_datasets(train_datasets)
    if has_classes:
        cfg = data.fit_num_classes(cfg, len(merged.class_names), owner=merged.name)
        data.check_num_classes(cfg, merged)
    selected = select_for_training(cfg, merged)
    cfg = data.fit_value_range(cfg, selected.records)
    cfg = fit_min_box_area(cfg, train_datasets)
    if cfg.MODEL.LOAD_PROPOSALS:
        build_proposal_mapper(cfg, train_datasets, selected.records, is_training=True)
    class_names = tuple(map(str, merged.class_names))
    check_classes(cfg, test_datasets, class_names)
    metrics = check_evaluation(cfg, test_datasets)
    losses_of = [dataset.name for dataset in test_datasets] if cfg.TEST.VAL_LOSS else []
    _check_best_metric(cfg.SOLVER.BEST_METRIC, metrics, losses_of=losses_of, is_single=len(test_datasets) == 1)
    _warn_of_limits(cfg, train_datasets)
    if NOTHING not in cfg.SOLVER.TRAIN:
        cfg = fit_batch(cfg, train_datasets, former=state["config"] if state is not None else "")
        cfg = fit_lengths(cfg, num_processes=world_size(), count_images=lambda: len(selected), state=state)
    category_ids = tuple(map(int, merged.category_ids))
    return RunPlan(cfg, train_datasets, test_datasets, class_names, category_ids, weights, state, loaded.groups)


def _warn_of_limits(cfg: CfgNode, datasets: Sequence[Dataset]) -> None:
    limits = build_limits(cfg, is_training=True)
    for message in filter(None, (cut_objects_message(dataset, limits) for dataset in datasets)):
        logger.warning("%s", message)


def plan_evaluation(cfg: CfgNode, *, resume: bool) -> RunPlan:
    """Read the test sets and the weights of an evaluation without training, and check that they fit the config.

    Args:
        cfg: of a stage.
        resume: take the last checkpoint in OUTPUT_DIR, not MODEL.WEIGHTS.

    Raises:
        UserError: no weights, or data, classes or settings of the evaluation that cannot be used.
    """
    path = str(Checkpointer(cfg.OUTPUT_DIR).last_path()) if resume else cfg.MODEL.WEIGHTS
    weights = read_weights(path) if path else None
    class_names = class_names_of(weights) if weights else ()
    cfg = data.fit_num_classes(cfg, len(class_names), owner=weights.source if weights else "")
    datasets = prepare_evaluation(cfg, class_names, model=weights.source if weights else "the model")
    cfg = with_value_range_of(cfg, weights) if weights else cfg
    cfg = fit_min_box_area(cfg, datasets)
    return RunPlan(cfg, (), datasets, class_names=class_names, weights=weights)


def last_training_state(checkpointer: Checkpointer) -> dict[str, Any] | None:
    """What `Trainer.state_dict` gave for the last checkpoint; None where there is none.

    Args:
        checkpointer: of the folder of a training.

    Raises:
        UserError: the checkpoint lacks what a training needs to continue.
    """
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


def _refuse_inference_keys(cfg: CfgNode) -> None:
    """Refuse MODEL.DTYPE and the ways of MODEL.OPTIMIZE that exist at inference alone."""
    if cfg.MODEL.OPTIMIZE not in ("none", "compiled"):
        raise UserError(
            f"MODEL.OPTIMIZE = {cfg.MODEL.OPTIMIZE!r} is for inference: train with MODEL.OPTIMIZE none or compiled. "
            "Set the key when you evaluate or predict."
        )
    if cfg.MODEL.DTYPE != "float32":
        raise UserError(
            f"MODEL.DTYPE = {cfg.MODEL.DTYPE!r} is for inference: train with MODEL.DTYPE float32. Training in mixed "
            "precision is SOLVER.AMP.ENABLED True, with SOLVER.AMP.DTYPE."
        )


def _check_schedule(output_dir: Path, schedule: str) -> None:
    """Refuse to resume under another schedule: its stages would start afresh."""
    path = output_dir / "config.yaml"
    if not path.is_file():
        return
    try:
        former = yaml.safe_load(path.read_text(encoding="utf-8"))["SOLVER"]["TRAINING_SCHEDULE"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):  # written by hand or by another version
        return
    if former != schedule:
        raise UserError(
            f"the training in OUTPUT_DIR = {output_dir} has SOLVER.TRAINING_SCHEDULE {former!r} ({path}), not "
            f"{schedule!r}, so it cannot be resumed. Resume it with SOLVER.TRAINING_SCHEDULE {former}, choose another "
            "OUTPUT_DIR, or start afresh with --overwrite instead of --resume."
        )


def _check_training_folders(output_dir: Path, stages: Sequence[Stage], *, resume: bool, overwrite: bool) -> None:
    """Refuse to start in the folder of another training without `resume` or `overwrite`, and both of them."""
    if resume and overwrite:
        raise UserError("--resume continues the training in OUTPUT_DIR, --overwrite removes it: give one of them.")
    for folder in training_folders(output_dir, stages):
        note = folder / STAGE_FILE
        has_checkpoint = Checkpointer(folder).has_checkpoint()
        if (has_checkpoint or note.exists()) and not (resume or overwrite):
            file = Checkpointer(folder).last_path() if has_checkpoint else note
            shown = file.relative_to(output_dir) if file.is_relative_to(output_dir) else file
            raise UserError(
                f"OUTPUT_DIR = {output_dir} holds a training ({shown}). Continue it with --resume, choose another "
                f"OUTPUT_DIR, or remove its checkpoints and start afresh with --overwrite."
            )


def _check_best_metric(metric: str, metrics: Sequence[str], *, losses_of: Sequence[str], is_single: bool) -> None:
    """Refuse a SOLVER.BEST_METRIC that no evaluation gives, where the evaluator names its metrics in advance."""
    if metric == AUTO or not metrics:
        return
    known = list(metrics)
    for name in losses_of:
        prefix = f"{VALIDATION_TASK}/" if is_single else f"{name}/{VALIDATION_TASK}/"
        if metric.startswith(prefix) and LOSS_NAME.fullmatch(metric.removeprefix(prefix)):
            return
        known.append(f"{prefix}total_loss")
    if metric not in known:
        examples = ", ".join(name for name in known if not is_of_class(name.rpartition("/")[2]))
        raise UserError(
            f"SOLVER.BEST_METRIC = {metric!r} is not among the results of the evaluations of this run: {examples}."
            f"{did_you_mean(metric, known)}"
        )


def check_registered_names(cfg: CfgNode, *, is_training: bool) -> None:
    """Refuse unknown names of what is beside the model: evaluators, optimizers, writers, hooks.

    Args:
        cfg: of a stage.
        is_training: whether it is trained.

    Raises:
        UnknownNameError: with the nearest name.
    """
    for registry, name in _registered_names(cfg, is_training=is_training):
        registry.get(name)


def _registered_names(cfg: CfgNode, *, is_training: bool) -> Iterator[tuple[Registry, str]]:
    yield EVALUATORS, cfg.EVAL.EVALUATOR
    yield AP_BACKENDS, cfg.EVAL.BACKEND
    if is_training:
        yield OPTIMIZERS, cfg.SOLVER.OPTIMIZER
        yield LR_SCHEDULES, cfg.SOLVER.LR_SCHEDULER_NAME
        yield from ((METRIC_WRITERS, name) for name in cfg.WRITERS)
        yield from ((HOOKS, name) for name in cfg.HOOKS)


def _log_datasets(split: str, datasets: Sequence[Dataset]) -> None:
    for dataset in datasets:
        logger.info("%s %s: %s", split, dataset.name, dataset.summary())
