"""The labels of anchors, worked out by hand, from an RPN that is built from a YAML file.

The rules: the best anchor of each object is positive, and so is every anchor above the upper threshold; those below the
lower threshold are negative; the others are neutral. Positives and negatives are balanced, anchors across the border
are left out.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mrcnn_zoo.config import load_config
from mrcnn_zoo.modeling.proposal_generators import RPN, build_proposal_generator
from mrcnn_zoo.structures import FeatureSpec, ImageSize, Targets

SIZE = (100, 100)
A, B = [0.0, 0, 100, 10], [0.0, 50, 100, 60]
# Anchors that share the left border and the height of an object: their IoU with it is their share of its width.
ANCHORS = torch.tensor(
    [
        [0.0, 0, 80, 10],  # 0: 0.8 of A, its best
        [0.0, 0, 70, 10],  # 1: 0.7, the upper threshold itself
        [0.0, 0, 69, 10],  # 2: 0.69
        [0.0, 0, 30, 10],  # 3: 0.3, the lower threshold itself
        [0.0, 0, 29, 10],  # 4: 0.29
        [0.0, 50, 20, 60],  # 5: 0.2 of B, its best
        [0.0, 50, 19, 60],  # 6: 0.19 of B
        [0.0, 80, 50, 90],  # 7: overlaps nothing
    ]
)
RPNBuilder = Callable[..., RPN]


@pytest.fixture
def build(tmp_path: Path) -> RPNBuilder:
    """Lines below MODEL.RPN -> the RPN of a YAML file with them."""

    def from_yaml(*lines: str) -> RPN:
        path = tmp_path / "rules.yaml"
        path.write_text("MODEL:\n  RPN:\n    IN_FEATURES: [res4]\n" + "".join(f"    {line}\n" for line in lines))
        rpn = build_proposal_generator(load_config(path), {"res4": FeatureSpec(8, stride=16)})
        assert isinstance(rpn, RPN)
        return rpn

    return from_yaml


def targets(*boxes: list[float]) -> Targets:
    return Targets(SIZE, torch.tensor(boxes).reshape(-1, 4), torch.zeros(len(boxes), dtype=torch.int64))


def labels(rpn: RPN, *boxes: list[float]) -> list[int]:
    found: list[int] = rpn.labeler.matcher.match(ANCHORS, targets(*boxes).boxes).labels.tolist()
    return found


def sampled(rpn: RPN, anchors: torch.Tensor, *boxes: list[float], size: ImageSize = SIZE) -> tuple[list, list]:
    sample = rpn.labeler.sample(anchors, [targets(*boxes)], [size])
    return sample.rows[: sample.num_positives].tolist(), sample.rows[sample.num_positives :].tolist()


def test_anchors_between_the_thresholds_of_ren_et_al_are_neutral(build: RPNBuilder) -> None:
    # Anchor 5 is positive as the best of B, although far below the threshold.
    assert labels(build(), A, B) == [1, 1, -1, -1, 0, 1, 0, 0]
    assert labels(build("IOU_THRESHOLDS: [0.3, 0.7]"), A, B) == [1, 1, -1, -1, 0, 1, 0, 0]


def test_equal_thresholds_leave_no_anchor_neutral(build: RPNBuilder) -> None:
    assert labels(build("IOU_THRESHOLDS: [0.3, 0.3]"), A, B) == [1, 1, 1, 1, 0, 1, 0, 0]


def test_best_anchors_below_the_threshold_are_positive_only_with_low_quality_matches(build: RPNBuilder) -> None:
    assert labels(build("ALLOW_LOW_QUALITY_MATCHES: False"), A, B) == [1, 1, -1, -1, 0, 0, 0, 0]


def test_neutral_anchors_are_not_sampled_and_positives_have_their_object(build: RPNBuilder) -> None:
    rpn = build()
    assert sampled(rpn, ANCHORS, B, A) == ([0, 1, 5], [4, 6, 7])
    assert rpn.labeler.sample(ANCHORS, [targets(B, A)], [SIZE]).positive_targets.tolist() == [A, A, B]
    # With equal thresholds 2 and 3 are sampled, too: all eight anchors are in the loss.
    assert sampled(build("IOU_THRESHOLDS: [0.3, 0.3]"), ANCHORS, B, A) == ([0, 1, 2, 3, 5], [4, 6, 7])


def test_most_negatives_are_left_out_for_balance(build: RPNBuilder) -> None:
    # 3 of 12 anchors are positive: half of 8 are at most 4, so negatives fill 5 places.
    empty = torch.tensor([[60.0, 80, 90, 99]]).repeat(6, 1)
    rpn = build("BATCH_SIZE_PER_IMAGE: 8", "POSITIVE_FRACTION: 0.5")
    positives, negatives = sampled(rpn, torch.cat((ANCHORS, empty)), A, B)
    assert positives == [0, 1, 5]
    assert len(negatives) == len(set(negatives)) == 5
    assert set(negatives) <= {4, 6, 7, *range(8, 14)}
    # Half of 4 are 2 of the 3 positives; the third is in neither part.
    positives, negatives = sampled(build("BATCH_SIZE_PER_IMAGE: 4"), ANCHORS, A, B)
    assert len(positives) == len(negatives) == 2
    assert set(positives) < {0, 1, 5}


def test_border_crossing_anchors_are_left_out_and_the_best_of_the_others_is_positive(build: RPNBuilder) -> None:
    # In an image 75 wide anchor 0 crosses the border. 1 ends before it; of B only 5 and 6 are inside, as before.
    rpn = build("BOUNDARY_THRESH: 0")
    assert sampled(rpn, ANCHORS, A, B, size=(100, 75)) == ([1, 5], [4, 6, 7])
    # 65 wide, without 0, 1 and 2: the best of A is 3, with 0.3 neutral otherwise.
    assert sampled(rpn, ANCHORS, A, B, size=(100, 65)) == ([3, 5], [4, 6, 7])
    # Anchors that cross the border by default are kept.
    assert sampled(build(), ANCHORS, A, B, size=(100, 65)) == ([0, 1, 5], [4, 6, 7])
