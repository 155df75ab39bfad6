"""Selective search and EdgeBoxes, and what they share: images from pixels, scaling, clipping, order."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.modeling.proposal_generators import EdgeBoxes, ImageSearch, build_proposal_generator
from mrcnn_zoo.modeling.proposal_generators.edge_boxes import smallest_area
from mrcnn_zoo.modeling.proposal_generators.edges import GradientEdges, StructuredEdges
from mrcnn_zoo.modeling.proposal_generators.image_search import Found, Image, SearchedImages
from mrcnn_zoo.modeling.proposal_generators.selective_search import (
    FAST,
    QUALITY,
    Combination,
    SelectiveSearch,
    in_color,
)
from mrcnn_zoo.structures import Batch, Sample

cv2 = pytest.importorskip("cv2", reason='needs OpenCV: pip install "mrcnn_zoo[proposals]"')

MEAN, STD = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)
RECTANGLE = [40, 30, 100, 70]  # x1, y1, x2, y2
# A forest of structured edges with a single leaf, which predicts a vertical edge in every patch: not trained, but
# enough to run OpenCV's directions and thinning.
FOREST = """%YAML:1.0
---
options: {numberOfTrees: 1, numberOfTreesToEvaluate: 1, selfsimilarityGridSize: 5, stride: 2, shrinkNumber: 2,
  patchSize: 32, patchInnerSize: 16, numberOfGradientOrientations: 4, gradientSmoothingRadius: 0,
  regFeatureSmoothingRadius: 2, ssFeatureSmoothingRadius: 8, gradientNormalizationRadius: 4}
childs: [[0]]
featureIds: [[0]]
thresholds: [[0.]]
edgeBoundaries: [[0, 2]]
edgeBins: [[120, 136]]
"""


def scene(seed: int = 0) -> Image:
    """Smooth patches of random colours."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    return cv2.resize(noise, (100, 80), interpolation=cv2.INTER_CUBIC)


def rectangle() -> Image:
    image = np.full((100, 140, 3), 60, dtype=np.uint8)
    x1, y1, x2, y2 = RECTANGLE
    image[y1:y2, x1:x2] = (200, 180, 90)
    return image


def batch_of(*images: Image, ids: list[int | str]) -> Batch:
    samples = [
        Sample(torch.from_numpy(image[:, :, ::-1].transpose(2, 0, 1).copy()), image_id, image.shape[:2])
        for image, image_id in zip(images, ids, strict=True)
    ]
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return Batch.collate(samples, pixel_mean=mean, pixel_std=std, size_divisibility=32)


def build(name: str, *overrides: Any) -> ImageSearch:
    keys = ["MODEL.PROPOSAL_GENERATOR.NAME", name, "MODEL.PIXEL_MEAN", [*MEAN], "MODEL.PIXEL_STD", [*STD]]
    return build_proposal_generator(load_config(None, [*keys, "MODEL.DEVICE", "cpu", *overrides]), {})


# --- images from pixels
@pytest.mark.parametrize("is_bgr", [True, False])
def test_pixels_are_restored_exactly(is_bgr: bool) -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    pixels = batch_of(image, ids=[1]).pixels[0, :, :30, :40]
    found = SearchedImages(MEAN, STD, is_bgr=is_bgr).rgb(pixels)
    assert np.array_equal(found, image if is_bgr else image[:, :, ::-1])


def test_grey_is_repeated_and_more_channels_are_averaged() -> None:
    grey = torch.tensor([[[0.0, 100.0, 255.0]]])
    assert SearchedImages((0.0,), (1.0,)).rgb(grey)[0, :, 2].tolist() == [0, 100, 255]
    four = torch.tensor([10.0, 20.0, 30.0, 60.0])[:, None, None]
    assert SearchedImages((0.0,) * 4, (1.0,) * 4).rgb(four).tolist() == [[[30, 30, 30]]]


def test_images_of_more_than_8_bits_are_stretched_to_bytes() -> None:
    pixels = torch.tensor([[[1000.0, 3000.0, 5000.0]]])
    assert SearchedImages((0.0,), (1.0,)).rgb(pixels)[0, :, 0].tolist() == [0, 128, 255]


# --- scaling, clipping, order
class Corners:
    """Finds boxes in given fractions of the image, and keeps the sizes of the images."""

    def __init__(self, *fractions: tuple[float, float, float, float]) -> None:
        self.fractions = fractions
        self.sizes: list[tuple[int, ...]] = []
        self.areas: list[float] = []

    def __call__(self, image: Image, *, image_id: int | str, min_area: float) -> Found:  # noqa: ARG002
        self.sizes.append(image.shape[:2])
        self.areas.append(min_area)
        sides = np.array([image.shape[1], image.shape[0]] * 2)
        boxes = (np.array(self.fractions) * sides).astype(np.float32)
        return boxes, -np.arange(len(boxes), dtype=np.float32)


@pytest.mark.parametrize(("longest_side", "size"), [((200, 0), (100, 200)), ((0, 50), (25, 50)), ((0, 0), (40, 80))])
def test_search_runs_on_the_scaled_image_and_its_boxes_are_scaled_back(
    longest_side: tuple[int, int], size: tuple[int, int]
) -> None:
    search = Corners((0.25, 0.5, 0.75, 1.0))
    images = SearchedImages(MEAN, STD, longest_side=longest_side)
    generator = ImageSearch(search, images=images, min_area=8, max_boxes=10)
    (table,) = generator.predict({}, batch_of(np.zeros((40, 80, 3), np.uint8), ids=[1]))
    assert search.sizes == [size]
    assert search.areas == [8 * size[0] * size[1] / (40 * 80)]
    assert table.boxes.tolist() == [[20, 20, 60, 40]]
    assert table.image_size == (40, 80)


def test_boxes_are_clipped_and_empty_small_and_surplus_ones_dropped() -> None:
    search = Corners((-0.5, -0.5, 0.5, 0.5), (1.1, 0, 1.5, 1), (0, 0, 0.1, 0.1), (0.5, 0.5, 2, 2), (0, 0, 1, 1))
    generator = ImageSearch(search, images=SearchedImages(MEAN, STD), min_area=33, max_boxes=2)
    (table,) = generator.predict({}, batch_of(np.zeros((40, 80, 3), np.uint8), ids=[1]))
    assert table.boxes.tolist() == [[0, 0, 40, 20], [40, 20, 80, 40]]
    assert table.objectness.tolist() == [0, -3]


@pytest.mark.parametrize("name", ["SelectiveSearch", "EdgeBoxes"])
def test_boxes_of_an_image_do_not_depend_on_the_images_before(name: str) -> None:
    first, second = scene(1), scene(2)
    generator = build(name, "MODEL.EDGE_BOXES.LONGEST_SIDE", [0, 0])
    together = generator.predict({}, batch_of(first, second, ids=[7, "b"]))
    (alone,) = build(name, "MODEL.EDGE_BOXES.LONGEST_SIDE", [0, 0]).predict({}, batch_of(second, ids=["b"]))
    (again,) = generator.predict({}, batch_of(first, ids=["7"]))
    assert len(alone) > 10
    for table, expected in ((alone, together[1]), (again, together[0])):
        assert torch.equal(table.boxes, expected.boxes)
        assert torch.equal(table.objectness, expected.objectness)
    assert (together[0].objectness.diff() <= 0).all()


# --- selective search
def test_selective_search_seeds_the_order_with_the_image_id() -> None:
    generator = build("SelectiveSearch")
    one, other = (generator.predict({}, batch_of(scene(), ids=[image_id]))[0].boxes for image_id in (1, 2))
    assert not torch.equal(one, other)
    assert sorted(one.tolist()) == sorted(other.tolist())


def test_selective_search_finds_a_rectangle_on_plain_ground() -> None:
    (table,) = build("SelectiveSearch").predict({}, batch_of(rectangle(), ids=[1]))
    assert box_iou(table.boxes, torch.tensor([RECTANGLE]).float()).max() > 0.9
    assert table.objectness.exp().reciprocal().round().tolist() == [*range(1, len(table) + 1)]


def noisy_scene() -> Image:
    """A scene whose regions have no equal similarities, the order of which would be arbitrary."""
    noise = np.random.default_rng(0).normal(0, 8, (80, 100, 3))
    return np.clip(scene() + noise, 0, 255).astype(np.uint8)


def boxes_of_opencv(search: Any) -> set[tuple[int, ...]]:
    return {(x, y, x + width, y + height) for x, y, width, height in search.process().tolist()}


def our_boxes(combination: Combination) -> set[tuple[int, ...]]:
    search = SelectiveSearch(combination, base_k=100, increment_k=50, sigma=0.5)
    return set(map(tuple, search(noisy_scene(), image_id=1, min_area=0)[0].tolist()))


def test_fast_selective_search_finds_the_boxes_of_opencv() -> None:
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(noisy_scene()[:, :, ::-1]))
    search.switchToSelectiveSearchFast(100, 50, 0.5)
    expected = boxes_of_opencv(search)
    assert len(expected) > 100
    assert our_boxes(FAST) == expected


@pytest.mark.parametrize("color", QUALITY.colors)
@pytest.mark.parametrize("similarity", ["Color", "Texture", "Size"])
def test_each_grouping_finds_the_boxes_of_opencv(color: str, similarity: str) -> None:
    module = cv2.ximgproc.segmentation
    search = module.createSelectiveSearchSegmentation()
    search.addImage(in_color(noisy_scene(), color))
    search.addGraphSegmentation(module.createGraphSegmentation(0.5, 100, 100))
    search.addStrategy(getattr(module, f"createSelectiveSearchSegmentationStrategy{similarity}")())
    assert our_boxes(Combination((color,), 1, (similarity[0],))) == boxes_of_opencv(search)


def test_large_regions_tend_to_be_first() -> None:
    boxes, _ = SelectiveSearch(FAST)(scene(), image_id=1, min_area=0)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    half = len(areas) // 2
    assert np.median(areas[:half]) > 1.5 * np.median(areas[half:])


def test_quality_finds_more_boxes_than_fast() -> None:
    fast, quality = (
        len(build("SelectiveSearch", "MODEL.SELECTIVE_SEARCH.MODE", mode).predict({}, batch_of(scene(), ids=[1]))[0])
        for mode in ("fast", "quality")
    )
    assert quality > 1.5 * fast


# --- EdgeBoxes
def test_gradient_edges_of_a_rectangle_are_one_pixel_wide() -> None:
    edges, directions = GradientEdges(1.0)(rectangle())
    x1, y1, x2, y2 = RECTANGLE
    inside_y, inside_x = slice(y1 + 3, y2 - 3), slice(x1 + 3, x2 - 3)
    for row in edges[inside_y]:
        assert np.flatnonzero(row).tolist() == [x1 - 1, x2 - 1]
    for column in edges[:, inside_x].T:
        assert np.flatnonzero(column).tolist() == [y1 - 1, y2 - 1]
    assert edges.max() == pytest.approx(1)
    assert np.allclose(np.sin(directions[inside_y, x1 - 1]), 0, atol=0.01)  # 0 or nearly pi
    assert np.allclose(directions[y1 - 1, inside_x], np.pi / 2, atol=0.01)


def test_edges_of_a_plain_image_are_zero_and_give_no_windows() -> None:
    plain = np.full((40, 60, 3), 77, dtype=np.uint8)
    assert not GradientEdges(1.0)(plain)[0].any()
    (table,) = build("EdgeBoxes").predict({}, batch_of(plain, ids=[1]))
    assert len(table) == 0


@pytest.mark.parametrize(("longest_side", "least_iou"), [([0, 0], 0.7), ([500, 1000], 0.95)])
def test_first_window_of_edge_boxes_is_the_drawn_rectangle(longest_side: list[int], least_iou: float) -> None:
    (table,) = build("EdgeBoxes", "MODEL.EDGE_BOXES.LONGEST_SIDE", longest_side).predict(
        {}, batch_of(rectangle(), ids=[1])
    )
    overlaps = box_iou(table.boxes, torch.tensor([RECTANGLE]).float())[:, 0]
    assert overlaps[0] > least_iou
    assert overlaps[0] == overlaps.max()


def test_edge_directions_are_those_of_opencv_on_a_circle(tmp_path: Path) -> None:
    image = cv2.circle(np.zeros((120, 120, 3), np.uint8), (60, 60), 40, (255, 255, 255), -1)
    edges, directions = GradientEdges(1.0)(image)
    rows, columns = np.indices((120, 120)) - 60
    ring = np.exp(-((np.hypot(rows, columns) - 40) ** 2) / 8).astype(np.float32)
    (tmp_path / "forest.yml").write_text(FOREST)
    forest = cv2.ximgproc.createStructuredEdgeDetection(str(tmp_path / "forest.yml"))
    is_edge = edges > 0.5
    difference = np.abs(directions - forest.computeOrientation(ring))[is_edge]
    assert is_edge.sum() > 150
    # OpenCV's angle is atan(tan^2), up to 13 degrees off, and pixels are discrete; a mirrored or swapped axis would be
    # off by up to 90.
    assert np.minimum(difference, np.pi - difference).max() < np.radians(17)


def test_structured_edges_use_the_model_file(tmp_path: Path) -> None:
    (tmp_path / "forest.yml").write_text(FOREST)
    edges, directions = StructuredEdges(tmp_path / "forest.yml")(scene())
    assert edges.shape == directions.shape == (80, 100)
    everywhere = StructuredEdges(tmp_path / "forest.yml")._forest.detectEdges(scene() / np.float32(255))
    assert 0 < (edges > 0).sum() < (everywhere > 0).sum()
    generator = build("EdgeBoxes", "MODEL.EDGE_BOXES.MODEL", str(tmp_path / "forest.yml"))
    assert isinstance(generator.search.detect_edges, StructuredEdges)


@pytest.mark.parametrize(("content", "message"), [(None, "no such file"), ("%YAML:1.0\n---\na: 1\n", "not a forest")])
def test_unusable_model_of_structured_edges_is_refused(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "model.yml").write_text(content)
    with pytest.raises(UserError, match=rf"MODEL\.EDGE_BOXES\.MODEL.*{message}(.|\n)*model\.yml\.gz.*opencv_extra"):
        StructuredEdges(tmp_path / "model.yml")


def test_smallest_windows_have_the_area_of_the_key() -> None:
    small, large = (EdgeBoxes(detect_edges=GradientEdges())(scene(), image_id=1, min_area=a)[0] for a in (36, 2500))
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1).min() for boxes in (small, large)]
    assert areas[0] < 100
    assert areas[1] > 1200  # windows are moved and refined, so some become smaller
    assert smallest_area(0.65, 3.0) == pytest.approx((3.01 * (1.65 / 1.3) ** 2) ** 2)


# --- without features, without OpenCV
def test_proposals_of_a_search_do_not_run_the_backbone(small_cfg: Callable[..., CfgNode]) -> None:
    keys = ("MODEL.PROPOSAL_GENERATOR.NAME", "EdgeBoxes", "MODEL.META_ARCHITECTURE", "ProposalNetwork")
    model = build_model(small_cfg(*keys, "MODEL.MASK_ON", False)).eval()

    def refuse(_: Tensor) -> None:
        raise AssertionError("the backbone ran")

    model.backbone.forward = refuse
    image = torch.from_numpy(rectangle().transpose(2, 0, 1).copy())
    (found,) = model.predict([Sample(image, 1, (200, 280))])
    assert found.image_size == (200, 280)
    assert box_iou(found.boxes[:1], 2 * torch.tensor([RECTANGLE]).float()) > 0.9


@pytest.mark.parametrize("name", ["SelectiveSearch", "EdgeBoxes"])
@pytest.mark.parametrize(
    ("module", "message"),
    [
        (None, r"not installed: pip install \"mrcnn_zoo\[proposals\]\""),
        (ModuleType("cv2"), r"Remove every package.*pip install \"mrcnn_zoo\[proposals\]\""),
    ],
)
def test_missing_opencv_is_named_with_the_package(
    name: str, module: ModuleType | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if module is not None:
        module.__version__ = "4.9"
    monkeypatch.setitem(sys.modules, "cv2", module)
    with pytest.raises(UserError, match=message + ".*opencv-contrib-python-headless"):
        build(name)
