"""The data of an X-ray page against the recording that it is made of."""

import base64
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inspection.xray.data import MAX_ROWS, XrayImage, pooled_areas, xray_data
from mrcnn_zoo.inspection.xray.objects import XrayObject, matching_classes
from mrcnn_zoo.modeling.recording import Fate, Recording, StageReport, StageValues
from mrcnn_zoo.ops.rle import decode
from mrcnn_zoo.ops.roi_pooling import roi_align
from mrcnn_zoo.structures import Detections
from support.xray_images import SIZE, xray_of


@pytest.fixture(scope="module", params=["StandardROIHeads", "CascadeROIHeads"])
def image(request: pytest.FixtureRequest) -> XrayImage:
    return xray_of(request.param)


@pytest.fixture(scope="module")
def data(image: XrayImage) -> dict[str, Any]:
    return xray_data(image)


def boxes_of(hundredths: list[int]) -> Tensor:
    return torch.tensor(hundredths).view(-1, 4) / 100


def test_histories_lead_to_the_same_boxes_as_the_reports(image: XrayImage, data: dict[str, Any]) -> None:
    reports = list(image.recording.of_image(0).values())
    anchors = image.recording.values_of_image(0)["anchors"].values["boxes"]
    assert len(data["detections"]) == len(image.detections) > 3
    for number, found in enumerate(data["detections"]):
        row, real = data["stages"][-1]["kept"][found["place"]], int(reports[-1].kept[number])
        for place in range(len(reports) - 1, -1, -1):
            stage, report = data["stages"][place], reports[place]
            factor = 2 if report.stage == "original size" else 1
            assert (boxes_of(stage["boxes"])[row] - report.boxes[real] * factor).abs().max() < 0.0051
            assert stage["scores"][row] == pytest.approx(
                float(report.scores[real].sigmoid() if place == 0 else report.scores[real]), abs=1e-4
            )
            assert stage["fates"][row] == Fate.KEPT
            if place:
                row = data["stages"][place - 1]["kept"][stage["sources"][row]]
                real = int(reports[place - 1].kept[report.sources[real]])
        assert (boxes_of(data["anchors"]["boxes"])[row] - anchors[reports[0].sources[real]]).abs().max() < 0.0051
        region = data["stages"][0]["kept"].index(row)
        table = image.recording.values_of_image(0)["class scores"].values["scores"][region]
        best = int(table.argmax())
        assert data["regions"]["classes"][region][0] == best
        assert data["regions"]["scores"][region][0] == pytest.approx(float(table[best]) * 10_000, abs=0.51)


def test_every_suppressed_row_has_the_suppressor_of_the_report(image: XrayImage, data: dict[str, Any]) -> None:
    for stage, report in zip(data["stages"], image.recording.of_image(0).values(), strict=True):
        shown = [row for row, fate in enumerate(stage["fates"]) if fate == Fate.SUPPRESSED]
        assert len(shown) == report.counts().get("suppressed", 0)
        boxes = boxes_of(stage["boxes"])
        pairs = {(tuple(boxes[row].tolist()), tuple(boxes[stage["suppressedBy"][row]].tolist())) for row in shown}
        rows = (report.fates == Fate.SUPPRESSED).nonzero().flatten()
        rounded = (report.boxes.double() * 100).round().div(100).float()
        by = report.suppressed_by[rows]
        exact = zip(rounded[rows].tolist(), rounded[by].tolist(), strict=True)
        assert pairs == {(tuple(box), tuple(other)) for box, other in exact}


def test_cells_and_score_maps_are_those_of_the_anchors(image: XrayImage, data: dict[str, Any]) -> None:
    names = [level["name"] for level in data["levels"]]
    assert names == ["p2", "p3", "p4", "p5", "p6"]
    anchors, stage = boxes_of(data["anchors"]["boxes"]), data["stages"][0]
    for row, level in enumerate(data["anchors"]["levels"]):
        y, x, shape = data["anchors"]["cells"][3 * row : 3 * row + 3]
        grid, (width, height) = data["levels"][level]["grid"], data["levels"][level]["shapes"][shape]
        middle = (grid["left"] + (x + 0.5) * grid["stride"], grid["top"] + (y + 0.5) * grid["stride"])
        box = (middle[0] - width / 2, middle[1] - height / 2, middle[0] + width / 2, middle[1] + height / 2)
        assert (anchors[row] - torch.tensor(box)).abs().max() < 0.061
        (of_level,) = (found for found in data["scoreMaps"] if found["level"] == level)
        values = np.frombuffer(base64.b64decode(of_level["maps"][1 + shape]["values"]), dtype=np.uint8)
        assert abs(values.reshape(grid["rows"], grid["columns"])[y, x] / 255 - stage["scores"][row]) < 0.0025
    best = stage["ranks"].index(1)
    scores = torch.cat([r.scores for r in image.recording.reports if r.stage == "proposals"])
    assert stage["scores"][best] == pytest.approx(float(scores.max().sigmoid()), abs=1e-4)


def test_feature_maps_are_without_padding(image: XrayImage, data: dict[str, Any]) -> None:
    level = data["features"][0]
    assert (level["name"], level["size"]) == ("p2", [32, 40])
    assert (level["grid"]["rows"], level["grid"]["columns"]) == (30, 35)
    exact = image.recording.values_of_image(0)["features"].values["p2"].mean(dim=0)[:30, :35]
    shown = level["maps"][0]
    values = np.frombuffer(base64.b64decode(shown["values"]), dtype=np.uint8).reshape(30, 35) / 255
    restored = shown["low"] + values * (shown["high"] - shown["low"])
    assert np.abs(restored - exact.numpy()).max() < (shown["high"] - shown["low"]) / 500


def test_masks_and_pooling_levels(image: XrayImage, data: dict[str, Any]) -> None:
    assert image.detections.masks is not None
    for found, bitmap in zip(data["detections"], image.detections.masks.bitmaps(), strict=True):
        assert np.array_equal(decode({"size": list(SIZE), "counts": found["mask"]}), bitmap.numpy())
        assert found["area"] == int(bitmap.sum())
    probabilities = np.frombuffer(base64.b64decode(data["masks"]["values"][0]), dtype=np.uint8).reshape(28, 28) / 255
    assert np.abs(probabilities - image.detections.masks.probabilities[0].numpy()).max() < 0.002
    pooling = image.recording.values_of_image(0)["box pooling"]
    assert data["regions"]["pooling"]["levels"] == pooling.values["levels"].tolist()
    assert data["regions"]["pooling"]["strides"] == [4, 8, 16, 32]


def test_objects_are_lost_with_rows_of_their_stage(image: XrayImage, data: dict[str, Any]) -> None:
    large, small = image.objects
    assert (small.state, small.step) == ("lost", "anchors")
    assert "lost at anchors: no anchor overlaps enough" in small.text
    assert boxes_of(data["objects"][0]["box"]).tolist() == [[40, 40, 80, 100]]
    for item, shown in zip((large, small), data["objects"], strict=True):
        for name, rows in item.rows.items():
            report, place = image.recording.of_image(0)[name], list(image.recording.of_image(0)).index(name)
            factor = 2 if name == "original size" else 1
            local = boxes_of(data["stages"][place]["boxes"])[shown["rows"][name]]
            assert (local - report.boxes[rows] * factor).abs().max() < 0.0051


# --- by hand ----------------------------------------------------------------------------------------------------------


def recorded_by_hand() -> XrayImage:
    """Seven anchors on cells of 10 pixels; the image is resized from 20 x 40 to 10 x 20 pixels."""
    boxes = torch.tensor(
        [[0, 0, 4, 4], [1, 0, 5, 4], [10, 0, 14, 4.04], [2, 0, 6, 4], [0, 5, 4, 9], [0, 0, 1, 1], [9, 9, 9, 9]]
    )
    fates = [
        *(Fate.KEPT, Fate.SUPPRESSED, Fate.KEPT, Fate.BEYOND_LIMIT),
        *(Fate.SUPPRESSED, Fate.NOT_IN_TOP_K, Fate.TOO_SMALL),
    ]
    scores, levels = torch.tensor([2.0, 1, 3, 0, -1, -2, -3]), torch.tensor([0, 0, 1, 0, 0, 1, 1])
    by, rows = torch.tensor([-1, 0, -1, -1, 3, -1, -1]), torch.arange(7)
    recording = Recording()
    recording.add_values(StageValues("anchors", 0, (10, 20), {"boxes": boxes, "levels": levels}))
    fate_values = torch.tensor([int(fate) for fate in fates], dtype=torch.int8)
    recording.add(
        StageReport("proposals", 0, (10, 20), boxes, scores, levels, rows, fate_values, by, torch.tensor([2, 0]))
    )
    found = Detections((20, 40), boxes[[2, 0]] * 2, scores[[2, 0]].sigmoid(), torch.zeros(2, dtype=torch.int64))
    objects = [XrayObject("x", (0.0, 0.0, 8.0, 8.0), rows={"proposals": [5]})]
    return XrayImage("hand", np.zeros((10, 20, 3), np.uint8), (20, 40), recording, found, ("x",), objects)


def test_recording_by_hand() -> None:
    data = xray_data(recorded_by_hand())
    (stage,) = data["stages"]
    # Best scores first: rows 2, 0, 1, 3, 4, 6, and 5, which only its object needs, in its place.
    assert stage["scores"] == [0.9526, 0.8808, 0.7311, 0.5, 0.2689, 0.1192, 0.0474]
    assert stage["fates"] == [0, 0, 5, 6, 5, 3, 4]
    assert stage["suppressedBy"] == [-1, -1, 1, -1, 3, -1, -1]
    assert stage["kept"] == [0, 1]
    assert stage["ranks"] == [1, 1, 2, 3, 4, 2, 3]
    assert stage["boxes"][:8] == [1000, 0, 1400, 404, 0, 0, 400, 400]
    assert data["anchors"]["levels"] == [1, 0, 0, 0, 0, 1, 1]
    assert set(data["anchors"]["cells"]) == {-1}  # no map has these cells
    assert data["scoreMaps"] == []
    assert [found["place"] for found in data["detections"]] == [0, 1]
    assert data["objects"][0]["box"] == [0, 0, 400, 400]
    assert data["objects"][0]["rows"] == {"proposals": [5]}


def test_number_of_rows_is_limited_but_kept_rows_and_their_suppressed_ones_stay() -> None:
    count = MAX_ROWS + 500
    rows, boxes = torch.arange(count), torch.tensor([[0.0, 0, 5, 5]]).expand(count, 4)
    fates = torch.full((count,), int(Fate.BEYOND_LIMIT), dtype=torch.int8)
    fates[count - 1], fates[5] = int(Fate.KEPT), int(Fate.SUPPRESSED)
    by = torch.full((count,), -1)
    by[5] = count - 2
    recording = Recording()
    scores = torch.linspace(5, -5, count)
    recording.add(StageReport("boxes", 0, (9, 9), boxes, scores, rows * 0, rows, fates, by, torch.tensor([count - 1])))
    found = Detections((9, 9), boxes[:1], scores[-1:], rows[:1] * 0)
    (stage,) = xray_data(XrayImage("x", np.zeros((9, 9, 3), np.uint8), (9, 9), recording, found, ("x",)))["stages"]
    assert len(stage["scores"]) == MAX_ROWS + 2
    assert stage["kept"] == [MAX_ROWS + 1]
    assert stage["suppressedBy"][5] == MAX_ROWS
    assert stage["total"] == count


def test_pooled_area_of_roi_align_has_the_mean_of_the_samples() -> None:
    box, stride = torch.tensor([[19.0, 33.0, 71.0, 97.0]]), 8.0
    ramp = torch.stack(torch.meshgrid(torch.arange(20.0), torch.arange(20.0), indexing="xy"))  # x, y of each cell
    for aligned in (True, False):
        regions = torch.nn.functional.pad(box, (1, 0))
        pooled = roi_align(ramp[None], regions, 7, scale=1 / stride, sampling_ratio=2, aligned=aligned)
        middle = (pooled.mean(dim=(0, 2, 3)) + 0.5) * stride  # the value c is at the centre of cell c
        area = pooled_areas(box, torch.tensor([stride]), f"roi_align, aligned={aligned}")
        assert torch.allclose((area[0, :2] + area[0, 2:]) / 2, middle, atol=1e-4)


def test_pooled_area_of_roi_pool_has_the_cells_that_change_the_result() -> None:
    box, stride = torch.tensor([[3.0, 5.0, 21.0, 30.0]]), 4.0
    area = pooled_areas(box, torch.tensor([stride]), "roi_pool, side=3")[0]
    assert area.tolist() == [4, 4, 24, 36]
    regions = torch.nn.functional.pad(box, (1, 0))
    for cell in range(100):
        maps = torch.zeros(1, 1, 10, 10)
        maps[0, 0, cell // 10, cell % 10] = 1
        x, y = (cell % 10 + 0.5) * stride, (cell // 10 + 0.5) * stride
        is_inside = bool(area[0] < x < area[2] and area[1] < y < area[3])
        assert bool(torchvision.ops.roi_pool(maps, regions, 3, 1 / stride).max() > 0) == is_inside


def test_an_only_class_is_that_of_the_model_whatever_its_name() -> None:
    assert matching_classes(["object"], ["nucleus"]) == [0]
    assert matching_classes(["b", "x"], ["a", "b"]) == [1, -1]


def test_test_time_augmentation_is_refused() -> None:
    with pytest.raises(UserError, match=r"TEST\.AUG\.ENABLED is True: .* Set TEST\.AUG\.ENABLED False"):
        xray_of("augmented")


def test_model_without_stages_is_refused() -> None:
    with pytest.raises(UserError, match="noise: no stage of the model reports boxes"):
        xray_of("no stages")
