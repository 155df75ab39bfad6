"""Merging of views in test-time augmentation, and in the evaluation."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation import evaluate
from mrcnn_zoo.evaluation.class_mapping import ClassMappedDetector
from mrcnn_zoo.evaluation.evaluator import build_prediction_loader, build_test_detector
from mrcnn_zoo.inference import AugmentedDetector, AugmentedViews, build_augmented_detector
from mrcnn_zoo.inference.views import Orientation, all_orientations
from mrcnn_zoo.modeling.suppression import GreedySuppression
from mrcnn_zoo.structures import BoxedBitmaps, Detections, ProbabilityMasks, Sample
from support.scenes import smooth_sample

UPRIGHT = (Orientation(),)
ALL = all_orientations(mirrors=True, mirrors_vertically=True, turns=True)


class Scripted(nn.Module):
    """Returns the given rows x1, y1, x2, y2, score, class, one list per view."""

    def __init__(self, *found: list[tuple[float, ...]]) -> None:
        super().__init__()
        self.found = list(found)
        self.sizes: list[list[tuple[int, int]]] = []

    def predict(self, samples: list[Sample]) -> list[Detections]:
        self.sizes.append([sample.image_size for sample in samples])
        tables = [torch.tensor(self.found.pop(0)).reshape(-1, 6) for _ in samples]
        return [
            Detections(sample.image_size, rows[:, :4], scores=rows[:, 4], classes=rows[:, 5].long())
            for sample, rows in zip(samples, tables, strict=True)
        ]


def augmented(detector: nn.Module, *, lengths: tuple[int, ...] = (0,), orientations: Any = UPRIGHT, **options: Any):
    return AugmentedDetector(
        detector,
        views=AugmentedViews(lengths, max_size=1000, orientations=orientations),
        suppression=GreedySuppression(0.5),
        max_detections=options.pop("max_detections", 100),
        **options,
    )


def test_boxes_of_all_views_are_suppressed_per_class() -> None:
    detector = Scripted(
        [(10, 10, 30, 30, 0.6, 0), (10, 10, 30, 30, 0.5, 1)],  # the unchanged image, 96 wide
        [(24, 20, 64, 60, 0.9, 0), (100, 0, 190, 20, 0.3, 0)],  # twice as large: (12, 10, 32, 30)
    )
    (table,) = augmented(detector, lengths=(0, 128)).predict([smooth_sample()])
    assert table.boxes.tolist() == [[12, 10, 32, 30], [10, 10, 30, 30], [50, 0, 95, 10]]
    assert table.scores.tolist() == pytest.approx([0.9, 0.5, 0.3])
    assert table.classes.tolist() == [0, 1, 0]
    assert (table.masks, table.keypoints, table.image_size) == (None, None, (64, 96))


def test_boxes_are_clipped_and_empty_ones_and_those_beyond_the_limit_removed() -> None:
    rows = [(90, 10, 120, 30, 0.9, 0), (100, 0, 110, 20, 0.8, 0), (0, 0, 9, 9, 0.7, 0), (40, 0, 49, 9, 0.6, 0)]
    (table,) = augmented(Scripted(rows), max_detections=2).predict([smooth_sample()])
    assert table.boxes.tolist() == [[90, 10, 96, 30], [0, 0, 9, 9]]
    (table,) = augmented(Scripted(rows), max_detections=-1).predict([smooth_sample()])
    assert len(table) == 3


def test_views_of_an_image_are_batched() -> None:
    detector = Scripted(*[[] for _ in range(6)])
    augmented(detector, lengths=(0, 32, 128), orientations=ALL[:2], batch_size=4).predict([smooth_sample()])
    assert detector.sizes == [[(64, 96), (64, 96), (32, 48), (32, 48)], [(128, 192), (128, 192)]]


class Painted(nn.Module):
    """Detects the rectangle of nonzero channel 0; its mask is channel 2, its keypoints are left and right."""

    def __init__(self, mask_type: Callable[..., Any] = ProbabilityMasks) -> None:
        super().__init__()
        self.mask_type = mask_type

    def predict(self, samples: list[Sample]) -> list[Detections]:
        boxes = []
        for sample in samples:
            rows, columns = (sample.image[0] > 0).nonzero().unbind(1)
            low, high = (columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)
            boxes.append(torch.stack((*low, *high))[None].float())
        return self.predict_in_boxes(samples, boxes)

    def predict_in_boxes(
        self, samples: list[Sample], boxes: list[Tensor], classes: list[Tensor] | None = None
    ) -> list[Detections]:
        classes = [torch.zeros(1, dtype=torch.int64) for _ in samples] if classes is None else classes
        return [self._detect(*columns) for columns in zip(samples, boxes, classes, strict=True)]

    def _detect(self, sample: Sample, boxes: Tensor, classes: Tensor) -> Detections:
        ((x1, y1, x2, y2),) = boxes.round().long().tolist()
        crop = sample.image[2, y1:y2, x1:x2].float() / 255
        grid = nn.functional.interpolate(crop[None, None], (4, 4), mode="nearest")[0]
        ends = torch.tensor([[[x1 + 1.0, y1 + 1.0, 0.5], [x2 - 1.0, y1 + 1.0, 0.5]]])
        masks = self.mask_type(grid, boxes, sample.image_size)
        return Detections(
            sample.image_size, boxes, scores=torch.ones(len(boxes)), classes=classes, masks=masks, keypoints=ends
        )


def painted_sample() -> Sample:
    image = torch.zeros((3, 32, 48), dtype=torch.uint8)
    image[0, 8:16, 20:40] = 255
    image[2, 8:10, 20:25] = 255  # a corner only, so that the mask differs in each orientation
    image[2, 10:12, 20:25] = 128
    return Sample(image, image_id=0, original_size=(32, 48))


def test_masks_of_all_orientations_coincide() -> None:
    (alone,) = augmented(Painted()).predict([painted_sample()])
    (table,) = augmented(Painted(), orientations=ALL, flip_pairs=()).predict([painted_sample()])
    assert len(table) == 1
    assert isinstance(table.masks, ProbabilityMasks)
    assert isinstance(alone.masks, ProbabilityMasks)
    assert alone.masks.probabilities[0, :2, :2].tolist() == [[1, 0], [pytest.approx(128 / 255), 0]]
    torch.testing.assert_close(table.masks.probabilities, alone.masks.probabilities)
    assert table.masks.boxes.tolist() == [[20, 8, 40, 16]]


def test_mask_probabilities_are_averaged() -> None:
    class TwoProbabilities(Painted):
        def predict_in_boxes(self, samples: list[Sample], *columns: Any) -> list[Detections]:
            tables = super().predict_in_boxes(samples, *columns)
            return [
                replace(table, masks=replace(table.masks, probabilities=value(sample)))
                for table, sample in zip(tables, samples, strict=True)
            ]

    def value(sample: Sample) -> Tensor:
        return torch.full((1, 4, 4), 0.9 if sample.image_size == (32, 48) else 0.2)

    (table,) = augmented(TwoProbabilities(), lengths=(0, 64)).predict([painted_sample()])
    assert table.masks.probabilities.unique().tolist() == [pytest.approx(0.55)]


MIRRORS = all_orientations(mirrors=True, mirrors_vertically=False, turns=False)


def test_left_and_right_keypoints_of_mirrored_views_are_exchanged() -> None:
    (table,) = augmented(Painted(), orientations=MIRRORS, flip_pairs=((0, 1),)).predict([painted_sample()])
    assert table.keypoints is not None
    assert table.keypoints.tolist() == [[pytest.approx([21, 9, 0.5]), pytest.approx([39, 9, 0.5])]]


def test_mirrored_views_are_not_used_for_keypoints_without_flip_pairs() -> None:
    (table,) = augmented(Painted(), orientations=MIRRORS, flip_pairs=None).predict([painted_sample()])
    assert table.keypoints is not None
    assert table.keypoints.tolist() == [[pytest.approx([21, 9, 0.5]), pytest.approx([39, 9, 0.5])]]
    (mixed,) = augmented(Painted(), orientations=MIRRORS, flip_pairs=()).predict([painted_sample()])
    assert mixed.keypoints is not None
    assert mixed.keypoints[0, :, 0].tolist() == [30, 30]  # without exchanging left and right


def test_positions_of_keypoints_are_weighted_by_their_scores() -> None:
    class TwoPositions(Painted):
        def predict_in_boxes(self, samples: list[Sample], *columns: Any) -> list[Detections]:
            (table,) = super().predict_in_boxes(samples, *columns)
            scale = samples[0].image_size[0] / 32
            x, score = (24 * scale, 0.9) if scale == 1 else (28 * scale, 0.3)
            return [replace(table, keypoints=torch.tensor([[[x, 10 * scale, score]]]))]

    (table,) = augmented(TwoPositions(), lengths=(0, 64)).predict([painted_sample()])
    assert table.keypoints is not None
    assert table.keypoints.tolist() == [[pytest.approx([25, 10, 0.6])]]


def test_masks_in_given_boxes_are_averaged() -> None:
    boxes = torch.tensor([[20.0, 8, 40, 16]])
    detector = augmented(Painted(), orientations=ALL, flip_pairs=((0, 1),))
    (expected,) = detector.predict([painted_sample()])
    for classes in (None, [torch.tensor([0])]):
        (table,) = detector.predict_in_boxes([painted_sample()], [boxes], classes)
        assert table.boxes.tolist() == boxes.tolist()
        torch.testing.assert_close(table.masks.probabilities, expected.masks.probabilities)
        assert table.scores.tolist() == [1]
        assert table.classes.tolist() == [0]
    with pytest.raises(UserError, match="Scripted cannot predict masks or keypoints in given boxes"):
        augmented(Scripted()).predict_in_boxes([painted_sample()], [boxes])


def test_masks_and_detectors_that_cannot_be_merged_are_refused() -> None:
    def full_masks(_grid: Tensor, _boxes: Tensor, size: tuple[int, int]) -> BoxedBitmaps:
        return BoxedBitmaps.from_full(torch.ones(1, *size))

    with pytest.raises(UserError, match=r"TEST\.AUG\.ENABLED is True, but masks of BoxedBitmaps cannot be averaged"):
        augmented(Painted(full_masks)).predict([painted_sample()])

    model = Painted()
    alone = nn.Module()
    alone.predict = model.predict  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"Module cannot predict masks .* no `predict_in_boxes"):
        augmented(alone).predict([painted_sample()])


def test_augmentation_is_off_by_default() -> None:
    model = nn.Linear(1, 1)
    assert build_augmented_detector(load_config(None), model) is model


class Image:
    name = "stripes"

    def read(self) -> np.ndarray:
        return np.tile(np.arange(0, 90, dtype=np.uint8)[:, None, None], (1, 60, 3))


@pytest.fixture
def dataset() -> Dataset:
    instance = InstanceRecord(box=(10.0, 20.0, 40.0, 60.0), class_index=0)
    record = ImageRecord(image_id=1, source=Image(), image_size=(90, 60), instances=(instance,))
    return Dataset(name="stripes", records=(record,), class_names=("cat",), category_ids=(1,))


def boxes_only(*overrides: Any) -> CfgNode:
    settings = ("MODEL.MASK_ON", False, "TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", [0, 30], "MODEL.DEVICE", "cpu")
    return load_config(None, [*settings, "DATALOADER.NUM_WORKERS", 0, *overrides])


def test_evaluation_makes_views_of_the_image_file(dataset: Dataset) -> None:
    whole, half = (10, 20, 40, 60, 0.5, 0), (5, 10, 20, 30, 0.6, 0)
    mirrored = (20, 20, 50, 60, 0.4, 0)
    detector = Scripted([whole], [mirrored], [half], [(0, 0, 3, 3, 0.1, 0)])
    results = evaluate(detector, dataset, boxes_only())
    assert detector.sizes == [[(90, 60)], [(90, 60)], [(45, 30)], [(45, 30)]]
    assert results["bbox"]["AP"] == pytest.approx(100)


def test_classes_are_mapped_after_merging(dataset: Dataset) -> None:
    detector = Scripted([(10, 20, 40, 60, 0.5, 1), (0, 0, 5, 5, 0.9, 0)])
    cfg = boxes_only("TEST.AUG.MIN_SIZES", [0], "TEST.AUG.FLIP", False, "MODEL.ROI_HEADS.NUM_CLASSES", 2)
    results = evaluate(ClassMappedDetector(detector, torch.tensor([-1, 0])), dataset, cfg)
    assert results["bbox"]["AP"] == pytest.approx(100)


def test_only_augmented_detectors_get_images_of_the_size_of_the_file(dataset: Dataset) -> None:
    model = Scripted()
    cfg = boxes_only("INPUT.MIN_SIZE_TEST", 32)
    assert next(iter(build_prediction_loader(cfg, dataset, model)))[0].image_size == (48, 32)
    detector = build_test_detector(cfg, model, dataset)
    assert next(iter(build_prediction_loader(cfg, dataset, detector)))[0].image_size == (90, 60)
