"""Models with the classes of the dataset in another order, or with more classes."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation import evaluate_datasets, ground_truth_detections
from mrcnn_zoo.evaluation.class_mapping import NO_CLASS, class_mapping, with_classes_of, with_mapped_classes
from mrcnn_zoo.inspection.evaluation_pictures import evaluate_with_pictures
from mrcnn_zoo.structures import Detections, Sample

PERMUTED = ("dog", "cat")
SUPERSET = ("N/A", "dog", "cow", "N/A", "cat")


class NamedOracle(nn.Module):
    """Detects all objects but the first of the last image; a model with the class "cow" detects each as a cow, too."""

    def __init__(self, dataset: Dataset, class_names: Sequence[str]) -> None:
        super().__init__()
        found = ground_truth_detections(dataset)
        found[-1] = found[-1][1:]
        own = torch.tensor([class_names.index(name) for name in dataset.class_names])
        self.answers = {}
        for record, table in zip(dataset.records, found, strict=True):
            table = replace(table, classes=own[table.classes])
            self.answers[record.image_id] = with_cows(table, class_names) if "cow" in class_names else table

    def predict(self, samples: list[Sample]) -> list[Detections]:
        return [self.answers[sample.image_id] for sample in samples]


def with_cows(table: Detections, class_names: Sequence[str]) -> Detections:
    """Each instance twice, first as a cow."""
    rows = torch.arange(len(table)).repeat_interleave(2)
    classes = table.classes[rows]
    classes[::2] = class_names.index("cow")
    return replace(table[rows], classes=classes)


def config(num_classes: int, **settings: object) -> CfgNode:
    values = {
        "MODEL.MASK_ON": True,
        "MODEL.ROI_HEADS.NUM_CLASSES": num_classes,
        "DATALOADER.NUM_WORKERS": 0,
        "INPUT.MIN_SIZE_TEST": 32,
        "DATASETS.TEST": ["a"],
        **settings,
    }
    return load_config(None, [item for pair in values.items() for item in pair])


@pytest.fixture
def dataset(square, dataset_of, monkeypatch) -> Dataset:
    """Three images of two dogs, a cat, and a cat and a dog; `load_dataset` gives it for each name."""
    dataset = dataset_of(
        (square(50, 50, 20, 1), square(5, 5, 30, 1)),
        (square(0, 0, 20, 0),),
        (square(10, 10, 20, 0), square(60, 60, 20, 1)),
    )
    monkeypatch.setattr("mrcnn_zoo.data.run_datasets.load_dataset", lambda _, name: replace(dataset, name=name))
    return dataset


def detections(classes: Sequence[int]) -> Detections:
    count = len(classes)
    boxes = torch.arange(4.0 * count).reshape(count, 4)
    return Detections((9, 9), boxes, scores=torch.linspace(1, 0.5, count), classes=torch.tensor(classes).long())


def test_class_mapping_is_by_name(dataset) -> None:
    assert class_mapping(PERMUTED, dataset).tolist() == [1, 0]
    assert class_mapping(SUPERSET, dataset).tolist() == [NO_CLASS, 1, NO_CLASS, NO_CLASS, 0]


def test_detections_of_other_classes_are_removed_from_all_columns() -> None:
    found = detections([2, 4, 0, 1, 4])
    mapped = with_mapped_classes(found, torch.tensor([NO_CLASS, 1, NO_CLASS, NO_CLASS, 0]))
    assert mapped.classes.tolist() == [0, 1, 0]
    assert torch.equal(mapped.boxes, found.boxes[[1, 3, 4]])
    assert torch.equal(mapped.scores, found.scores[[1, 3, 4]])
    assert found.classes.tolist() == [2, 4, 0, 1, 4]


def test_mapping_of_an_empty_table_is_empty() -> None:
    mapped = with_mapped_classes(detections([]), torch.tensor([1, 0]))
    assert len(mapped) == 0
    assert mapped.classes.dtype == torch.int64


def test_models_with_equal_classes_or_without_classes_are_not_wrapped(dataset) -> None:
    model = nn.Identity()
    assert with_classes_of(dataset, model, dataset.class_names) is model
    assert with_classes_of(dataset, model, ()) is model
    model.predicts_classes = False
    assert with_classes_of(dataset, model, ("object",)) is model


def test_wrapped_model_keeps_needs_targets(dataset) -> None:
    model = nn.Identity()
    assert not with_classes_of(dataset, model, PERMUTED).needs_targets
    model.needs_targets = True
    assert with_classes_of(dataset, model, PERMUTED).needs_targets


@pytest.mark.parametrize("class_names", [PERMUTED, SUPERSET])
def test_results_equal_those_of_a_model_with_the_classes_of_the_dataset(dataset, class_names) -> None:
    plain = evaluate_datasets(NamedOracle(dataset, dataset.class_names), config(2), class_names=dataset.class_names)
    assert 0 < plain["segm"]["AP-cat"] < 100
    assert plain["bbox"]["AP-dog"] == pytest.approx(100)
    results = evaluate_datasets(NamedOracle(dataset, class_names), config(len(class_names)), class_names=class_names)
    np.testing.assert_equal(results, plain)  # nan without objects of a size


def test_ap_of_a_model_without_detections_is_0(dataset) -> None:
    model = NamedOracle(dataset, SUPERSET)
    model.answers = {image_id: table[:0] for image_id, table in model.answers.items()}
    assert evaluate_datasets(model, config(5), class_names=SUPERSET)["segm"]["AP"] == 0


def test_classes_that_do_not_count_are_logged_once(dataset, caplog) -> None:
    with caplog.at_level(logging.INFO):
        evaluate_datasets(NamedOracle(dataset, SUPERSET), config(5), class_names=SUPERSET)
    line = "a: the model's classes are mapped to the 2 of the dataset by name; detections of others (N/A, cow) do not"
    assert caplog.text.count(line) == 1


def test_class_that_the_model_lacks_is_named(dataset) -> None:
    with pytest.raises(
        UserError, match=r"^a has 1 class that the model lacks: dog\. The model has 2 classes: cat, cow\."
    ):
        evaluate_datasets(NamedOracle(dataset, dataset.class_names), config(2), class_names=("cat", "cow"))


def test_classes_of_the_same_name_are_refused(dataset) -> None:
    twins = replace(dataset, class_names=("cat", "cat"))
    with pytest.raises(UserError, match="squares has several classes of the same name"):
        class_mapping(("cat", "dog"), twins)
    model = nn.Identity()
    assert with_classes_of(twins, model, ("cat", "cat")) is model


def test_class_names_of_another_number_than_num_classes_are_refused(dataset) -> None:
    with pytest.raises(UserError, match=r"NUM_CLASSES = 3, but the model was trained on 5 classes: N/A, dog, "):
        evaluate_datasets(NamedOracle(dataset, SUPERSET), config(3), class_names=SUPERSET)


def test_another_number_of_keypoints_is_refused(dataset) -> None:
    named = replace(dataset, keypoint_names=("nose", "tail"))
    cfg = config(5, **{"MODEL.KEYPOINT_ON": True, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 3})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mrcnn_zoo.data.run_datasets.load_dataset", lambda *_: named)
        with pytest.raises(UserError, match=r"NUM_KEYPOINTS = 3, but dataset 'squares' has 2"):
            evaluate_datasets(NamedOracle(dataset, SUPERSET), cfg, class_names=SUPERSET)


def test_pictures_have_the_classes_of_the_dataset(dataset, tmp_path, monkeypatch) -> None:
    drawn = []

    def note(image, found, targets, class_names, **options):  # noqa: ARG001
        drawn.append([class_names[index] for index in found.classes])
        return image

    monkeypatch.setattr("mrcnn_zoo.inspection.pictures.draw_predictions", note)
    cfg = config(5, **{"VIS.NUM_IMAGES": 3, "VIS.REPORT": False})
    model = NamedOracle(dataset, SUPERSET)
    evaluate_with_pictures(model, cfg, tmp_path, datasets=[dataset], class_names=SUPERSET)
    assert drawn == [["dog", "dog"], ["cat"], ["dog"]]
