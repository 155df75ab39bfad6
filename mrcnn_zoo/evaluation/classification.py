"""Accuracy and confusion matrix of a classifier of one-object images."""

import csv
import io
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.loading.selection import require_one_object
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.distributed.processes import gather_on_main_process, results_of_main_process
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.evaluation.ground_truth import new_images
from mrcnn_zoo.evaluation.tables import (
    ACCURACY_OF_CLASS,
    Metrics,
    Results,
    category_table,
    footnote,
    markdown_report,
    summary_table,
    table_name,
)
from mrcnn_zoo.output_files import csv_text, nan_as_null, write_json, write_text
from mrcnn_zoo.registries import EVALUATORS
from mrcnn_zoo.structures import Detections, Sample

CLASSIFICATION = "classification"
NO_OBJECT = "no object"
TOP = 5  # classes of top5, which is measured where there are more than these
MAX_TABLE_CLASSES = 20  # of the confusion matrix in the log and in results.md
CONFUSION_FILE, IMAGES_FILE = "confusion_matrix.csv", "classification.csv"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Classified:
    """The result on one image; K is the index of "no object"."""

    true: int
    predicted: int
    probability: float  # of the predicted class
    rank: int  # of the true class, from 0


class ClassificationEvaluator:
    """Top-1 accuracy, accuracy per class and confusion matrix; "no object" is a class.

    The class of an image is that of its object, or "no object". The score of a detection is the probability of its
    class; that of "no object" is 1 minus their sum, see `Classifier.predict`.

    Args:
        dataset: of images with one object or none.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._records = {record.image_id: record for record in dataset.records}
        self._names = (*dataset.class_names, NO_OBJECT)
        self._classified: dict[int | str, Classified] = {}
        self._previous: Results = {}

    def show_changes_to(self, previous: Results) -> None:
        """Show the change of the accuracy in the logged table.

        Args:
            previous: results of an earlier evaluation.
        """
        self._previous = previous

    def metric_names(self) -> list[str]:
        """Names of the results of `evaluate`, such as "classification/top1"."""
        return [f"{CLASSIFICATION}/{name}" for name in accuracy_names(self._names)]

    def process(self, samples: Sequence[Sample], detections: Sequence[Detections]) -> None:
        """Add the classes of some images; images that were added before are ignored.

        Args:
            samples: N images of the dataset.
            detections: per image, with the probability of each class as score.

        Raises:
            ValueError: an image is not in the dataset.
        """
        images = new_images(samples, detections, self._dataset, known=self._records, added=self._classified)
        for sample, found in images:
            record = self._records[sample.image_id]  # type: ignore[index]
            self._classified[sample.image_id] = self._classify(record, found)

    def evaluate(self, output_dir: str | Path | None = None) -> Results:
        """{"classification": {"top1", "mean_accuracy", "accuracy-<class>", ...}} in percent, on every process.

        Args:
            output_dir: folder of `inference/`, with results.json, results.md, confusion_matrix.csv and
                classification.csv; None writes no files.
        """
        parts = gather_on_main_process(self._classified)
        folder = None if output_dir is None else Path(output_dir) / "inference"
        return results_of_main_process(lambda: self._measure(parts, folder))

    def _classify(self, record: ImageRecord, found: Detections) -> Classified:
        probabilities = np.zeros(len(self._names))
        np.maximum.at(probabilities, found.classes.cpu().numpy(), found.scores.detach().cpu().double().numpy())
        probabilities[-1] = max(0.0, 1 - probabilities.sum())
        true, predicted = self._class_of(record), int(probabilities.argmax())
        # Of classes with equal probabilities the first has the better rank, as with argmax.
        rank = int((-probabilities).argsort(kind="stable").argsort()[true])
        return Classified(true, predicted, float(probabilities[predicted]), rank)

    def _class_of(self, record: ImageRecord) -> int:
        return next((item.class_index for item in record.instances if not item.is_crowd), len(self._names) - 1)

    def _measure(self, parts: Sequence[dict[int | str, Classified]], folder: Path | None) -> Results:
        by_image = {image_id: result for part in reversed(parts) for image_id, result in part.items()}
        name = self._dataset.name
        if len(by_image) < len(self._records):
            unseen = counted(len(self._records) - len(by_image), "image was", "images were")
            logger.warning("%s: %s not given to the model; they do not count.", name, unseen)
        records = [record for record in self._dataset.records if record.image_id in by_image]
        classified = [by_image[record.image_id] for record in records]
        matrix = count_pairs(classified, len(self._names))
        results = {CLASSIFICATION: accuracies(classified, matrix, self._names)}
        logger.info("%s: accuracy in %%\n%s", name, summary_table(results, previous=self._previous))
        logger.info("%s: accuracy of each category\n%s", name, category_table(results) + footnote(results))
        table = ""
        if len(self._names) <= MAX_TABLE_CLASSES + 1:
            table = confusion_table(matrix, self._names)
            logger.info("%s: images by true class (rows) and predicted class\n%s", name, table)
        if folder is not None:
            self._write(folder, results, matrix, zip(records, classified, strict=True), table)
        return results

    def _write(
        self,
        folder: Path,
        results: Results,
        matrix: NDArray[np.int64],
        classified: Iterable[tuple[ImageRecord, Classified]],
        table: str,
    ) -> None:
        counts = {"classes": list(self._names), "confusion_matrix": matrix.tolist()}
        write_json(folder / "results.json", {**nan_as_null(results), "confusion": counts}, indent=2)
        report = markdown_report(self._dataset.name, results)
        report += f"\n## Images by true class (rows) and predicted class\n\n{table}\n" if table else ""
        write_text(folder / "results.md", report)
        rows = [[name, *counts] for name, counts in zip(self._names, matrix.tolist(), strict=True)]
        write_text(folder / CONFUSION_FILE, csv_text([["true class", *self._names], *rows]))
        lines = [
            [record.source.name, self._names[item.true], self._names[item.predicted], f"{item.probability:.4f}"]
            for record, item in classified
        ]
        write_text(folder / IMAGES_FILE, csv_text([["image", "true class", "predicted class", "probability"], *lines]))


def count_pairs(classified: Sequence[Classified], num_classes: int) -> NDArray[np.int64]:
    """(C, C) number of images by true class (rows) and predicted class (columns).

    Args:
        classified: the result of each image.
        num_classes: C, with "no object".
    """
    matrix = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(matrix, ([item.true for item in classified], [item.predicted for item in classified]), 1)
    return matrix


def accuracy_names(class_names: Sequence[str]) -> list[str]:
    """Names of the metrics of `accuracies`.

    Args:
        class_names: with "no object".
    """
    top = ["top1", f"top{TOP}"] if len(class_names) > TOP else ["top1"]
    return [*top, "mean_accuracy", *(ACCURACY_OF_CLASS + name for name in class_names)]


def accuracies(classified: Sequence[Classified], matrix: NDArray[np.int64], class_names: Sequence[str]) -> Metrics:
    """Share of correct images, and of those with the true class among the first five, the mean over classes, and each.

    Args:
        classified: the result of each image.
        matrix: see `count_pairs`.
        class_names: with "no object".

    Returns:
        In percent; nan for a class without images.
    """
    totals = matrix.sum(axis=1)
    with np.errstate(invalid="ignore"):
        of_classes = 100 * matrix.diagonal() / totals
    top = [100 * float(np.mean([item.rank < TOP for item in classified]))] if len(class_names) > TOP else []
    top1 = 100 * float(matrix.diagonal().sum() / max(totals.sum(), 1))
    mean = float(np.mean(of_classes[totals > 0])) if totals.any() else float("nan")
    return dict(zip(accuracy_names(class_names), [top1, *top, mean, *of_classes.tolist()], strict=True))


def confusion_table(matrix: NDArray[np.int64], class_names: Sequence[str]) -> str:
    """The matrix as a table with one row per true class.

    Args:
        matrix: see `count_pairs`.
        class_names: with "no object".
    """
    names = [table_name(name) for name in class_names]
    rows = [[name, *map(str, counts)] for name, counts in zip(names, matrix.tolist(), strict=True)]
    sides = ["left", *["right"] * len(class_names)]
    return tabulate(rows, ["", *names], tablefmt="pipe", disable_numparse=True, colalign=sides)


def read_confusion(path: Path) -> tuple[NDArray[np.int64], list[str]]:
    """The matrix and the class names in a file that `ClassificationEvaluator` has written.

    Args:
        path: of confusion_matrix.csv.
    """
    header, *rows = csv.reader(io.StringIO(path.read_text(encoding="utf-8")))
    return np.array([row[1:] for row in rows], dtype=np.int64), header[1:]


@EVALUATORS.register(CLASSIFICATION)
def build_classification_evaluator(cfg: CfgNode, dataset: Dataset) -> ClassificationEvaluator:  # noqa: ARG001
    """The evaluator "classification": accuracy of the classes of whole images.

    Args:
        cfg: not used.
        dataset: to be evaluated on.

    Raises:
        UserError: an image has several objects, or a class has the name of images without object.
    """
    require_one_object(dataset)
    if NO_OBJECT in dataset.class_names:
        raise UserError(
            f"dataset {dataset.name!r} has a class {NO_OBJECT!r}, which is the name of images without object. Rename "
            "it, or give images without object no annotation; of format image_folder, name their folder in NO_OBJECT."
        )
    return ClassificationEvaluator(dataset)
