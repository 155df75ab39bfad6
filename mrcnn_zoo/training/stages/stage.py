"""Stages: a run is a list of trainings with config, folder, initial weights and outputs of their own.

A training schedule, SOLVER.TRAINING_SCHEDULE, makes the list from the config of the run. For example, first the heads
alone, then all of the model:

    def heads_then_all(cfg: CfgNode) -> list[Stage]:
        heads = changed_config(cfg, {"SOLVER.FREEZE": ["backbone.*"]}, source="heads_then_all")
        return [Stage("heads", heads), Stage("all", cfg, starts_from="heads")]
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mrcnn_zoo.checkpoint import Checkpointer
from mrcnn_zoo.config import CfgNode, changed_config
from mrcnn_zoo.config.stage_list import InheritedPart
from mrcnn_zoo.distributed.processes import value_of_main_process
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.output_files import RESULT_FOLDERS
from mrcnn_zoo.registries import TRAINING_SCHEDULES
from mrcnn_zoo.registry import did_you_mean

JOINT = "joint"  # the schedule of one stage
STAGE_FILE = "stage.json"  # in the folder of a finished stage
WEIGHTS = "weights"  # an output of every stage
FINAL_WEIGHTS = "model_final.pth"
INITIAL_WEIGHTS = "initial_weights.pth"  # in the folder of a stage: parts of several stages
TRAINING_FILES = (STAGE_FILE, "last_checkpoint", "model_*.pth", INITIAL_WEIGHTS)  # in this order they are removed
OVERWRITE_MARKER = "overwrite_pending"  # in OUTPUT_DIR until the checkpoints of an earlier training are removed
TAKEN_NAMES = (".", "..", *RESULT_FOLDERS, "nonfinite", "wandb")  # other folders in OUTPUT_DIR
TAKEN_PATTERNS = ("*.yaml", "*.json", "*.pth", "*.txt", "*.csv", "last_checkpoint", OVERWRITE_MARKER)  # files in it

Results = dict[str, Any]  # {"bbox": {"AP": ...}, "segm": {...}}; with several test sets {dataset: that}


@dataclass(frozen=True)
class FinishedStage:
    """A finished stage, as later stages get it.

    Args:
        name: of the stage.
        folder: of the stage.
        handed_over: output files by name; a stage that starts from this one loads "weights".
        results: of its last evaluation, as `run` returns them.
        iterations: of its training.
    """

    name: str
    folder: Path
    handed_over: Mapping[str, Path]
    results: Results
    iterations: int = 0


Prepare = Callable[[CfgNode, Mapping[str, FinishedStage]], CfgNode]
HandOver = Callable[[CfgNode], Mapping[str, Path]]


@dataclass(frozen=True)
class Stage:
    """One training of a run.

    `prepare` and `hand_over` are called in every process of the run. Only the main process may write files
    (`is_main_process()`); all processes wait for each other afterwards.

    Args:
        name: of its folder below OUTPUT_DIR; empty in a run of this one stage, which writes into OUTPUT_DIR itself.
        cfg: complete but for the keys that `prepare` sets. TEST.EXPECTED_RESULTS is only used in the last stage.
        starts_from: name of the earlier stage with its initial weights; empty for MODEL.WEIGHTS of its config.
        prepare: called with the config and the finished stages by name before the stage starts or resumes; returns
            the config to train with. It sets keys that depend on earlier stages, such as files. It may write to
            OUTPUT_DIR of the config, the stage's folder, which after an interruption may have its files already.
        hand_over: called once with that config, when the training has ended; returns output files by name for later
            stages, e.g. proposals. "weights" are the final ones, unless it returns others.
        inherited: parts of earlier stages that `prepare` puts into its initial weights; checked before the first stage.
        proposals_of: name of the earlier stage whose proposals `prepare` takes; empty for none; checked likewise.
        listed: the stage as an entry of SOLVER.STAGES, for the log; empty where no list describes it.
    """

    name: str
    cfg: CfgNode
    _: KW_ONLY
    starts_from: str = ""
    prepare: Prepare | None = None
    hand_over: HandOver | None = None
    inherited: tuple[InheritedPart, ...] = ()
    proposals_of: str = ""
    listed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Output folder; valid in a list made by `build_stages`."""
        return Path(self.cfg.OUTPUT_DIR)

    @property
    def is_finished(self) -> bool:
        """Whether an earlier session has trained it to the end."""
        return bool(self.name) and (self.folder / STAGE_FILE).exists()

    @property
    def has_begun(self) -> bool:
        """Whether there is a checkpoint of it from an earlier session."""
        return self.is_finished or Checkpointer(self.folder).has_checkpoint()


@contextmanager
def naming_stage(stage: Stage) -> Iterator[None]:
    """Put the name of a stage before the messages of mistakes that are found in it.

    Args:
        stage: of the run; one without a name adds nothing.
    """
    try:
        yield
    except UserError as error:
        if not stage.name:
            raise
        raise UserError(f"stage {stage.name!r}: {error}") from error


def build_stages(cfg: CfgNode) -> list[Stage]:
    """The stages of a run, each with its folder as OUTPUT_DIR.

    Args:
        cfg: of the run. Its schedule returns Stages or configs, which are trained in the order of the list.

    Raises:
        UserError: the schedule returns no list of stages, or names clash or are unknown.
    """
    listed = TRAINING_SCHEDULES.get(cfg.SOLVER.TRAINING_SCHEDULE)(cfg)
    source = f"SOLVER.TRAINING_SCHEDULE = {cfg.SOLVER.TRAINING_SCHEDULE}"
    is_list = isinstance(listed, Sequence) and not isinstance(listed, str) and len(listed) > 0
    if is_list and all(isinstance(item, CfgNode) for item in listed):
        stages = _stages_of_configs(listed, cfg.OUTPUT_DIR)
    elif is_list and all(isinstance(item, Stage) for item in listed):
        stages = [_in_own_folder(stage, cfg.OUTPUT_DIR, source) for stage in listed]
    else:
        items = ", ".join(type(item).__name__ for item in listed) if is_list else type(listed).__name__
        what = "an empty list" if listed == [] else items
        raise UserError(
            f"{source} returned {what}; it must return a list of Stages or of configs, at least one "
            f"(mrcnn_zoo/training/stages/stage.py describes them)."
        )
    _check_names(stages, source)
    return stages


def _stages_of_configs(configs: Sequence[CfgNode], output_dir: str) -> list[Stage]:
    """One stage per config; where MODEL.WEIGHTS are the final ones of the run, it starts from the stage before."""
    if len(configs) == 1:
        return [Stage("", configs[0])]
    stages: list[Stage] = []
    for number, cfg in enumerate(configs, start=1):
        name = f"stage_{number}"
        is_shared = output_dir == cfg.OUTPUT_DIR
        source = {Path(output_dir), Path(output_dir) / FINAL_WEIGHTS} if is_shared and stages else set()
        continues = bool(cfg.MODEL.WEIGHTS) and Path(cfg.MODEL.WEIGHTS) in source
        own = _as_run(cfg, Path(output_dir) / name if is_shared else Path(cfg.OUTPUT_DIR))
        stages.append(Stage(name, own, starts_from=stages[-1].name if continues else ""))
    return stages


def _in_own_folder(stage: Stage, output_dir: str, source: str) -> Stage:
    name = stage.name
    is_taken = name in TAKEN_NAMES or any(fnmatchcase(name, pattern) for pattern in TAKEN_PATTERNS)
    if name != name.strip() or is_taken or Path(name).name != name:
        raise UserError(
            f"{source} names a stage {name!r}; the name is that of its folder below OUTPUT_DIR: without slashes, and "
            f"none of {', '.join((*TAKEN_NAMES, *TAKEN_PATTERNS))}."
        )
    return replace(stage, cfg=_as_run(stage.cfg, Path(output_dir) / name)) if name else stage


def _as_run(cfg: CfgNode, folder: Path) -> CfgNode:
    """The config of a stage as that of a separate run, as its config.yaml and checkpoints record it."""
    settings = {"OUTPUT_DIR": str(folder), "SOLVER.TRAINING_SCHEDULE": JOINT}
    lists: dict[str, list[Any]] = {"SOLVER.STAGES": [], "SOLVER.STAGE_SHARES": [], "SOLVER.STAGE_RATES": []}
    return changed_config(cfg, settings | lists, source="stage")


def _check_names(stages: Sequence[Stage], source: str) -> None:
    earlier: list[str] = []
    for stage in stages:
        if not stage.name and len(stages) > 1:
            raise UserError(f"{source} returned {len(stages)} stages, one of them without a name; each needs its own.")
        if stage.name in earlier or any(stage.folder == other.folder for other in stages[: len(earlier)]):
            raise UserError(f"{source} has two stages {stage.name!r} in {stage.folder}; each needs its own name.")
        if stage.starts_from and stage.starts_from not in earlier:
            known = f"the stages before it are {', '.join(earlier)}" if earlier else "it is the first stage"
            raise UserError(
                f"{source}: stage {stage.name!r} starts from {stage.starts_from!r}, but {known}."
                f"{did_you_mean(stage.starts_from, earlier)}"
            )
        earlier.append(stage.name)


def training_folders(output_dir: Path, stages: Sequence[Stage]) -> list[Path]:
    """The folders of a run and of its stages, and of stages that an earlier run there has finished.

    Args:
        output_dir: of the run.
        stages: of the run.
    """
    # A later --resume with an earlier list would take those as finished.
    earlier = sorted(path.parent for path in output_dir.glob(f"*/{STAGE_FILE}"))
    return list(dict.fromkeys((*(stage.folder for stage in stages), *earlier, output_dir)))


def clear_training_folders(output_dir: Path, stages: Sequence[Stage]) -> None:
    """Remove the checkpoints of an earlier run; writers rename its metrics, logs are appended to.

    Args:
        output_dir: of the run.
        stages: of the run.
    """
    for folder in training_folders(output_dir, stages):
        for pattern in TRAINING_FILES:
            for path in folder.glob(pattern):
                path.unlink()
    (output_dir / OVERWRITE_MARKER).unlink(missing_ok=True)


def prepared_config(stage: Stage, finished: Mapping[str, FinishedStage]) -> CfgNode:
    """The config to train a stage with, once the earlier ones are finished; the same in all processes.

    Args:
        stage: to be trained.
        finished: the stages before it, by name.

    Raises:
        UserError: `prepare` returns no config, or one with another folder.
    """
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
