"""Pictures of suspected label errors: where labels and detections are drawn."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.evaluation.ground_truth import complete_ground_truth
from mrcnn_zoo.evaluation.label_errors import Suspect
from mrcnn_zoo.evaluation.metrics.contract import Evaluated
from mrcnn_zoo.evaluation.metrics.label_errors import LabelErrors, read_suspects
from mrcnn_zoo.evaluation.result_rows import ROWS_FILE
from mrcnn_zoo.inspection.suspect_pictures import (
    DETECTION_COLOR,
    LABEL_COLOR,
    OTHER_COLOR,
    draw_suspect,
    draw_suspects,
    suspect_sheet,
)
from mrcnn_zoo.output_files import write_json, write_text
from support.evaluated import rectangle

IMAGE = {"id": 1, "file_name": "1.png", "height": 60, "width": 80}


def suspect_of(annotations: tuple[Any, ...], detections: tuple[Any, ...]) -> Suspect:
    return Suspect("loose", 0.8, 0.7, 0.9, IMAGE, "a", annotations, detections, "")


def is_color(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return (np.abs(picture.astype(int) - color) < 40).all(axis=2)


def test_labels_and_detections_are_in_the_right_half_alone() -> None:
    suspect = suspect_of((rectangle(20, 10, 20, 20),), (rectangle(30, 20, 20, 20, score=0.9),))
    picture = draw_suspect(np.zeros((60, 80, 3), np.uint8), suspect, others=[rectangle(50, 30, 10, 10)])
    middle = picture.shape[1] // 2
    for color in (LABEL_COLOR, DETECTION_COLOR, OTHER_COLOR):
        found = is_color(picture, color)
        assert found[:, middle:].any()
        assert not found[:, :middle].any()


@pytest.mark.parametrize("has_masks", [True, False], ids=["masks", "boxes"])
def test_outline_is_at_its_place(has_masks: bool) -> None:
    item = rectangle(20, 10, 20, 20)
    if not has_masks:
        del item["segmentation"]
    picture = draw_suspect(np.zeros((60, 80, 3), np.uint8), suspect_of((item,), ()))
    rows, columns = np.nonzero(is_color(picture, LABEL_COLOR))
    # The part is the square of 50 x 50 pixels around the box, moved into the image, in 240 pixels: 4.8 per pixel.
    scale, top, right_half = 240 / 50, picture.shape[0] - 6 - 240, picture.shape[1] - 6 - 240
    assert rows.min() == pytest.approx(top + 10 * scale, abs=2)
    assert rows.max() == pytest.approx(top + 30 * scale, abs=2)
    assert columns.min() == pytest.approx(right_half + 15 * scale, abs=2)  # the part begins at column 5
    assert columns.max() == pytest.approx(right_half + 35 * scale, abs=2)


def test_faint_object_is_visible() -> None:
    image = np.full((60, 80, 3), 10, np.uint8)
    image[15:25, 25:35] = 20
    picture = draw_suspect(image, suspect_of((), (rectangle(24, 14, 12, 12, score=0.9),)))
    assert picture[:, : picture.shape[1] // 2].max() == 255


def test_sheet_of_an_evaluation_shows_the_suspects_of_its_file(tmp_path: Path) -> None:
    square = InstanceRecord((20, 10, 40, 30), 0, [[20, 10, 40, 10, 40, 30, 20, 30]], area=400.0)
    records = tuple(ImageRecord(number, Black(), (60, 80), (square,)) for number in range(1, 31))
    dataset = Dataset("d", records, ("a",), (1,))
    truth = complete_ground_truth(dataset)
    rows = [rectangle(20, 10, 20, 20, score=0.9, image=number) for number in range(1, 30)]
    rows.append(rectangle(30, 10, 20, 20, score=0.9, image=30))
    report = LabelErrors()(Evaluated(truth, rows, ("bbox", "segm"), "d"))
    assert suspect_sheet(dataset, tmp_path) is None  # an evaluation without the metric
    rows_file = write_json(tmp_path / "inference" / ROWS_FILE, rows)
    path = write_text(tmp_path / "inference" / "label_errors.json", str(report.files["label_errors.json"]))
    (suspect,) = read_suspects(path, truth, count=12)
    assert (suspect.kind, suspect.image["id"], suspect.annotations[0]["id"]) == ("loose", 30, 30)
    assert suspect.detections[0]["segmentation"] == rows[-1]["segmentation"]
    sheet = suspect_sheet(dataset, tmp_path)
    assert sheet is not None
    assert is_color(sheet, DETECTION_COLOR).any()
    os.utime(rows_file, (2e9, 2e9))  # a later evaluation without the metric
    assert suspect_sheet(dataset, tmp_path) is None


class Black:
    name = "1.png"

    def read(self) -> np.ndarray:
        return np.zeros((60, 80, 3), np.uint8)


def test_sheet_has_all_suspects_and_the_other_objects_of_their_image() -> None:
    own = rectangle(20, 10, 20, 20) | {"id": 1}
    near, elsewhere = rectangle(45, 12, 8, 8) | {"id": 2}, rectangle(45, 12, 8, 8, image=2) | {"id": 3}
    dataset = Dataset("d", (ImageRecord(1, Black(), (60, 80)),), ("a",), (1,))
    suspect = suspect_of((own,), ())
    sheet = draw_suspects([suspect] * 3, dataset, [own, near], columns=2)
    single = draw_suspect(Black().read(), suspect)
    assert sheet.shape[0] > 2 * single.shape[0]
    assert sheet.shape[1] > 2 * single.shape[1]
    assert is_color(sheet, OTHER_COLOR).any()
    without = draw_suspects([replace(suspect)], dataset, [own, elsewhere])
    assert not is_color(without, OTHER_COLOR).any()
