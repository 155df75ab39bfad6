"""`evaluate` and `evaluate_datasets`: training mode, subsets, log, results."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation import UnexpectedResultsError, evaluate, evaluate_datasets, ground_truth_detections
from mrcnn_zoo.structures import Detections, Sample


class Oracle(nn.Module):
    """Returns the ground truth of a dataset, and records the image ids of each batch."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__()
        found = ground_truth_detections(dataset)
        self.answers = {record.image_id: table for record, table in zip(dataset.records, found, strict=True)}
        self.frozen_norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(2, 2)
        self.batches: list[list[int | str]] = []

    def predict(self, samples: list[Sample]) -> list[Detections]:
        assert not self.training
        assert not self.head.training
        assert not torch.is_grad_enabled()
        self.batches.append([sample.image_id for sample in samples])
        return [self.answers[sample.image_id] for sample in samples]


def config(**settings: object) -> CfgNode:
    values = {
        "MODEL.MASK_ON": True,
        "MODEL.ROI_HEADS.NUM_CLASSES": 2,
        "DATALOADER.NUM_WORKERS": 0,
        "INPUT.MIN_SIZE_TEST": 32,
        **settings,
    }
    return load_config(None, [item for pair in values.items() for item in pair])


@pytest.fixture
def three_images(square, dataset_of) -> Dataset:
    return dataset_of((square(0, 0, 20, 0),), (square(50, 50, 20, 1),), ())


def test_evaluation_of_the_ground_truth_reads_all_images_and_gives_100(coco_val) -> None:
    some = replace(coco_val, records=coco_val.records[:6])
    model = Oracle(some)
    results = evaluate(model, some, config(**{"TEST.BATCH_SIZE": 4}))
    assert [len(batch) for batch in model.batches] == [4, 2]
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["segm"]["AP"] == pytest.approx(100)


def test_training_mode_of_each_module_is_restored_even_after_a_failure(three_images) -> None:
    model = Oracle(three_images).train()
    model.frozen_norm.eval()
    evaluate(model, three_images, config())
    assert (model.training, model.frozen_norm.training, model.head.training) == (True, False, True)
    model.answers = {}
    with pytest.raises(KeyError):
        evaluate(model, three_images, config())
    assert (model.training, model.frozen_norm.training, model.head.training) == (True, False, True)
    assert torch.is_grad_enabled()


def test_num_images_limits_the_evaluated_images(three_images) -> None:
    model = Oracle(three_images)
    results = evaluate(model, three_images, config(**{"TEST.NUM_IMAGES": 1}))
    assert model.batches == [[10]]
    assert results["bbox"]["AP-cat"] == pytest.approx(100)
    assert results["bbox"]["AP-dog"] != results["bbox"]["AP-dog"]  # nan: its image is not evaluated


def test_files_are_written_to_the_folder_inference(three_images, tmp_path) -> None:
    evaluate(Oracle(three_images), three_images, config(), output_dir=tmp_path)
    assert (tmp_path / "inference" / "results.json").is_file()


def test_tables_and_seconds_per_image_are_logged(three_images, caplog) -> None:
    with caplog.at_level(logging.INFO):
        evaluate(Oracle(three_images), three_images, config())
    assert "squares: 3 images" in caplog.text
    assert "s per image" in caplog.text
    assert "| segm " in caplog.text
    assert "| cat " in caplog.text


def test_empty_dataset_is_refused(dataset_of) -> None:
    with pytest.raises(UserError, match="squares has no images"):
        evaluate(nn.Identity(), dataset_of(), config())


def test_unknown_evaluator_is_refused(three_images) -> None:
    with pytest.raises(UserError, match=r"EVAL\.EVALUATOR = 'cocoo'.*Did you mean 'coco'"):
        evaluate(nn.Identity(), three_images, config(**{"EVAL.EVALUATOR": "cocoo"}))


@pytest.fixture
def load_by_name(monkeypatch, three_images) -> None:
    def load(cfg: CfgNode, name: str) -> Dataset:  # noqa: ARG001
        return replace(three_images, name=name)

    monkeypatch.setattr("mrcnn_zoo.data.run_datasets.load_dataset", load)
    return load


@pytest.mark.usefixtures("load_by_name")
def test_results_of_several_test_sets_are_by_name(three_images, tmp_path) -> None:
    model = Oracle(three_images)
    one = evaluate_datasets(model, config(**{"DATASETS.TEST": ["a"]}), output_dir=tmp_path)
    assert list(one) == ["bbox", "segm"]
    assert (tmp_path / "inference" / "results.md").is_file()
    two = evaluate_datasets(model, config(**{"DATASETS.TEST": ["a", "b"]}), output_dir=tmp_path)
    assert list(two) == ["a", "b"]
    assert list(two["b"]) == ["bbox", "segm"]
    assert (tmp_path / "b" / "inference" / "results.md").is_file()


@pytest.mark.usefixtures("load_by_name")
def test_unexpected_results_are_raised(three_images) -> None:
    cfg = config(**{"DATASETS.TEST": ["a"], "TEST.EXPECTED_RESULTS": [["bbox", "AP", 50.0, 1.0]]})
    with pytest.raises(UnexpectedResultsError, match=r"bbox/AP is 100\.000, expected 50"):
        evaluate_datasets(Oracle(three_images), cfg)


@pytest.mark.usefixtures("load_by_name")
def test_another_class_count_is_refused_before_any_evaluation(three_images) -> None:
    model = Oracle(three_images)
    cfg = config(**{"DATASETS.TEST": ["a"], "MODEL.ROI_HEADS.NUM_CLASSES": 3})
    with pytest.raises(UserError, match=r"no class names, and 3 classes .*, but dataset 'a' has 2 classes"):
        evaluate_datasets(model, cfg)
    assert model.batches == []


def test_missing_test_set_is_refused(three_images) -> None:
    with pytest.raises(UserError, match=r"DATASETS\.TEST is empty"):
        evaluate_datasets(Oracle(three_images), config())


def test_no_files_are_written_if_an_image_cannot_be_read(three_images, tmp_path: Path) -> None:
    class Unreadable:
        name = "gone.png"

        def read(self) -> None:
            raise UserError("gone.png: the image file is missing.")

    records = (three_images.records[0], replace(three_images.records[1], source=Unreadable()))
    broken = replace(three_images, records=records)
    with pytest.raises(UserError, match=r"gone\.png"):
        evaluate(Oracle(three_images), broken, config(), output_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []
