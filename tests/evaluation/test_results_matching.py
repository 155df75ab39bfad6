"""`evaluate --predictions` against ground truth of any format: results are matched by file and class names."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mrcnn_zoo.config import load_config
from mrcnn_zoo.data.annotations.folders import write_dataset
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.predictions_file import evaluate_predictions
from mrcnn_zoo.evaluation.results_matching import matched_by_names, rows_with_names
from mrcnn_zoo.ops import rle
from mrcnn_zoo.registries import ANNOTATION_FORMATS

BOXES = ((2, 3, 20, 30), (30, 5, 50, 20), (10, 34, 55, 39))


def mask_of(box: tuple[int, int, int, int]) -> rle.Rle:
    bitmap = np.zeros((40, 60), np.uint8)
    bitmap[box[1] : box[3], box[0] : box[2]] = 1
    return rle.encode(bitmap)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Three objects of two classes on each of a/1.png, a/2.png and b/1.png."""
    folder = tmp_path_factory.mktemp("images")
    records = []
    for number, name in enumerate(("a/1.png", "a/2.png", "b/1.png"), start=1):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (60, 40), (number, 0, 0)).save(folder / name)
        objects = [
            InstanceRecord(tuple(map(float, box)), index % 2, mask_of(box), annotation_id=10 * number + index)
            for index, box in enumerate(BOXES)
        ]
        records.append(ImageRecord(number, FileImage(str(folder / name)), (40, 60), tuple(objects)))
    return Dataset("truth", tuple(records), ("cat", "dog"), (1, 2))


@pytest.fixture(scope="module")
def content(truth: Dataset) -> dict[str, Any]:
    """Results as `predict` writes them: all objects of a/1.png and b/1.png and a false one, with ids of their own."""
    by_id = {9: truth.records[2], 5: truth.records[0]}
    rows = [
        {"image_id": number, "category_id": 70 + item.class_index, "score": 0.9 - item.class_index / 10,
         "bbox": [item.box[0], item.box[1], item.box[2] - item.box[0], item.box[3] - item.box[1]],
         "segmentation": item.segmentation}
        for number, record in by_id.items()
        for item in record.instances
    ]  # fmt: skip
    rows.append({**rows[0], "score": 0.95, "bbox": [40, 22, 10, 10], "segmentation": mask_of((40, 22, 50, 32))})
    return {
        "images": [{"id": number, "file_name": record.source.name} for number, record in by_id.items()],
        "categories": [{"id": 70, "name": "cat"}, {"id": 71, "name": "dog"}],
        "annotations": rows,
    }


@pytest.mark.parametrize("name", ["coco", "labels", "labelme", "voc", "yolo"])
def test_every_format_gives_the_same_numbers(
    name: str, truth: Dataset, content: dict[str, Any], tmp_path: Path
) -> None:
    kind = ANNOTATION_FORMATS.get(name)()
    named = json.loads(json.dumps(content))
    write_dataset({"": truth}, tmp_path / name, kind, copies_images=True)
    stems = {path.read_bytes(): path.name for path in (tmp_path / name).rglob("*.png")}
    for image in named["images"]:  # copies have names of their own, as two images are called 1.png
        image["file_name"] = stems[Path(image["file_name"]).read_bytes()]
    (tmp_path / "predictions.json").write_text(json.dumps(named))
    _, results = evaluate_predictions(tmp_path / "predictions.json", tmp_path / name, load_config(None, []))
    # Cats: a false one first, then 4 of 6; dogs: 2 of 3. COCO's precision of 101 recalls, of which 67 are reached.
    expected = 100 * (4 / 5 * 67 + 67) / 2 / 101
    for task in ("bbox", "segm") if name != "voc" else ("bbox",):
        assert results[task]["AP"] == pytest.approx(expected)


def test_results_of_other_images_and_without_names_are_refused(
    truth: Dataset, content: dict[str, Any], tmp_path: Path
) -> None:
    write_dataset({"": truth}, tmp_path / "labels", ANNOTATION_FORMATS.get("labels")(), copies_images=True)
    path, cfg = tmp_path / "predictions.json", load_config(None, [])
    names = [{"id": 9, "file_name": "out/b_1.png"}, {"id": 5, "file_name": "a_1.png"}]
    cow = [{"id": 70, "name": "cow"}, {"id": 71, "name": "dog"}]
    for change, words in (
        ({}, r"results of images that .* does not have: .*a/1\.png, .*b/1\.png\. It has .*a_1\.png"),
        ({"images": names, "categories": cow}, "results of classes that .* does not have: cow. It has cat, dog"),
        ({"images": []}, "7 of 7 results have no 'file_name' and 'category_name'"),
    ):
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(UserError, match=words):
            evaluate_predictions(path, tmp_path / "labels", cfg)
    for missing in ("nowhere", "nowhere.json"):
        with pytest.raises(UserError, match=f"--annotations {missing}: there is no such file, folder or dataset"):
            evaluate_predictions(path, missing, cfg)


def test_ids_of_coco_are_kept_where_names_are_missing(truth: Dataset, content: dict[str, Any], tmp_path: Path) -> None:
    write_dataset({"": truth}, tmp_path / "coco", ANNOTATION_FORMATS.get("coco")(), copies_images=True)
    ids = {9: 3, 5: 1}
    rows = [
        {**row, "image_id": ids[row["image_id"]], "category_id": row["category_id"] - 69}
        for row in content["annotations"]
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    _, results = evaluate_predictions(
        tmp_path / "rows.json", tmp_path / "coco" / "annotations.json", load_config(None, [])
    )
    assert results["bbox"]["AP"] == pytest.approx(100 * (4 / 5 * 67 + 67) / 2 / 101)


def test_ids_of_coco_are_kept_where_classes_have_equal_names(truth: Dataset, content: dict[str, Any]) -> None:
    named = rows_with_names(content)
    coco = replace(truth, annotation_file="a.json")
    changed = matched_by_names(Path("r.json"), named, coco)
    assert {(row["image_id"], row["category_id"]) for row in changed} == {(1, 1), (1, 2), (3, 1), (3, 2)}
    equal = replace(coco, class_names=("cat", "cat"))
    assert matched_by_names(Path("r.json"), named, equal) == named
