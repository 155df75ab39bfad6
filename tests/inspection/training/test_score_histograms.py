"""Scores of positives and negatives: AUC and overlap by hand, and collection from one recorded prediction."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from mrcnn_zoo.config import load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inspection.training.score_histograms import (
    REGIONS,
    ScoreGroup,
    collect_scores,
    histogram,
    score_figure,
    score_table,
)
from mrcnn_zoo.modeling.recording import Recording
from mrcnn_zoo.ops.boxes import iou
from mrcnn_zoo.structures import Sample, Targets
from support.scenes import smooth_sample
from support.small_models import BASE_FPN, TINY_LAYERS, varied_model

OVERRIDES = (
    *TINY_LAYERS,
    "MODEL.WEIGHTS=",
    "MODEL.RESNETS.DEPTH=18",
    "MODEL.RESNETS.RES2_OUT_CHANNELS=8",
    "MODEL.ROI_HEADS.NUM_CLASSES=3",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST=0.2",
)


def group(positive: list[float], negative: list[float]) -> ScoreGroup:
    return ScoreGroup("anchors", np.array(positive), np.array(negative))


def test_auc_is_the_share_of_pairs_in_the_right_order() -> None:
    # Of six pairs 0.8 wins three, 0.4 wins against 0.1 and ties with 0.4.
    assert group([0.8, 0.4], [0.1, 0.4, 0.6]).auc == pytest.approx((3 + 1 + 0.5) / 6)
    assert group([0.9], [0.1]).auc == 1.0
    assert group([0.1], [0.9]).auc == 0.0
    assert math.isnan(group([], [0.5]).auc)
    assert math.isnan(group([0.5], []).overlap)


@pytest.mark.parametrize("seed", range(3))
def test_auc_equals_a_loop_over_all_pairs(seed: int) -> None:
    random = np.random.default_rng(seed)
    positive, negative = random.integers(0, 12, 30) / 12, random.integers(0, 10, 40) / 12  # with ties
    wins = [(p > n) + (p == n) / 2 for p in positive for n in negative]
    assert ScoreGroup("a", positive, negative).auc == pytest.approx(np.mean(wins))


def test_overlap_is_the_common_area_of_the_histograms() -> None:
    # Bins are 0.02 wide: half of the positives share the bin of a quarter of the negatives.
    assert group([0.5, 0.9], [0.51, 0.1, 0.2, 0.3]).overlap == pytest.approx(0.25)
    assert histogram(np.array([0.0, 1.0, 1.0, 0.999])).tolist()[::49] == [0.25, 0.75]


def test_table_has_shares_in_percent_and_a_dash_without_positives() -> None:
    lines = score_table([group([0.8, 0.6, 0.2, 0.9], [0.1, 0.55]), group([], [0.75])]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert cells[0] == ["anchors", "4", "2", "0.8750", "75.00", "50.00", "50.00", "0.00", "0.00"]
    assert cells[1] == ["anchors", "0", "1", "-", "-", "-", "100.00", "100.00", "-"]


@pytest.fixture(scope="module", params=["rcnn", "retinanet"])
def collected(request: pytest.FixtureRequest) -> tuple[Any, Sample, list[ScoreGroup]]:
    config = BASE_FPN if request.param == "rcnn" else BASE_FPN.with_name("Base-RetinaNet.yaml")
    cfg = load_config(config, [*OVERRIDES, "MODEL.RETINANET.NUM_CLASSES=3"])
    model = varied_model(cfg)
    boxes = torch.tensor([[8.0, 8, 40, 40], [50, 20, 82, 52]])
    sample = smooth_sample()
    sample.targets = Targets((64, 96), boxes, torch.tensor([0, 2]))
    return model, sample, collect_scores(model, [sample, sample])


def test_all_anchors_have_the_labels_of_the_matcher(collected: tuple[Any, Sample, list[ScoreGroup]]) -> None:
    model, sample, groups = collected
    recording = Recording()
    model.predict([sample], recorder=recording)
    anchors = recording.values_of_image(0)["anchors"].values["boxes"]
    overlaps = iou(anchors, sample.targets.boxes)
    best = overlaps.amax(dim=1)
    low, high = (0.3, 0.7) if hasattr(model, "proposal_generator") else (0.4, 0.5)
    is_best_of_object = ((overlaps == overlaps.amax(dim=0)) & (overlaps > 0)).any(dim=1)
    is_positive, is_negative = (best >= high) | is_best_of_object, (best < low) & ~is_best_of_object
    whole = groups[0]
    assert (len(whole.positive), len(whole.negative)) == (2 * int(is_positive.sum()), 2 * int(is_negative.sum()))
    levels = [item for item in groups if item.name.startswith("anchors ")]
    assert sum(len(item.negative) for item in levels) == len(whole.negative)
    assert sum(len(item.positive) for item in levels) == len(whole.positive)


def test_scores_are_those_of_the_prediction(collected: tuple[Any, Sample, list[ScoreGroup]]) -> None:
    model, sample, groups = collected
    batch = model.collate([sample])
    with torch.no_grad():
        features = model.backbone(batch.pixels)
        if hasattr(model, "proposal_generator"):
            logits, _ = model.proposal_generator(features)
            expected = torch.cat(logits, dim=1)[0].sigmoid()
        else:
            logits, _ = model.head([features[name] for name in model.in_features])[:2]
            expected = torch.cat([level.flatten() for level in logits]).sigmoid()
    found = np.concatenate([groups[0].positive, groups[0].negative])
    assert found.max() <= float(expected.max()) + 1e-6
    assert len(np.unique(found.round(6))) > 50
    assert np.isin(found.round(4), expected.numpy().astype(np.float64).round(4)).mean() > 0.99


def test_regions_are_labelled_at_iou_one_half(collected: tuple[Any, Sample, list[ScoreGroup]]) -> None:
    model, sample, groups = collected
    regions = [item for item in groups if item.name == REGIONS]
    if not hasattr(model, "proposal_generator"):
        assert not regions  # a RetinaNet has no regions
        return
    recording = Recording()
    model.predict([sample], recorder=recording)
    table = recording.values_of_image(0)["class scores"].values
    is_object = iou(table["boxes"], sample.targets.boxes).amax(dim=1) >= 0.5
    best = table["scores"].amax(dim=1).double().numpy()
    np.testing.assert_allclose(np.sort(regions[0].negative), np.sort(np.tile(best[~is_object.numpy()], 2)))
    np.testing.assert_allclose(np.sort(regions[0].positive), np.sort(np.tile(best[is_object.numpy()], 2)))


def test_figure_has_a_plot_per_group(collected: tuple[Any, Sample, list[ScoreGroup]]) -> None:
    groups = collected[2]
    figure = score_figure(groups, title="x")
    titles = [axes.get_title() for axes in figure.axes if axes.axison]
    assert [title.split(",")[0] for title in titles] == [item.name for item in groups]


def test_no_image_is_refused(collected: tuple[Any, Sample, list[ScoreGroup]]) -> None:
    with pytest.raises(UserError, match="no image"):
        collect_scores(collected[0], [])


def test_classifier_is_refused() -> None:
    cfg = load_config(None, [*TINY_LAYERS, "MODEL.META_ARCHITECTURE=Classifier", "MODEL.RESNETS.DEPTH=18"])
    with pytest.raises(UserError, match="neither anchors nor regions"):
        collect_scores(varied_model(cfg), [smooth_sample()])
