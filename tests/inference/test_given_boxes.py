"""Prediction in given boxes, of the ground truth or a file, in the evaluation and in `predict`."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mrcnn_zoo.checkpoint import Checkpointer
from mrcnn_zoo.cli.main import run_command
from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation import evaluate, evaluate_datasets
from mrcnn_zoo.evaluation.class_mapping import ClassMappedDetector
from mrcnn_zoo.evaluation.evaluator import build_test_detector
from mrcnn_zoo.evaluation.preflight import check_evaluation
from mrcnn_zoo.inference.image_inputs import LoadedImage
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.structures import Detections, ProbabilityMasks, Sample
from support.scenes import square_record as square
from support.small_models import CONFIGS, TINY_RESNET_18

TINY = (
    *TINY_RESNET_18,
    *("MODEL.MASK_ON", True, "MODEL.ROI_HEADS.NUM_CLASSES", 2),
    *("INPUT.MIN_SIZE_TEST", 64, "DATALOADER.NUM_WORKERS", 0, "VIS.NUM_IMAGES", 0),
    *("VIS.PLOTS", False, "VIS.REPORT", False),
)
NAMES = ("cat", "dog")


class FillsBoxes(nn.Module):
    """Masks fill the given boxes; detected boxes are wrong; given boxes without a class are dogs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int | str, list[list[float]], list[int]]] = []

    def predict(self, samples: list[Sample]) -> list[Detections]:
        boxes = [torch.tensor([[70.0, 70, 90, 90]])] * len(samples)
        return self.predict_in_boxes(samples, boxes, [torch.tensor([0])] * len(samples))

    def predict_in_boxes(self, samples: list[Sample], boxes: list[Tensor], classes: list[Tensor]) -> list[Detections]:
        found = []
        for sample, image_boxes, given in zip(samples, boxes, classes, strict=True):
            self.calls.append((sample.image_id, image_boxes.tolist(), given.tolist()))
            masks = ProbabilityMasks(torch.ones(len(image_boxes), 28, 28), image_boxes, sample.original_size)
            labels = torch.where(given < 0, NAMES.index("dog"), given)
            scores = torch.linspace(0.9, 0.1, len(image_boxes))
            found.append(Detections(sample.original_size, image_boxes, scores, labels, masks=masks))
        return found


def config(*overrides: Any, base: str = "Base-RCNN-FPN") -> CfgNode:
    return load_config(CONFIGS / f"{base}.yaml", [*TINY, *overrides])


@pytest.fixture
def dataset() -> Dataset:
    """Two images with squares and a crowd, and one without objects."""
    pixels = np.zeros((100, 100, 3), dtype=np.uint8)
    objects = (
        (square(0, 0, 20, 0), square(40, 40, 30, 1), square(60, 0, 40, 1, is_crowd=True)),
        (),
        (square(5, 5, 50, 0),),
    )
    records = tuple(
        ImageRecord(number, LoadedImage(f"images/{number}.png", pixels), (100, 100), instances)
        for number, instances in enumerate(objects, start=1)
    )
    return Dataset("squares", records, NAMES, (7, 3))


def test_ground_truth_boxes_measure_the_masks_alone(dataset: Dataset) -> None:
    model = FillsBoxes()
    own = evaluate(model, dataset, config())
    assert own["bbox"]["AP"] == 0
    given = evaluate(model, dataset, config("EVAL.GIVEN_BOXES", "ground_truth"))
    assert given["bbox"]["AP"] == pytest.approx(100)
    assert given["segm"]["AP"] > 90  # pasting leaves out the corners
    assert model.calls[3:] == [
        (1, [[0, 0, 20, 20], [40, 40, 70, 70]], [0, 1]),
        (2, [], []),
        (3, [[5, 5, 55, 55]], [0]),
    ]


def test_given_boxes_are_mapped_to_each_view(dataset: Dataset) -> None:
    views = ("TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", [0, 200], "TEST.AUG.FLIP", True)
    model = FillsBoxes()
    given = evaluate(model, dataset, config("EVAL.GIVEN_BOXES", "ground_truth", *views))
    assert given["bbox"]["AP"] == pytest.approx(100)
    assert given["segm"]["AP"] > 90
    assert [boxes for image, boxes, _ in model.calls if image == 3] == [
        [[5, 5, 55, 55]],
        [[45, 5, 95, 55]],
        [[10, 10, 110, 110]],
        [[90, 10, 190, 110]],
    ]


def test_classes_of_given_boxes_are_mapped_to_the_model_and_back(dataset: Dataset) -> None:
    names = ("cow", "dog", "cat")
    cfg = config("EVAL.GIVEN_BOXES", "ground_truth", "MODEL.ROI_HEADS.NUM_CLASSES", 3, "DATASETS.TEST", ["squares"])
    model = FillsBoxes()
    results = evaluate_datasets(model, cfg, class_names=names, datasets=[dataset])
    assert [classes for _, _, classes in model.calls] == [[2, 1], [], [2]]
    assert results["bbox"]["AP"] == pytest.approx(100)


def test_boxes_of_a_file_are_evaluated(dataset: Dataset, tmp_path: Path) -> None:
    rows = [
        {"image_id": 1, "bbox": [40, 40, 30, 30]},
        {"image_id": 3, "bbox": [5, 5, 50, 50], "category_id": 7},
    ]
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(rows))
    model = FillsBoxes()
    results = evaluate(model, dataset, config("EVAL.GIVEN_BOXES", str(path)))
    assert model.calls == [(1, [[40, 40, 70, 70]], [-1]), (2, [], []), (3, [[5, 5, 55, 55]], [0])]
    assert results["bbox"]["AP-dog"] == pytest.approx(100)  # the one without a category
    assert 0 < results["bbox"]["AP-cat"] < 60  # one of two
    assert isinstance(build_test_detector(config(), model, dataset), FillsBoxes)


def test_check_evaluation_refuses_boxes_of_another_dataset(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    cfg = config("EVAL.GIVEN_BOXES", str(path), "DATASETS.TEST", ["squares"])
    with pytest.raises(UserError, match=r"EVAL\.GIVEN_BOXES = .*boxes\.json' is neither ground_truth nor a file"):
        check_evaluation(cfg, [dataset])
    path.write_text(json.dumps([{"image_id": 99, "bbox": [1, 2, 3, 4]}]))
    with pytest.raises(UserError, match=r"none of the images of squares is in it \(images/1\.png, .*it has 99"):
        check_evaluation(cfg, [dataset])
    images = [{"id": number, "file_name": f"{number}.png", "width": 100, "height": 100} for number in (1, 3)]
    path.write_text(json.dumps({"images": images, "annotations": []}))
    with pytest.raises(UserError, match=r"1 of the images of squares is not in it \(images/2\.png\)"):
        check_evaluation(cfg, [dataset])
    small = [{"id": number, "file_name": f"{number}.png", "width": 50, "height": 100} for number in (1, 2, 3)]
    path.write_text(json.dumps({"images": small, "annotations": []}))
    with pytest.raises(UserError, match=r"1\.png are for an image of 50 x 100 pixels, and images/1\.png has 100 x 100"):
        check_evaluation(cfg, [dataset])


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("Base-RetinaNet", r"a RetinaNet \(MODEL\.META_ARCHITECTURE\) has no region heads"),
        ("COCO-Detection/rpn_R_50_FPN_1x", "a ProposalNetwork .* has no region heads"),
    ],
)
def test_given_boxes_refuse_models_without_region_heads(base: str, message: str, dataset: Dataset) -> None:
    cfg = config("EVAL.GIVEN_BOXES", "ground_truth", "MODEL.MASK_ON", False, base=base)
    with pytest.raises(UserError, match=rf"EVAL\.GIVEN_BOXES: .*{message}"):
        check_evaluation(cfg, [dataset])
    with pytest.raises(UserError, match=message):
        build_test_detector(cfg, FillsBoxes(), dataset)
    with pytest.raises(UserError, match=r"Linear cannot predict in given boxes"):
        build_test_detector(config("EVAL.GIVEN_BOXES", "ground_truth"), nn.Linear(1, 1), dataset)


def test_detector_is_wrapped_once(dataset: Dataset) -> None:
    cfg = config("EVAL.GIVEN_BOXES", "ground_truth")
    once = build_test_detector(cfg, ClassMappedDetector(FillsBoxes(), torch.tensor([0, 1])), dataset)
    twice = build_test_detector(cfg, once, dataset)
    assert isinstance(twice, ClassMappedDetector)
    assert twice.detector is once.detector


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cfg = config()
    torch.manual_seed(0)
    state = {"model": build_model(cfg).state_dict(), "config": cfg.dump(), "class_names": NAMES, "category_ids": (7, 3)}
    return Checkpointer(tmp_path_factory.mktemp("run")).save("model_final", state)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    for name in ("a1.png", "b2.png"):
        Image.fromarray(pixels).save(folder / name)
    return folder


BOXES: dict[str, Any] = {
    "images": [
        {"id": 5, "file_name": "b2.png", "width": 80, "height": 60},
        {"id": 4, "file_name": "a1.png", "width": 80, "height": 60},
    ],
    "annotations": [
        {"id": 31, "image_id": 4, "bbox": [30, 10, 40, 40], "category_id": 1},
        {"id": 32, "image_id": 4, "bbox": [2.5, 3.5, 20, 30]},
        {"id": 30, "image_id": 5, "bbox": [0, 0, 80, 60], "category_id": 2},
    ],
    "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
}


def predict(images: Path, weights: Path, boxes: Any, *arguments: str) -> tuple[int, Path]:
    path, output = images.parent / "boxes.json", images.parent / "out"
    path.write_text(json.dumps(boxes))
    command = [str(images), "--weights", str(weights), "--boxes", str(path), "--output", str(output), *arguments]
    return run_command("predict", command), output


def test_predict_writes_one_mask_per_given_box(images: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, output = predict(images, weights, BOXES)
    assert code == 0
    assert "3 objects in all given boxes in 2 images" in capsys.readouterr().out
    content = json.loads((output / "predictions.json").read_text())
    assert [(image["id"], Path(image["file_name"]).name) for image in content["images"]] == [
        (4, "a1.png"),
        (5, "b2.png"),
    ]
    rows = content["annotations"]
    assert [(row["given_id"], row["image_id"], row["bbox"]) for row in rows] == [
        (31, 4, [30, 10, 40, 40]),
        (32, 4, [2.5, 3.5, 20, 30]),
        (30, 5, [0, 0, 80, 60]),
    ]
    assert (rows[0]["category_name"], rows[0]["category_id"], rows[2]["category_name"]) == ("dog", 3, "cat")
    assert all(row["segmentation"]["size"] == [60, 80] for row in rows)
    assert (output / "a1.png").is_file()
    assert len(list(csv.DictReader((output / "predictions.csv").read_text().splitlines()))) == 3
    code, _ = predict(images, weights, content)  # predictions.json is a file of boxes itself
    assert code == 0
    again = json.loads((output / "predictions.json").read_text())
    assert [{**row, "given_id": 0} for row in again["annotations"]] == [{**row, "given_id": 0} for row in rows]


def test_predict_accepts_a_list_of_results_and_a_threshold(images: Path, weights: Path) -> None:
    rows = [{"image_id": 1, "bbox": [1, 2, 30, 40], "category_id": 7}, {"image_id": 1, "bbox": [5, 5, 30, 40]}]
    code, output = predict(images, weights, rows)
    assert code == 0
    content = json.loads((output / "predictions.json").read_text())
    assert [image["id"] for image in content["images"]] == [1, 2]  # b2.png has no box
    first, second = content["annotations"]
    assert first["category_name"] == "cat"
    assert "given_id" not in first
    least = (first["score"] + second["score"]) / 2
    assert first["score"] != second["score"]
    code, output = predict(images, weights, rows, "--threshold", str(least))
    kept = json.loads((output / "predictions.json").read_text())["annotations"]
    assert [row["bbox"] for row in kept] == [max(first, second, key=lambda row: row["score"])["bbox"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": BOXES["images"][1:], "annotations": BOXES["annotations"][:2]}, "1 of the images is not in it ("),
        (
            {"categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "kite"}]},
            "2 ('kite') is none of the",
        ),
        ({"images": [{**image, "width": 81} for image in BOXES["images"]]}, "for an image of 81 x 60 pixels"),
    ],
    ids=["image", "category", "size"],
)
def test_predict_refuses_boxes_of_other_images_or_classes(
    change: dict[str, Any], message: str, images: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, output = predict(images, weights, BOXES | change)
    assert code == 2
    assert message in capsys.readouterr().err
    assert not output.exists()


def test_predict_refuses_models_without_region_heads(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = config("MODEL.MASK_ON", False, "MODEL.RETINANET.NUM_CLASSES", 2, base="Base-RetinaNet")
    retinanet = Checkpointer(tmp_path).save("retinanet", {"model": build_model(cfg).state_dict(), "config": cfg.dump()})
    assert predict(images, retinanet, BOXES)[0] == 2
    assert "--boxes: a RetinaNet (MODEL.META_ARCHITECTURE) has no region heads" in capsys.readouterr().err


def test_predict_augments_given_boxes(images: Path, weights: Path) -> None:
    rows = {}
    for sizes in ("[0]", "[0,90]"):
        code, output = predict(images, weights, BOXES, "TEST.AUG.ENABLED=True", f"TEST.AUG.MIN_SIZES={sizes}")
        assert code == 0
        rows[sizes] = json.loads((output / "predictions.json").read_text())["annotations"]
    first, second = rows.values()
    assert [row["bbox"] for row in first] == [row["bbox"] for row in second] != []
    assert [row["score"] for row in first] != [row["score"] for row in second]


def test_predict_refuses_boxes_of_two_images(images: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (images / "more").mkdir()
    Image.new("RGB", (80, 60)).save(images / "more" / "a1.png")
    assert predict(images, weights, BOXES, "--recursive")[0] == 2
    assert "the boxes of a1.png match two images" in capsys.readouterr().err


def test_given_boxes_are_matched_by_image_id(dataset: Dataset) -> None:
    moved = replace(dataset, records=dataset.records[::-1])
    model = FillsBoxes()
    evaluate(model, moved, config("EVAL.GIVEN_BOXES", "ground_truth", "TEST.BATCH_SIZE", 2))
    assert [image_id for image_id, _, _ in model.calls] == [3, 2, 1]
    assert model.calls[0][1] == [[5, 5, 55, 55]]
