"""Comparison of proposal generators: numbers by hand, order of equal scores, sources, tables."""

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mrcnn_zoo.config import load_config
from mrcnn_zoo.data.proposals import StoredProposals, write_proposals
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.proposal_comparison import (
    NUMBERS,
    THRESHOLDS,
    StoredSource,
    build_generator_source,
    build_stored_source,
    comparison_csv,
    comparison_report,
    iou_table,
    measure_recall,
    overall_table,
    ranked_boxes,
    size_table,
)
from mrcnn_zoo.structures import Proposals, Sample


def stored(*boxes: list[float], objectness: list[float] | None = None) -> StoredProposals:
    scores = objectness if objectness is not None else np.linspace(1, 0, len(boxes)).tolist()
    return StoredProposals(
        np.array(boxes, dtype=np.float32).reshape(-1, 4), np.array(scores, dtype=np.float32).reshape(-1)
    )


def source_of(dataset: Dataset, *tables: StoredProposals, name: str = "mine") -> StoredSource:
    keys = [(record.image_id, record.source.name) for record in dataset.records]
    return StoredSource(name, dataset, dict(zip(keys, tables, strict=True)))


@pytest.fixture
def two_squares(square, dataset_of) -> Dataset:
    """A small and a medium object in one image, and an image without objects."""
    return dataset_of((square(0, 0, 20), square(50, 50, 40, 1)), ())


def test_recall_equals_the_values_computed_by_hand(two_squares: Dataset) -> None:
    # First the 40 x 40 object with an IoU of 0.8, then the 20 x 20 object exactly.
    source = source_of(two_squares, stored([50, 50, 90, 82], [0, 0, 20, 20]), stored([0, 0, 9, 9]))
    result = measure_recall(source, two_squares)
    assert (result.num_images, result.num_proposals) == (2, 3)
    assert math.isnan(result.seconds)
    # Alone it is found at 0.5, 0.55, ..., 0.8: at 7 of 10 thresholds.
    assert result.average_recall(1) == pytest.approx(0.35)
    assert result.average_recall(2) == result.average_recall(1000) == pytest.approx(0.85)
    assert (result.average_recall(2, "small"), result.average_recall(2, "medium")) == pytest.approx((1, 0.7))
    assert math.isnan(result.average_recall(2, "large"))
    expected = [1.0 if threshold < 0.81 else 0.5 for threshold in THRESHOLDS]
    assert result.recall_over_iou(100).tolist() == expected
    assert result.recall_over_iou(1).tolist() == [value - 0.5 for value in expected]


def test_thresholds_are_40ths_with_those_of_coco_among_them() -> None:
    assert list(THRESHOLDS) == pytest.approx(np.linspace(0.5, 1, 21).tolist(), abs=1e-4)
    assert NUMBERS[0] == 1
    assert {10, 100, 300, 1000} <= set(NUMBERS)


def test_proposals_are_ranked_by_objectness_in_any_order_of_the_file(two_squares: Dataset) -> None:
    boxes = ([1.0, 1, 2, 2], [0.0, 0, 20, 20], [3.0, 3, 4, 4])
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        table = stored(*(boxes[row] for row in order), objectness=[[0.1, 0.9, 0.5][row] for row in order])
        assert ranked_boxes(table, 7).tolist() == [boxes[1], boxes[2], boxes[0]]
        assert measure_recall(source_of(two_squares, table, stored()), two_squares).average_recall(1) == 0.5


def test_boxes_of_equal_objectness_are_in_a_random_order_that_depends_on_the_image_alone() -> None:
    table = stored(*([float(x), 0, x + 9, 9] for x in range(50)), objectness=[0.0] * 49 + [1.0])
    first, again, other = (ranked_boxes(table, image_id)[:, 0].tolist() for image_id in (1, 1, 2))
    assert first == again != other
    assert first[0] == other[0] == 49
    assert sorted(first) == list(range(50)) != first


class Proposer(nn.Module):
    """Proposes the given boxes in each image, in descending order of objectness."""

    def __init__(self, boxes: list[list[float]]) -> None:
        super().__init__()
        self.boxes = torch.tensor(boxes)
        self.batches: list[list[int]] = []

    def propose(self, samples: list[Sample]) -> list[Proposals]:
        assert not self.training
        self.batches.append([int(sample.image_id) for sample in samples])
        return [
            Proposals(s.original_size, self.boxes, objectness=-torch.arange(float(len(self.boxes)))) for s in samples
        ]


def test_model_and_its_file_have_equal_recall_and_the_model_a_time(square, dataset_of, tmp_path: Path) -> None:
    dataset = dataset_of((square(0, 0, 20),), (square(5, 5, 20),), (square(50, 50, 40),))
    model = Proposer([[50, 50, 90, 80], [2, 2, 22, 22]]).train()
    cfg = load_config(None, ["TEST.BATCH_SIZE=2", "TEST.NUM_IMAGES=1", "DATALOADER.NUM_WORKERS=3"])
    measured = measure_recall(build_generator_source(cfg, "model", dataset, model), dataset)
    assert model.batches == [[10, 20], [10, 20], [30]]  # the first batch twice
    assert model.training
    assert measured.seconds > 0
    table = stored(*model.boxes.tolist())
    path = write_proposals(tmp_path / "mine.npz", dict.fromkeys((10, 20, 30), table))
    from_file = measure_recall(build_stored_source("file", dataset, path), dataset)
    assert (from_file.counts.found == measured.counts.found).all()
    assert 0 < from_file.average_recall(1) < from_file.average_recall(2)
    assert math.isnan(from_file.seconds)
    write_proposals(path, {10: table})
    with pytest.raises(
        UserError, match=r"mine\.npz has no proposals for 2 of 3 images of 'squares', the first is .* 20"
    ):
        build_stored_source("file", dataset, path)


def test_model_without_proposals_is_refused(two_squares: Dataset) -> None:
    with pytest.raises(UserError, match=r"rn: Identity \(MODEL.META_ARCHITECTURE\) has no proposals"):
        build_generator_source(load_config(None), "rn", two_squares, nn.Identity())


def test_tables_and_csv_have_the_measured_values(two_squares: Dataset) -> None:
    good = source_of(two_squares, stored([50, 50, 90, 82], [0, 0, 20, 20]), stored(), name="a|b")
    results = [measure_recall(source, two_squares) for source in (good, source_of(two_squares, stored(), stored()))]
    rows = [line.replace("\\|", "/").replace(" ", "") for line in overall_table(results).splitlines()]
    assert rows[2:] == ["|a/b|85.0|85.0|85.0|85.0|-|1.0|", "|mine|0.0|0.0|0.0|0.0|-|0.0|"]
    by_size = [line.replace("\\|", "/").replace(" ", "") for line in size_table(results).splitlines()]
    assert by_size[2:4] == ["|small|a/b|100.0|100.0|100.0|100.0|", "|small|mine|0.0|0.0|0.0|0.0|"]
    assert by_size[4] == "|medium|a/b|70.0|70.0|70.0|70.0|"
    assert len(by_size) == 6  # no large objects
    cells = iou_table(results, 100).splitlines()[2].replace("\\|", "/").split("|")[2:-1]
    assert list(map(float, cells)) == [100, 100, 100, 100, 50, 50]  # at IoU 0.5, 0.6, ..., 1
    report = comparison_report(results, two_squares, picture="x.png")
    assert "2 images, 2 objects (1 small, 1 medium, 0 large" in report
    assert all(table in report for table in (overall_table(results), size_table(results), iou_table(results, 1000)))
    first, second = csv.DictReader(io.StringIO(comparison_csv(results)))
    assert (first["proposals"], first["AR@1"], first["ARm@10"], first["ARl@10"]) == ("a|b", "35", "70", "")
    assert (first["recall@100_IoU_0.800"], first["recall@100_IoU_0.825"]) == ("100", "50")
    assert (first["seconds_per_image"], second["AR@1000"], second["objects"]) == ("", "0", "2")
