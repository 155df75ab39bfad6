"""Stages from SOLVER.STAGES, with the weights and the proposal files that they take from earlier ones."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from mrcnn_zoo import data
from mrcnn_zoo.config import CfgNode, changed_config
from mrcnn_zoo.config.defaults import KEYS_BY_NAME
from mrcnn_zoo.config.folds import problem_of_test_set
from mrcnn_zoo.config.keys import COMMAND_LINE
from mrcnn_zoo.config.stage_list import (
    RUN_KEYS,
    SCHEDULE,
    ListedStage,
    check_overrides,
    read_stage_list,
    unused_stage_keys,
)
from mrcnn_zoo.distributed.processes import (
    is_main_process,
    rank,
    results_of_main_process,
    value_of_main_process,
    wait_for_all,
    world_size,
)
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.evaluation.precomputation import Precomputation, plan_precomputation, precompute
from mrcnn_zoo.evaluation.proposal_jobs import ProposalJob, open_job
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.registry import did_you_mean
from mrcnn_zoo.training.stages.inheritance import join_weights
from mrcnn_zoo.training.stages.stage import FINAL_WEIGHTS, INITIAL_WEIGHTS, WEIGHTS, FinishedStage, Stage

PROPOSALS_OF = "proposals of "  # before the name of a dataset: name of an output
LINE = 110  # characters of the list in the log
GENERATOR = {"MODEL.PROPOSAL_GENERATOR.NAME": "PrecomputedProposals"}

logger = logging.getLogger(__name__)


def with_stage_overrides(cfg: CfgNode, items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Stages with the config keys of SOLVER.STAGE_OVERRIDES, which count before their own.

    Args:
        cfg: of the run.
        items: as SOLVER.STAGES.

    Raises:
        UserError: overrides of a stage that is not in the list.
    """
    names = [item["NAME"] for item in items]
    for name in cfg.SOLVER.STAGE_OVERRIDES:
        if name not in names:
            raise UserError(
                f"SOLVER.STAGE_OVERRIDES names the stage {name!r}, but those of SOLVER.TRAINING_SCHEDULE = "
                f"{cfg.SOLVER.TRAINING_SCHEDULE} are {', '.join(names)}.{did_you_mean(name, names)}"
            )
    changed = []
    for item in items:
        own = _plain(cfg.SOLVER.STAGE_OVERRIDES.get(item["NAME"], {}))
        if not isinstance(own, Mapping):
            raise UserError(f"SOLVER.STAGE_OVERRIDES.{item['NAME']} must be a mapping of config keys, not {own!r}.")
        check_overrides(own, f"SOLVER.STAGE_OVERRIDES.{item['NAME']}")
        changed.append({**item, "OVERRIDES": _merged(item.get("OVERRIDES") or {}, own)})
    return [_without_empty(item) for item in changed]


def _plain(value: Any) -> Any:
    return {name: _plain(below) for name, below in value.items()} if isinstance(value, Mapping) else value


def _merged(overrides: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Both, those of `own` last, since a key may be dotted in one and nested in the other."""
    merged = {name: value for name, value in overrides.items() if name not in own or isinstance(value, Mapping)}
    return merged | {
        name: _merged(merged[name], value) if isinstance(merged.get(name), Mapping) else value
        for name, value in own.items()
    }


def _without_empty(item: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if value not in ({}, "")}


def build_listed_stages(cfg: CfgNode, items: Sequence[Mapping[str, Any]]) -> list[Stage]:
    """The stages of a list of mappings, each with its config.

    Args:
        cfg: of the run.
        items: as SOLVER.STAGES.

    Raises:
        UserError: a mistake in the list.
    """
    listed = read_stage_list(items)
    source = cfg.SOLVER.TRAINING_SCHEDULE
    configs = [_config_of_stage(cfg, stage, source=source) for stage in listed]
    datasets: dict[str, list[str]] = {}  # name of a stage -> datasets that it writes proposals for
    for stage, own in zip(listed, configs, strict=True):
        if stage.proposals:
            datasets.setdefault(stage.proposals, []).extend([*own.DATASETS.TRAIN, *own.DATASETS.TEST])
    return [
        Stage(
            stage.name,
            own,
            starts_from=stage.starts_from,
            prepare=partial(_prepare_stage, stage) if stage.inherited or stage.proposals else None,
            hand_over=partial(_hand_over_proposals, datasets[stage.name]) if stage.name in datasets else None,
            inherited=stage.inherited,
            proposals_of=stage.proposals,
            listed=item,
        )
        for item, stage, own in zip(items, listed, configs, strict=True)
    ]


def listed_as_yaml(stages: Sequence[Stage]) -> str:
    """The stages of a run as the keys of a config.

    Args:
        stages: each with its entry of SOLVER.STAGES.
    """
    content = {"SOLVER": {"TRAINING_SCHEDULE": SCHEDULE, "STAGES": [_plain(stage.listed) for stage in stages]}}
    # Without aliases: an override that several stages share is written out in each.
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=LINE).rstrip()


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _config_of_stage(cfg: CfgNode, stage: ListedStage, *, source: str) -> CfgNode:
    settings: dict[str, Any] = {} if stage.train is None else {"SOLVER.TRAIN": list(stage.train)}
    settings |= GENERATOR if stage.proposals else {}
    origin = f"stage {stage.name!r} of {source}"
    own = changed_config(cfg, {**settings, **stage.overrides}, source=origin)
    if problem_of_test_set(own):  # of other training datasets than the run
        own = changed_config(own, {"DATASETS.TEST": list(own.DATASETS.TRAIN)}, source=origin)
    return own


def log_stage_list(cfg: CfgNode, stages: Sequence[Stage]) -> None:
    """Log the stages as a list, and warn of keys without effect on them.

    Args:
        cfg: of the run.
        stages: of the run.
    """
    schedule = cfg.SOLVER.TRAINING_SCHEDULE
    for key in unused_stage_keys(cfg):
        logger.warning(
            "%s (%s) has no effect: SOLVER.TRAINING_SCHEDULE = %s does not read it", key, cfg.origin_of(key), schedule
        )
    set_by_user = [key for key in KEYS_BY_NAME if cfg.origin_of(key).source == COMMAND_LINE]
    for stage in stages if schedule == SCHEDULE else ():
        for key in (key for key in set_by_user if key not in RUN_KEYS and stage.cfg.value_of(key) != cfg.value_of(key)):
            logger.warning(
                "stage %r has %s = %s by its OVERRIDES, not %s (%s); to change it, set SOLVER.STAGE_OVERRIDES.%s.%s",
                stage.name,
                key,
                stage.cfg.value_of(key),
                cfg.value_of(key),
                COMMAND_LINE,
                stage.name,
                key,
            )
    if stages[0].listed:
        logger.info("%s:\n%s", counted(len(stages), "stage"), listed_as_yaml(stages))


def _prepare_stage(stage: ListedStage, cfg: CfgNode, finished: Mapping[str, FinishedStage]) -> CfgNode:
    """The config with the proposals and the weights of earlier stages; writes the joined weights."""
    if stage.proposals:
        files = finished[stage.proposals].handed_over
        paths = {
            f"DATASETS.PROPOSAL_FILES_{split}": [str(files[PROPOSALS_OF + name]) for name in names]
            for split, names in (("TRAIN", cfg.DATASETS.TRAIN), ("TEST", cfg.DATASETS.TEST))
        }
        cfg = changed_config(cfg, {"MODEL.LOAD_PROPOSALS": True, **paths}, source=f"stage {stage.proposals!r}")
    if stage.inherited:
        path = results_of_main_process(partial(_write_joined_weights, stage, cfg, finished))
        cfg = changed_config(cfg, {"MODEL.WEIGHTS": str(path)}, source=f"stage {stage.name!r}")
    return cfg


def _write_joined_weights(stage: ListedStage, cfg: CfgNode, finished: Mapping[str, FinishedStage]) -> Path:
    files = {part.stage: finished[part.stage].handed_over[WEIGHTS] for part in stage.inherited}
    joined = join_weights(build_model(cfg), stage.inherited, files, base=cfg.MODEL.WEIGHTS)
    return joined.write(Path(cfg.OUTPUT_DIR) / INITIAL_WEIGHTS)


def _hand_over_proposals(names: Sequence[str], cfg: CfgNode) -> dict[str, Path]:
    """Write the proposals of a trained stage for some datasets: as many per image as it would train or test with."""
    weights = str(Path(cfg.OUTPUT_DIR) / FINAL_WEIGHTS)
    rpn = cfg.MODEL.RPN
    limits = {
        "MODEL.RPN.PRE_NMS_TOPK_TEST": rpn.PRE_NMS_TOPK_TRAIN,
        "MODEL.RPN.POST_NMS_TOPK_TEST": rpn.POST_NMS_TOPK_TRAIN,
    }
    whole = changed_config(cfg, {"TEST.NUM_IMAGES": 0}, source="proposals")
    paths = {}
    for is_train in (True, False):
        own = changed_config(whole, limits, source="proposals") if is_train else whole
        job = ProposalJob(own, weights=weights)
        members = dict.fromkeys(name for name in names if (name in cfg.DATASETS.TRAIN) == is_train)
        model = open_job(job) if members else None
        for name in members:
            path = Path(cfg.OUTPUT_DIR) / "proposals" / f"{name.replace('/', '_')}.npz"
            _write_proposals(plan_precomputation(job, data.load_dataset(own, name), path), model)
            paths[PROPOSALS_OF + name] = path
    return paths


def _write_proposals(plan: Precomputation, model: nn.Module | None) -> None:
    """Each process computes a share; parts that an interrupted run has written with the same weights are kept."""
    if value_of_main_process(_is_written(plan)):
        return
    if is_main_process():
        try:
            plan.start(resume=True, overwrite=False)
        except UserError:  # of other weights
            plan.start(resume=False, overwrite=True)
        logger.info("proposals of %s for %s", counted(len(plan.dataset), "image"), plan.dataset.name)
    wait_for_all()
    precompute(plan, model=model, rank=rank(), world_size=world_size())
    wait_for_all()
    if is_main_process():
        count = sum(len(table.boxes) for table in plan.finish().values())
        logger.info("%s: %s in %s", plan.path, counted(count, "proposal"), counted(len(plan.dataset), "image"))


def _is_written(plan: Precomputation) -> bool:
    try:
        return is_main_process() and plan.is_finished()
    except UserError:  # the file is of other weights
        return False
