"""Masks against torchvision's ROIAlign, torch's grid sampling and pycocotools."""

import pickle
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from mrcnn_zoo.evaluation.ground_truth import RleMasks
from mrcnn_zoo.ops import masks as mask_cropping
from mrcnn_zoo.structures import (
    BoxedBitmaps,
    Detections,
    PredictedMasks,
    ProbabilityMasks,
    TargetMasks,
    crop_matched,
    mask_windows,
)

SIZE = (60, 90)  # height, width of the test images


def ellipses(count: int, *, seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(count, H, W) bool; some extend over the border, so their windows touch it."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    bitmaps = []
    for _ in range(count):
        y, x = random.uniform(0, size[0]), random.uniform(0, size[1])
        ry, rx = random.uniform(2, size[0] / 2), random.uniform(2, size[1] / 2)
        bitmaps.append(((rows - y) / ry) ** 2 + ((columns - x) / rx) ** 2 <= 1)
    return np.array(bitmaps)


def full_image_crops(bitmaps: np.ndarray, boxes: Tensor, side: int) -> Tensor:
    """ROIAlign of full-image bitmaps as in Detectron2: adaptive sampling, half-pixel shift, threshold 0.5."""
    regions = torch.cat((torch.arange(len(boxes))[:, None].float(), boxes), dim=1)
    full = torch.from_numpy(bitmaps).float()[:, None]
    return roi_align(full, regions, (side, side), 1.0, 0, True)[:, 0] >= 0.5


def full_image_paste(masks: ProbabilityMasks) -> Tensor:
    """Bilinear sampling of each mask at every pixel of the image."""
    height, width = masks.image_size
    pasted = []
    for probabilities, (x0, y0, x1, y1) in zip(masks.probabilities, masks.boxes, strict=True):
        y = (torch.arange(height) + 0.5 - y0) / (y1 - y0) * 2 - 1
        x = (torch.arange(width) + 0.5 - x0) / (x1 - x0) * 2 - 1
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
        pasted.append(F.grid_sample(probabilities[None, None], grid, align_corners=False)[0, 0] >= masks.threshold)
    return torch.stack(pasted)


def boxes_around(bitmaps: np.ndarray, per_bitmap: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of bitmaps, and boxes near them, clipped to the image like proposals."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.arange(len(bitmaps)).repeat_interleave(per_bitmap)
    tight = []
    for bitmap in bitmaps:
        y, x = np.nonzero(bitmap)
        tight.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
    boxes = torch.tensor(np.array(tight)).float()[rows]
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    boxes = boxes + 0.2 * sides * torch.randn(boxes.shape, generator=generator)
    boxes[:, 0::2] = boxes[:, 0::2].clamp(0, bitmaps.shape[2])
    boxes[:, 1::2] = boxes[:, 1::2].clamp(0, bitmaps.shape[1])
    return rows, boxes


# --- BoxedBitmaps -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("side", [7, 28])
def test_crops_equal_roi_align_of_full_images(side: int) -> None:
    bitmaps = ellipses(12, seed=0)
    rows, boxes = boxes_around(bitmaps, 8, seed=1)
    crops = BoxedBitmaps.from_full(bitmaps)[rows].crop_and_resize(boxes, side)
    assert torch.equal(crops, full_image_crops(bitmaps[rows], boxes, side))
    assert 0.2 < crops.float().mean() < 0.9


def test_crops_of_several_images_equal_crops_per_image() -> None:
    images, expected = [], []
    for seed, size in enumerate([SIZE, (40, 50)]):
        bitmaps = ellipses(4, seed=seed, size=size)
        rows, boxes = boxes_around(bitmaps, 3, seed=seed)
        images.append((BoxedBitmaps.from_full(bitmaps), rows, boxes))
        expected.append(full_image_crops(bitmaps[rows], boxes, 14))
    masks, matches, boxes_of_images = map(list, zip(*images, strict=True))
    assert torch.equal(crop_matched(masks, matches, boxes_of_images, 14), torch.cat(expected))


def test_host_windows_follow_row_selection() -> None:
    masks = replace(BoxedBitmaps.from_full(ellipses(4, seed=0)), host_windows=torch.arange(20).view(4, 5))
    assert masks[1:3].host_windows is not None
    assert masks[1:3].host_windows[:, 0].tolist() == [5, 10]
    assert masks.to("cpu").host_windows is None  # `windows` are on the host


def test_crops_do_not_depend_on_the_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    bitmaps = ellipses(12, seed=0)
    rows, boxes = boxes_around(bitmaps, 8, seed=1)
    masks = BoxedBitmaps.from_full(bitmaps)[rows]
    at_once = masks.crop_and_resize(boxes, 14)
    monkeypatch.setattr(mask_cropping, "MAX_PADDED_PIXELS", 4000)
    assert torch.equal(masks.crop_and_resize(boxes, 14), at_once)


def test_crops_at_the_border_equal_roi_align_of_full_images() -> None:
    bitmaps = np.ones((1, *SIZE), dtype=bool)
    height, width = SIZE
    boxes = torch.tensor(
        [
            [0.0, 0.0, width, height],
            [-0.9, -0.9, 20, 20],
            [-30.0, 5, 30, 25],
            [width - 10.0, height - 10.0, width + 0.9, height + 0.9],
            [width - 20.0, 30, width + 25, height + 40],
            [width + 5.0, 3, width + 9, 9],
        ]
    )
    rows = torch.zeros(len(boxes), dtype=torch.int64)
    crops = BoxedBitmaps.from_full(bitmaps)[rows].crop_and_resize(boxes, 14)
    assert torch.equal(crops, full_image_crops(bitmaps[rows], boxes, 14))


def test_window_at_one_border_has_the_right_position() -> None:
    bitmaps = np.zeros((4, *SIZE), dtype=bool)
    bitmaps[0, :, :9], bitmaps[1, :7], bitmaps[2, :, -5:], bitmaps[3, -6:, 40:50] = True, True, True, True
    rows, boxes = boxes_around(bitmaps, 10, seed=3)
    crops = BoxedBitmaps.from_full(bitmaps)[rows].crop_and_resize(boxes, 14)
    assert torch.equal(crops, full_image_crops(bitmaps[rows], boxes, 14))


def test_mean_of_exactly_one_half_belongs_to_the_mask() -> None:
    # The left half of a bin of 6 pixels is covered: three of six samples per row, independent of the rounding of 1 / 6.
    bitmaps = np.zeros((1, 12, 12), dtype=bool)
    bitmaps[0, :, :3] = True
    crop = BoxedBitmaps.from_full(bitmaps).crop_and_resize(torch.tensor([[0.0, 0, 12, 12]]), 2)
    assert crop.tolist() == [[[True, False], [True, False]]]


def test_box_without_area_has_an_empty_crop() -> None:
    masks = BoxedBitmaps.from_full(np.ones((3, *SIZE), dtype=bool))
    crops = masks.crop_and_resize(torch.tensor([[5.0, 5, 5, 20], [5, 5, 20, 5], [9, 9, 3, 3]]), 7)
    assert not crops.any()


def test_values_at_points_equal_grid_sampling_of_full_images() -> None:
    bitmaps = ellipses(12, seed=0)
    rows, boxes = boxes_around(bitmaps, 4, seed=1)
    generator = torch.Generator().manual_seed(2)
    points = boxes[:, None, :2] + torch.rand((48, 50, 2), generator=generator) * (boxes[:, 2:] - boxes[:, :2])[:, None]
    points[:, -9:] = torch.rand((48, 9, 2), generator=generator) * torch.tensor([100.0, 70.0]) - 5  # some outside
    height, width = SIZE
    grid = (points / torch.tensor([width, height]) * 2 - 1)[:, None]
    full = torch.from_numpy(bitmaps)[rows].float()[:, None]
    values = BoxedBitmaps.from_full(bitmaps)[rows].sample_points(points)
    torch.testing.assert_close(values, F.grid_sample(full, grid, align_corners=False)[:, 0, 0], atol=1e-4, rtol=0)
    assert 0.2 < values.mean() < 0.9


def test_values_at_points_equal_hand_computed_values() -> None:
    masks = BoxedBitmaps.from_windows([(3, 1)], [np.array([[1, 0], [1, 1]])], (4, 8))
    points = torch.tensor([[3.5, 1.5], [4.5, 1.5], [4.0, 1.5], [4.0, 2.0], [3.0, 1.5], [3.25, 1.0], [0.5, 0.5]])
    assert masks.sample_points(points[None]).tolist() == [[1, 0, 0.5, 0.75, 0.5, 0.375, 0]]


def test_values_at_points_of_masks_without_pixels_are_zero() -> None:
    bitmaps = np.zeros((2, *SIZE), dtype=bool)
    points = torch.full((2, 3, 2), 5.0)
    assert not BoxedBitmaps.from_full(bitmaps).sample_points(points).any()
    bitmaps[1] = True
    points[1, 0] = torch.nan
    assert BoxedBitmaps.from_full(bitmaps).sample_points(points).tolist() == [[0, 0, 0], [0, 1, 1]]
    assert BoxedBitmaps.from_windows([], [], SIZE).sample_points(points[:0]).shape == (0, 3)


def test_mask_without_pixels_has_an_empty_crop() -> None:
    bitmaps = np.zeros((2, *SIZE), dtype=bool)
    bitmaps[1] = True
    masks = BoxedBitmaps.from_full(bitmaps)
    crops = masks.crop_and_resize(torch.tensor([[0.0, 0, 9, 9]] * 2), 7)
    assert not crops[0].any()
    assert crops[1].all()
    assert torch.equal(masks.bitmaps(), torch.from_numpy(bitmaps))


def test_empty_masks_support_all_operations() -> None:
    for masks in (BoxedBitmaps.from_full(np.zeros((0, *SIZE))), BoxedBitmaps.from_windows([], [], SIZE)):
        assert len(masks) == 0
        assert masks.crop_and_resize(torch.zeros(0, 4), 28).shape == (0, 28, 28)
        assert masks.bitmaps().shape == (0, *SIZE)
        assert masks.rles() == []
        assert len(masks[torch.zeros(0, dtype=torch.int64)]) == 0


def test_bitmaps_round_trip() -> None:
    bitmaps = ellipses(5, seed=2)
    assert torch.equal(BoxedBitmaps.from_full(torch.from_numpy(bitmaps)).bitmaps(), torch.from_numpy(bitmaps))


def test_from_windows_places_windows_at_origins() -> None:
    masks = BoxedBitmaps.from_windows(
        [(1, 0), (0, 2)], [np.array([[1, 0, 1]]), torch.ones(1, 2, dtype=torch.bool)], (3, 4)
    )
    assert masks.bitmaps().int().tolist() == [
        [[0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]],
    ]


@pytest.mark.parametrize(("origin", "shape"), [((-1, 0), (2, 2)), ((3, 0), (1, 2)), ((0, 2), (2, 1))])
def test_window_outside_image_raises(origin: tuple[int, int], shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"window of mask 1.*outside its image of 4 x 3"):
        BoxedBitmaps.from_windows([(0, 0), origin], [np.ones((1, 1)), np.ones(shape)], (3, 4))


def test_row_selection_shares_pixels() -> None:
    bitmaps = ellipses(6, seed=4)
    masks = BoxedBitmaps.from_full(bitmaps)
    rows = torch.tensor([5, 0, 0, 3])
    selected = masks[rows]
    assert selected.pixels.data_ptr() == masks.pixels.data_ptr()
    assert torch.equal(selected.bitmaps(), torch.from_numpy(bitmaps[rows]))
    assert torch.equal(masks[1:3].bitmaps(), torch.from_numpy(bitmaps[1:3]))
    keep = torch.tensor([True, False, True, False, False, False])
    assert torch.equal(masks[keep].bitmaps(), torch.from_numpy(bitmaps[keep.numpy()]))


def test_pickle_contains_only_windows() -> None:
    bitmaps = np.zeros((20, 800, 1333), dtype=bool)
    bitmaps[:, 100:150, 200:240] = True
    masks = BoxedBitmaps.from_full(bitmaps)
    pickled = pickle.dumps(masks)
    assert len(pickled) < 20 * 50 * 40 + 5000
    assert torch.equal(pickle.loads(pickled).bitmaps(), masks.bitmaps())


def test_boxed_bitmaps_satisfy_both_mask_protocols() -> None:
    bitmaps = ellipses(4, seed=5)
    masks = BoxedBitmaps.from_full(bitmaps)
    assert isinstance(masks, TargetMasks)
    assert isinstance(masks, PredictedMasks)
    decoded = np.stack([coco_mask.decode(rle) for rle in masks.rles()])
    assert np.array_equal(decoded, bitmaps)


@pytest.mark.parametrize("size", [SIZE, (2 * SIZE[0], SIZE[1] // 3), (SIZE[0] // 2 + 1, 5 * SIZE[1])])
def test_resized_bitmaps_equal_nearest_interpolation(size: tuple[int, int]) -> None:
    bitmaps = ellipses(5, seed=6)
    resized = BoxedBitmaps.from_full(bitmaps).resized(size, torch.zeros(5, 4))
    expected = F.interpolate(torch.from_numpy(bitmaps)[:, None].float(), size=size, mode="nearest-exact")[:, 0]
    assert torch.equal(resized.bitmaps(), expected.bool())
    assert len(BoxedBitmaps.from_full(bitmaps[:0]).resized(size, torch.zeros(0, 4))) == 0


def test_areas_count_pixels_with_their_centre_in_the_box() -> None:
    bitmaps = ellipses(8, seed=7)
    bitmaps[3] = False
    masks = BoxedBitmaps.from_full(bitmaps)
    assert masks.areas().tolist() == bitmaps.sum(axis=(1, 2)).tolist()
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand((8, 2, 2), generator=generator) * torch.tensor([SIZE[1] + 20.0, SIZE[0] + 20.0]) - 10
    boxes = torch.cat((corners.amin(dim=1), corners.amax(dim=1)), dim=1)
    boxes[5] = torch.tensor([30.0, 30.0, 10.0, 10.0])  # inverted
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    expected = [
        int((bitmap & (x >= x1) & (x < x2) & (y >= y1) & (y < y2)).sum())
        for bitmap, (x1, y1, x2, y2) in zip(bitmaps, boxes.tolist(), strict=True)
    ]
    assert masks.areas(boxes).tolist() == expected
    assert sum(expected) > 0
    rows = torch.tensor([6, 2, 2])
    assert masks[rows].areas(boxes[rows]).tolist() == [expected[6], expected[2], expected[2]]
    assert masks[:0].areas(boxes[:0]).tolist() == []
    assert BoxedBitmaps.from_full(np.zeros((2, *SIZE), dtype=bool)).areas(boxes[:2]).tolist() == [0, 0]


# --- ProbabilityMasks -------------------------------------------------------------------------------------------------
def smooth_masks(count: int, *, seed: int, threshold: float = 0.5) -> ProbabilityMasks:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((count, 1, 5, 5), generator=generator)
    probabilities = F.interpolate(coarse, size=28, mode="bilinear")[:, 0]
    centers = torch.rand((count, 2), generator=generator) * torch.tensor([SIZE[1], SIZE[0]])
    sides = torch.exp(torch.rand((count, 2), generator=generator) * 4)
    return ProbabilityMasks(probabilities, torch.cat((centers - sides, centers + sides), dim=1), SIZE, threshold)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.7])
def test_pasted_bitmaps_equal_bilinear_sampling_of_full_image(threshold: float) -> None:
    masks = smooth_masks(60, seed=0, threshold=threshold)
    difference = masks.bitmaps() != full_image_paste(masks)
    assert difference.float().mean() < 1e-5  # probabilities at the threshold may round differently
    assert masks.bitmaps().any(dim=(1, 2)).float().mean() > 0.5


def test_one_pixel_box_is_pasted_onto_that_pixel() -> None:
    masks = ProbabilityMasks(torch.full((1, 28, 28), 0.9), torch.tensor([[3.0, 4, 4, 5]]), SIZE)
    assert masks.bitmaps()[0].nonzero().tolist() == [[4, 3]]


def test_rles_equal_encoded_bitmaps() -> None:
    masks = smooth_masks(60, seed=1)
    expected = [coco_mask.encode(np.asfortranarray(bitmap.numpy().astype(np.uint8))) for bitmap in masks.bitmaps()]
    assert [rle["counts"] for rle in masks.rles()] == [rle["counts"].decode() for rle in expected]
    assert all(rle["size"] == list(SIZE) for rle in masks.rles())


def test_row_selection_of_probability_masks() -> None:
    masks = smooth_masks(6, seed=2)
    rows = torch.tensor([4, 1])
    assert torch.equal(masks[rows].bitmaps(), masks.bitmaps()[rows])
    assert len(masks[:0]) == 0
    assert masks[:0].rles() == []
    assert masks[:0].bitmaps().shape == (0, *SIZE)


def test_masks_of_a_huge_image_need_no_full_bitmaps() -> None:
    # 100 boxes of 200 x 300 on 4000 x 8000: full-image float grids would take 25 GB, full bitmaps 3 GB.
    corners = torch.rand((100, 2)) * torch.tensor([7700.0, 3700.0])
    boxes = torch.cat((corners, corners + torch.tensor([300.0, 200.0])), dim=1)
    masks = ProbabilityMasks(torch.ones(100, 28, 28), boxes, (4000, 8000))
    tracemalloc.start()
    rles = masks.rles()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6
    assert coco_mask.area(rles).tolist() == pytest.approx([60000] * 100, rel=0.01)


def test_half_precision_probabilities_are_pasted() -> None:
    masks = smooth_masks(5, seed=3)
    half = ProbabilityMasks(masks.probabilities.bfloat16(), masks.boxes, SIZE)
    assert (half.bitmaps() != masks.bitmaps()).float().mean() < 0.01


def test_autocast_does_not_change_crops() -> None:
    generator = torch.Generator().manual_seed(0)
    bitmaps = torch.rand(6, 40, 50, generator=generator) > 0.5
    corners = torch.rand(6, 2, 2, generator=generator).sort(dim=1).values
    boxes = (corners * torch.tensor([50.0, 40.0])).reshape(6, 4)
    masks = BoxedBitmaps.from_full(bitmaps)
    expected = masks.crop_and_resize(boxes, 14)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(masks.crop_and_resize(boxes, 14), expected)


class FullBitmaps:
    """Masks of a kind without windows."""

    def __init__(self, full: Tensor) -> None:
        self.full = full

    def __len__(self) -> int:
        return len(self.full)

    def __getitem__(self, rows: slice) -> "FullBitmaps":
        return FullBitmaps(self.full[rows])

    def bitmaps(self) -> Tensor:
        return self.full


@pytest.mark.parametrize("kind", ["boxed", "probabilities", "run lengths", "full"])
def test_windows_placed_in_the_image_equal_bitmaps(kind: str) -> None:
    full = ellipses(3, seed=5)
    full[1] = False
    boxed = BoxedBitmaps.from_full(full)
    boxes = torch.tensor([[-5.0, 3.0, 40.0, 30.5], [20.0, 10.0, 20.0, 40.0], [70.5, 20.0, 99.0, 70.0]])
    masks = {
        "boxed": boxed,
        "probabilities": ProbabilityMasks(torch.rand(3, 28, 28, generator=torch.manual_seed(0)), boxes, SIZE),
        "run lengths": RleMasks(boxed.rles(), SIZE),
        "full": FullBitmaps(torch.from_numpy(full)),
    }[kind]
    table = Detections(SIZE, boxes, scores=torch.ones(3), classes=torch.zeros(3), masks=masks)  # type: ignore[arg-type]
    placed = np.zeros((3, *SIZE), dtype=bool)
    for bitmap, window in zip(placed, mask_windows(table), strict=True):
        left, top, right, bottom = window.box
        bitmap[top:bottom, left:right] = window.bitmap
    np.testing.assert_array_equal(placed, masks.bitmaps().numpy())  # type: ignore[attr-defined]
    assert placed[0].any()
    assert not placed[1].any()
