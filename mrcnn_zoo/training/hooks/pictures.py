"""Draws training batches, predictions and curves."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.paths import folder_name
from mrcnn_zoo.distributed.processes import is_main_process
from mrcnn_zoo.evaluation.class_mapping import with_classes_of
from mrcnn_zoo.inspection.evaluation_files import EvaluationFiles, build_evaluation_files, build_evaluation_plots
from mrcnn_zoo.inspection.pictures import PredictionPicture, save_prediction_pictures, save_training_batch
from mrcnn_zoo.inspection.plots import save_loss_curves
from mrcnn_zoo.inspection.run_report.page import log_run_report
from mrcnn_zoo.registries import HOOKS
from mrcnn_zoo.structures import Sample
from mrcnn_zoo.training.hook import Hook, Results, Workspace
from mrcnn_zoo.training.trainer import Trainer
from mrcnn_zoo.training.writers import MetricWriter

logger = logging.getLogger(__name__)

DrawBatch = Callable[[Sequence[Sample], Path], Path]  # samples, file to write -> the file
DrawModel = Callable[[nn.Module], Mapping[str, PredictionPicture]]  # model -> the written pictures by name


class DrawTrainingBatches(Hook):
    """Saves the first training batches, and one every few iterations, as `train_batch_<iteration>.png`.

    Args:
        draw: saves a picture of one batch.
        folder: of the pictures.
        writers: of the pictures.
        num_first: batches at the start of training that are drawn.
        period: iterations between two further ones; 0 for none.
    """

    def __init__(
        self, draw: DrawBatch, *, folder: Path, writers: Sequence[MetricWriter], num_first: int, period: int = 0
    ) -> None:
        self._draw = draw
        self._folder = folder
        self._writers = writers
        self._num_first = num_first
        self._period = period

    def before_step(self, trainer: Trainer, batches: list[list[Sample]]) -> None:
        iteration = trainer.iteration
        is_periodic = self._period > 0 and iteration > 0 and iteration % self._period == 0
        if not is_main_process() or not (iteration < self._num_first or is_periodic):
            return
        name = f"train_batch_{iteration:07d}"
        path = self._draw([sample for samples in batches for sample in samples], self._folder / f"{name}.png")
        logger.info("drew the training batch: %s", path)
        for writer in self._writers:
            writer.write_images(iteration, {"train_batch": path})


class DrawPredictions(Hook):
    """Draws predictions beside ground truth after each evaluation; the next evaluation replaces the files.

    Args:
        draw: saves pictures of the predictions of a model.
        writers: of the pictures.
    """

    def __init__(self, draw: DrawModel, *, writers: Sequence[MetricWriter]) -> None:
        self._draw = draw
        self._writers = writers
        self._paths: list[Path] = []  # of the last evaluation

    def after_evaluation(self, trainer: Trainer, results: Results) -> None:  # noqa: ARG002
        with trainer.weights_to_evaluate():
            pictures = self._draw(trainer.model) if is_main_process() else {}
        self._paths = [picture.path for picture in pictures.values()]
        if pictures:
            logger.info("drew predictions: %s", self._paths[0].parent)
        for writer in self._writers:
            writer.write_predictions(trainer.iteration - 1, pictures)

    def after_train(self, trainer: Trainer) -> None:  # noqa: ARG002
        if self._paths:
            logger.info("pictures of predictions: %s", listed_by_folder(self._paths))


class DrawCurves(Hook):
    """Plots losses and results over the iterations, and the last evaluation, when training has ended; then the report.

    Args:
        output_dir: of the run; its metrics.json is read.
        evaluations: reads the files of the last evaluation of each test set.
        draw_evaluation: plots one of them; returns the plots.
        writers: of the report.
        has_plots: whether losses, results and evaluations are plotted.
        has_report: whether `report.html` is written.
    """

    def __init__(
        self,
        output_dir: Path,
        *,
        evaluations: Callable[[], Sequence[EvaluationFiles]] = list,
        draw_evaluation: Callable[[EvaluationFiles], Sequence[Path]] | None = None,
        writers: Sequence[MetricWriter] = (),
        has_plots: bool = True,
        has_report: bool = False,
    ) -> None:
        self._output_dir = output_dir
        self._evaluations = evaluations
        self._draw_evaluation = draw_evaluation or (lambda _: [])
        self._writers = writers
        self._has_plots = has_plots
        self._has_report = has_report

    def after_train(self, trainer: Trainer) -> None:
        if not is_main_process():
            return
        metrics = self._output_dir / "metrics.json"
        paths: list[Path] = []
        if self._has_plots and metrics.is_file() and metrics.stat().st_size:
            paths.append(save_loss_curves(metrics, self._output_dir / "pictures" / "loss_curves.png"))
        # Without results the folder may hold the evaluation of another run.
        evaluations = self._evaluations() if trainer.results else []
        for evaluation in evaluations if self._has_plots else []:
            paths += self._draw_evaluation(evaluation)
        if paths:
            logger.info("plots: %s", listed_by_folder(paths))
        if self._has_report and not trainer.interrupted:
            report = log_run_report(self._output_dir, evaluations=evaluations)
            if report is not None:
                for writer in self._writers:
                    writer.write_report(trainer.iteration - 1, report)


def listed_by_folder(paths: Sequence[Path]) -> str:
    """Each folder once, with the names of its files: `out/pictures: a.png, b.png; out/pictures/x: c.png`.

    Args:
        paths: of files.
    """
    names: dict[Path, list[str]] = {}
    for path in paths:
        names.setdefault(path.parent, []).append(path.name)
    return "; ".join(f"{folder}: {', '.join(files)}" for folder, files in names.items())


@HOOKS.register("DrawCurves")
def build_draw_curves(cfg: CfgNode, workspace: Workspace) -> DrawCurves:
    is_alone = len(workspace.test_datasets) == 1
    places = ["" if is_alone else folder_name(dataset.name) for dataset in workspace.test_datasets]
    folders = [workspace.output_dir / place for place in places]

    def draw_evaluation(evaluation: EvaluationFiles) -> list[Path]:
        pictures = workspace.output_dir / "pictures" / evaluation.output_dir.relative_to(workspace.output_dir)
        return build_evaluation_plots(cfg, evaluation, pictures=pictures)

    return DrawCurves(
        workspace.output_dir,
        evaluations=lambda: build_evaluation_files(cfg, workspace.test_datasets, folders),
        draw_evaluation=draw_evaluation,
        writers=workspace.writers,
        has_plots=cfg.VIS.PLOTS,
        has_report=cfg.VIS.REPORT,
    )


@HOOKS.register("DrawTrainingBatches")
def build_draw_training_batches(cfg: CfgNode, workspace: Workspace) -> DrawTrainingBatches:
    dataset = workspace.train_datasets[0]

    def draw(samples: Sequence[Sample], path: Path) -> Path:
        return save_training_batch(
            samples,
            path,
            dataset.class_names,
            channel_order=cfg.INPUT.FORMAT,
            skeleton=dataset.keypoint_skeleton,
        )

    return DrawTrainingBatches(
        draw,
        folder=workspace.output_dir / "pictures",
        writers=workspace.writers,
        num_first=cfg.VIS.NUM_BATCHES,
        period=cfg.VIS_PERIOD,
    )


@HOOKS.register("DrawPredictions")
def build_draw_predictions(cfg: CfgNode, workspace: Workspace) -> DrawPredictions:
    folder = workspace.output_dir / "pictures" / "predictions"

    def draw(model: nn.Module) -> dict[str, PredictionPicture]:
        pictures: dict[str, PredictionPicture] = {}
        for dataset in workspace.test_datasets if cfg.VIS.NUM_IMAGES > 0 else ():
            place = folder / folder_name(dataset.name)
            detector = with_classes_of(dataset, model, workspace.train_datasets[0].class_names)
            drawn = save_prediction_pictures(detector, dataset, cfg, place, num_images=cfg.VIS.NUM_IMAGES)
            pictures |= {f"{dataset.name}/{picture.path.stem}": picture for picture in drawn}
        return pictures

    return DrawPredictions(draw, writers=workspace.writers)
