"""Builds the trainer of a run from its plan."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mrcnn_zoo import data
from mrcnn_zoo.checkpoint import Checkpointer, WeightsFile, load_weights_file
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.distributed.processes import rank, value_of_main_process, world_size
from mrcnn_zoo.errors import counted
from mrcnn_zoo.evaluation.coco import PROPOSAL_NETWORK
from mrcnn_zoo.evaluation.proposal_jobs import needs_weights
from mrcnn_zoo.inference.trained import fill_model
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.modeling.contracts import LearnsFromClassCounts
from mrcnn_zoo.registries import HOOKS
from mrcnn_zoo.structures import Sample
from mrcnn_zoo.training.averaging import build_weights_average
from mrcnn_zoo.training.compilation import build_compiled_stages
from mrcnn_zoo.training.gradients import build_clipper
from mrcnn_zoo.training.hook import Hook, Workspace
from mrcnn_zoo.training.lr_schedule import build_lr_schedule
from mrcnn_zoo.training.optimizer import build_optimizer
from mrcnn_zoo.training.parts import NOTHING, frozen_random_parts, parts_table
from mrcnn_zoo.training.preflight import RunPlan
from mrcnn_zoo.training.run_context import changed_keys, choose_seed, derived_seed, installed_versions, seed_everything
from mrcnn_zoo.training.stages.inheritance import ORIGINS
from mrcnn_zoo.training.step import Updater, build_precision
from mrcnn_zoo.training.stopping import Budget, IterationBudget, TimeBudget
from mrcnn_zoo.training.trainer import OpenBatches, Trainer, TrainingPlan
from mrcnn_zoo.training.writers import MetricWriter

# In the order in which they are called. Checkpoints come before evaluations: one that fails loses no training.
DEFAULT_HOOKS = (
    "ReportUnusedParameters",
    "StopOnNonFinite",
    "DrawTrainingBatches",
    "WriteMetrics",
    "PreciseBatchNorm",
    "SaveCheckpoints",
    "Evaluate",
    "SaveBest",
    "StopEarly",
    "DrawPredictions",
    "DrawCurves",
)
# Weights of the same shapes compute other features where these differ.
FEATURE_KEYS = (
    *("INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.FPN.FUSE_TYPE"),
    *("MODEL.RESNETS.STRIDE_IN_1X1", "MODEL.RESNETS.STEM_POOL", "MODEL.RESNETS.RES5_DILATION"),
)
LAST_HOOK = "SaveLastEvaluation"  # after the config's own hooks, whose states it saves
CHECKPOINT_HOOK = "WriteCheckpoints"  # after the last file is written

logger = logging.getLogger(__name__)


def build_trainer(plan: RunPlan, writers: Sequence[MetricWriter]) -> Trainer:
    """A trainer that starts from the weights of a plan, or continues from its checkpoint; nothing is written.

    Args:
        plan: of the training.
        writers: that the hooks keep; the list may be filled until training begins.

    Raises:
        UserError: settings of the architecture, patterns of SOLVER.FREEZE, or weights that do not fit the model.
    """
    cfg, state = plan.cfg, plan.state
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK and not cfg.DETERMINISTIC
    seed = _choose_seed(cfg.SEED, state)
    seed_everything(derived_seed(seed, "model"))
    model = build_model(cfg)
    set_class_counts(model, plan.train_datasets)
    origins: dict[str, str] = {}
    if plan.weights is not None:
        origins = _load_initial_weights(model, plan.weights, cfg=cfg, class_names=plan.class_names)
    optimizer = build_optimizer(cfg, model)
    build_compiled_stages(cfg, model)
    _log_parameters(model, origins, default="the checkpoint that is resumed" if state is not None else "random")
    if state is None:
        _warn_of_random_parts(cfg, frozen_random_parts(model, origins))
    trainer = Trainer(
        model,
        _batch_opener(cfg, plan.train_datasets, seed),
        updater=Updater(optimizer, precision=build_precision(cfg, _device_of(model)), clipper=build_clipper(cfg)),
        plan=TrainingPlan(
            budget=build_budget(cfg),
            schedule=build_lr_schedule(cfg),
            seed=seed,
            accumulate_steps=cfg.SOLVER.ACCUMULATE_STEPS,
        ),
        hooks=build_hooks(cfg, _workspace_of(plan, writers)),
        average=build_weights_average(cfg, model),
        provenance={
            "config": cfg.dump(),
            "class_names": list(plan.class_names),
            "category_ids": list(plan.category_ids),
            "versions": installed_versions(),
        },
    )
    if state is not None:
        _warn_of_changes(state["config"], cfg.dump())
        _resume(trainer, state)
    return trainer


def build_evaluated_model(plan: RunPlan) -> nn.Module:
    """The model of an evaluation without training, in evaluation mode; without weights it is random.

    Args:
        plan: of the evaluation.

    Raises:
        UserError: settings of the architecture, or weights that do not fill the model.
    """
    torch.backends.cudnn.benchmark = False
    if plan.weights is not None:
        return fill_model(plan.cfg, plan.weights)[0]
    model = build_model(plan.cfg)
    if plan.cfg.MODEL.META_ARCHITECTURE != PROPOSAL_NETWORK or needs_weights(model):
        has_checkpoint = Checkpointer(plan.cfg.OUTPUT_DIR).has_checkpoint()
        advice = f"; --resume evaluates the last checkpoint in {plan.cfg.OUTPUT_DIR}" if has_checkpoint else ""
        logger.warning("MODEL.WEIGHTS is empty: evaluating random weights%s", advice)
    return model


def build_hooks(cfg: CfgNode, workspace: Workspace) -> dict[str, Hook]:
    """The hooks of every run, those that need a test set or a key only where there is one, and the config's own.

    Args:
        cfg: of the run.
        workspace: of the run.
    """
    is_tested = bool(workspace.test_datasets)
    is_used = {"Evaluate": is_tested, LAST_HOOK: is_tested, "PreciseBatchNorm": cfg.TEST.PRECISE_BN.ENABLED}
    ordered = dict.fromkeys([*DEFAULT_HOOKS, *cfg.HOOKS, LAST_HOOK, CHECKPOINT_HOOK])
    names = [name for name in ordered if is_used.get(name, True)]
    return {name: HOOKS.get(name)(cfg, workspace) for name in names}


def build_budget(cfg: CfgNode) -> Budget:
    """SOLVER.MAX_MINUTES, or else SOLVER.MAX_ITER; no step where nothing is trained."""
    if NOTHING in cfg.SOLVER.TRAIN:
        return IterationBudget(0)
    if cfg.SOLVER.MAX_MINUTES > 0:
        return TimeBudget(
            cfg.SOLVER.MAX_MINUTES * 60, iterations=cfg.SOLVER.MAX_ITER, warmup_iterations=cfg.SOLVER.WARMUP_ITERS
        )
    return IterationBudget(cfg.SOLVER.MAX_ITER)


def set_class_counts(model: nn.Module, datasets: Sequence[Dataset]) -> None:
    """Give each part of a model that learns from class counts those of the training data.

    Args:
        model: on its device.
        datasets: with the same classes.
    """
    learners = [module for module in model.modules() if isinstance(module, LearnsFromClassCounts)]
    if learners:
        counts = torch.tensor(images_per_class(datasets), device=next(model.parameters()).device)
        for learner in learners:
            learner.set_class_counts(counts)


def images_per_class(datasets: Iterable[Dataset]) -> list[int]:
    """Number of images with each class, by class index; crowds count, too.

    Args:
        datasets: with the same classes.
    """
    counts: Counter[int] = Counter()
    num_classes = 0
    for dataset in datasets:
        num_classes = len(dataset.class_names)
        for record in dataset.records:
            counts.update({instance.class_index for instance in record.instances})
    return [counts[index] for index in range(num_classes)]


def _choose_seed(configured: int, state: Mapping[str, Any] | None) -> int:
    seed = state["seed"] if state is not None else value_of_main_process(choose_seed(configured))
    if state is not None and configured >= 0 and seed != configured:
        logger.warning("SEED = %d is not that of the run that is resumed; its own, %d, stays.", configured, seed)
    logger.info("seed %d", seed)
    return seed


def _batch_opener(cfg: CfgNode, datasets: Sequence[Dataset], seed: int) -> OpenBatches:
    def open_batches(start: int) -> Iterable[list[Sample]]:
        return data.build_train_loader(
            cfg, datasets, start_batch=start, rank=rank(), world_size=world_size(), seed=seed
        )

    return open_batches


def _workspace_of(plan: RunPlan, writers: Sequence[MetricWriter]) -> Workspace:
    return Workspace(
        output_dir=plan.output_dir,
        checkpointer=Checkpointer(plan.output_dir),
        writers=writers,
        train_datasets=plan.train_datasets,
        test_datasets=plan.test_datasets,
    )


def _load_initial_weights(
    model: nn.Module, weights: WeightsFile, *, cfg: CfgNode, class_names: Sequence[str]
) -> dict[str, str]:
    """Fill the model; returns the file or stage that each filled weight is from."""
    report = load_weights_file(model, weights, class_names=class_names)
    logger.info("%s", report)
    settings = {**_feature_settings(weights.meta.get("config"), cfg), **(report.expected_settings or {})}
    for name, expected in settings.items():
        value = cfg.value_of(name)
        # Fine-tuning may change the number of classes; the report lists which are copied.
        if value != expected and not name.endswith(".NUM_CLASSES"):
            logger.warning("the weights were trained with %s = %s; here it is %s", name, expected, value)
    of_stages = weights.meta.get(ORIGINS, {})
    filled = (*report.loaded, *report.converted, *report.by_class)
    return {name: of_stages.get(name, weights.source) for name in filled}


def _feature_settings(text: Any, cfg: CfgNode) -> dict[str, Any]:
    """The FEATURE_KEYS of the config in a checkpoint that differ from this one's; {} where it has none.

    Pixel statistics of another number of channels are left out: the first convolution is adapted to these.
    """
    changes = changed_keys(text, cfg.dump()) if isinstance(text, str) else {}
    settings = {name: changes[name][0] for name in FEATURE_KEYS if name in changes and changes[name][0] is not None}
    num_channels = len(cfg.MODEL.PIXEL_MEAN)
    return {
        name: value for name, value in settings.items() if not isinstance(value, list) or len(value) == num_channels
    }


def _log_parameters(model: nn.Module, origins: Mapping[str, str], *, default: str) -> None:
    counts = {True: 0, False: 0}
    for parameter in model.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    logger.info(
        "%s on %s: %.2f million parameters are trained, %.2f million are frozen\n%s",
        type(model).__name__,
        _device_of(model),
        counts[True] / 1e6,
        counts[False] / 1e6,
        parts_table(model, origins, default=default),
    )


def _warn_of_random_parts(cfg: CfgNode, parts: Sequence[str]) -> None:
    if "timm" in cfg.MODEL.BACKBONE.NAME and cfg.MODEL.TIMM.PRETRAINED:
        parts = [part for part in parts if not part.startswith("backbone")]  # timm has loaded it
    if parts:
        logger.warning(
            "%s: weights that are frozen and random. Load them with MODEL.WEIGHTS or from an earlier stage, or train "
            "them: see SOLVER.TRAIN, SOLVER.FREEZE and MODEL.BACKBONE.FREEZE_AT",
            ", ".join(parts),
        )


def _warn_of_changes(former: str, present: str) -> None:
    for name, (before, after) in changed_keys(former, present).items():
        logger.warning("%s = %s since resume; it was %s", name, after, before)


def _resume(trainer: Trainer, state: Mapping[str, Any]) -> None:
    trainer.load_state_dict(state)
    logger.info("resumed after %s", counted(trainer.iteration, "iteration"))
    if _device_of(trainer.model).type == "cuda" and not torch.are_deterministic_algorithms_enabled():
        logger.info(
            "on a GPU some gradients (RoIAlign's for instance) are summed in no fixed order: data, random numbers "
            "and state continue exactly, the weights agree up to rounding only"
        )


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
