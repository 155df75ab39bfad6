"""What a `Prediction` is converted to: tables, label images, crops, datasets. Measurements against scikit-image."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.measure import regionprops

from mrcnn_zoo.config import load_config
from mrcnn_zoo.data.catalog import load_dataset
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inference import Prediction, save_predictions
from mrcnn_zoo.inference.object_table import as_texts, perimeter, table_columns
from mrcnn_zoo.ops import rle
from mrcnn_zoo.structures import BoxedBitmaps, Detections

NAMES = ("cat", "dog")


def prediction_of(bitmaps: np.ndarray, pixels: np.ndarray, **columns: torch.Tensor | None) -> Prediction:
    """Objects of two classes in turn, with scores 0.9, 0.8, ... and boxes around their masks, or 0, 0, 1, 1."""
    boxes = [rle.bounding_box(rle.encode(mask)) or (0, 0, 1, 1) for mask in bitmaps]
    count = len(bitmaps)
    found = Detections(
        image_size=(pixels.shape[0], pixels.shape[1]),
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.arange(9, 9 - count, -1) / 10,
        classes=torch.arange(count) % 2,
        masks=BoxedBitmaps.from_full(bitmaps),
    )
    for name, column in columns.items():
        setattr(found, name, column)
    return Prediction("image 1", 1, pixels, found, NAMES, (7, 3))


@pytest.fixture
def blobs() -> Prediction:
    """A disc, a ring, a rectangle at the corner of the image, noise, a line and one pixel, in a 16-bit image."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:50, :60]
    masks = np.zeros((6, 50, 60), dtype=bool)
    radius = np.hypot(y - 20, x - 30)
    masks[0], masks[1] = radius < 11.3, (radius < 9) & (radius > 4)
    masks[2, :7, :9], masks[4, 40, 5:30], masks[5, 49, 59] = True, True, True
    masks[3] = rng.random((50, 60)) < 0.6
    return prediction_of(masks, rng.integers(0, 60000, (50, 60, 3), dtype=np.uint16))


def test_measurements_are_those_of_scikit_image(blobs: Prediction) -> None:
    table = blobs.to_dataframe()
    assert list(table["class"]) == ["cat", "dog"] * 3
    assert blobs.masks is not None
    for row, mask in zip(table.to_dict("records"), blobs.masks.numpy(), strict=True):
        (region,) = regionprops(mask.astype(np.uint8), intensity_image=blobs.pixels)
        assert row["area"] == region.area
        y, x = region.centroid
        assert (row["centroid_x"], row["centroid_y"]) == pytest.approx((x + 0.5, y + 0.5))
        assert row["perimeter"] == pytest.approx(region.perimeter)
        means = [row["mean_red"], row["mean_green"], row["mean_blue"]]
        np.testing.assert_allclose(means, region.intensity_mean)
        y1, x1, y2, x2 = region.bbox
        assert [row[name] for name in ("x1", "y1", "x2", "y2")] == [x1, y1, x2, y2]


def test_perimeter_of_all_small_shapes_is_that_of_scikit_image() -> None:
    for number in range(1, 1 << 9, 7):
        bitmap = np.array([number >> place & 1 for place in range(9)], dtype=bool).reshape(3, 3)
        expected = regionprops(bitmap.astype(np.uint8))[0].perimeter
        assert perimeter(bitmap) == pytest.approx(expected), bitmap


def test_table_of_nothing_and_of_an_empty_mask() -> None:
    pixels = np.zeros((20, 30, 1), np.uint8)
    nothing = prediction_of(np.zeros((0, 20, 30), bool), pixels).to_dataframe()
    assert len(nothing) == 0
    assert tuple(nothing.columns) == table_columns(1, has_mask_scores=False)
    found = prediction_of(np.zeros((1, 20, 30), bool), pixels, mask_scores=torch.tensor([0.25]))
    (row,) = found.table_rows()
    assert (row["area"], row["perimeter"], row["mask_score"]) == (0, 0, 0.25)
    assert math.isnan(row["centroid_x"])  # type: ignore[arg-type]
    assert as_texts(row)[-6:] == ["0", "", "", "0.00", "", "0.2500"]


def test_boxes_are_measured_where_there_are_no_masks() -> None:
    pixels = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30, 1)
    found = prediction_of(np.zeros((1, 20, 30), bool), pixels, masks=None, boxes=torch.tensor([[2.4, 3.0, 4.6, 5.5]]))
    (row,) = found.table_rows()
    assert row["area"] == pytest.approx(2.2 * 2.5)
    assert (row["centroid_x"], row["centroid_y"]) == pytest.approx((3.5, 4.25))
    assert row["perimeter"] == pytest.approx(2 * 4.7)
    assert row["mean_intensity"] == pixels[3:5, 2:5].mean()  # pixels with their centre in the box
    for method in (found.to_label_image, lambda: found.crops(masked=True)):
        with pytest.raises(UserError, match=r"needs masks, and the model predicts none: MODEL\.MASK_ON is False"):
            method()


def test_label_image_shows_the_object_of_higher_score() -> None:
    masks = np.zeros((3, 20, 30), bool)
    masks[0, 2:6, 2:6], masks[1, 4:9, 4:9], masks[2, 3, 3] = True, True, True
    found = prediction_of(masks, np.zeros((20, 30, 3), np.uint8))
    expected = np.zeros((20, 30), np.uint16)
    expected[4:9, 4:9] = 2
    expected[2:6, 2:6] = 1
    labels = found.to_label_image()
    np.testing.assert_array_equal(labels, expected)
    assert labels.dtype == np.uint16
    by_class = found.to_label_image(by_class=True)
    np.testing.assert_array_equal(by_class, expected)  # cat, dog, and a hidden cat


def test_label_image_of_many_objects_has_32_bits() -> None:
    count = 65536
    rows = torch.arange(count)
    boxes = torch.stack((rows % 256, rows // 256, rows % 256 + 1, rows // 256 + 1), dim=1)
    windows = torch.cat((boxes[:, :2], torch.ones(count, 2).long(), rows[:, None]), dim=1)
    masks = BoxedBitmaps(torch.ones(count, dtype=torch.uint8), windows, (256, 256))
    scores = 1 - rows / count
    found = Detections((256, 256), boxes.float(), scores=scores, classes=torch.zeros(count).long(), masks=masks)
    labels = Prediction("image", 1, np.zeros((256, 256, 3), np.uint8), found, NAMES, (1, 2)).to_label_image()
    assert labels.dtype == np.uint32
    np.testing.assert_array_equal(labels, np.arange(1, count + 1).reshape(256, 256))


def test_crops_have_padding_within_the_image_and_black_outside_the_mask(blobs: Prediction) -> None:
    disc, _, corner, *_ = blobs.crops()
    np.testing.assert_array_equal(disc, blobs.pixels[9:32, 19:42])
    np.testing.assert_array_equal(corner, blobs.pixels[:7, :9])
    padded = blobs.crops(padding=3)
    np.testing.assert_array_equal(padded[0], blobs.pixels[6:35, 16:45])
    np.testing.assert_array_equal(padded[2], blobs.pixels[:10, :12])
    assert blobs.masks is not None
    for crop, mask, (x1, y1, x2, y2) in zip(
        blobs.crops(padding=2, masked=True), blobs.masks.numpy(), blobs.boxes.int().tolist(), strict=True
    ):
        masked = np.where(mask[..., None], blobs.pixels, 0)
        np.testing.assert_array_equal(crop, masked[max(0, y1 - 2) : y2 + 2, max(0, x1 - 2) : x2 + 2])
    with pytest.raises(UserError, match="padding = -1 must be a whole number"):
        blobs.crops(padding=-1)


def test_fractional_boxes_are_cropped_to_the_pixels_that_they_touch() -> None:
    pixels = np.arange(20 * 30, dtype=np.uint8).reshape(20, 30, 1)
    boxes = torch.tensor([[2.4, 3.0, 4.6, 5.5]])
    (crop,) = prediction_of(np.zeros((1, 20, 30), bool), pixels, boxes=boxes).crops()
    np.testing.assert_array_equal(crop, pixels[3:6, 2:5])


def test_missing_pandas_is_a_message(blobs: Prediction, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match=r'to_dataframe needs pandas: pip install "mrcnn_zoo\[tables\]"'):
        blobs.to_dataframe()


def test_dataset_has_the_objects_with_their_scores(blobs: Prediction) -> None:
    dataset = blobs.to_dataset()
    assert (dataset.class_names, dataset.category_ids) == (NAMES, (7, 3))
    (record,) = dataset.records
    np.testing.assert_array_equal(record.source.read(), blobs.pixels)
    assert [item.score for item in record.instances] == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    assert blobs.masks is not None
    for item, mask in zip(record.instances, blobs.masks.numpy(), strict=True):
        np.testing.assert_array_equal(rle.decode(item.segmentation), mask)


@pytest.mark.parametrize("name", ["coco", "labelme", "labels"])
def test_saved_predictions_of_arrays_are_read_as_a_dataset(name: str, tmp_path: Path) -> None:
    masks = np.zeros((2, 20, 30), bool)
    masks[0, 2:6, 2:6], masks[1, 8:19, 4:29] = True, True
    images = [prediction_of(masks, np.full((20, 30, 3), grey, np.uint8)) for grey in (10, 200)]
    assert save_predictions(iter(images), tmp_path / "out", format=name) == ()
    again = load_dataset(load_config(None, ["MODEL.MASK_ON", True]), str(tmp_path / "out"))
    assert [record.source.read().mean() for record in again.records] == [10, 200]
    for record in again.records:
        found = {again.class_names[item.class_index]: item.box for item in record.instances}
        assert found == {"cat": (2, 2, 6, 6), "dog": (4, 8, 29, 19)}


def test_save_writes_one_image_and_refuses_pictures(blobs: Prediction, tmp_path: Path) -> None:
    blobs.save(tmp_path / "out", format="labels")
    blobs.save(tmp_path / "out", format="labels", may_overwrite=True)
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 1
    with pytest.raises(UserError, match=r"a\.png: save writes a dataset; for a picture, call draw\(\)\.save"):
        blobs.save(tmp_path / "a.png")
    with pytest.raises(UserError, match="format = 'labelmee'"):
        blobs.save(tmp_path / "b", format="labelmee")
    with pytest.raises(UserError, match="no predictions to write"):
        save_predictions([], tmp_path / "c")


def test_file_images_are_referred_to_or_copied(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "photo.png")
    masks = np.ones((1, 20, 30), bool)
    found = prediction_of(masks, np.zeros((20, 30, 3), np.uint8))
    found = Prediction(
        "photo.png", 1, found.pixels, found.detections, NAMES, (7, 3), source=FileImage(str(tmp_path / "photo.png"))
    )
    found.save(tmp_path / "refers")
    assert list((tmp_path / "refers").rglob("*.png")) == []
    found.save(tmp_path / "copies", copies_images=True)
    assert [path.name for path in (tmp_path / "copies").rglob("*.png")] == ["photo.png"]
