"""TensorBoard and Weights & Biases."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registries import METRIC_WRITERS
from mrcnn_zoo.training.writers.contract import MetricWriter, Results, RunPlace, measured


class TensorboardWriter(MetricWriter):
    """Curves and pictures for `tensorboard --logdir <output folder>`.

    Args:
        log_dir: event files are added to this folder.
        start_iteration: TensorBoard hides entries of earlier event files from this iteration on.
    """

    def __init__(self, log_dir: Path, *, start_iteration: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._events = SummaryWriter(str(log_dir), purge_step=start_iteration)

    def write(self, iteration: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._events.add_scalar(name, value, iteration)

    def write_images(self, iteration: int, images: Mapping[str, Path]) -> None:
        import numpy as np
        from PIL import Image

        for name, path in images.items():
            with Image.open(path) as image:
                self._events.add_image(name, np.asarray(image.convert("RGB")), iteration, dataformats="HWC")

    def write_results(self, iteration: int, results: Results) -> None:
        self.write(iteration, measured(results))
        self._events.flush()

    def close(self, *, failed: bool = False) -> None:  # noqa: ARG002
        self._events.close()


@METRIC_WRITERS.register("tensorboard")
def build_tensorboard_writer(cfg: CfgNode, place: RunPlace) -> TensorboardWriter:  # noqa: ARG001
    try:
        return TensorboardWriter(place.output_dir, start_iteration=place.start_iteration)
    except ImportError as error:
        raise UserError(
            "WRITERS names tensorboard, which is not installed. "
            "Install it with `pip install tensorboard`, or take it out of WRITERS."
        ) from error


logger = logging.getLogger(__name__)

RUN_ID_FILE = "wandb_run_id.txt"


class WandbWriter(MetricWriter):
    """Writes to one W&B run.

    Args:
        run: as `wandb.init` returns it.
        logs_checkpoint: whether the final checkpoint becomes an artifact of the run.
    """

    def __init__(self, run: Any, *, logs_checkpoint: bool = True) -> None:
        self._run = run
        self._logs_checkpoint = logs_checkpoint
        # W&B's own step may only grow; with this axis resumed runs and late evaluations write at their iteration.
        run.define_metric("iteration")
        run.define_metric("*", step_metric="iteration")

    def write(self, iteration: int, scalars: Mapping[str, float]) -> None:
        self._run.log({"iteration": iteration, **scalars})

    def write_images(self, iteration: int, images: Mapping[str, Path]) -> None:
        import wandb

        self._run.log({"iteration": iteration, **{name: wandb.Image(str(path)) for name, path in images.items()}})

    def write_results(self, iteration: int, results: Results) -> None:
        import wandb

        names = list(dict.fromkeys(name for metrics in results.values() for name in metrics))
        values = measured(results)
        rows = [[name, *(values.get(f"{task}/{name}") for task in results)] for name in names]
        table = wandb.Table(columns=["metric", *results], data=rows)
        self._run.log({"iteration": iteration, **values, "results": table})

    def write_checkpoint(self, path: Path) -> None:
        import wandb

        if self._logs_checkpoint:
            artifact = wandb.Artifact(f"model-{self._run.id}", type="model")
            artifact.add_file(str(path))
            self._run.log_artifact(artifact)

    def close(self, *, failed: bool = False) -> None:
        self._run.finish(exit_code=1 if failed else 0)


@METRIC_WRITERS.register("wandb")
def build_wandb_writer(cfg: CfgNode, place: RunPlace) -> WandbWriter:
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            "WRITERS names wandb, which is not installed. "
            "Install it with `pip install wandb`, or take it out of WRITERS."
        ) from error
    id_file = place.output_dir / RUN_ID_FILE
    is_resumed = place.start_iteration > 0 and id_file.exists()
    try:
        run = wandb.init(
            project=cfg.WANDB.PROJECT,
            entity=cfg.WANDB.ENTITY or None,
            name=cfg.WANDB.NAME or place.output_dir.resolve().name,
            tags=list(cfg.WANDB.TAGS),
            mode=cfg.WANDB.MODE or None,
            dir=str(place.output_dir),
            config=yaml.safe_load(cfg.dump()),
            id=id_file.read_text(encoding="utf-8").strip() if is_resumed else None,
            resume="allow" if is_resumed else None,
        )
    except wandb.Error as error:
        raise UserError(
            f"W&B did not start: {error} Log in with `wandb login`, or set WANDB_MODE=offline (needs no account), "
            "or take wandb out of WRITERS."
        ) from error
    id_file.write_text(run.id, encoding="utf-8")
    return WandbWriter(run, logs_checkpoint=cfg.WANDB.LOG_CHECKPOINT)
