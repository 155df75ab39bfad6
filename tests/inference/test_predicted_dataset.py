from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mrcnn_zoo.config import load_config
from mrcnn_zoo.data import build_eval_mapper
from mrcnn_zoo.data.annotations.folders import write_dataset
from mrcnn_zoo.data.catalog import load_dataset
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.inference.image_detector import ImageDetector
from mrcnn_zoo.inference.image_files import predict_dataset
from mrcnn_zoo.inference.image_inputs import find_images
from mrcnn_zoo.ops import rle
from mrcnn_zoo.registries import ANNOTATION_FORMATS
from mrcnn_zoo.structures import Detections, ProbabilityMasks, Sample

NAMES = ("cat", "dog")


class ThreeBoxes(nn.Module):
    """Detects a cat with score 0.875, a dog with 0.75 and an empty mask with 0.625 in each image."""

    def predict(self, samples: list[Sample]) -> list[Detections]:
        boxes = torch.tensor([[2.0, 4.0, 12.0, 24.0], [20.0, 4.0, 30.0, 14.0], [5.0, 5.0, 9.0, 9.0]])
        probabilities = torch.ones(3, 4, 4)
        probabilities[2] = 0
        return [
            Detections(
                image_size=sample.original_size,
                boxes=boxes,
                scores=torch.tensor([0.875, 0.75, 0.625]),
                classes=torch.tensor([0, 1, 1]),
                masks=ProbabilityMasks(probabilities, boxes, sample.original_size),
            )
            for sample in samples
        ]


@pytest.fixture
def predicted(tmp_path: Path) -> Dataset:
    for name in ("a", "b"):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(np.zeros((40, 50, 3), dtype=np.uint8)).save(tmp_path / "in" / f"{name}.png")
    (tmp_path / "in" / "c.png").write_bytes(b"no image")
    mapper = build_eval_mapper(load_config(None, ["INPUT.MIN_SIZE_TEST", 32]))
    found = find_images([tmp_path / "in"])
    detector = ImageDetector(ThreeBoxes(), mapper, NAMES, category_ids=(1, 2))
    dataset, result = predict_dataset(detector, found, score_threshold=0.5)
    assert len(result.failures) == 1
    assert result.num_objects == 4
    return dataset


def test_objects_have_masks_scores_and_classes(predicted: Dataset, tmp_path: Path) -> None:
    first, second = predicted.records
    assert [record.source.name for record in (first, second)] == [str(tmp_path / "in" / f"{n}.png") for n in "ab"]
    assert first.image_size == (40, 50)
    assert [(item.class_index, item.score) for item in first.instances] == [(0, 0.875), (1, 0.75)]
    assert [item.annotation_id for record in predicted.records for item in record.instances] == [1, 2, 3, 4]
    assert rle.area(first.instances[1].segmentation) == 96  # 10 x 10; pasted masks have round corners
    assert first.instances[1].box == (20, 4, 30, 14)


def test_objects_with_empty_masks_are_left_out_and_counted(predicted: Dataset, tmp_path: Path) -> None:
    place = tmp_path / "in" / "a.png"
    assert predicted.notes == (f"objects without a pixel in their mask left out: 2 (first: image {place})",)


@pytest.mark.parametrize("name", sorted(ANNOTATION_FORMATS.names()))
def test_every_format_reads_the_written_predictions(name: str, predicted: Dataset, tmp_path: Path) -> None:
    kind = ANNOTATION_FORMATS.get(name)()
    write_dataset({"": predicted}, tmp_path / "out", kind, copies_images=not kind.finds_images_elsewhere)
    again = load_dataset(load_config(None, ["MODEL.MASK_ON", True]), str(tmp_path / "out"))
    assert set(again.class_names) == set(NAMES)
    found = sorted((again.class_names[item.class_index], item.box) for r in again.records for item in r.instances)
    boxes = [(name, pytest.approx(box)) for name, box in (("cat", (2, 4, 12, 24)), ("dog", (20, 4, 30, 14)))]
    assert found == [boxes[0], boxes[0], boxes[1], boxes[1]]
