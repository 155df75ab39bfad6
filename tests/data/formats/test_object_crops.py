"""Crops of objects and background."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data import load_dataset
from mrcnn_zoo.data.formats.object_crops import crop_objects, find_background, resized, window_of_box
from mrcnn_zoo.data.loading.loader import build_train_loader
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inference.image_inputs import LoadedImage

RED, BLUE = (200, 10, 10), (10, 10, 200)


def squares(*, image_id: int = 1) -> ImageRecord:
    """A black image of 60 x 100 (height x width) with a red square of class 0, a blue one of class 1, and a crowd."""
    pixels = np.zeros((60, 100, 3), dtype=np.uint8)
    pixels[20:40, 10:30], pixels[5:15, 60:80] = RED, BLUE
    instances = (
        InstanceRecord((10, 20, 30, 40), 0, annotation_id=1),
        InstanceRecord((60, 5, 80, 15), 1, annotation_id=2),
        InstanceRecord((50, 30, 100, 60), 1, is_crowd=True, annotation_id=3),
    )
    return ImageRecord(image_id, LoadedImage("squares", pixels), (60, 100), instances)


@pytest.fixture
def dataset() -> Dataset:
    return Dataset("squares", (squares(),), ("red", "blue"), (7, 3))


def test_a_crop_holds_its_object_with_context_around(dataset: Dataset) -> None:
    crops = crop_objects(dataset, "crops", size=24, context=0.1, num_background=0)
    assert crops.class_names == ("red", "blue")
    assert crops.category_ids == (7, 3)
    red, blue = crops.records  # the crowd has none
    assert red.source.name == "squares [8, 18, 32, 42]"  # 20 pixels and two on each side
    expected = np.zeros((24, 24, 3), dtype=np.uint8)
    expected[2:22, 2:22] = RED
    assert (red.source.read() == expected).all()
    (item,) = red.instances
    assert (item.box, item.class_index, item.annotation_id) == ((0, 0, 24, 24), 0, 1)
    assert blue.source.name == "squares [58, 0, 82, 24]"  # moved into the image
    assert (blue.source.read()[5:15, 2:22] == BLUE).all()


def test_a_window_is_never_larger_than_the_image() -> None:
    assert window_of_box((0, 0, 100, 60), (60, 100), context=0.1) == (20, 0, 80, 60)
    assert window_of_box((90, 50, 100, 60), (60, 100), context=0.5) == (80, 40, 100, 60)
    assert window_of_box((5.4, 5.4, 5.4, 5.4), (60, 100), context=0.1) == (5, 5, 6, 6)


def test_an_image_of_another_size_than_annotated_is_refused(dataset: Dataset) -> None:
    smaller = replace(squares(), source=LoadedImage("small", np.zeros((30, 50, 3), dtype=np.uint8)))
    crops = crop_objects(replace(dataset, records=(smaller,)), "crops", num_background=0)
    with pytest.raises(UserError, match=r"small is 50 x 30 pixels .* where its annotations have 100 x 60"):
        crops.records[0].source.read()


def test_resizing_averages_and_keeps_the_depth() -> None:
    pixels = np.full((8, 8, 1), 1000, dtype=np.uint16)
    pixels[:, 4:] = 60000
    small = resized(pixels, 2)
    assert small.dtype == np.uint16
    assert abs(int(small.mean()) - 30500) <= 1
    assert (resized(pixels, 8) == pixels).all()


def test_background_crops_avoid_objects_and_crowds() -> None:
    records = [squares(), replace(squares(), instances=())]
    sides = np.array([10, 24])
    found = find_background(records, sides, 40, max_overlap=0.0, rng=np.random.default_rng(0))
    assert len(found) == 40
    assert {row for row, _ in found} == {0, 1}
    for row, (x1, y1, x2, y2) in found:
        assert x2 - x1 == y2 - y1
        assert x2 - x1 in sides
        assert min(x1, y1) >= 0
        assert x2 <= 100
        assert y2 <= 60
        boxes = [item.box for item in records[row].instances]
        assert all(x2 <= left or right <= x1 or y2 <= top or bottom <= y1 for left, top, right, bottom in boxes)


def test_a_small_object_in_a_large_window_is_no_background() -> None:
    # The IoU of the object with the whole image is 0.01.
    record = replace(squares(), image_size=(60, 60), instances=(InstanceRecord((27, 27, 33, 33), 0),))
    assert not find_background([record], np.array([60]), 5, max_overlap=0.1, rng=np.random.default_rng(0))


def test_as_many_crops_of_background_as_of_a_class_on_average(cfg: CfgNode) -> None:
    cfg.DATASETS.DEFINITIONS = CfgNode(
        {
            "scenes": {"FORMAT": "shapes", "NUM_IMAGES": 6},
            "crops": {"FORMAT": "object_crops", "DATASET": "scenes"},
        }
    )
    scenes, crops = load_dataset(cfg, "scenes"), load_dataset(cfg, "crops")
    num_objects = sum(len(record.instances) for record in scenes.records)
    num_classes = len({item.class_index for record in scenes.records for item in record.instances})
    counts = [len(record.instances) for record in crops.records]
    assert crops.class_names == scenes.class_names
    assert counts.count(1) == num_objects
    assert counts.count(0) == round(num_objects / num_classes)
    assert {record.image_size for record in crops.records} == {(64, 64)}
    again = load_dataset(cfg, "crops")
    assert [record.source for record in again.records] == [record.source for record in crops.records]
    copy = pickle.loads(pickle.dumps(crops.records[0].source))
    assert (copy.read() == crops.records[0].source.read()).all()


def test_limits_of_size_and_number(dataset: Dataset) -> None:
    many = replace(dataset, records=tuple(squares(image_id=number) for number in range(5)))
    crops = crop_objects(many, "crops", max_per_class=3, num_background=0)
    classes = [record.instances[0].class_index for record in crops.records]
    assert sorted(classes) == [0, 0, 0, 1, 1, 1]
    with pytest.raises(UserError, match="none of the 10 objects of 'squares' has a side of MIN_SIZE = 21 pixels"):
        crop_objects(many, "crops", min_size=21)


def test_too_little_background_is_noted(dataset: Dataset) -> None:
    full = replace(squares(), instances=(InstanceRecord((0, 0, 100, 60), 0),))
    crops = crop_objects(replace(dataset, records=(full,)), "crops", num_background=4)
    assert "4 crops of 4 without object not found" in crops.notes[0]


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ({}, "needs the field DATASET"),
        ({"DATASET": "crops"}, "holds crops; name a detection dataset"),
        ({"DATASET": "digits_vall"}, "Did you mean 'digits_val'"),
        ({"DATASET": "digits_val", "SIZE": 4}, "SIZE = 4 must be a whole number of pixels from 8 to 4096"),
        ({"DATASET": "digits_val", "MAX_IOU": 0.1}, "has no field 'MAX_IOU'"),
        ({"DATASET": "none"}, "has no objects to crop"),
    ],
)
def test_faulty_definitions_are_refused(cfg: CfgNode, definition: dict[str, object], message: str) -> None:
    cfg.DATASETS.DEFINITIONS = CfgNode(
        {
            "none": {"FORMAT": "shapes", "NUM_IMAGES": 0},
            "crops": {"FORMAT": "object_crops", **definition},
        }
    )
    with pytest.raises(UserError, match=message):
        load_dataset(cfg, "crops")


def test_training_batches_have_as_many_images_of_each_class_and_of_none(cfg: CfgNode, dataset: Dataset) -> None:
    # Nine red squares, one blue one, five crops of background.
    only_red = replace(squares(), instances=squares().instances[:1])
    records = (*(replace(only_red, image_id=number) for number in range(8)), squares(image_id=9))
    crops = crop_objects(replace(dataset, records=records), "crops", size=16)
    assert len(crops) == 15
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.MASK_ON = "Classifier", False
    cfg.DATALOADER.SAMPLER_TRAIN, cfg.SOLVER.IMS_PER_BATCH = "ClassBalancedTrainingSampler", 15
    batch = next(iter(build_train_loader(cfg, [crops])))
    classes = [sample.targets.classes.tolist() for sample in batch if sample.targets is not None]
    assert {str(drawn): classes.count(drawn) for drawn in ([0], [1], [])} == {"[0]": 5, "[1]": 5, "[]": 5}


def test_a_classifier_refuses_images_of_several_objects(cfg: CfgNode, dataset: Dataset) -> None:
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.MASK_ON = "Classifier", False
    with pytest.raises(UserError, match=r"squares has 2 objects, and a Classifier .*'squares_crops': .*object_crops"):
        build_train_loader(cfg, [dataset])
