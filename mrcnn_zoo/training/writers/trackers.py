"""TensorBoard and Weights & Biases."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.evaluation.tables import heading_of, is_of_class
from mrcnn_zoo.inspection.pictures import PredictionPicture
from mrcnn_zoo.registries import METRIC_WRITERS
from mrcnn_zoo.training.writers.contract import (
    BEST,
    FINAL,
    MetricWriter,
    Results,
    RunPlace,
    StageOfRun,
    measured,
)
from mrcnn_zoo.training.writers.overlays import overlay_layers
from mrcnn_zoo.training.writers.wandb_run import build_wandb_run, end_run, has_wandb, sync_command

MAX_METADATA = 90  # W&B takes 100 entries with an artifact

logger = logging.getLogger(__name__)


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
def build_tensorboard_writer(cfg: CfgNode, place: RunPlace) -> MetricWriter:  # noqa: ARG001
    """The writer, or one that writes nothing where the package is missing."""
    try:
        return TensorboardWriter(place.output_dir, start_iteration=place.start_iteration, stage=place.stage)
    except ImportError:
        if place.begins_session:
            logger.warning(
                "WRITERS names tensorboard, which is not installed; the run continues without it. Install it with "
                "`pip install tensorboard`, or take it out of WRITERS."
            )
        return MetricWriter()


class WandbWriter(MetricWriter):
    """Writes to one W&B run. A failure of W&B is logged once, and the training continues.

    The stages of a run are one W&B run, one after the other; "stage" is the number of the stage, and an artifact has
    its name as an alias.

    Args:
        run: of `build_wandb_run`.
        logs_checkpoint: whether the best and the final checkpoint become versions of an artifact of the run.
        stage: in a run of several; the W&B run stays open until the last one ends.
    """

    def __init__(self, run: Any, *, logs_checkpoint: bool = True, stage: StageOfRun | None = None) -> None:
        self._run = run
        self._logs_checkpoint = logs_checkpoint
        self._stage = stage
        self._is_open = True
        self._has_failed = False
        self._signal_number = 0
        self._attempt(self._define_axis)

    def write(self, iteration: int, scalars: Mapping[str, float]) -> None:
        self._attempt(lambda: self._log(iteration, scalars))

    def write_images(self, iteration: int, images: Mapping[str, Path]) -> None:
        import wandb

        self._attempt(lambda: self._log(iteration, {name: wandb.Image(str(path)) for name, path in images.items()}))

    def write_predictions(self, iteration: int, pictures: Mapping[str, PredictionPicture]) -> None:
        # W&B has no layer for keypoints.
        drawn = {name: picture for name, picture in pictures.items() if picture.detections.keypoints is not None}
        layered = {name: picture for name, picture in pictures.items() if name not in drawn}
        if drawn:
            super().write_predictions(iteration, drawn)
        if layered:
            self._attempt(lambda: self._log(iteration, {name: _image_of(each) for name, each in layered.items()}))

    def write_results(self, iteration: int, results: Results) -> None:
        self.write(iteration, measured(results))
        self._attempt(lambda: self._log(iteration, _tables_of(results)))  # apart: tables need the network

    def write_checkpoint(
        self, path: Path, *, iteration: int, roles: Sequence[str], metrics: Mapping[str, float]
    ) -> None:
        if self._logs_checkpoint:
            self._attempt(lambda: self._log_checkpoint(path, iteration, roles, metrics))

    def write_report(self, iteration: int, path: Path) -> None:
        import wandb

        self._attempt(lambda: self._log(iteration, {"report": wandb.Html(str(path), inject=False)}))

    def interrupt(self, signal_number: int) -> None:
        self._signal_number = signal_number

    def close(self, *, failed: bool = False) -> None:
        is_over = failed or self._signal_number > 0 or self._stage is None or self._stage.is_last
        if is_over and self._is_open:
            self._is_open = False
            self._attempt(lambda: end_run(self._run, failed=failed, signal_number=self._signal_number))
            self._attempt(self._log_sync_command)

    def _attempt(self, action: Callable[[], object]) -> None:
        """Call W&B; the first failure is logged, and later calls are tried again: a network may come back."""
        try:
            action()
        # Any kind: W&B documents none, and a tracker that fails must not end a training.
        except Exception as error:
            if not self._has_failed:
                logger.warning(
                    "W&B failed with %s: %s. Training continues, and W&B may lack a part of it. What is recorded is "
                    "in %s; `wandb sync` with that folder sends it.",
                    type(error).__name__,
                    error,
                    self._run.settings.sync_dir,
                )
            self._has_failed = True

    def _define_axis(self) -> None:
        # W&B's own step may only grow; with this axis resumed runs and late evaluations write at their iteration.
        self._run.define_metric("iteration")
        self._run.define_metric("*", step_metric="iteration")

    def _log(self, iteration: int, values: Mapping[str, Any]) -> None:
        stage = self._stage
        first = {"iteration": self._iteration_of_run(iteration), **(stage.scalars if stage else {})}
        self._run.log({**first, **values})

    def _iteration_of_run(self, iteration: int) -> int:
        return iteration + (self._stage.first_iteration if self._stage else 0)

    def _log_checkpoint(self, path: Path, iteration: int, roles: Sequence[str], metrics: Mapping[str, float]) -> None:
        import wandb

        # NaN is no JSON, and the metrics of classes would exceed the number of entries.
        totals = {
            name: value
            for name, value in metrics.items()
            if not math.isnan(value) and not is_of_class(name.rpartition("/")[2])
        }
        metadata: dict[str, Any] = {"iteration": self._iteration_of_run(iteration)}
        metadata |= dict(islice(totals.items(), MAX_METADATA))
        aliases = [{BEST: "best", FINAL: "latest"}[role] for role in roles]
        if self._stage:
            metadata["stage"] = self._stage.name
            aliases += [{BEST: f"{self._stage.name}-best", FINAL: self._stage.name}[role] for role in roles]
        artifact = wandb.Artifact(f"model-{self._run.id}", type="model", metadata=metadata)
        artifact.add_file(str(path))
        self._run.log_artifact(artifact, aliases=aliases)

    def _log_sync_command(self) -> None:
        if command := sync_command(self._run):
            logger.info("W&B has recorded the run offline; send it with: %s", command)


@METRIC_WRITERS.register("wandb")
def build_wandb_writer(cfg: CfgNode, place: RunPlace) -> MetricWriter:
    """The writer, or one that writes nothing where W&B is missing or does not start."""
    run = build_wandb_run(cfg, place) if has_wandb(place) else None
    return WandbWriter(run, logs_checkpoint=cfg.WANDB.LOG_CHECKPOINT, stage=place.stage) if run else MetricWriter()


def _image_of(picture: PredictionPicture) -> Any:
    import wandb

    pixels, boxes, masks = overlay_layers(picture)
    return wandb.Image(pixels, boxes=boxes, masks=masks or None)


def _tables_of(results: Results) -> dict[str, Any]:
    """The metrics of all classes by task as "results", those of single classes as "per_class" where there are any."""
    import wandb

    values = measured(results)
    names = list(dict.fromkeys(name for metrics in results.values() for name in metrics))
    rows = [
        [heading_of(name), *(values.get(f"{task}/{name}") for task in results)]
        for name in names
        if not is_of_class(name)
    ]
    tables = {"results": wandb.Table(columns=["metric", *results], data=rows)}
    if any(map(is_of_class, names)):
        tables["per_class"] = wandb.Table(**_rows_per_class(results, values))
    return tables


def _rows_per_class(results: Results, values: Mapping[str, float]) -> dict[str, Any]:
    """Columns "<task>/<metric>" and a row per class, of metrics that are named as AP-dog."""
    of_class = [
        (task, *name.split("-", 1)) for task, metrics in results.items() for name in metrics if is_of_class(name)
    ]
    columns = list(dict.fromkeys((task, kind) for task, kind, _ in of_class))
    classes = dict.fromkeys(class_name for _, _, class_name in of_class)
    rows = [[name, *(values.get(f"{task}/{kind}-{name}") for task, kind in columns)] for name in classes]
    return {"columns": ["class", *(f"{task}/{kind}" for task, kind in columns)], "data": rows}
