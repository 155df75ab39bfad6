"""Generators without weights: from files, from the ground truth, and everywhere."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.modeling.proposal_generators import (
    GroundTruthProposals,
    PrecomputedProposals,
    SlidingWindow,
    build_proposal_generator,
)
from mrcnn_zoo.modeling.proposal_generators.sliding_window import lay_windows
from mrcnn_zoo.structures import Batch, Proposals, Sample, Targets

BOXES = torch.tensor([[10.0, 10, 30, 50], [40.0, 20, 60, 40]])


def batch(*boxes: Tensor, size: tuple[int, int] = (60, 80), proposals: list[Proposals] | None = None) -> Batch:
    targets = [Targets(size, rows, torch.zeros(len(rows), dtype=torch.int64)) for rows in boxes]
    return Batch(torch.zeros(len(boxes), 3, 64, 96), [size] * len(boxes), targets, proposals)


def build(name: str, **changes: Any) -> Any:
    values = {"MODEL.DEVICE": "cpu", "MODEL.PROPOSAL_GENERATOR.NAME": name}
    values |= {f"MODEL.{key.replace('__', '.')}": value for key, value in changes.items()}
    return build_proposal_generator(load_config(None, [part for item in values.items() for part in item]), {})


def test_precomputed_proposals_are_returned_unchanged() -> None:
    tables = [Proposals((60, 80), BOXES, objectness=torch.tensor([1.0, 0.0]))]
    generator = build("PrecomputedProposals")
    assert generator.predict({}, batch(BOXES, proposals=tables)) == tables
    proposals, output = generator.losses({}, batch(BOXES, proposals=tables))
    assert proposals == tables
    assert output.losses == {}


def test_samples_without_precomputed_proposals_are_refused_with_the_keys() -> None:
    with pytest.raises(UserError, match=r"MODEL\.LOAD_PROPOSALS.*DATASETS\.PROPOSAL_FILES_TRAIN"):
        PrecomputedProposals().predict({}, batch(BOXES))


@pytest.mark.parametrize(
    ("are_loaded", "message"),
    [
        (True, "the files of the config, a.pkl, contain those of datasets, and these images are not in a dataset"),
        (False, "the files of the config, a.pkl, are not read. Set MODEL.LOAD_PROPOSALS to True"),
    ],
)
def test_unusable_proposal_files_are_named(are_loaded: bool, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PrecomputedProposals(files=("a.pkl",), are_loaded=are_loaded).predict({}, batch(BOXES))


def test_ground_truth_boxes_are_the_proposals() -> None:
    generator = build("GroundTruthProposals")
    first, second = generator.predict({}, batch(BOXES, BOXES[:0]))
    assert torch.equal(first.boxes, BOXES)
    assert len(second) == 0
    assert torch.equal(generator.losses({}, batch(BOXES))[0][0].boxes, BOXES)


def test_jitter_is_random_in_training_and_fixed_at_inference() -> None:
    generator = build("GroundTruthProposals", PROPOSAL_GENERATOR__JITTER=0.1)
    images = batch(BOXES)
    here, there = (generator.predict({}, images)[0].boxes for _ in range(2))
    assert torch.equal(here, there)
    assert not torch.equal(here, BOXES)
    torch.manual_seed(1)
    first, second = (generator.losses({}, images)[0][0].boxes for _ in range(2))
    assert not torch.equal(first, second)


def test_jitter_at_inference_differs_between_images_and_does_not_depend_on_their_batch() -> None:
    generator = build("GroundTruthProposals", PROPOSAL_GENERATOR__JITTER=0.1)
    first, second = generator.predict({}, replace(batch(BOXES, BOXES), image_ids=[7, 8]))
    (alone,) = generator.predict({}, replace(batch(BOXES), image_ids=[8]))
    assert torch.equal(second.boxes, alone.boxes)
    assert not torch.equal(first.boxes, second.boxes)


def test_jitter_has_the_standard_deviation_of_the_config() -> None:
    many = torch.tensor([[1000.0, 1000, 1100, 1050]]).repeat(4000, 1)
    (table,) = GroundTruthProposals(jitter=0.05).predict({}, batch(many, size=(3000, 3000)))
    centers = (table.boxes[:, :2] + table.boxes[:, 2:]) / 2
    sides = table.boxes[:, 2:] - table.boxes[:, :2]
    torch.testing.assert_close(centers.std(dim=0), torch.tensor([5.0, 2.5]), rtol=0.05, atol=0)
    torch.testing.assert_close(
        (sides / torch.tensor([100.0, 50.0])).log().std(dim=0), torch.full((2,), 0.05), rtol=0.05, atol=0
    )


def test_ground_truth_proposals_without_annotations_are_refused() -> None:
    with pytest.raises(UserError, match="GroundTruthProposals"):
        GroundTruthProposals().predict({}, Batch(torch.zeros(1, 3, 8, 8), [(8, 8)], None, None))


@pytest.mark.parametrize("jitter", [-0.1, float("inf")])
def test_impossible_jitter_is_refused(jitter: float) -> None:
    with pytest.raises(UserError, match=r"MODEL\.PROPOSAL_GENERATOR\.JITTER"):
        build("GroundTruthProposals", PROPOSAL_GENERATOR__JITTER=jitter)


def test_windows_cover_the_image_from_border_to_border() -> None:
    # 20 x 20 in an image of 30 (height) x 50, steps of at most 10: two rows and four columns.
    boxes = lay_windows((30, 50), (20,), (1.0,), 0.5)
    assert boxes[:, :2].tolist() == [[x, y] for y in (0, 10) for x in (0, 10, 20, 30)]
    assert (boxes[:, 2:] - boxes[:, :2]).unique().tolist() == [20]


def test_window_steps_end_at_the_border() -> None:
    assert lay_windows((20, 45), (20,), (1.0,), 0.5)[:, 0].tolist() == pytest.approx([0, 25 / 3, 50 / 3, 25])


def test_windows_have_all_sizes_and_ratios_cut_to_the_image() -> None:
    boxes = lay_windows((40, 100), (16, 64), (0.25, 4.0), 1.0)
    sides = {tuple(side) for side in (boxes[:, 2:] - boxes[:, :2]).round(decimals=3).tolist()}
    assert sides == {(32, 8), (8, 32), (100, 32), (32, 40)}  # 128 x 32 and 32 x 128 are cut
    assert (boxes >= 0).all()
    assert (boxes <= torch.tensor([100, 40, 100, 40])).all()


def test_each_image_has_the_windows_of_its_own_size() -> None:
    generator = build("SlidingWindow", SLIDING_WINDOW__SIZES=[32])
    images = Batch(torch.zeros(2, 3, 64, 96), [(60, 80), (64, 96)], None, None)
    first, second = generator.predict({}, images)
    assert len(first) == len(lay_windows((60, 80), (32,), (0.5, 1.0, 2.0), 0.5))
    assert (first.image_size, second.image_size) == ((60, 80), (64, 96))
    assert not first.objectness.any()


@pytest.mark.parametrize(("key", "value"), [("SIZES", []), ("SIZES", [0]), ("ASPECT_RATIOS", [-1.0]), ("STRIDE", 0.0)])
def test_impossible_windows_are_refused_with_their_key(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"MODEL\.SLIDING_WINDOW\.{key}"):
        build("SlidingWindow", **{f"SLIDING_WINDOW__{key}": value})


@pytest.mark.parametrize("name", ["PrecomputedProposals", "GroundTruthProposals", "SlidingWindow"])
def test_detector_trains_and_predicts_with_each_generator(name: str, small_cfg: Callable[..., CfgNode]) -> None:
    keys = ("MODEL.PROPOSAL_GENERATOR.NAME", name, "MODEL.MASK_ON", False, "MODEL.SLIDING_WINDOW.SIZES", [32, 64])
    model = build_model(small_cfg(*keys))
    proposals = Proposals((64, 96), BOXES, objectness=torch.zeros(2))
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    targets = Targets((64, 96), BOXES, torch.tensor([0, 3]))
    sample = Sample(image, 1, (128, 192), targets, proposals)
    output = model.losses([sample])
    output.total().backward()
    assert set(output.losses) == {"loss_cls", "loss_box_reg"}
    assert not any(name.startswith("proposal_generator") for name in model.state_dict())
    (found,) = model.eval().predict([sample])
    assert len(found) > 0
    (table,) = model.propose([sample])
    assert table.image_size == (128, 192)
    assert isinstance(model.proposal_generator, PrecomputedProposals | GroundTruthProposals | SlidingWindow)
