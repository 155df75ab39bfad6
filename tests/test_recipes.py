"""The recipes of docs/recipes.md: the commands of each section run at tiny size, from the data to the predictions."""

import json
import math
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from mrcnn_zoo.cli.main import main
from mrcnn_zoo.config import load_config, packaged_names
from mrcnn_zoo.data import load_dataset
from mrcnn_zoo.data.loading.selection import select_for_training
from mrcnn_zoo.registries import DATA_SAMPLERS
from support.documentation import DOCS, blocks, commands

PAGE = DOCS / "recipes.md"
TINY = {
    "data convert": "DATASETS.SCENES.NUM_TRAIN 5 DATASETS.SCENES.IMAGE_SIZE [64,64] DATASETS.SCENES.OBJECT_SIZE [8,24] "
    "DATASETS.SCENES.NUM_OBJECTS [1,8]",
    "data tile": "--size 48 --overlap 8",
    "train": "SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 2 SOLVER.AMP.ENABLED False INPUT.MIN_SIZE_TRAIN [64] LOG_PERIOD 1 "
    "INPUT.MIN_SIZE_TEST 64 MODEL.RPN.POST_NMS_TOPK_TEST 20 MODEL.RPN.PRE_NMS_TOPK_TEST 20 VIS.NUM_IMAGES 0 "
    "VIS.NUM_BATCHES 0 VIS.PLOTS False VIS.REPORT False MODEL.DEVICE cpu",
    "evaluate": "VIS.NUM_IMAGES 0 VIS.PLOTS False VIS.REPORT False",
    "predict": "--threshold 0.05",
}
MORE_SCENES = ("DATASETS.SCENES.NUM_TRAIN", "20", "DATASETS.SCENES.NUM_OBJECTS", "[3,8]")  # for a class that few have
CLASSES = {
    "own_data": ("circle", "square", "triangle"),
    "nuclei": ("nucleus",),
    "balloon_splash": ("balloon",),
    "mapping_challenge": ("building",),
    "aerial_tiles": ("circle", "square", "triangle"),
    "microscopy_16_bit": ("nucleus",),
    "small_objects": ("circle", "square", "triangle"),
    "one_class": ("object",),
    "empty_images": ("seven",),
}


@dataclass(frozen=True)
class Recipe:
    """A section of the page that was run.

    Args:
        output: OUTPUT_DIR of its training.
        data: what it trained on.
        found: the folder of its predictions.
    """

    output: Path
    data: Path
    found: Path

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """By iteration."""
        return [json.loads(line) for line in (self.output / "metrics.json").read_text().splitlines()]

    @cached_property
    def log(self) -> str:
        return (self.output / "log.txt").read_text()


def sections() -> dict[str, list[str]]:
    """The commands of each section, by the name of its config."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    starts = [number for number, line in enumerate(lines, 1) if line.startswith("## ")]
    found: dict[int, list[str]] = {}
    for location, command in commands((PAGE,)):
        line = int(location.rpartition(":")[2])
        found.setdefault(max(start for start in starts if start <= line), []).append(command)
    named = {re.search(r"Recipes/(\w+)\.yaml", " ".join(items)): items for items in found.values()}
    return {match.group(1): items for match, items in named.items() if match}


@pytest.fixture(scope="module")
def run_recipe(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Recipe]:
    """Runs a section, once."""
    folder = tmp_path_factory.mktemp("recipes")

    @cache
    def run(name: str) -> Recipe:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            items = sections()[name]
            if name == "one_class":
                run("own_data")  # the same data
            if name in ("nuclei", "microscopy_16_bit"):
                (block,) = blocks("python", pages=(PAGE,))
                exec(block.text.replace("range(80)", "range(5)").replace("192", "64"), {})
            for item in items:
                run_command(item)
        words = [shlex.split(item) for item in items]
        train = next(item for item in words if item[1] == "train")
        predict = next(item for item in words if item[1] == "predict")
        return Recipe(
            folder / load_config(f"Recipes/{name}.yaml").OUTPUT_DIR,
            folder / train[train.index("DATASETS.TRAIN") + 1],
            folder / predict[predict.index("--output") + 1],
        )

    return run


def run_command(command: str) -> None:
    """Run a command of the page at tiny size; a later option or key counts."""
    words = shlex.split(command)[1:]
    name = " ".join(words[: 2 if words[0] == "data" else 1])
    assert main([*words, *TINY[name].split(), *(MORE_SCENES if '["7"]' in command else ())]) == 0


def test_every_recipe_has_a_section() -> None:
    names = {Path(name).stem for name in packaged_names() if name.startswith("Recipes/")}
    assert names == {*sections(), "own_data_R_50_FPN_coco"}
    assert set(CLASSES) == set(sections())


SLOW = {"aerial_tiles", "empty_images", "small_objects"}
WITH_MARKS = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CLASSES]


@pytest.mark.parametrize("name", WITH_MARKS)
def test_recipe_trains_from_the_packaged_model_and_predicts(name: str, run_recipe: Callable[[str], Recipe]) -> None:
    recipe = run_recipe(name)
    losses = [line["total_loss"] for line in recipe.metrics if "total_loss" in line]
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))
    assert "zoo://Nuclei/mask_rcnn_R_18_FPN_small" in recipe.log
    assert any("segm/AP" in line for line in recipe.metrics)  # of the validation side
    checkpoint = torch.load(recipe.output / "model_final.pth", weights_only=False)
    assert tuple(checkpoint["class_names"]) == CLASSES[name]
    content = json.loads((recipe.found / "predictions.json").read_text())
    assert [item["name"] for item in content["categories"]] == list(CLASSES[name])
    assert len(list(recipe.found.glob("*.png"))) == len(content["images"]) >= 5


def test_own_data_is_a_file_of_five_lines() -> None:
    block = next(block for block in blocks("yaml", pages=(PAGE,)) if block.file_name == "photos.yaml")
    assert len(block.text.splitlines()) == 1 + 5  # below the name of the file


def test_pictures_of_the_splash_have_colour_in_the_masks_alone(run_recipe: Callable[[str], Recipe]) -> None:
    recipe = run_recipe("balloon_splash")
    content = json.loads((recipe.found / "predictions.json").read_text())
    for image in content["images"]:
        masks = [item["segmentation"] for item in content["annotations"] if item["image_id"] == image["id"]]
        inside = coco_mask.decode(masks).any(axis=2) if masks else np.zeros((64, 64), bool)
        source = np.asarray(Image.open(recipe.data / Path(image["file_name"]).name))
        picture = np.asarray(Image.open(recipe.found / Path(image["file_name"]).name))
        np.testing.assert_array_equal(picture[inside], source[inside])
        assert np.ptp(picture[~inside], axis=1).max(initial=0) == 0


def test_polygons_of_buildings_have_few_points_and_are_near_the_masks(run_recipe: Callable[[str], Recipe]) -> None:
    found = run_recipe("mapping_challenge").found
    exact, simple = (
        json.loads(path.read_text())["annotations"]
        for path in (found / "predictions.json", found.parent / "buildings_polygons" / "annotations.json")
    )
    pairs = [(first["segmentation"], second["segmentation"]) for first, second in zip(exact, simple, strict=True)]
    pairs = [(mask, polygons) for mask, polygons in pairs if isinstance(polygons, list)]  # others have holes
    assert len(pairs) > len(exact) / 2
    assert len(list((found.parent / "buildings_map").rglob("*.geojson"))) == 5
    for mask, polygons in pairs:
        drawn = coco_mask.merge(coco_mask.frPyObjects(polygons, *mask["size"]))
        border = np.abs(np.diff(np.pad(coco_mask.decode(mask), 1).astype(int), axis=0)).sum()  # pixels, along x
        assert sum(len(polygon) // 2 for polygon in polygons) <= max(8, border / 2)
        assert coco_mask.area(coco_mask.merge([drawn, mask], True)) >= coco_mask.area(mask) - border


@pytest.mark.slow
def test_tiles_have_the_same_side_and_the_classes_of_the_large_images(run_recipe: Callable[[str], Recipe]) -> None:
    tiles = load_dataset(load_config(), str(run_recipe("aerial_tiles").data))
    assert {record.image_size for record in tiles.records} == {(48, 48)}
    assert len(tiles) == 5 * 2 * 2


def test_range_of_16_bit_values_is_in_the_checkpoint(run_recipe: Callable[[str], Recipe]) -> None:
    recipe = run_recipe("microscopy_16_bit")
    images = [tifffile.imread(path) for path in sorted(recipe.data.glob("images/*.tif"))]
    assert all(image.dtype == np.uint16 for image in images)
    low, high = load_config(recipe.output / "config.yaml").INPUT.VALUE_RANGE
    assert min(image.min() for image in images) < low < 150  # the background is about 120
    assert 200 < high < max(image.max() for image in images)


def test_crops_of_small_objects_are_trained_at_the_scale_of_the_test() -> None:
    section = load_config("Recipes/small_objects.yaml").INPUT
    assert [size / share for size, share in zip(section.MIN_SIZE_TRAIN, section.CROP.SIZE[:1], strict=True)] == [
        section.MIN_SIZE_TEST
    ]


def test_one_class_has_one_box_and_one_mask_per_region(run_recipe: Callable[[str], Recipe]) -> None:
    weights = torch.load(run_recipe("one_class").output / "model_final.pth", weights_only=False)["model"]
    assert weights["roi_heads.box_predictor.bbox_pred.weight"].shape[0] == 4
    assert weights["roi_heads.mask_head.predictor.weight"].shape[0] == 1


@pytest.mark.slow
def test_half_of_the_training_images_are_without_objects(run_recipe: Callable[[str], Recipe]) -> None:
    data = str(run_recipe("empty_images").data)
    cfg = load_config("Recipes/empty_images.yaml", ["DATASETS.TRAIN", [data]])
    dataset = select_for_training(cfg, load_dataset(cfg, data))
    is_empty = np.array([not record.instances for record in dataset.records])
    assert 0.5 < is_empty.mean() < 1
    rows = DATA_SAMPLERS.get(cfg.DATALOADER.SAMPLER_TRAIN)(cfg, dataset, 0).epoch(0)
    assert is_empty[rows].mean() == 0.5
