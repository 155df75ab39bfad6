"""torchvision's reference pipeline gives the same network inputs as ours, and both are measured."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mrcnn_zoo.benchmark.loading import LoadingJob, LoadingPlan, start_loading
from mrcnn_zoo.benchmark.torchvision_loading import PIXEL_MEAN, PIXEL_STD, build_torchvision_pipeline
from mrcnn_zoo.cli.main import run_command
from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.data.catalog import load_dataset
from mrcnn_zoo.data.loading.mapper import build_train_mapper

BASE = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
TWICE = ["INPUT.MIN_SIZE_TRAIN=[80]", "INPUT.MAX_SIZE_TRAIN=200", "MODEL.DEVICE=cpu"]  # 40 x 60 becomes 80 x 120


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A COCO file with two images, an object of two polygons, one of run lengths, and a crowd."""
    y, x = np.mgrid[:40, :60]
    for number in (1, 2):
        pixels = np.stack([4 * x, 6 * y, 2 * (x + y) + 20 * number], axis=2).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.jpg", quality=95)
    parts = [[4.5, 5.25, 30.5, 5.25, 30.5, 30.75], [40.0, 10.0, 55.0, 10.0, 55.0, 20.0, 40.0, 20.0]]
    runs = {"size": [40, 60], "counts": [415, 20, 20, 20, 20, 20, 1885]}  # 20 x 3 pixels from x = 10, y = 15
    objects = [(1, parts, 0, [4.5, 5.25, 50.5, 25.5]), (1, runs, 0, [10, 15, 3, 20]), (1, runs, 1, [10, 15, 3, 20])]
    objects += [(2, parts[:1], 0, [4.5, 5.25, 26.0, 25.5])]
    annotations = [
        {
            "id": row,
            "image_id": image,
            "category_id": 3,
            "segmentation": shape,
            "iscrowd": crowd,
            "bbox": box,
            "area": 9,
        }
        for row, (image, shape, crowd, box) in enumerate(objects, start=1)
    ]
    images = [{"id": number, "file_name": f"{number}.jpg", "height": 40, "width": 60} for number in (1, 2)]
    document = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "a"}]}
    (tmp_path / "annotations.json").write_text(json.dumps(document))
    return tmp_path


@pytest.fixture
def cfg() -> CfgNode:
    return load_config(BASE, TWICE)


@pytest.mark.parametrize("is_mirrored", [False, True])
def test_both_pipelines_give_the_same_input(folder: Path, cfg: CfgNode, is_mirrored: bool) -> None:
    dataset = load_dataset(cfg, str(folder))
    pipeline = build_torchvision_pipeline(cfg, dataset)
    mapper = build_train_mapper(cfg, dataset)
    seeds = (seed for seed in range(20) if _is_mirrored_by(mapper, dataset.records[0], seed) == is_mirrored)
    ours = mapper(dataset.records[0], np.random.default_rng(next(seeds)))
    images, (target,) = pipeline.collate([pipeline.load(1, is_mirrored=is_mirrored)])
    assert images.image_sizes == [ours.image_size] == [(80, 120)]
    assert tuple(images.tensors.shape) == (1, 3, 96, 128)
    torch.testing.assert_close(ours.targets.boxes, target["boxes"], atol=1e-4, rtol=0)
    masks, others = ours.targets.masks.bitmaps(), target["masks"].bool()
    overlaps = (masks & others).sum((1, 2)) / (masks | others).sum((1, 2))
    assert (overlaps > torch.tensor([0.9, 0.999])).all()  # polygons are drawn in the resized image, bitmaps resized
    mean, std = (torch.tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    theirs = 255 * (images.tensors[0, :, :80, :120] * std + mean)
    assert (theirs - ours.image.flip(0)).abs().max() < 1.5  # ours are bytes, in the order of BGR


def _is_mirrored_by(mapper, record, seed: int) -> bool:
    return bool(mapper(record, np.random.default_rng(seed)).targets.boxes[0, 0] > 9.5)  # 9 and 120 - 110


@pytest.mark.parametrize("is_collated", [False, True])
def test_both_steps_load_the_same_objects(folder: Path, cfg: CfgNode, is_collated: bool) -> None:
    plan = LoadingPlan(cfg.dump(), images=str(folder), num_batches=2, keeps_memory=False)
    threads = torch.get_num_threads()
    try:
        for name in ("mrcnn_zoo", "torchvision"):
            steps = start_loading(LoadingJob(plan, name, is_collated))()
            assert [step() for step in steps] == [3, 3]  # the crowd is no object; the images are repeated
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_report_has_both_comparisons(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    arguments = ["--task", "data", "--against", "torchvision", "--images", str(folder), "--num-batches", "2"]
    assert run_command("benchmark", [*arguments, "--repeats", "1", "--output", str(output), *TWICE]) == 0
    report = json.loads(output.read_text())
    names = [row["name"] for row in report["rows"]]
    pair = ["mrcnn_zoo", "torchvision"]
    assert names == [*pair, *(f"{name}, loader alone" for name in pair), "torchvision, default allocator"]
    assert {row["produced"] for row in report["rows"]} == {1.5}
