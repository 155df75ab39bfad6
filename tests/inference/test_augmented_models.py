"""Test-time augmentation of detectors built from configs."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from mrcnn_zoo.config import CfgNode, changed_config, load_config
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inference import build_augmented_detector
from mrcnn_zoo.inference.tta import build_augmentation_notes
from mrcnn_zoo.modeling.roi_heads.branch import RegionBranch
from mrcnn_zoo.modeling.suppression import GreedySuppression, Suppression
from mrcnn_zoo.structures import Detections, Sample, Targets
from support.scenes import smooth_sample
from support.small_models import CONFIGS, TINY_RESNET_18, varied_model

TINY = (
    *TINY_RESNET_18,
    *("MODEL.PIXEL_STD", [60.0, 60.0, 60.0], "MODEL.FPN.OUT_CHANNELS", 256, "MODEL.ROI_BOX_HEAD.FC_DIM", 16),
    *("MODEL.ROI_HEADS.NUM_CLASSES", 2, "MODEL.RPN.POST_NMS_TOPK_TEST", 30, "TEST.DETECTIONS_PER_IMAGE", 15),
    *("TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", [0], "DATALOADER.NUM_WORKERS", 0, "VIS.NUM_IMAGES", 0),
    *("VIS.PLOTS", False, "VIS.REPORT", False),
)
FPN = ("MODEL.FPN.OUT_CHANNELS", 8)
KEYPOINTS = (
    *("MODEL.KEYPOINT_ON", True),
    *("MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 3),
    *("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [8]),
)
MODELS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "mask": ("Base-RCNN-FPN", (*FPN, "MODEL.MASK_ON", True)),
    "C4": ("Base-RCNN-C4", ("MODEL.MASK_ON", True)),
    "cascade": ("Misc/cascade_mask_rcnn_R_50_FPN_1x", FPN),
    "keypoints": ("Base-RCNN-FPN", (*FPN, *KEYPOINTS)),
    "retinanet": ("Base-RetinaNet", (*FPN, "MODEL.RETINANET.NUM_CLASSES", 2)),
    "proposals": ("COCO-Detection/rpn_R_50_FPN_1x", FPN),
}


def config(name: str, *overrides: Any) -> CfgNode:
    base, settings = MODELS[name]
    scores = ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "MODEL.RETINANET.SCORE_THRESH_TEST", 0.0)
    return load_config(CONFIGS / f"{base}.yaml", [*TINY, *settings, *scores, *overrides])


@pytest.fixture(scope="module", params=MODELS)
def built(request: pytest.FixtureRequest) -> tuple[CfgNode, nn.Module]:
    cfg = config(request.param)
    return cfg, varied_model(cfg)


def test_one_view_gives_the_predictions_of_the_detector(built: tuple[CfgNode, nn.Module]) -> None:
    _, model = built
    cfg = changed_config(built[0], {"TEST.AUG.FLIP": False})
    detector = build_augmented_detector(cfg, model)
    (plain,) = model.predict([smooth_sample()])
    # RetinaNet suppresses boxes before clipping, and an RPN suppresses per level.
    plain = plain[detector.suppression(plain.boxes, plain.scores, plain.classes)[0]]
    (table,) = detector.predict([smooth_sample()])
    assert 5 < len(table) == len(plain)
    assert torch.equal(table.classes, plain.classes)
    torch.testing.assert_close(table.scores, plain.scores)
    torch.testing.assert_close(table.boxes, plain.boxes)
    assert (table.masks is None, table.keypoints is None) == (plain.masks is None, plain.keypoints is None)
    if plain.masks is not None:
        assert torch.equal(table.masks.bitmaps(), plain.masks.bitmaps())
    if plain.keypoints is not None:
        torch.testing.assert_close(table.keypoints, plain.keypoints)


def test_all_orientations_make_predictions_equivariant_to_rotation(built: tuple[CfgNode, nn.Module]) -> None:
    cfg, model = built
    cfg = changed_config(cfg, {"TEST.AUG.FLIP_VERTICAL": True, "TEST.AUG.ROTATE": True})
    detector = build_augmented_detector(cfg, model)
    sample = smooth_sample()
    (upright,) = detector.predict([sample])
    turned_sample = Sample(torch.rot90(sample.image, 1, (1, 2)).contiguous(), image_id=2, original_size=(96, 64))
    (turned,) = detector.predict([turned_sample])
    x1, y1, x2, y2 = upright.boxes.unbind(1)
    torch.testing.assert_close(turned.scores, upright.scores)
    torch.testing.assert_close(turned.boxes, torch.stack((y1, 96 - x2, y2, 96 - x1), dim=1), atol=1e-3, rtol=1e-4)
    if upright.masks is not None:
        probabilities = torch.rot90(upright.masks.probabilities, 1, (1, 2))
        torch.testing.assert_close(turned.masks.probabilities, probabilities, atol=1e-4, rtol=0)


class PositionScore(RegionBranch):
    """Multiplies the score of each box by 1 - x1 / width of the view."""

    corrects_scores = True

    def predict(self, features: Any, detections: list[Detections]) -> list[Detections]:  # noqa: ARG002
        shares = [1 - table.boxes[:, 0] / table.image_size[1] for table in detections]
        return [
            replace(table, scores=table.scores * share, mask_scores=table.scores * share / 2)
            for table, share in zip(detections, shares, strict=True)
        ]


def test_corrected_scores_are_averaged_over_the_views() -> None:
    cfg = config("mask")
    plain = varied_model(cfg)
    (before,) = build_augmented_detector(cfg, plain).predict([smooth_sample()])
    plain.roi_heads.add_branches({"mask_head": plain.roi_heads.mask_head, "position_score": PositionScore()})
    (table,) = build_augmented_detector(cfg, plain).predict([smooth_sample()])
    left, right = before.boxes[:, 0] / 96, 1 - before.boxes[:, 2] / 96  # of the image and of its mirror image
    scores, order = (before.scores * (1 - (left + right) / 2)).sort(descending=True, stable=True)
    torch.testing.assert_close(table.scores, scores)
    torch.testing.assert_close(table.mask_scores, scores / 2)
    torch.testing.assert_close(table.boxes, before.boxes[order])
    assert torch.equal(table.masks.bitmaps(), before.masks.bitmaps()[order])


def test_ground_truth_proposals_are_mapped_to_each_view() -> None:
    cfg = config("mask", "MODEL.PROPOSAL_GENERATOR.NAME", "GroundTruthProposals")
    detector = build_augmented_detector(cfg, varied_model(cfg))
    assert detector.needs_targets
    targets = Targets((64, 96), torch.tensor([[10.0, 20, 70, 50]]), torch.tensor([0]))
    (table,) = detector.predict([replace(smooth_sample(), targets=targets)])
    assert len(table)
    with pytest.raises(UserError, match="needs annotated images"):
        detector.predict([smooth_sample()])


def test_one_view_gives_the_masks_of_the_detector_in_given_boxes() -> None:
    cfg = config("mask")
    model = varied_model(cfg)
    sample = replace(smooth_sample(), original_size=(128, 192))
    boxes = [torch.tensor([[100.0, 20, 180, 90], [0, 0, 30, 128]])]
    (expected,) = model.predict_in_boxes([sample], boxes)
    unflipped = changed_config(cfg, {"TEST.AUG.FLIP": False})
    (table,) = build_augmented_detector(unflipped, model).predict_in_boxes([sample], boxes)
    torch.testing.assert_close(table.scores, expected.scores)
    assert torch.equal(table.classes, expected.classes)
    assert torch.equal(table.masks.bitmaps(), expected.masks.bitmaps())


def test_keypoints_of_mirrored_views_need_the_flip_pairs_of_the_dataset() -> None:
    cfg = config("keypoints")
    names = ("nose", "left eye", "right eye")
    sides = Dataset("faces", (), ("face",), (1,), keypoint_names=names, keypoint_flip_pairs=((1, 2),))
    assert build_augmented_detector(cfg, nn.Identity(), sides).flip_pairs == ((1, 2),)
    assert build_augmentation_notes(cfg, sides) == []
    assert build_augmented_detector(cfg, nn.Identity()).flip_pairs is None
    (note,) = build_augmentation_notes(cfg)
    assert "DATASETS.KEYPOINT_FLIP_PAIRS" in note
    assert build_augmentation_notes(changed_config(cfg, {"TEST.AUG.FLIP": False})) == []
    assert build_augmentation_notes(changed_config(cfg, {"TEST.AUG.ENABLED": False})) == []


class WithWeights(GreedySuppression):
    def __init__(self) -> None:
        super().__init__(0.1)
        self.weight = nn.Parameter(torch.zeros(1))


class OfFeatures(Suppression):
    def suppress(self, candidates: Any) -> Any: ...


@pytest.mark.parametrize("suppression", [WithWeights, OfFeatures])
def test_a_suppression_that_needs_features_or_weights_is_replaced_by_the_greedy_one(
    suppression: type[Suppression], monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = config("mask")
    assert build_augmentation_notes(cfg) == []
    monkeypatch.setattr("mrcnn_zoo.inference.tta.build_suppression", lambda *_, **__: suppression())
    (note,) = build_augmentation_notes(cfg)
    assert "greedy (MODEL.ROI_HEADS.SUPPRESSION) needs" in note
    merging = build_augmented_detector(cfg, nn.Identity()).suppression
    assert type(merging) is GreedySuppression
    assert merging.iou_threshold == 0.5
