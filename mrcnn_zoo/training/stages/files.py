"""Files of the stages of a run: the mark of a finished stage, and the final checkpoint of the run."""

import filecmp
import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrcnn_zoo.checkpoint.checkpointer import LAST_CHECKPOINT_FILE
from mrcnn_zoo.config import CfgNode, changed_config
from mrcnn_zoo.config.stage_list import PROPOSALS, RUN_KEYS
from mrcnn_zoo.distributed.processes import is_main_process, value_of_main_process, wait_for_all
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.output_files import write_atomically, write_json, write_text
from mrcnn_zoo.training.parts import ALL
from mrcnn_zoo.training.run_context import changed_keys
from mrcnn_zoo.training.stages.stage import (
    FINAL_WEIGHTS,
    STAGE_FILE,
    WEIGHTS,
    FinishedStage,
    Results,
    Stage,
    prepared_config,
)

logger = logging.getLogger(__name__)


def read_finished(stages: Sequence[Stage]) -> dict[str, FinishedStage]:
    """The stages that earlier sessions have finished, by name; warns of those with a changed config.

    Args:
        stages: of the run.

    Raises:
        UserError: a stage has begun before an earlier one is finished, or a stage file cannot be read.
    """
    finished: dict[str, FinishedStage] = {}
    waiting: Stage | None = None
    for stage in stages:
        if waiting is not None and stage.has_begun:
            raise UserError(
                f"stage {stage.name!r} has been trained in {stage.folder}, but {waiting.name!r} before it is not "
                f"finished: there is no {waiting.folder / STAGE_FILE}. Move {stage.folder} away to train it "
                f"again, or start afresh with --overwrite."
            )
        if stage.is_finished:
            finished[stage.name] = _read_stage_file(stage)
        else:
            waiting = waiting or stage
    return value_of_main_process(finished)


def evaluated_config(cfg: CfgNode, stages: Sequence[Stage], *, resume: bool) -> CfgNode:
    """The config of an evaluation without training: that of the last stage.

    Args:
        cfg: of the run.
        stages: of the run.
        resume: evaluate the last checkpoint of the last stage, not MODEL.WEIGHTS of the run.
    """
    last, earlier = stages[-1], stages[:-1]
    if resume and last.prepare and all(stage.is_finished for stage in earlier):
        return prepared_config(last, read_finished(earlier))
    if not resume and last.name:
        weights = {"MODEL.WEIGHTS": cfg.MODEL.WEIGHTS, "OUTPUT_DIR": cfg.OUTPUT_DIR}
        return changed_config(last.cfg, weights, source="run")
    return last.cfg


def finish_stage(stage: Stage, cfg: CfgNode, results: Results, *, iterations: int = 0) -> FinishedStage:
    """Collect the output files of a trained stage, and mark it as finished.

    Args:
        stage: that has been trained.
        cfg: of its training.
        results: of its last evaluation.
        iterations: of its training.

    Raises:
        UserError: an output file does not exist.
    """
    extra = stage.hand_over(cfg) if stage.hand_over else {}
    wait_for_all()
    files = {WEIGHTS: stage.folder / FINAL_WEIGHTS} | {name: Path(path) for name, path in extra.items()}
    finished = value_of_main_process(FinishedStage(stage.name, stage.folder, files, results, iterations))
    if is_main_process():
        for name, path in finished.handed_over.items():
            if not path.exists():
                raise UserError(f"stage {stage.name!r} returns the output {name!r}, but {path} does not exist.")
        if stage.name:
            _write_stage_file(stage, finished)
    wait_for_all()
    return finished


def write_final_checkpoint(output_dir: Path, last: FinishedStage) -> Path:
    """Copy the final weights of the last stage into the folder of the run, which then is that of a training.

    Args:
        output_dir: of the run.
        last: stage of the run.

    Returns:
        The file.
    """
    path = output_dir / FINAL_WEIGHTS
    with last.handed_over[WEIGHTS].open("rb") as source:
        write_atomically(path, lambda file: shutil.copyfileobj(source, file))
    write_text(output_dir / LAST_CHECKPOINT_FILE, path.name)
    return path


def has_final_checkpoint(output_dir: Path, last: FinishedStage) -> bool:
    """Whether the file of `write_final_checkpoint` is there; a run may have been killed before, or its list changed.

    Args:
        output_dir: of the run.
        last: stage of the run.
    """
    is_written = all((output_dir / name).is_file() for name in (LAST_CHECKPOINT_FILE, FINAL_WEIGHTS))
    return is_written and filecmp.cmp(output_dir / FINAL_WEIGHTS, last.handed_over[WEIGHTS], shallow=False)


def remove_final_checkpoint(output_dir: Path) -> None:
    """Remove the file of `write_final_checkpoint` of an earlier session, before a stage is trained further.

    Args:
        output_dir: of the run.
    """
    for name in (LAST_CHECKPOINT_FILE, FINAL_WEIGHTS):
        (output_dir / name).unlink(missing_ok=True)


def _write_stage_file(stage: Stage, finished: FinishedStage) -> None:
    files = {
        # Relative where possible, so that the folder of a run can be moved.
        name: str(path.relative_to(stage.folder) if path.is_relative_to(stage.folder) else path.absolute())
        for name, path in finished.handed_over.items()
    }
    record = {
        "name": stage.name,
        "iterations": finished.iterations,
        "results": _plain(finished.results),
        "handed_over": files,
        "from": _sources_of(stage),
        "config": stage.cfg.dump(),
    }
    write_json(stage.folder / STAGE_FILE, record, indent=2)


def _read_stage_file(stage: Stage) -> FinishedStage:
    path = stage.folder / STAGE_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        files = {name: stage.folder / file for name, file in record["handed_over"].items()}
        results, iterations = _measured(record["results"]), record.get("iterations", 0)
        finished = FinishedStage(stage.name, stage.folder, files, results, iterations)
        former = record["config"]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}). Remove it: the stage then resumes from its last checkpoint."
        ) from error
    keys = changed_keys(former, stage.cfg.dump())
    changes = {key: both for key, both in keys.items() if not key.startswith(RUN_KEYS)}
    sources = record.get("from", _sources_of(stage))
    if sources != _sources_of(stage):
        changes["FROM"] = (sources, _sources_of(stage))
    if changes:
        logger.warning(
            "stage %r is finished and is not trained again, though its config has changed since: %s. To train it "
            "further, remove %s and the folders of the later stages",
            stage.name,
            ", ".join(f"{key} = {now} (it was {before})" for key, (before, now) in changes.items()),
            path,
        )
    return finished


def _sources_of(stage: Stage) -> dict[str, str]:
    """What the stage takes from earlier ones, as FROM in SOLVER.STAGES; all of its weights as part "all"."""
    sources = {ALL: stage.starts_from, PROPOSALS: stage.proposals_of}
    sources |= {inherited.part: f"{inherited.stage}:{inherited.source}" for inherited in stage.inherited}
    return {part: source for part, source in sources.items() if source}


def _plain(results: Any) -> Any:
    """With None for NaN and infinity, which JSON does not have."""
    if isinstance(results, Mapping):
        return {name: _plain(value) for name, value in results.items()}
    return float(results) if math.isfinite(results) else None


def _measured(results: Any) -> Any:
    if isinstance(results, Mapping):
        return {name: _measured(value) for name, value in results.items()}
    return math.nan if results is None else results
