"""Ground truth in COCO's format, and as detections."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from mrcnn_zoo.data.masks import segmentation_rle
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.evaluation.ground_truth import RleMasks, coco_ground_truth, ground_truth_detections

POLYGON = [[1.0, 1.0, 3.0, 1.0, 3.0, 4.0, 1.0, 4.0]]
# The same 2 x 3 pixels in 5 x 5: column 0 is empty, columns 1 and 2 are set in rows 1 to 3, the rest is empty.
RUNS = {"size": [5, 5], "counts": [6, 3, 2, 3, 11]}


def test_polygons_and_both_run_length_encodings_give_the_same_mask() -> None:
    expected = np.zeros((5, 5), dtype=np.uint8)
    expected[1:4, 1:3] = 1
    for segmentation in (POLYGON, RUNS, segmentation_rle(RUNS, (5, 5))):
        rle = segmentation_rle(segmentation, (5, 5))
        assert isinstance(rle["counts"], str)
        np.testing.assert_array_equal(RleMasks([rle], (5, 5)).bitmaps()[0], expected)
        assert coco_mask.toBbox(rle).tolist() == [1, 1, 2, 3]


def test_rle_masks_are_resized() -> None:
    # 2 x 3 pixels at (1, 1), in an image of twice the height and three times the width.
    resized = RleMasks([segmentation_rle(RUNS, (5, 5))], (5, 5)).resized((10, 15), torch.zeros(1, 4))
    expected = np.zeros((10, 15), dtype=np.uint8)
    expected[2:8, 3:9] = 1
    assert (resized.image_size, len(resized)) == ((10, 15), 1)
    np.testing.assert_array_equal(coco_mask.decode(resized.rles()[0]), expected)


def test_annotations_have_ids_from_1_and_original_category_ids(square, dataset_of) -> None:
    dataset = dataset_of((square(0, 0, 10, 0), square(20, 0, 10, 1)), (), (square(0, 0, 10, 1),))
    annotations = coco_ground_truth(dataset, "bbox")["annotations"]
    assert [a["id"] for a in annotations] == [1, 2, 3]
    assert [a["image_id"] for a in annotations] == [10, 10, 30]
    assert [a["category_id"] for a in annotations] == [14, 7, 7]
    assert annotations[1]["bbox"] == [20, 0, 10, 10]


def test_area_is_that_of_the_record_or_of_the_mask_or_of_the_box(square, dataset_of) -> None:
    given = replace(square(0, 0, 10), area=33.0)
    triangle = replace(square(0, 0, 10), segmentation=[[0, 0, 10, 0, 0, 10]])
    box_only = replace(square(0, 0, 10), segmentation=None)
    areas = [a["area"] for a in coco_ground_truth(dataset_of((given, triangle, box_only)), "bbox")["annotations"]]
    assert areas[0] == 33
    assert areas[1] == pytest.approx(50, abs=6)
    assert areas[2] == 100


def test_object_without_mask_is_a_crowd_for_segm_only(square, dataset_of) -> None:
    dataset = dataset_of((replace(square(5, 5, 10), segmentation=None), square(30, 30, 10)))
    assert [a["iscrowd"] for a in coco_ground_truth(dataset, "bbox")["annotations"]] == [0, 0]
    masks = coco_ground_truth(dataset, "segm")["annotations"]
    assert [a["iscrowd"] for a in masks] == [1, 0]
    assert coco_mask.area(masks[0]["segmentation"]) == 100


def test_ground_truth_detections_exclude_crowds(square, dataset_of) -> None:
    (found,) = ground_truth_detections(dataset_of((square(0, 0, 10, 1), square(50, 50, 40, is_crowd=True))))
    assert found.boxes.tolist() == [[0, 0, 10, 10]]
    assert found.classes.tolist() == [1]
    assert found.scores.tolist() == [1]
    assert found.masks is not None
    assert found.masks.bitmaps().sum() == 100


def test_ground_truth_detections_without_objects_are_empty(square, dataset_of) -> None:
    found = ground_truth_detections(dataset_of((), (square(0, 0, 10),)))[0]
    assert len(found) == 0
    assert found.masks is not None
    assert found.masks.bitmaps().shape == (0, 100, 100)


def test_ground_truth_detections_have_no_masks_if_the_dataset_has_none(square, dataset_of) -> None:
    (found,) = ground_truth_detections(dataset_of((replace(square(0, 0, 10), segmentation=None),)))
    assert found.masks is None


def test_ground_truth_detections_of_an_empty_dataset_are_empty() -> None:
    assert ground_truth_detections(Dataset("empty", (), ("cat",), (1,))) == []


def test_rle_masks_are_indexed_by_rows_flags_and_slices() -> None:
    encodings = [segmentation_rle([[x, 0, x + 1, 0, x + 1, 1, x, 1]], (4, 4)) for x in (0.0, 1.0, 2.0)]
    masks = RleMasks(encodings, (4, 4))
    assert masks[torch.tensor([2, 0])].rles() == [encodings[2], encodings[0]]
    assert masks[torch.tensor([False, True, False])].rles() == [encodings[1]]
    assert masks[1:].rles() == encodings[1:]
    assert masks.bitmaps().nonzero().tolist() == [[0, 0, 0], [1, 0, 1], [2, 0, 2]]
