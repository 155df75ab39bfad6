"""What an evaluation looks like: precision over recall, confusion of classes, predictions beside ground truth."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.paths import folder_name
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.evaluation import evaluate_datasets
from mrcnn_zoo.evaluation.class_mapping import check_classes, predicts_classes, with_classes_of
from mrcnn_zoo.evaluation.confusion import confusion_matrix
from mrcnn_zoo.evaluation.evaluator import evaluated_part, load_test_datasets
from mrcnn_zoo.evaluation.tables import Results
from mrcnn_zoo.inspection.pictures import save_predictions
from mrcnn_zoo.inspection.plots import save_confusion_matrix, save_precision_recall

logger = logging.getLogger(__name__)


def save_evaluation_plots(
    dataset: Dataset, output_dir: str | Path, *, score_threshold: float = 0.5, pictures: str | Path | None = None
) -> list[Path]:
    """Plot what `evaluate` has written into `<output_dir>/inference`.

    Proposals without classes have neither precision nor confusion, and no plots.

    Args:
        dataset: the one that was evaluated.
        output_dir: as given to `evaluate`.
        score_threshold: detections below it do not count in the confusion matrix.
        pictures: folder of the plots; `<output_dir>/pictures` by default.
    """
    folder = Path(output_dir) / "inference"
    pictures = Path(output_dir) / "pictures" if pictures is None else Path(pictures)
    if not (folder / "precision_recall.npz").is_file():
        return []
    rows = json.loads((folder / "coco_instances_results.json").read_text(encoding="utf-8"))
    matrix = confusion_matrix(dataset, rows, score_threshold=score_threshold)
    return [
        save_precision_recall(folder / "precision_recall.npz", pictures / "precision_recall.png"),
        save_confusion_matrix(matrix, dataset.class_names, pictures / "confusion_matrix.png"),
    ]


def save_evaluation_pictures(model: nn.Module, dataset: Dataset, cfg: CfgNode, output_dir: str | Path) -> list[Path]:
    """The plots, and VIS.NUM_IMAGES images with predictions in `<output_dir>/pictures/predictions/<dataset>`.

    Returns:
        The written files.
    """
    dataset = evaluated_part(dataset, cfg)
    plots = save_evaluation_plots(dataset, output_dir, score_threshold=cfg.VIS.SCORE_THRESH)
    folder = Path(output_dir) / "pictures" / "predictions" / folder_name(dataset.name)
    return plots + save_predictions(model, dataset, cfg, folder, num_images=cfg.VIS.NUM_IMAGES)


def evaluate_with_pictures(
    model: nn.Module, cfg: CfgNode, output_dir: str | Path, *, class_names: Sequence[str] = ()
) -> Results | dict[str, Results]:
    """Evaluate on DATASETS.TEST, draw, and log where everything is; see `evaluate_datasets`."""
    names = list(cfg.DATASETS.TEST)
    datasets = load_test_datasets(cfg)
    check_classes(cfg, datasets, class_names if predicts_classes(model) else ())
    results = evaluate_datasets(model, cfg, output_dir=output_dir, class_names=class_names, datasets=datasets)
    for name, dataset in zip(names, datasets, strict=True):
        folder = Path(output_dir) if len(names) == 1 else Path(output_dir) / folder_name(name)
        paths = save_evaluation_pictures(with_classes_of(dataset, model, class_names), dataset, cfg, folder)
        logger.info("%s: tables in %s\n%s", name, folder / "inference" / "results.md", "\n".join(map(str, paths)))
    return results
