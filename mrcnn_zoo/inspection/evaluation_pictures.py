"""An evaluation with everything that shows it: plots, pictures of predictions, and the report."""

import logging
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.paths import folder_name
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.evaluation import evaluate_datasets
from mrcnn_zoo.evaluation.class_mapping import with_classes_of
from mrcnn_zoo.evaluation.tables import Results
from mrcnn_zoo.inspection.evaluation_files import EvaluationFiles, build_evaluation_files, build_evaluation_plots
from mrcnn_zoo.inspection.pictures import save_picture, save_predictions
from mrcnn_zoo.inspection.run_report.config import EVALUATED_CONFIG, record_config
from mrcnn_zoo.inspection.run_report.page import log_run_report
from mrcnn_zoo.inspection.suspect_pictures import suspect_sheet

logger = logging.getLogger(__name__)


def save_evaluation_pictures(model: nn.Module, evaluation: EvaluationFiles, cfg: CfgNode) -> list[Path]:
    """Write the plots of an evaluation, and VIS.NUM_IMAGES images with predictions.

    Args:
        model: with `predict(samples)`.
        evaluation: its files, with the dataset; plots go to `pictures/` beside them, predictions to
            `pictures/predictions/<dataset>/`.
        cfg: of the model, with VIS.

    Returns:
        The written files.
    """
    dataset = evaluation.dataset
    assert dataset is not None
    plots = build_evaluation_plots(cfg, evaluation)
    sheet = suspect_sheet(dataset, evaluation.output_dir)
    if sheet is not None:
        plots.append(save_picture(sheet, evaluation.output_dir / "pictures" / "label_errors.png"))
    folder = evaluation.output_dir / "pictures" / "predictions" / folder_name(dataset.name)
    return plots + save_predictions(model, dataset, cfg, folder, num_images=cfg.VIS.NUM_IMAGES)


def evaluation_folders(cfg: CfgNode, output_dir: str | Path) -> list[Path]:
    """The folder of each test set: that of the evaluation where there is one, else a folder in it.

    Args:
        cfg: of the evaluation.
        output_dir: of the evaluation.
    """
    names = list(cfg.DATASETS.TEST)
    return [Path(output_dir) / (folder_name(name) if len(names) > 1 else "") for name in names]


def evaluate_with_pictures(
    model: nn.Module,
    cfg: CfgNode,
    output_dir: str | Path,
    *,
    datasets: Sequence[Dataset],
    class_names: Sequence[str] = (),
) -> Results | dict[str, Results]:
    """Evaluate on DATASETS.TEST, draw, write the report, and log where the files are; see `evaluate_datasets`.

    Args:
        model: with `predict(samples)`.
        cfg: of the model and its evaluation.
        output_dir: gets a folder per dataset where there are several.
        datasets: those of DATASETS.TEST, see `prepare_evaluation`.
        class_names: of the model by class index.
    """
    results = evaluate_datasets(model, cfg, output_dir=output_dir, class_names=class_names, datasets=datasets)
    evaluations = build_evaluation_files(cfg, datasets, evaluation_folders(cfg, output_dir))
    for name, evaluation, dataset in zip(cfg.DATASETS.TEST, evaluations, datasets, strict=True):
        record_config(cfg, evaluation.output_dir, name=EVALUATED_CONFIG)
        paths = save_evaluation_pictures(with_classes_of(dataset, model, class_names), evaluation, cfg)
        logger.info("%s: tables in %s\n%s", name, evaluation.folder / "results.md", "\n".join(map(str, paths)))
    if cfg.VIS.REPORT:
        log_run_report(Path(output_dir), evaluations=evaluations)
    return results
