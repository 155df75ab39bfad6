"""Prediction by tiles: merging of constructed detections, and tiles against whole images."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray

from mrcnn_zoo.cli.main import run_command
from mrcnn_zoo.config import load_config
from mrcnn_zoo.data import load_dataset
from mrcnn_zoo.data.images.pixels import keep, stretch
from mrcnn_zoo.data.tiles import Tiling, windows_of
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inference import Prediction, Predictor
from mrcnn_zoo.inference.tile_merging import merge_tiles, place_tile
from mrcnn_zoo.inference.tiles import (
    build_tile_notes,
    check_predicts_tiles,
    predict_tiles,
    tiling_of,
    whole_image_scaling,
)
from mrcnn_zoo.structures import BoxedBitmaps, Detections
from support.small_models import DIGITS

SIZE, TILES = (100, 180), Tiling(100, 20)  # two tiles, x from 0 to 100 and from 80 to 180
LEFT, RIGHT = (0, 0, 100, 100), (80, 0, 180, 100)
Box = tuple[int, int, int, int]


def rectangles(*boxes: Box, size: tuple[int, int] = SIZE) -> NDArray[np.bool_]:
    full = np.zeros((len(boxes), *size), dtype=bool)
    for bitmap, (left, top, right, bottom) in zip(full, boxes, strict=True):
        bitmap[top:bottom, left:right] = True
    return full


def seen_in(window: Box, full: NDArray[np.bool_], classes: Sequence[int], scores: Sequence[float]) -> Detections:
    """What a perfect detector finds in a tile: the visible part of each mask."""
    left, top, right, bottom = window
    parts = full[:, top:bottom, left:right]
    rows = np.flatnonzero(parts.any(axis=(1, 2)))
    masks = BoxedBitmaps.from_full(parts[rows])
    edges = masks.windows[:, :4].float()
    boxes = torch.cat([edges[:, :2], edges[:, :2] + edges[:, 2:]], dim=1).reshape(-1, 4)
    columns = torch.tensor(scores)[rows], torch.tensor(classes)[rows]
    return Detections((bottom - top, right - left), boxes, *columns, masks=masks)


def merged(
    full: NDArray[np.bool_],
    tiling: Tiling = TILES,
    *,
    classes: Sequence[Sequence[int]] | None = None,
    scores: Sequence[Sequence[float]] | None = None,
) -> Detections:
    """The merged detections of a perfect detector; classes and scores by tile and object."""
    size = full.shape[1:]
    tiles = []
    for number, window in enumerate(windows_of((size[0], size[1]), tiling)):
        of_tile = [0] * len(full) if classes is None else classes[number]
        found = seen_in(window, full, of_tile, [0.9] * len(full) if scores is None else scores[number])
        tiles.append(place_tile(found, window, (size[0], size[1])))
    return merge_tiles(tiles, (size[0], size[1]))


def assert_masks(found: Detections, full: NDArray[np.bool_]) -> None:
    """Each mask once, in any order, with its tight box."""
    assert found.masks is not None
    bitmaps = found.masks.bitmaps().numpy()
    assert sorted(map(bytes, np.packbits(bitmaps, axis=2))) == sorted(map(bytes, np.packbits(full, axis=2)))
    for bitmap, box in zip(bitmaps, found.boxes.tolist(), strict=True):
        rows, columns = np.nonzero(bitmap)
        assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_object_in_the_overlap_is_found_once_with_the_score_of_the_tile_that_shows_more_around_it() -> None:
    full = rectangles((84, 40, 94, 50))  # 6 pixels from the border of the left tile, 4 from that of the right one
    found = merged(full, scores=[[0.7], [0.8]])
    assert_masks(found, full)
    assert found.scores.tolist() == [pytest.approx(0.7)]


def test_border_of_the_image_cuts_no_object() -> None:
    full = rectangles((86, 0, 97, 50))  # 3 pixels from the border of the left tile
    found = merged(full, scores=[[0.9], [0.8]])
    assert_masks(found, full)
    assert found.scores.tolist() == [pytest.approx(0.8)]


def test_similar_objects_that_both_tiles_show_stay_two() -> None:
    full = rectangles((84, 10, 94, 40), (86, 10, 96, 40))  # with an IoU of 2 / 3
    assert_masks(merged(full), full)


def test_part_of_an_object_is_dropped_where_the_other_tile_shows_it_whole_even_with_another_class() -> None:
    full = rectangles((70, 10, 95, 40), (85, 60, 120, 90))
    found = merged(full, classes=[[3, 1], [1, 4]], scores=[[0.6, 0.95], [0.99, 0.8]])
    assert_masks(found, full)
    assert found.classes.tolist() == [4, 3]


def test_cut_detection_is_kept_where_no_other_tile_shows_more() -> None:
    full = rectangles((60, 10, 130, 40))
    window = place_tile(seen_in(LEFT, full, [0], [0.9]), LEFT, SIZE)
    nothing = place_tile(seen_in(RIGHT, full[:0], [], []), RIGHT, SIZE)
    assert merge_tiles([window, nothing], SIZE).boxes.tolist() == [[60, 10, 100, 40]]


def test_object_larger_than_the_overlap_is_united_from_its_parts() -> None:
    full = rectangles((60, 10, 130, 40))
    found = merged(full, scores=[[0.7], [0.8]])
    assert_masks(found, full)
    assert found.scores.tolist() == [pytest.approx(0.8)]


def test_parts_of_different_classes_are_not_united() -> None:
    assert len(merged(rectangles((60, 10, 130, 40)), classes=[[0], [1]])) == 2


@pytest.mark.parametrize(
    "boxes",
    [
        [(60, 10, 130, 40), (60, 40, 130, 70)],  # both larger than the overlap, one above the other
        [(70, 10, 90, 40), (90, 10, 110, 40)],  # side by side in the overlap
        [(60, 10, 85, 40), (85, 10, 130, 40)],
        [(82, 10, 98, 26), (86, 14, 94, 22)],  # one inside the other
        [(60, 10, 130, 40), (86, 20, 92, 26)],
    ],
)
def test_touching_and_nested_objects_of_one_class_are_not_joined(boxes: list[Box]) -> None:
    full = rectangles(*boxes)
    assert_masks(merged(full), full)


def test_object_at_the_corner_of_four_tiles_is_found_once() -> None:
    for box in ((84, 84, 96, 96), (60, 60, 120, 120), (84, 60, 96, 120), (79, 79, 101, 101)):
        full = rectangles(box, size=(180, 180))
        assert_masks(merged(full), full)


def test_object_that_spans_three_tiles_is_found_once() -> None:
    full = rectangles((20, 10, 250, 40), size=(100, 260))
    assert_masks(merged(full), full)


def test_duplicates_of_one_tile_stay_two_detections() -> None:
    full = rectangles((20, 10, 50, 40), (20, 10, 50, 40))
    assert len(merged(full)) == 2


@pytest.mark.parametrize("overlap", [24, 40, 75])  # objects have at most 44 pixels; with 75 of 100, three tiles overlap
def test_perfect_detections_of_tiles_merge_into_those_of_the_whole_image(overlap: int) -> None:
    rng = np.random.default_rng(overlap)
    rows, columns = np.mgrid[:310, :330]
    taken = np.zeros((310, 330), dtype=bool)
    full = []
    for _ in range(150):
        y, x, ry, rx = rng.uniform(0, 310), rng.uniform(0, 330), rng.uniform(3, 22), rng.uniform(3, 22)
        disc = ((rows - y) / ry) ** 2 + ((columns - x) / rx) ** 2 <= 1
        if disc.any() and not (disc & taken).any():
            full.append(disc)
            taken |= disc
    assert len(full) > 60
    assert_masks(merged(np.array(full), Tiling(100, overlap)), np.array(full))


def test_boxes_without_masks_are_merged_by_their_boxes() -> None:
    full = rectangles((84, 40, 94, 50), (60, 60, 130, 80), (90, 84, 120, 95))
    tiles = []
    for window in (LEFT, RIGHT):
        found = seen_in(window, full, [0, 0, 0], [0.9, 0.8, 0.7])
        found.masks = None
        tiles.append(place_tile(found, window, SIZE))
    merged_boxes = merge_tiles(tiles, SIZE)
    assert merged_boxes.masks is None
    assert merged_boxes.boxes.tolist() == [[84, 40, 94, 50], [60, 60, 130, 80], [90, 84, 120, 95]]


def test_keypoints_are_those_of_the_part_that_sees_them_best() -> None:
    full = rectangles((60, 10, 130, 40))
    tiles = []
    for window, points in ((LEFT, [[65, 20, 0.9], [99, 30, 0.2]]), (RIGHT, [[1, 25, 0.1], [45, 35, 0.8]])):
        found = seen_in(window, full, [0], [0.9])
        found.keypoints = torch.tensor([points])
        tiles.append(place_tile(found, window, SIZE))
    (points,) = merge_tiles(tiles, SIZE).keypoints  # type: ignore[misc]
    torch.testing.assert_close(points, torch.tensor([[65, 20, 0.9], [125, 35, 0.8]]))


def test_image_without_objects_has_none() -> None:
    found = merged(rectangles())
    assert len(found) == 0
    assert found.masks is not None
    assert found.masks.bitmaps().shape == (0, *SIZE)


@pytest.mark.parametrize(
    ("size", "overlap", "pixels"),
    [(1024, None, 128), (256, None, 64), (96, None, 48), (512, 0.25, 128), (512, 0, 0), (512, 300, 300)],
)
def test_overlap_is_given_in_pixels_or_as_a_share(size: int, overlap: float | None, pixels: int) -> None:
    assert tiling_of(size, overlap).overlap == pixels


@pytest.mark.parametrize(
    ("size", "overlap", "message"),
    [(16, None, "at least 32"), (64, 64, "overlap 64 must"), (64, -1, "overlap -1 must")],
)
def test_impossible_tiles_are_refused(size: int, overlap: float | None, message: str) -> None:
    with pytest.raises(UserError, match=f"--tiles.*{message}"):
        tiling_of(size, overlap, option="--tiles")


def test_models_without_objects_and_given_boxes_are_refused() -> None:
    cfg = load_config(DIGITS)
    check_predicts_tiles(cfg, has_given_boxes=False)
    with pytest.raises(UserError, match="given boxes"):
        check_predicts_tiles(cfg, has_given_boxes=True)
    proposals = load_config(DIGITS, ["MODEL.META_ARCHITECTURE", "ProposalNetwork", "MODEL.MASK_ON", False])
    with pytest.raises(UserError, match="ProposalNetwork"):
        check_predicts_tiles(proposals, has_given_boxes=False)


def test_note_names_the_scale_of_resized_tiles() -> None:
    (note,) = build_tile_notes(load_config(DIGITS), Tiling(512, 64))
    assert "resized to 128" in note
    assert "0.25 of their size" in note
    assert build_tile_notes(load_config(DIGITS), Tiling(128, 64)) == []
    assert build_tile_notes(load_config(DIGITS, ["INPUT.MIN_SIZE_TEST", 0]), Tiling(512, 64)) == []


def test_contrast_of_deep_images_is_that_of_the_whole_image() -> None:
    pixels = np.random.default_rng(0).integers(0, 1000, (80, 60, 3), dtype=np.uint16)
    pixels[40:] += 30_000
    reduce_depth = partial(stretch, percentiles=(0.1, 99.9))
    seen: list[NDArray[np.generic]] = []

    def detect(tiles: Sequence[NDArray[np.generic]], _: Sequence[str]) -> list[Detections]:
        seen.extend(tiles)
        return [seen_in((0, 0, 40, 40), rectangles(size=(40, 40)), [], []) for _ in tiles]

    tiling = Tiling(40, 0)
    predict_tiles(pixels, tiling, detect, name="image", reduce_depth=reduce_depth)
    whole = reduce_depth(pixels).astype(int)
    for tile, (left, top, right, bottom) in zip(seen, windows_of((80, 60), tiling), strict=True):
        assert np.abs(tile.astype(int) - whole[top:bottom, left:right]).max() <= 1
    assert whole_image_scaling(pixels, keep) is None
    assert whole_image_scaling(pixels.astype(np.uint8), reduce_depth) is None


WEIGHTS = "zoo://Quickstart/mask_rcnn_R_18_FPN_digits"
SETTINGS = (
    "MODEL.DEVICE=cpu",
    "INPUT.MIN_SIZE_TEST=0",
    "MODEL.RPN.PRE_NMS_TOPK_TEST=2000",
    "MODEL.RPN.POST_NMS_TOPK_TEST=500",
)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of 256 x 128 pixels with ten digits, as a tiled TIFF."""
    scenes = ["DATASETS.SCENES.IMAGE_SIZE", [128, 256], "DATASETS.SCENES.NUM_OBJECTS", [10, 10]]
    dataset = load_dataset(load_config(DIGITS, [*scenes, "DATASETS.SCENES.NUM_VAL", 1]), "digits_val")
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    tifffile.imwrite(path, dataset.records[0].source.read(), photometric="rgb", compression="zlib", tile=(64, 64))
    return path


@pytest.fixture(scope="module")
def tiled() -> Predictor:
    """Of tiles from x = 0 to 192 and from 64 to 256."""
    return Predictor(WEIGHTS, overrides=SETTINGS, tiles=192, tile_overlap=128)


@pytest.fixture(scope="module")
def whole(scene: Path) -> Prediction:
    return Predictor(WEIGHTS, overrides=SETTINGS)(scene)


def test_predictions_by_tiles_equal_those_of_the_whole_image_away_from_the_seams(
    scene: Path, tiled: Predictor, whole: Prediction
) -> None:
    found = tiled(scene)
    assert len(found) == len(whole) >= 9
    assert whole.masks is not None
    assert found.masks is not None
    masks, others = whole.masks.flatten(1).float(), found.masks.flatten(1).float()
    ious = masks @ others.T / (masks.sum(1)[:, None] + others.sum(1) - masks @ others.T)
    partner = ious.argmax(dim=1)
    assert sorted(partner.tolist()) == list(range(len(whole)))  # each object once
    assert ious.amax(dim=1).min() > 0.9
    left, right = whole.boxes[:, 0], whole.boxes[:, 2]
    is_far = torch.stack([(right < border - 16) | (left > border + 16) for border in (64, 192)]).all(dim=0)
    assert is_far.sum() >= 3
    assert (~is_far).sum() >= 3
    torch.testing.assert_close(found.scores[partner][is_far], whole.scores[is_far], atol=1e-3, rtol=0)
    assert torch.equal(others[partner][is_far], masks[is_far])


def test_one_tile_gives_the_prediction_of_the_image(scene: Path, whole: Prediction) -> None:
    one = Predictor(WEIGHTS, overrides=SETTINGS, tiles=512)(scene)
    assert torch.equal(one.boxes, whole.boxes)
    assert torch.equal(one.scores, whole.scores)
    assert one.masks is not None
    assert whole.masks is not None
    assert torch.equal(one.masks, whole.masks)


def test_prediction_on_a_file_that_is_read_by_windows_has_all_forms(scene: Path, tiled: Predictor) -> None:
    found, of_array = tiled(scene), tiled(tifffile.imread(scene))
    assert found.to_dataframe().iloc[:, 1:].equals(of_array.to_dataframe().iloc[:, 1:])
    assert np.array_equal(found.to_label_image(), of_array.to_label_image())
    assert np.array_equal(np.asarray(found.draw()), np.asarray(of_array.draw()))
    for crop, expected in zip(found.crops(masked=True), of_array.crops(masked=True), strict=True):
        np.testing.assert_array_equal(crop, expected)


def test_stages_of_tiles_are_not_recorded(scene: Path, tiled: Predictor) -> None:
    with pytest.raises(UserError, match="tiles: the stages"):
        tiled.record(scene)


def test_limits_are_reported_per_tile(scene: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = ["--weights", WEIGHTS, "--tiles", "192", "--format", "labels", "--output", str(tmp_path / "out")]
    with caplog.at_level("INFO"):
        assert run_command("predict", [str(scene), *options, *SETTINGS, "TEST.DETECTIONS_PER_IMAGE=4"]) == 0
    assert "cut the detections of 2 of 2 images" in caplog.text
    assert "[0, 0, 192, 128]" in caplog.text or "[64, 0, 256, 128]" in caplog.text


def test_command_predicts_by_tiles_and_skips_a_damaged_image(scene: Path, tiled: Predictor, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.tif"
    damaged.write_bytes(scene.read_bytes()[:-4000])
    options = ["--weights", WEIGHTS, "--tiles", "192", "--tile-overlap", "128", "--batch-size", "2"]
    assert run_command("predict", [str(damaged), str(scene), *options, "--output", str(tmp_path), *SETTINGS]) == 1
    content = json.loads((tmp_path / "predictions.json").read_text())
    assert [image["file_name"] for image in content["images"]] == [str(scene)]
    scores = torch.tensor([row["score"] for row in content["annotations"]])
    torch.testing.assert_close(scores, tiled(scene).scores, atol=1e-3, rtol=0)


def test_overlap_without_tiles_is_refused(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("predict", [str(scene), "--weights", WEIGHTS, "--tile-overlap", "64"]) == 2
    assert "--tile-overlap" in capsys.readouterr().err
