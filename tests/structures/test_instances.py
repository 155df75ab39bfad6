"""Tables of instances: row selection and checks; batches."""

import pytest
import torch

from mrcnn_zoo.structures import Detections, LabeledRegions, Proposals, Targets, TrainingOutput
from mrcnn_zoo.structures.samples import Batch, Sample, round_up


def make_targets(count: int) -> Targets:
    boxes = torch.arange(count * 4, dtype=torch.float32).reshape(count, 4)
    return Targets(image_size=(10, 20), boxes=boxes, classes=torch.arange(count))


def test_row_selection_applies_to_all_columns() -> None:
    chosen = make_targets(3)[torch.tensor([2, 0])]
    assert chosen.classes.tolist() == [2, 0]
    assert chosen.boxes[0].tolist() == [8, 9, 10, 11]
    assert chosen.masks is None


def test_selection_by_mask_equals_slice() -> None:
    targets = make_targets(3)
    assert targets[:2].classes.tolist() == targets[torch.tensor([True, True, False])].classes.tolist() == [0, 1]


def test_empty_table_has_length_zero_and_can_be_selected_from() -> None:
    empty = make_targets(0)
    assert len(empty) == 0
    assert len(empty[torch.zeros(0, dtype=torch.int64)]) == 0


def test_columns_of_different_lengths_raise() -> None:
    with pytest.raises(ValueError, match=r"Proposals\.objectness has 2 rows where boxes has 3"):
        Proposals(image_size=(4, 4), boxes=torch.zeros(3, 4), objectness=torch.zeros(2))


def test_boxes_of_wrong_shape_raise() -> None:
    with pytest.raises(ValueError, match=r"\(R, 4\)"):
        Detections(image_size=(4, 4), boxes=torch.zeros(3, 5), scores=torch.zeros(3), classes=torch.zeros(3))


def test_row_selection_keeps_the_targets_of_labeled_regions() -> None:
    regions = LabeledRegions(
        image_size=(10, 20),
        boxes=torch.zeros(4, 4),
        classes=torch.zeros(4, dtype=torch.int64),
        matches=torch.tensor([0, 1, 1, 0]),
        targets=make_targets(2),
    )
    chosen = regions[torch.tensor([1])]
    assert len(chosen) == 1
    assert len(chosen.targets) == 2


def test_total_adds_the_losses_of_both_outputs() -> None:
    first = TrainingOutput({"a": torch.tensor(1.0)}, {"m": torch.tensor(5.0)})
    second = TrainingOutput({"b": torch.tensor(2.5)})
    assert (first | second).total().item() == 3.5
    with pytest.raises(ValueError, match="same names: a"):
        first | first


def test_batch_is_padded_right_and_bottom_after_normalisation() -> None:
    mean, std = torch.full((1, 1, 1), 10.0), torch.full((1, 1, 1), 2.0)
    samples = [
        Sample(image=torch.full((1, 2, 3), 12, dtype=torch.uint8), image_id=1, original_size=(2, 3)),
        Sample(image=torch.full((1, 4, 1), 14, dtype=torch.uint8), image_id=2, original_size=(4, 1)),
    ]
    try:
        torch.use_deterministic_algorithms(True)  # new memory is filled with NaN
        batch = Batch.collate(samples, pixel_mean=mean, pixel_std=std, size_divisibility=4)
    finally:
        torch.use_deterministic_algorithms(False)
    assert batch.pixels.shape == (2, 1, 4, 4)
    assert batch.pixels[0].sum().item() == 6  # six pixels of (12 - 10) / 2, padding exactly zero
    assert batch.pixels[1, 0, :, 0].tolist() == [2, 2, 2, 2]
    assert batch.image_sizes == [(2, 3), (4, 1)]
    assert batch.targets is None


def test_batch_reports_the_image_with_the_wrong_channels() -> None:
    sample = Sample(image=torch.zeros(4, 2, 2), image_id=7, original_size=(2, 2), file_name="four.png")
    with pytest.raises(ValueError, match=r"four\.png.*4 channels.*PIXEL_MEAN has 3"):
        Batch.collate([sample], pixel_mean=torch.zeros(3, 1, 1), pixel_std=torch.ones(3, 1, 1))


def test_round_up_to_multiple() -> None:
    assert [round_up(value, 32) for value in (1, 32, 33)] == [32, 32, 64]
