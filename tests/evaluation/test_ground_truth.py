"""Records in COCO's form, and the detections of a perfect model."""

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


def test_polygons_and_both_forms_of_run_lengths_give_the_same_mask() -> None:
    expected = np.zeros((5, 5), dtype=np.uint8)
    expected[1:4, 1:3] = 1
    for segmentation in (POLYGON, RUNS, segmentation_rle(RUNS, (5, 5))):
        rle = segmentation_rle(segmentation, (5, 5))
        assert isinstance(rle["counts"], str)
        np.testing.assert_array_equal(RleMasks([rle], (5, 5)).bitmaps()[0], expected)
        assert coco_mask.toBbox(rle).tolist() == [1, 1, 2, 3]


def test_run_lengths_move_to_an_image_of_another_size() -> None:
    # 2 x 3 pixels from (1, 1) on, in an image twice as high and three times as wide.
    resized = RleMasks([segmentation_rle(RUNS, (5, 5))], (5, 5)).resized((10, 15), torch.zeros(1, 4))
    expected = np.zeros((10, 15), dtype=np.uint8)
    expected[2:8, 3:9] = 1
    assert (resized.image_size, len(resized)) == ((10, 15), 1)
    np.testing.assert_array_equal(coco_mask.decode(resized.rles()[0]), expected)


def test_annotations_are_numbered_anew_from_1_and_carry_the_original_category_ids(square, dataset_of) -> None:
    dataset = dataset_of((square(0, 0, 10, 0), square(20, 0, 10, 1)), (), (square(0, 0, 10, 1),))
    annotations = coco_ground_truth(dataset, "bbox")["annotations"]
    assert [a["id"] for a in annotations] == [1, 2, 3]
    assert [a["image_id"] for a in annotations] == [10, 10, 30]
    assert [a["category_id"] for a in annotations] == [14, 7, 7]
    assert annotations[1]["bbox"] == [20, 0, 10, 10]


def test_area_comes_from_the_record_or_else_from_the_mask_or_else_from_the_box(square, dataset_of) -> None:
    given = replace(square(0, 0, 10), area=33.0)
    triangle = replace(square(0, 0, 10), segmentation=[[0, 0, 10, 0, 0, 10]])
    box_only = replace(square(0, 0, 10), segmentation=None)
    areas = [a["area"] for a in coco_ground_truth(dataset_of((given, triangle, box_only)), "bbox")["annotations"]]
    assert areas[0] == 33
    assert areas[1] == pytest.approx(50, abs=6)
    assert areas[2] == 100


def test_an_object_without_mask_is_a_region_to_ignore_for_masks_only(square, dataset_of) -> None:
    dataset = dataset_of((replace(square(5, 5, 10), segmentation=None), square(30, 30, 10)))
    assert [a["iscrowd"] for a in coco_ground_truth(dataset, "bbox")["annotations"]] == [0, 0]
    masks = coco_ground_truth(dataset, "segm")["annotations"]
    assert [a["iscrowd"] for a in masks] == [1, 0]
    assert coco_mask.area(masks[0]["segmentation"]) == 100


def test_perfect_detections_leave_crowds_out(square, dataset_of) -> None:
    (found,) = ground_truth_detections(dataset_of((square(0, 0, 10, 1), square(50, 50, 40, is_crowd=True))))
    assert found.boxes.tolist() == [[0, 0, 10, 10]]
    assert found.classes.tolist() == [1]
    assert found.scores.tolist() == [1]
    assert found.masks is not None
    assert found.masks.bitmaps().sum() == 100


def test_perfect_detections_of_an_image_without_objects_are_an_empty_table(square, dataset_of) -> None:
    found = ground_truth_detections(dataset_of((), (square(0, 0, 10),)))[0]
    assert len(found) == 0
    assert found.masks is not None
    assert found.masks.bitmaps().shape == (0, 100, 100)


def test_a_dataset_without_masks_gives_detections_without_masks(square, dataset_of) -> None:
    (found,) = ground_truth_detections(dataset_of((replace(square(0, 0, 10), segmentation=None),)))
    assert found.masks is None


def test_a_dataset_without_images_gives_nothing() -> None:
    assert ground_truth_detections(Dataset("empty", (), ("cat",), (1,))) == []


def test_rows_of_run_length_masks_are_selected_by_index_flag_and_slice() -> None:
    encodings = [segmentation_rle([[x, 0, x + 1, 0, x + 1, 1, x, 1]], (4, 4)) for x in (0.0, 1.0, 2.0)]
    masks = RleMasks(encodings, (4, 4))
    assert masks[torch.tensor([2, 0])].rles() == [encodings[2], encodings[0]]
    assert masks[torch.tensor([False, True, False])].rles() == [encodings[1]]
    assert masks[1:].rles() == encodings[1:]
    assert masks.bitmaps().nonzero().tolist() == [[0, 0, 0], [1, 0, 1], [2, 0, 2]]
