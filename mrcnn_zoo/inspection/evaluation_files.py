"""The files of an evaluation, read again: results, detections beside the ground truth, confusions; their plots."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.evaluation.backends import KEYPOINTS
from mrcnn_zoo.evaluation.classification import CONFUSION_FILE, read_confusion
from mrcnn_zoo.evaluation.coco import STANDARD_MAXIMUM
from mrcnn_zoo.evaluation.ground_truth import BBOX, SEGM, complete_ground_truth
from mrcnn_zoo.evaluation.metrics.confusion import BACKGROUND, confusion_matrix, confusion_title
from mrcnn_zoo.evaluation.metrics.contract import Evaluated
from mrcnn_zoo.evaluation.preflight import evaluated_part
from mrcnn_zoo.evaluation.result_rows import ROWS_FILE
from mrcnn_zoo.inspection.figures import confusion_figure, save_figure
from mrcnn_zoo.inspection.plots import save_precision_recall

CONFUSION_PICTURE = "confusion_matrix.png"
CURVES_FILE = "precision_recall.npz"
RECALL_LIMIT = re.compile(r"AR(\d+)")


@dataclass(frozen=True)
class Confusion:
    """A matrix of counts with its names."""

    matrix: NDArray[np.int64]  # (K + 1, K + 1), true classes by row; the last class is background or "no object"
    class_names: tuple[str, ...]  # K + 1
    title: str


class EvaluationFiles:
    """What an evaluation has written in `inference/`; each part is read and computed once.

    Args:
        output_dir: of the evaluation.
        dataset: the evaluated part of the test set; None where it cannot be loaded.
    """

    def __init__(self, output_dir: str | Path, dataset: Dataset | None = None) -> None:
        self.output_dir = Path(output_dir)
        self.folder = self.output_dir / "inference"
        self.dataset = dataset
        self._confusions: dict[float, Confusion | None] = {}

    @cached_property
    def name(self) -> str:
        """Of the dataset: the heading of results.md where it is not loaded."""
        if self.dataset is not None:
            return self.dataset.name
        page = self.folder / "results.md"
        lines = page.read_text(encoding="utf-8", errors="replace").splitlines() if page.is_file() else []
        return lines[0].lstrip("# ").strip() if lines else ""

    @cached_property
    def results(self) -> dict[str, dict[str, float]]:
        """Metrics by task; nan where there is no ground truth. Empty where results.json cannot be read.

        Entries that are no numbers, like the confusion matrix of a classifier, are left out.
        """
        try:
            content = json.loads((self.folder / "results.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        groups = content.items() if isinstance(content, dict) else ()
        numbers = {task: _numbers(metrics) for task, metrics in groups if isinstance(metrics, dict)}
        return {task: metrics for task, metrics in numbers.items() if metrics}

    @cached_property
    def evaluated(self) -> Evaluated | None:
        """Ground truth and detections; None without dataset or detections of classes."""
        rows = self._rows()
        tasks = tuple(task for task in (BBOX, SEGM, KEYPOINTS) if task in self.results) or (BBOX,)
        if self.dataset is None or rows is None:
            return None
        limits = [int(match[1]) for name in self.results.get(BBOX, {}) if (match := RECALL_LIMIT.fullmatch(name))]
        maximum = max(limits, default=STANDARD_MAXIMUM)
        return Evaluated(complete_ground_truth(self.dataset), rows, tasks, self.dataset.name, maximum)

    @property
    def curves_file(self) -> Path | None:
        """Precision and recall, if they are of the last evaluation."""
        path = self.folder / CURVES_FILE
        return path if path.is_file() and not self._is_of_classes() else None

    def confusion(self, score_threshold: float) -> Confusion | None:
        """The matrix of boxes, or of the classes of whole images; None where there is neither.

        Args:
            score_threshold: minimum score of a detection.
        """
        if score_threshold not in self._confusions:
            self._confusions[score_threshold] = self._counted(score_threshold)
        return self._confusions[score_threshold]

    def _counted(self, score_threshold: float) -> Confusion | None:
        if self._is_of_classes():
            matrix, names = read_confusion(self.folder / CONFUSION_FILE)
            return Confusion(matrix, tuple(names), "confusion matrix")
        if self.evaluated is None:
            return None
        found = replace(self.evaluated, tasks=(BBOX,), max_detections=max(1, len(self.evaluated.rows)))
        matrix = confusion_matrix(found, BBOX, score_threshold=score_threshold)
        return Confusion(matrix, (*found.class_names, BACKGROUND), confusion_title(BBOX, score_threshold))

    def _is_of_classes(self) -> bool:
        """Whether the last evaluation was that of a classifier; the other file may be of an earlier one."""
        written = [path for path in (self.folder / CURVES_FILE, self.folder / CONFUSION_FILE) if path.is_file()]
        return bool(written) and max(written, key=lambda path: path.stat().st_mtime).name == CONFUSION_FILE

    def _rows(self) -> Sequence[dict[str, Any]] | None:
        path = self.folder / ROWS_FILE
        if not path.is_file() or self._is_of_classes() or (self.results and BBOX not in self.results):
            return None
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return None
        return rows if isinstance(rows, list) and all(map(_is_detection, rows)) else None


def build_evaluation_files(cfg: CfgNode, datasets: Sequence[Dataset], places: Sequence[Path]) -> list[EvaluationFiles]:
    """The files of evaluations whose datasets are loaded.

    Args:
        cfg: of the evaluation.
        datasets: of DATASETS.TEST.
        places: folder of each evaluation.
    """
    return [
        EvaluationFiles(place, evaluated_part(dataset, cfg)) for dataset, place in zip(datasets, places, strict=True)
    ]


def build_evaluation_plots(
    cfg: CfgNode, evaluation: EvaluationFiles, *, pictures: str | Path | None = None
) -> list[Path]:
    """What `save_evaluation_plots` draws, at VIS.SCORE_THRESH; nothing without VIS.PLOTS.

    Args:
        cfg: of the evaluation.
        evaluation: with its dataset.
        pictures: folder of the plots; `<output_dir>/pictures` by default.
    """
    if not cfg.VIS.PLOTS:
        return []
    return save_evaluation_plots(evaluation, score_threshold=cfg.VIS.SCORE_THRESH, pictures=pictures)


def save_evaluation_plots(
    evaluation: EvaluationFiles, *, score_threshold: float = 0.5, pictures: str | Path | None = None
) -> list[Path]:
    """Plot precision over recall and the confusion matrix of boxes of an evaluation; of a classifier the matrix alone.

    Nothing is plotted for proposals, which have no classes.

    Args:
        evaluation: with its dataset.
        score_threshold: minimum score of a detection in the confusion matrix.
        pictures: folder of the plots; `<output_dir>/pictures` by default.

    Returns:
        The written files.
    """
    pictures = evaluation.output_dir / "pictures" if pictures is None else Path(pictures)
    curves, confusion = evaluation.curves_file, evaluation.confusion(score_threshold)
    written = [] if curves is None else [save_precision_recall(curves, pictures / "precision_recall.png")]
    if confusion is not None:
        figure = confusion_figure(confusion.matrix, confusion.class_names, title=confusion.title)
        written.append(save_figure(figure, pictures / CONFUSION_PICTURE))
    return written


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """The metrics that are numbers; null is nan."""
    values = {name: math.nan if value is None else value for name, value in metrics.items()}
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


def _is_detection(row: Any) -> bool:
    """Whether an entry of the file of detections is complete: another program may have cut or changed it."""
    return isinstance(row, dict) and {"image_id", "category_id", "bbox", "score"} <= row.keys()
