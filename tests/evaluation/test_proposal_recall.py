"""Average recall of proposals, compared with numbers by hand and with pycocotools without categories."""

import contextlib
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.data.records import Dataset, InstanceRecord
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation import CocoEvaluator, ProposalEvaluator, evaluate
from mrcnn_zoo.evaluation.backends import IOU_THRESHOLDS, detection_set
from mrcnn_zoo.evaluation.ground_truth import coco_ground_truth
from mrcnn_zoo.evaluation.proposals import BOX_PROPOSALS, LIMITS, compute_proposals, count_found_objects
from mrcnn_zoo.registries import EVALUATORS
from mrcnn_zoo.structures import Detections, Proposals, Sample

NAMES = ["AR@100", "ARs@100", "ARm@100", "ARl@100", "AR@1000", "ARs@1000", "ARm@1000", "ARl@1000"]
SamplesOf = Callable[[Dataset], list[Sample]]


def detections(boxes: Tensor | list[list[float]], size: tuple[int, int] = (100, 100)) -> Detections:
    rows = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Detections(size, rows, torch.linspace(1, 0, len(rows)), torch.zeros(len(rows), dtype=torch.int64))


def recall(dataset: Dataset, samples: list[Sample], found: list[Detections]) -> dict[str, float]:
    evaluator = ProposalEvaluator(dataset)
    evaluator.process(samples, found)
    return evaluator.evaluate()[BOX_PROPOSALS]


def test_recall_equals_the_value_computed_by_hand(square, dataset_of, samples_of: SamplesOf) -> None:
    # 20 x 20 found exactly: all 10 thresholds. 40 x 40 found with an IoU of 0.8: thresholds 0.5 to 0.8, 7 of 10.
    dataset = dataset_of((square(0, 0, 20, 0), square(50, 50, 40, 1)), ())
    found = [detections([[50, 50, 90, 82], [0, 0, 20, 20]]), detections([])]
    metrics = recall(dataset, samples_of(dataset), found)
    assert list(metrics) == NAMES
    assert metrics["AR@100"] == metrics["AR@1000"] == pytest.approx(85)
    assert (metrics["ARs@100"], metrics["ARm@100"]) == pytest.approx((100, 70))
    assert math.isnan(metrics["ARl@100"])


def test_proposals_beyond_the_limit_do_not_count(square, dataset_of, samples_of: SamplesOf) -> None:
    dataset = dataset_of((square(0, 0, 20),))
    elsewhere = torch.tensor([[60.0, 60, 90, 90]])
    hit = torch.tensor([[0.0, 0, 20, 20]])
    for place, expected in ((99, (100, 100)), (100, (0, 100)), (999, (0, 100)), (1000, (0, 0))):
        boxes = torch.cat([elsewhere.repeat(place, 1), hit])
        metrics = recall(dataset, samples_of(dataset), [detections(boxes)])
        assert (metrics["AR@100"], metrics["AR@1000"]) == expected


def test_box_finds_one_object_independent_of_class(square, dataset_of, samples_of: SamplesOf) -> None:
    twins = dataset_of((square(0, 0, 20, 0), square(0, 0, 20, 1)))
    assert recall(twins, samples_of(twins), [detections([[0, 0, 20, 20]])])["AR@100"] == 50
    assert recall(twins, samples_of(twins), [detections([[0, 0, 20, 20]] * 2)])["AR@100"] == 100


def test_last_of_two_objects_of_equal_iou_is_found(square, dataset_of, samples_of: SamplesOf) -> None:
    # The first box overlaps both by 2/3 and takes the second at 4 thresholds; the other box is the first object itself.
    dataset = dataset_of((square(0, 0, 20), square(8, 0, 20)))
    found = [detections([[4, 0, 24, 20], [0, 0, 20, 20]])]
    assert recall(dataset, samples_of(dataset), found)["AR@100"] == pytest.approx(100 * (4 * 2 + 6) / 20)
    assert recall(dataset, samples_of(dataset), found)["AR@100"] == pytest.approx(reference(dataset, found)["AR@100"])


def test_object_at_the_bound_of_two_size_classes_counts_for_both(square, dataset_of, samples_of: SamplesOf) -> None:
    dataset = dataset_of((square(0, 0, 32),))
    metrics = recall(dataset, samples_of(dataset), [detections([[0, 0, 32, 32]])])
    assert (metrics["ARs@100"], metrics["ARm@100"]) == (100, 100)


def test_crowds_do_not_count(square, dataset_of, samples_of: SamplesOf) -> None:
    dataset = dataset_of((square(0, 0, 20), square(50, 50, 40, is_crowd=True)))
    assert recall(dataset, samples_of(dataset), [detections([[0, 0, 20, 20]])])["AR@100"] == 100


def test_recall_is_nan_without_objects_and_zero_without_boxes(square, dataset_of, samples_of) -> None:
    empty = dataset_of((), ())
    assert all(map(math.isnan, recall(empty, samples_of(empty), [detections([[0, 0, 9, 9]])] * 2).values()))
    dataset = dataset_of((square(0, 0, 20),))
    assert recall(dataset, samples_of(dataset), [detections([])])["AR@1000"] == 0


def test_images_that_are_not_added_count_as_empty_with_a_warning(square, dataset_of, samples_of, caplog) -> None:
    dataset = dataset_of((square(0, 0, 20),), (square(0, 0, 20),))
    evaluator = ProposalEvaluator(dataset)
    for _ in range(2):  # an image counts once
        evaluator.process(samples_of(dataset)[:1], [detections([[0, 0, 20, 20]])])
    assert evaluator.evaluate()[BOX_PROPOSALS]["AR@100"] == 50
    assert "1 image was not given" in caplog.text
    with pytest.raises(ValueError, match="image 7"):
        evaluator.process([Sample(torch.zeros(3, 1, 1), 7, (100, 100))], [detections([])])


def reference(dataset: Dataset, found: list[Detections]) -> dict[str, float]:
    """Average recall of pycocotools with useCats 0."""
    recalls = reference_recall(dataset, found, thresholds=IOU_THRESHOLDS, limits=LIMITS)
    order = [(area, limit) for limit in range(2) for area in range(4)]
    return {name: recalls[area, :, limit].mean() * 100 for name, (area, limit) in zip(NAMES, order, strict=True)}


def reference_recall(
    dataset: Dataset, found: list[Detections], *, thresholds: Sequence[float], limits: Sequence[int]
) -> NDArray[np.float64]:
    """(A, T, L) recall of pycocotools with useCats 0; -1 without objects."""
    truth = coco_ground_truth(dataset, "bbox")
    rows = [
        {"image_id": record.image_id, "category_id": dataset.category_ids[0], "bbox": box, "score": score}
        for record, table in zip(dataset.records, found, strict=True)
        for box, score in zip(
            torch.cat([table.boxes[:, :2], table.boxes[:, 2:] - table.boxes[:, :2]], 1).double().tolist(),
            table.scores.tolist(),
            strict=True,
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        sets = []
        for content in (truth, detection_set(rows, truth, "bbox")):
            indexed = COCO()
            indexed.dataset = content
            indexed.createIndex()
            sets.append(indexed)
        evaluation = COCOeval(*sets, "bbox")
        evaluation.params.useCats = 0
        evaluation.params.maxDets = list(limits)
        evaluation.params.iouThrs = np.array(thresholds)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["recall"][:, 0].swapaxes(0, 1)


def test_recall_equals_that_of_pycocotools_on_coco_images(coco_val: Dataset, samples_of: SamplesOf) -> None:
    # Integer coordinates give equal IoUs and IoUs of exactly 0.5.
    generator = torch.Generator().manual_seed(0)
    found = []
    for record in coco_val.records:
        truth = torch.tensor([item.box for item in record.instances]).reshape(-1, 4).repeat(8, 1)
        sides = (truth[:, 2:] - truth[:, :2]).repeat(1, 2)
        near = truth + sides * 0.12 * torch.randn(truth.shape, generator=generator)
        boxes = torch.cat([truth.round()[::9], near.round()])[
            torch.randperm(len(truth[::9]) + len(near), generator=generator)
        ]
        boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(dim=1)]
        found.append(detections(boxes, record.image_size))
    ours = recall(coco_val, samples_of(coco_val), found)
    assert max(map(len, found)) > 100
    assert 20 < ours["AR@1000"] < 95
    assert ours == pytest.approx(reference(coco_val, found), abs=1e-9)


def test_counts_at_any_limits_and_thresholds_equal_those_of_pycocotools(square, dataset_of) -> None:
    rng = np.random.default_rng(0)
    images = [tuple(square(*rng.integers(0, 70, 2), 10 + 8 * size) for size in range(4)) for _ in range(6)]
    dataset = dataset_of(*images, (square(0, 0, 90),), ())
    found = []
    for record in dataset.records:
        truth = torch.tensor([item.box for item in record.instances] or [[0.0, 0, 9, 9]]).repeat(10, 1)
        noise = torch.from_numpy(rng.normal(0, 3, truth.shape)).float().round()
        noise[::9] = 0
        boxes = (truth + noise)[torch.from_numpy(rng.permutation(len(truth)))]
        found.append(detections(boxes[(boxes[:, 2:] > boxes[:, :2]).all(dim=1)]))
    thresholds, limits = (0.3, 0.5, 0.525, 0.9, 1 - 1e-9), (1, 3, 10, 30)
    counts = [
        count_found_objects(dataset, record, table.boxes.numpy(), thresholds=thresholds, limits=limits)
        for record, table in zip(dataset.records, found, strict=True)
    ]
    recall = sum(counts[1:], counts[0]).recall()
    expected = reference_recall(dataset, found, thresholds=thresholds, limits=limits)
    assert np.isnan(recall[3]).all()  # no large objects
    assert (expected[3] == -1).all()
    assert recall[:3] == pytest.approx(expected[:3], abs=1e-12)
    assert 0 < recall[0, -1, -1] < recall[0, 0, -1]  # some boxes are exact
    assert 0 < recall[0, 1, 0] < recall[0, 1, -1]


class Proposer(nn.Module):
    """Proposes the same boxes in each image."""

    predicts_classes = False

    def __init__(self, boxes: list[list[float]]) -> None:
        super().__init__()
        self.boxes = boxes

    def predict(self, samples: list[Sample]) -> list[Detections]:
        return [detections(self.boxes) for _ in samples]

    def propose(self, samples: list[Sample]) -> list[Proposals]:
        assert not self.training
        return [Proposals((100, 100), torch.tensor(self.boxes), objectness=torch.tensor([2.0, 1.0])) for _ in samples]


def config(**settings: object) -> CfgNode:
    values = {"MODEL.META_ARCHITECTURE": "ProposalNetwork", "DATALOADER.NUM_WORKERS": 0, **settings}
    return load_config(None, [item for pair in values.items() for item in pair])


def test_proposal_network_is_evaluated_by_recall_with_table_and_files(
    square, dataset_of, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    dataset = dataset_of((square(0, 0, 20, 0), square(50, 50, 40, 1)))
    model = Proposer([[0.0, 0.0, 20.0, 20.0], [1.0, 1.0, 9.0, 9.0]])
    results = evaluate(model, dataset, config(), output_dir=tmp_path)
    assert results["box_proposals"]["AR@100"] == 50
    assert json.loads((tmp_path / "inference" / "results.json").read_text())["box_proposals"]["ARl@100"] is None
    assert "AR@1000" in caplog.text
    report = (tmp_path / "inference" / "results.md").read_text()
    assert "AR@1000" in report
    assert "categor" not in report


def test_evaluator_is_chosen_by_model_or_name(dataset_of) -> None:
    dataset = dataset_of(())
    build = EVALUATORS.get("coco")
    assert isinstance(build(config(), dataset), ProposalEvaluator)
    assert isinstance(build(config(**{"MODEL.META_ARCHITECTURE": "GeneralizedRCNN"}), dataset), CocoEvaluator)
    assert isinstance(EVALUATORS.get("box_proposals")(config(), dataset), ProposalEvaluator)


def test_proposals_are_computed_for_each_image(square: Callable[..., InstanceRecord], dataset_of, samples_of) -> None:
    dataset = dataset_of((square(0, 0, 20),), ())
    model = Proposer([[0.0, 0.0, 20.0, 20.0], [1.0, 1.0, 9.0, 9.0]]).train()
    stored = compute_proposals(model, [samples_of(dataset)])
    assert list(stored) == [10, 20]
    assert stored[20].boxes.dtype == stored[20].objectness.dtype == np.float32
    assert stored[20].boxes.tolist() == model.boxes
    assert stored[20].objectness.tolist() == [2, 1]
    assert model.training


def test_model_without_proposals_is_refused() -> None:
    with pytest.raises(UserError, match="Identity has no proposals"):
        compute_proposals(nn.Identity(), [])
