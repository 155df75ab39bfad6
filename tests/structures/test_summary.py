"""`repr` of tables and records: counts and shapes on one line, for any number of rows."""

import numpy as np
import pytest
import torch

from mrcnn_zoo.checkpoint import WeightsFile
from mrcnn_zoo.data.proposals import StoredProposals
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.evaluation.ground_truth import RleMasks
from mrcnn_zoo.inference.image_inputs import LoadedImage
from mrcnn_zoo.structures import (
    Batch,
    BoxedBitmaps,
    Detections,
    LabeledRegions,
    ProbabilityMasks,
    Proposals,
    Sample,
    Targets,
)

COUNT, SIZE = 700, (100, 60)
BOXES, INDICES = torch.rand(COUNT, 4), torch.zeros(COUNT, dtype=torch.int64)
MASKS = ProbabilityMasks(torch.rand(COUNT, 28, 28), BOXES, SIZE)
TARGETS = Targets(SIZE, BOXES, INDICES)
RECORD = ImageRecord(1, LoadedImage("a", np.zeros((100, 60, 3), np.uint8)), SIZE)


@pytest.mark.parametrize(
    "record",
    [
        TARGETS,
        Proposals(SIZE, BOXES, torch.rand(COUNT)),
        Detections(SIZE, BOXES, torch.rand(COUNT), INDICES, MASKS, torch.rand(COUNT, 17, 3)),
        LabeledRegions(SIZE, BOXES, INDICES, INDICES, TARGETS),
        MASKS,
        BoxedBitmaps.from_windows([(0, 0)] * COUNT, [np.ones((2, 2))] * COUNT, SIZE),
        RleMasks([{"size": [100, 60], "counts": "PP"}] * COUNT, SIZE),
        Sample(torch.rand(3, 100, 60), 7, SIZE, targets=TARGETS),
        Batch(torch.rand(2, 3, 100, 60), [SIZE, SIZE], [TARGETS, TARGETS], None),
        StoredProposals(np.zeros((COUNT, 4), np.float32), np.zeros(COUNT, np.float32)),
        RECORD,
        Dataset("d", (RECORD,) * COUNT, tuple(map(str, range(COUNT))), tuple(range(COUNT))),
        WeightsFile("w.pth", {str(number): torch.rand(9) for number in range(COUNT)}, {"config": "KEY: 1\n" * COUNT}),
    ],
    ids=lambda record: type(record).__name__,
)
def test_repr_is_one_short_line(record: object) -> None:
    text = repr(record)
    assert text.startswith(f"{type(record).__name__}(")
    assert "\n" not in text
    assert len(text) < 500


def test_repr_has_counts_shapes_and_image_size() -> None:
    table = Detections(SIZE, BOXES[:1], torch.rand(1), INDICES[:1], MASKS[:1])
    assert repr(table) == (
        "Detections(1 row, image_size=(100, 60), boxes=<1x4 float32>, scores=<1 float32>, classes=<1 int64>, "
        "masks=ProbabilityMasks(1 row, probabilities=<1x28x28 float32>, boxes=<1x4 float32>, image_size=(100, 60), "
        "threshold=0.5))"
    )
    assert repr(Targets(SIZE, BOXES[:0], INDICES[:0])).startswith("Targets(0 rows, ")
