"""Accuracy and confusion of a classifier, counted by hand."""

import csv
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.classification import (
    ClassificationEvaluator,
    build_classification_evaluator,
    confusion_table,
    read_confusion,
)
from mrcnn_zoo.evaluation.evaluator import Evaluator
from mrcnn_zoo.inspection.evaluation_files import EvaluationFiles, save_evaluation_plots
from mrcnn_zoo.registries import EVALUATORS
from mrcnn_zoo.structures import Detections, Sample
from support.small_models import config_of

SamplesOf = Callable[[Dataset], list[Sample]]


def classified(*scores: float) -> Detections:
    """The probabilities of cat and dog; the rest is "no object"."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    boxes = torch.tensor([[0.0, 0, 100, 100]]).repeat(len(scores), 1)
    return Detections((100, 100), boxes, torch.tensor([scores[index] for index in order]), torch.tensor(order))


@pytest.fixture
def dataset(square, dataset_of) -> Dataset:
    """Two cats, a dog, an image without object."""
    return dataset_of((square(0, 0, 100, 0),), (square(0, 0, 100, 0),), (square(0, 0, 100, 1),), ())


@pytest.fixture
def evaluator(dataset: Dataset, samples_of: SamplesOf) -> ClassificationEvaluator:
    """One cat is taken for a dog, the dog for no object; the others are right."""
    evaluator = ClassificationEvaluator(dataset)
    found = [classified(0.7, 0.2), classified(0.3, 0.6), classified(0.1, 0.4), classified(0.3, 0.1)]
    evaluator.process(samples_of(dataset), found)
    return evaluator


def test_accuracies_equal_those_counted_by_hand(evaluator: ClassificationEvaluator, dataset: Dataset) -> None:
    cat, dog = dataset.class_names
    metrics = evaluator.evaluate()["classification"]
    assert metrics == {
        "top1": 50,
        "mean_accuracy": 50,
        f"accuracy-{cat}": 50,
        f"accuracy-{dog}": 0,
        "accuracy-no object": 100,
    }
    assert [f"classification/{name}" for name in metrics] == evaluator.metric_names()


def test_files_have_the_confusion_matrix_and_a_row_per_image(
    evaluator: ClassificationEvaluator, dataset: Dataset, tmp_path: Path
) -> None:
    evaluator.evaluate(tmp_path)
    matrix, names = read_confusion(tmp_path / "inference" / "confusion_matrix.csv")
    assert names == [*dataset.class_names, "no object"]
    assert matrix.tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 1]]
    written = json.loads((tmp_path / "inference" / "results.json").read_text())
    assert written["confusion"]["confusion_matrix"] == matrix.tolist()
    assert written["classification"]["top1"] == 50
    report = (tmp_path / "inference" / "results.md").read_text()
    assert "## Accuracy of each category" in report
    assert "| cat       |     1 |     1 |           0 |" in report
    rows = list(csv.reader((tmp_path / "inference" / "classification.csv").open()))
    assert rows[2][1:] == [*dataset.class_names, "0.6000"]
    files = EvaluationFiles(tmp_path, dataset)
    (picture,) = save_evaluation_plots(files)
    assert picture.name == "confusion_matrix.png"
    assert set(files.results) == {"classification"}  # the matrix in results.json is no metric


def test_top5_counts_the_true_class_among_the_first_five(square, dataset_of, samples_of: SamplesOf) -> None:
    base = dataset_of((square(0, 0, 100, 4),), (square(0, 0, 100, 5),))
    names = tuple("abcdef")
    dataset = Dataset(base.name, base.records, names, tuple(range(1, 7)))
    evaluator = ClassificationEvaluator(dataset)
    evaluator.process(samples_of(dataset), [classified(0.3, 0.2, 0.15, 0.12, 0.11, 0.1)] * 2)
    metrics = evaluator.evaluate()["classification"]
    assert (metrics["top1"], metrics["top5"]) == (0, 50)
    assert math.isnan(metrics["accuracy-a"])


def test_classes_of_equal_probability_are_ranked_in_their_order(square, dataset_of, samples_of: SamplesOf) -> None:
    base = dataset_of((square(0, 0, 100, 5),), (square(0, 0, 100, 4),))
    dataset = Dataset(base.name, base.records, tuple("abcdef"), tuple(range(1, 7)))
    evaluator = ClassificationEvaluator(dataset)
    evaluator.process(samples_of(dataset), [classified(1.0, 0.0, 0.0, 0.0, 0.0, 0.0)] * 2)
    assert evaluator.evaluate()["classification"]["top5"] == 50


def test_names_with_the_separator_of_columns_stay_in_their_cell() -> None:
    table = confusion_table(np.eye(2, dtype=np.int64), ["n|pipe", "no object"])
    assert all(len(re.split(r"(?<!\\)\|", line)) == 5 for line in table.splitlines())  # 3 cells


def test_images_that_the_model_was_not_given_do_not_count(dataset: Dataset, samples_of: SamplesOf) -> None:
    evaluator = ClassificationEvaluator(dataset)
    evaluator.process(samples_of(dataset)[:1], [classified(1.0, 0.0)])
    assert evaluator.evaluate()["classification"]["top1"] == 100
    with pytest.raises(ValueError, match="image 99 is not one of the 4"):
        evaluator.process([Sample(torch.zeros(3, 4, 4), 99, (4, 4))], [classified(1.0)])


def test_images_of_several_objects_are_refused(square, dataset_of) -> None:
    dataset = dataset_of((square(0, 0, 10), square(20, 20, 10)))
    with pytest.raises(UserError, match="has 2 objects"):
        build_classification_evaluator(config_of({}), dataset)


def test_class_with_the_name_of_images_without_object_is_refused(dataset: Dataset) -> None:
    named = replace(dataset, class_names=("cat", "no object"))
    with pytest.raises(UserError, match="has a class 'no object', which is the name of images without object"):
        build_classification_evaluator(config_of({}), named)


def test_classifier_is_evaluated_by_its_accuracy(dataset: Dataset) -> None:
    cfg = config_of({"MODEL.META_ARCHITECTURE": "Classifier"})
    chosen: Evaluator = EVALUATORS.get(cfg.EVAL.EVALUATOR)(cfg, dataset)
    assert isinstance(chosen, ClassificationEvaluator)
