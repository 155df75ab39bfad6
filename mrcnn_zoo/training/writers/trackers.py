"""TensorBoard and Weights & Biases."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registries import METRIC_WRITERS
from mrcnn_zoo.training.writers.contract import MetricWriter, Results, RunPlace, StageOfRun, measured


class TensorboardWriter(MetricWriter):
    """Curves and pictures for `tensorboard --logdir <output folder>`.

    The stages of a run are one curve, one after the other; the scalar "stage" is the number of the stage, and the text
    "stages" its name.

    Args:
        log_dir: event files are added to this folder, or to that of the run of `stage`.
        start_iteration: TensorBoard hides entries of earlier event files from this iteration on.
        stage: in a run of several.
    """

    def __init__(self, log_dir: Path, *, start_iteration: int = 0, stage: StageOfRun | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._first_iteration = stage.first_iteration if stage else 0
        self._scalars = stage.scalars if stage else {}
        folder = stage.run_dir if stage else log_dir
        self._events = SummaryWriter(str(folder), purge_step=self._first_iteration + start_iteration)
        if stage:
            start = self._first_iteration + start_iteration
            self._events.add_text("stages", f"{stage.number}. {stage.name}", start)

    def write(self, iteration: int, scalars: Mapping[str, float]) -> None:
        for name, value in {**self._scalars, **scalars}.items():
            self._events.add_scalar(name, value, self._first_iteration + iteration)

    def write_images(self, iteration: int, images: Mapping[str, Path]) -> None:
        import numpy as np
        from PIL import Image

        for name, path in images.items():
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
                self._events.add_image(name, pixels, self._first_iteration + iteration, dataformats="HWC")

    def write_results(self, iteration: int, results: Results) -> None:
        self.write(iteration, measured(results))
        self._events.flush()

    def close(self, *, failed: bool = False) -> None:  # noqa: ARG002
        self._events.close()


@METRIC_WRITERS.register("tensorboard")
def build_tensorboard_writer(cfg: CfgNode, place: RunPlace) -> TensorboardWriter:  # noqa: ARG001
    try:
        return TensorboardWriter(place.output_dir, start_iteration=place.start_iteration, stage=place.stage)
    except ImportError as error:
        raise UserError(
            "WRITERS names tensorboard, which is not installed. "
            "Install it with `pip install tensorboard`, or take it out of WRITERS."
        ) from error


logger = logging.getLogger(__name__)

RUN_ID_FILE = "wandb_run_id.txt"


class WandbWriter(MetricWriter):
    """Writes to one W&B run.

    The stages of a run are one W&B run, one after the other; "stage" is the number of the stage, and an artifact has
    its name as an alias.

    Args:
        run: as `wandb.init` returns it.
        logs_checkpoint: whether the final checkpoint becomes an artifact of the run.
        stage: in a run of several; the W&B run stays open until the last one ends.
    """

    def __init__(self, run: Any, *, logs_checkpoint: bool = True, stage: StageOfRun | None = None) -> None:
        self._run = run
        self._logs_checkpoint = logs_checkpoint
        self._stage = stage
        # W&B's own step may only grow; with this axis resumed runs and late evaluations write at their iteration.
        run.define_metric("iteration")
        run.define_metric("*", step_metric="iteration")

    def write(self, iteration: int, scalars: Mapping[str, float]) -> None:
        self._log(iteration, scalars)

    def write_images(self, iteration: int, images: Mapping[str, Path]) -> None:
        import wandb

        self._log(iteration, {name: wandb.Image(str(path)) for name, path in images.items()})

    def write_results(self, iteration: int, results: Results) -> None:
        import wandb

        names = list(dict.fromkeys(name for metrics in results.values() for name in metrics))
        values = measured(results)
        rows = [[name, *(values.get(f"{task}/{name}") for task in results)] for name in names]
        table = wandb.Table(columns=["metric", *results], data=rows)
        self._log(iteration, {**values, "results": table})

    def write_checkpoint(self, path: Path) -> None:
        import wandb

        if self._logs_checkpoint:
            artifact = wandb.Artifact(f"model-{self._run.id}", type="model")
            artifact.add_file(str(path))
            self._run.log_artifact(artifact, aliases=["latest", self._stage.name] if self._stage else None)

    def close(self, *, failed: bool = False) -> None:
        if failed or self._stage is None or self._stage.is_last:
            self._run.finish(exit_code=1 if failed else 0)

    def _log(self, iteration: int, values: Mapping[str, Any]) -> None:
        stage = self._stage
        first = {"iteration": iteration + stage.first_iteration, **stage.scalars} if stage else {"iteration": iteration}
        self._run.log({**first, **values})


@METRIC_WRITERS.register("wandb")
def build_wandb_writer(cfg: CfgNode, place: RunPlace) -> WandbWriter:
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            "WRITERS names wandb, which is not installed. "
            "Install it with `pip install wandb`, or take it out of WRITERS."
        ) from error
    stage, config = place.stage, yaml.safe_load(cfg.dump())
    folder = stage.run_dir if stage else place.output_dir
    id_file = folder / RUN_ID_FILE
    is_resumed = (place.start_iteration > 0 or (stage is not None and stage.number > 1)) and id_file.exists()
    run_id = id_file.read_text(encoding="utf-8").strip() if is_resumed else None
    try:
        run = _open_run(run_id) or wandb.init(
            project=cfg.WANDB.PROJECT,
            entity=cfg.WANDB.ENTITY or None,
            name=cfg.WANDB.NAME or folder.resolve().name,
            tags=list(cfg.WANDB.TAGS),
            mode=cfg.WANDB.MODE or None,
            dir=str(folder),
            config=None if stage else config,
            id=run_id,
            resume="allow" if is_resumed else None,
        )
    except wandb.Error as error:
        raise UserError(
            f"W&B did not start: {error} Log in with `wandb login`, or set WANDB_MODE=offline (needs no account), "
            "or take wandb out of WRITERS."
        ) from error
    id_file.write_text(run.id, encoding="utf-8")
    if stage:
        run.config.update({stage.name: config}, allow_val_change=True)
    return WandbWriter(run, logs_checkpoint=cfg.WANDB.LOG_CHECKPOINT, stage=stage)


def _open_run(run_id: str | None) -> Any:
    """The W&B run that an earlier stage has left open; None where there is none of this id."""
    import wandb

    return wandb.run if run_id is not None and wandb.run is not None and wandb.run.id == run_id else None
