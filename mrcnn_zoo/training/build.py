"""Builds the trainer of a run from its config."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import yaml
from torch import nn

from mrcnn_zoo import data
from mrcnn_zoo.checkpoint import load_weights_file, read_weights
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.distributed.processes import rank, value_of_main_process, world_size
from mrcnn_zoo.errors import counted
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.modeling.contracts import LearnsFromClassCounts
from mrcnn_zoo.registries import HOOKS
from mrcnn_zoo.structures import Sample
from mrcnn_zoo.training.averaging import build_weights_average
from mrcnn_zoo.training.hook import Hook, Workspace
from mrcnn_zoo.training.lengths import warn_of_schedule
from mrcnn_zoo.training.lr_schedule import build_lr_schedule
from mrcnn_zoo.training.optimizer import build_optimizer
from mrcnn_zoo.training.run_context import choose_seed, derived_seed, installed_versions, seed_everything
from mrcnn_zoo.training.step import Updater, build_clipper, build_precision
from mrcnn_zoo.training.stopping import Budget, IterationBudget, TimeBudget
from mrcnn_zoo.training.trainer import OpenBatches, Trainer, TrainingPlan


def tell_class_counts(model: nn.Module, datasets: Sequence[Dataset]) -> None:
    """Hand the class counts of the training data to each part of the model that learns from them."""
    learners = [module for module in model.modules() if isinstance(module, LearnsFromClassCounts)]
    if learners:
        counts = torch.tensor(images_by_class(datasets), device=next(model.parameters()).device)
        for learner in learners:
            learner.set_class_counts(counts)


def images_by_class(datasets: Iterable[Dataset]) -> list[int]:
    """In how many images of all datasets together each class is; crowds count, too. Their classes must be the same."""
    counts: Counter[int] = Counter()
    num_classes = 0
    for dataset in datasets:
        num_classes = len(dataset.class_names)
        for record in dataset.records:
            counts.update({instance.class_index for instance in record.instances})
    return [counts[index] for index in range(num_classes)]


logger = logging.getLogger(__name__)

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


def build_trainer(cfg: CfgNode, workspace: Workspace, state: Mapping[str, Any] | None = None) -> Trainer:
    """A trainer that begins with MODEL.WEIGHTS, or goes on from the state of a checkpoint.

    Args:
        cfg: with lengths already fitted to the data.
        workspace: of the run.
        state: what `Trainer.state_dict` gave.
    """
    seed = _seed(cfg, state)
    seed_everything(derived_seed(seed, "model"))
    model = build_model(cfg)
    tell_class_counts(model, workspace.train_datasets)
    if state is None and cfg.MODEL.WEIGHTS:
        _load_initial_weights(model, cfg, workspace.train_datasets[0].class_names)
    optimizer = build_optimizer(cfg, model)
    schedule = build_lr_schedule(cfg)
    warn_of_schedule(cfg, schedule)
    _describe_model(model)
    trainer = Trainer(
        model,
        _batch_opener(cfg, workspace, seed),
        updater=Updater(optimizer, precision=build_precision(cfg, _device_of(model)), clipper=build_clipper(cfg)),
        plan=TrainingPlan(
            budget=build_budget(cfg),
            schedule=schedule,
            seed=seed,
            accumulate_steps=cfg.SOLVER.ACCUMULATE_STEPS,
        ),
        hooks=build_hooks(cfg, workspace),
        average=build_weights_average(cfg, model),
        provenance={
            "config": cfg.dump(),
            "class_names": list(map(str, workspace.train_datasets[0].class_names)),
            "category_ids": list(map(int, workspace.train_datasets[0].category_ids)),
            "versions": installed_versions(),
        },
    )
    if state is not None:
        _warn_of_changes(cfg, state)
        trainer.load_state_dict(state)
        logger.info("resumed after %s", counted(trainer.iteration, "iteration"))
        if _device_of(model).type == "cuda":
            logger.info(
                "on a GPU some gradients (RoIAlign's for instance) are summed in no fixed order: data, random numbers "
                "and state go on as they were, the weights agree up to rounding only"
            )
    return trainer


def build_hooks(cfg: CfgNode, workspace: Workspace) -> dict[str, Hook]:
    """The hooks of every run, those that need a test set or a key only where there is one, and the config's own."""
    is_wanted = {"Evaluate": bool(workspace.test_datasets), "PreciseBatchNorm": cfg.TEST.PRECISE_BN.ENABLED}
    names = [name for name in DEFAULT_HOOKS if is_wanted.get(name, True)]
    return {name: HOOKS.get(name)(cfg, workspace) for name in dict.fromkeys([*names, *cfg.HOOKS])}


def build_budget(cfg: CfgNode) -> Budget:
    """SOLVER.MAX_MINUTES, or else SOLVER.MAX_ITER."""
    if cfg.SOLVER.MAX_MINUTES > 0:
        return TimeBudget(
            cfg.SOLVER.MAX_MINUTES * 60, iterations=cfg.SOLVER.MAX_ITER, warmup_iterations=cfg.SOLVER.WARMUP_ITERS
        )
    return IterationBudget(cfg.SOLVER.MAX_ITER)


def changed_keys(former: str, present: str) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ between two dumped configs, with both values."""
    before, after = (dict(_leaves(yaml.safe_load(text))) for text in (former, present))
    names = sorted(before.keys() | after.keys())
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def _seed(cfg: CfgNode, state: Mapping[str, Any] | None) -> int:
    seed = state["seed"] if state is not None else value_of_main_process(choose_seed(cfg.SEED))
    if state is not None and cfg.SEED >= 0 and seed != cfg.SEED:
        logger.warning("SEED = %d is not that of the run that is resumed; its own, %d, stays.", cfg.SEED, seed)
    logger.info("seed %d", seed)
    return seed


def _batch_opener(cfg: CfgNode, workspace: Workspace, seed: int) -> OpenBatches:
    def open_batches(start: int) -> Iterable[list[Sample]]:
        return data.build_train_loader(
            cfg, workspace.train_datasets, start_batch=start, rank=rank(), world_size=world_size(), seed=seed
        )

    return open_batches


def _load_initial_weights(model: nn.Module, cfg: CfgNode, class_names: Sequence[str]) -> None:
    report = load_weights_file(model, read_weights(cfg.MODEL.WEIGHTS), class_names=class_names)
    logger.info("%s", report)
    for name, expected in (report.expected_settings or {}).items():
        value = cfg.value_of(name)
        # Another number of classes is what fine-tuning is for; the report says which are copied.
        if value != expected and not name.endswith(".NUM_CLASSES"):
            logger.warning("the weights were trained with %s = %s; here it is %s", name, expected, value)


def _describe_model(model: nn.Module) -> None:
    counts = {True: 0, False: 0}
    for parameter in model.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    logger.info(
        "%s on %s: %.2f million parameters are trained, %.2f million are frozen",
        type(model).__name__,
        _device_of(model),
        counts[True] / 1e6,
        counts[False] / 1e6,
    )


def _warn_of_changes(cfg: CfgNode, state: Mapping[str, Any]) -> None:
    for name, (before, after) in changed_keys(state["config"], cfg.dump()).items():
        logger.warning("%s = %s since this sitting; it was %s", name, after, before)


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
