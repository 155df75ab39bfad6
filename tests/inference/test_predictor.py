"""`Predictor` on files, arrays and Pillow images."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from mrcnn_zoo.cli.main import run_command
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inference import AugmentedDetector, Prediction, Predictor, save_predictions
from mrcnn_zoo.inference.given_boxes import GivenBoxDetector
from mrcnn_zoo.inference.image_inputs import LoadedImage
from support.small_models import CATEGORY_IDS as IDS
from support.small_models import CLASS_NAMES as NAMES
from support.small_models import DIGITS, save_tiny_checkpoint


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two images of 60 x 80 pixels with a bright rectangle, the second one stored rotated, with an EXIF tag."""
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / "a.png", folder / "b.png"]
    for number, path in enumerate(paths):
        pixels = np.random.default_rng(number).integers(0, 60, (60, 80, 3), dtype=np.uint8)
        pixels[10:40, 20 + 10 * number : 60] += 150
        Image.fromarray(pixels).save(path)
    turned = Image.open(paths[1]).transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6  # rotated clockwise by readers
    turned.save(paths[1], exif=turned.getexif())
    return paths


@pytest.fixture(scope="module")
def predictor(weights: Path) -> Predictor:
    return Predictor(weights, score_threshold=0.0)


def test_import_does_not_wait_for_packages_that_only_some_functions_need() -> None:
    later = ("torchvision", "torch._dynamo", "scipy", "matplotlib", "pandas", "wandb", "hotcoco", "cv2", "tifffile")
    code = (
        f"import sys, mrcnn_zoo.inference; print([name for name in {later} if name in sys.modules])\n"
        "from mrcnn_zoo.modeling import build_model; from mrcnn_zoo.config import load_config\n"
        "build_model(load_config('Quickstart/mask_rcnn_R_18_FPN_digits')); print('torchvision' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.stdout == "[]\nTrue\n", found.stderr  # imported before the model can be traced


@pytest.mark.slow
@pytest.mark.parametrize(
    "statement",
    [
        "import mrcnn_zoo.inspection.model.receptive_fields",
        "from mrcnn_zoo.export import onnx_operators; onnx_operators.translation_table()",
    ],
)
def test_modules_that_name_operations_of_torchvision_register_them(statement: str) -> None:
    found = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def assert_same(found: Prediction, expected: Prediction) -> None:
    assert found.names == expected.names
    assert torch.equal(found.boxes, expected.boxes)
    assert torch.equal(found.scores, expected.scores)
    assert found.masks is not None
    assert expected.masks is not None
    assert torch.equal(found.masks, expected.masks)


def test_path_array_and_pillow_image_give_equal_predictions(predictor: Predictor, images: list[Path]) -> None:
    for path in images:
        found = predictor(path)
        assert len(found) == 6
        assert found.detections.image_size == (60, 80)
        assert found.masks is not None
        assert found.masks.shape == (6, 60, 80)
        assert set(found.names) <= set(NAMES)
        assert found.name == str(path)
        assert_same(predictor(str(path)), found)
        assert_same(predictor(np.asarray(found.pixels)), found)
        with Image.open(path) as image:
            assert_same(predictor(image), found)


def test_list_of_images_gives_predictions_in_its_order(predictor: Predictor, images: list[Path]) -> None:
    alone = [predictor(path) for path in images]
    with Image.open(images[1]) as second:
        found = predictor([images[0], second, alone[0].pixels])
    for prediction, expected in zip(found, [*alone, alone[0]], strict=True):
        assert_same(prediction, expected)
    assert [prediction.image_id for prediction in found] == [1, 2, 3]
    assert [prediction.name for prediction in found] == [str(images[0]), str(images[1]), "image 3"]
    assert predictor([]) == []


def test_batch_gives_the_predictions_of_its_images(
    weights: Path, predictor: Predictor, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = Predictor(weights, score_threshold=0.0, batch_size=2)
    sizes: list[int] = []
    predict = together.model.predict
    monkeypatch.setattr(together.model, "predict", lambda samples: sizes.append(len(samples)) or predict(samples))
    found = together([*images, images[0]])
    assert sizes == [2, 1]
    assert [prediction.image_id for prediction in found] == [1, 2, 3]
    for prediction, path in zip(found, [*images, images[0]], strict=True):
        expected = predictor(path)
        assert prediction.names == expected.names
        torch.testing.assert_close(prediction.boxes, expected.boxes)


@pytest.mark.parametrize("augmented", [[], ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "[0,96]"]])
def test_predictor_and_command_give_equal_predictions(
    weights: Path, images: list[Path], tmp_path: Path, augmented: list[str]
) -> None:
    threshold = Predictor(weights, score_threshold=0.0, overrides=augmented)(images[0]).scores[2].item()
    options = ["--weights", str(weights), "--output", str(tmp_path), "--threshold", repr(threshold)]
    assert run_command("predict", [*map(str, images), *options, *augmented]) == 0
    written = json.loads((tmp_path / "predictions.json").read_text())["annotations"]
    predictor = Predictor(weights, score_threshold=threshold, overrides=augmented)
    assert isinstance(predictor.model, AugmentedDetector) == bool(augmented)
    rows = [row for prediction in predictor(images) for row in prediction.to_coco()]
    assert 3 <= len(rows) < 12
    assert {row.pop("file_name") for row in rows} <= set(map(str, images))
    assert rows == [{name: value for name, value in row.items() if name not in ("id", "iscrowd")} for row in written]


def test_pycocotools_loads_to_coco(predictor: Predictor, images: list[Path]) -> None:
    found = predictor(images)
    truth = COCO()
    truth.dataset = {
        "images": [{"id": number, "height": 60, "width": 80} for number in (1, 2)],
        "categories": [{"id": number, "name": name} for number, name in zip(IDS, NAMES, strict=True)],
        "annotations": [],
    }
    truth.createIndex()
    loaded = truth.loadRes([row for prediction in found for row in prediction.to_coco()])
    assert len(loaded.anns) == 12
    (first, *_) = loaded.loadAnns(loaded.getAnnIds(imgIds=[2]))
    assert loaded.cats[first["category_id"]]["name"] == found[1].names[0]
    assert found[1].masks is not None
    np.testing.assert_array_equal(loaded.annToMask(first).astype(bool), found[1].masks[0].numpy())
    assert {row["image_id"] for row in found[0].to_coco(image_id="a")} == {"a"}


def test_draw_gives_a_pillow_image_of_the_same_aspect_ratio(predictor: Predictor, images: list[Path]) -> None:
    found = predictor(images[0])
    drawn = found.draw()
    assert isinstance(drawn, Image.Image)
    width, height = drawn.size
    assert (width * 60, width % 80) == (height * 80, 0)
    plain = Image.fromarray(found.pixels).resize(drawn.size, Image.Resampling.NEAREST)
    assert (np.asarray(drawn) != np.asarray(plain)).any()
    assert (np.asarray(found.draw(has_labels=False)) != np.asarray(drawn)).any()
    with pytest.raises(UserError, match=r"opacity = 40 must be in \[0, 1\]"):
        found.draw(opacity=40)


def test_objects_below_the_threshold_are_removed(weights: Path, predictor: Predictor, images: list[Path]) -> None:
    scores = predictor(images[0]).scores
    least = scores[2].item()
    assert torch.equal(Predictor(weights, score_threshold=least)(images[0]).scores, scores[scores >= least])
    assert len(Predictor(weights, score_threshold=1.0)(images[0]).names) == 0


def test_unreadable_image_is_named(predictor: Predictor, images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match=r"text\.png is not an image"):
        predictor([images[0], tmp_path / "text.png"])
    with pytest.raises(UserError, match=r"missing\.png: the image file is missing"):
        predictor("missing.png")
    (tmp_path / "cut.png").write_bytes(images[0].read_bytes()[:2000])
    with (
        Image.open(tmp_path / "cut.png") as image,
        pytest.raises(UserError, match=r"cut\.png cannot be decoded .*truncated"),
    ):
        predictor([image])
    with pytest.raises(UserError, match="image 2 has the type int: give a path, a folder"):
        predictor([images[0], 5])  # type: ignore[list-item]
    with pytest.raises(UserError, match=r"image 1 has the shape \(5,\)"):
        predictor(np.zeros(5, np.uint8))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty is empty"):
        predictor(tmp_path / "empty")
    with pytest.raises(UserError, match=r"s3://a/b\.png: the address of an image starts with"):
        predictor("s3://a/b.png")


def test_alpha_channel_of_arrays_is_dropped(predictor: Predictor, images: list[Path]) -> None:
    rgb = np.asarray(Image.open(images[0]))
    grey = np.asarray(Image.open(images[0]).convert("L"))
    for opaque, pixels in ((rgb, rgb), (grey, grey[..., None])):
        alpha = np.full((*grey.shape, 1), 9, np.uint8)
        found = predictor(np.concatenate((pixels, alpha), axis=2))
        assert torch.equal(found.boxes, predictor(opaque).boxes)
    with pytest.raises(UserError, match="5 channels, but the model has 3"):
        predictor(np.zeros((40, 40, 5), np.uint8))


def test_weights_may_be_a_name_in_the_zoo() -> None:
    predictor = Predictor(DIGITS, device="cpu")
    assert predictor.class_names == tuple("0123456789")
    assert str(next(predictor.model.parameters()).device) == "cpu"
    with pytest.raises(UserError, match="Quickstart/nothing"):
        Predictor("Quickstart/nothing")


def test_arguments_are_checked(weights: Path) -> None:
    with pytest.raises(UserError, match="batch_size = 0 must be a whole number"):
        Predictor(weights, batch_size=0)
    with pytest.raises(UserError, match=r"score_threshold = 50 must be a number in \[0, 1\]"):
        Predictor(weights, score_threshold=50)
    for overrides in ("MODEL.DEVICE cpu", {"MODEL.DEVICE": "cpu"}):
        with pytest.raises(UserError, match=r"overrides = .* must be a list"):
            Predictor(weights, overrides=overrides)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"TEST\.DETECTION"):
        Predictor(weights, overrides=["TEST.DETECTION", 3])


def test_missing_class_names_are_indices_or_object(tmp_path: Path, images: list[Path]) -> None:
    unnamed = Predictor(save_tiny_checkpoint(tmp_path / "unnamed", class_names=()), score_threshold=0.0)
    assert set(unnamed(images[0]).names) <= {"0", "1", "2"}
    settings = ("MODEL.META_ARCHITECTURE=ProposalNetwork", "MODEL.MASK_ON=False")
    proposals = Predictor(save_tiny_checkpoint(tmp_path / "proposals", *settings, class_names=()), score_threshold=0.0)(
        images[0]
    )
    assert set(proposals.names) == {"object"}
    assert proposals.masks is None
    assert {row["category_id"] for row in proposals.to_coco()} == {1}


def test_record_gives_all_detections_and_the_stages(weights: Path, predictor: Predictor, images: list[Path]) -> None:
    found, recording = Predictor(weights, score_threshold=0.999).record(images[0])
    assert_same(found, predictor(images[0]))
    stages = recording.of_image(0)
    assert {"proposals", "boxes", "original size"} <= set(stages)
    last = stages["original size"]
    assert torch.equal(last.boxes[last.kept], found.boxes)
    assert last.image_size == (60, 80)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["TEST.AUG.ENABLED=True"], r"TEST\.AUG\.ENABLED is True.* Set TEST\.AUG\.ENABLED False"),
        (
            ["MODEL.META_ARCHITECTURE=Classifier", "MODEL.CLASSIFIER.NUM_CLASSES=3"],
            r"Classifier \(MODEL\.META_ARCHITECTURE\) records no stages",
        ),
    ],
)
def test_record_refuses_models_without_recorder(settings: list[str], words: str, tmp_path: Path) -> None:
    predictor = Predictor(save_tiny_checkpoint(tmp_path, *settings))
    with pytest.raises(UserError, match=words):
        predictor.record(np.zeros((60, 80, 3), np.uint8))


def test_record_refuses_given_boxes(predictor: Predictor) -> None:
    model = GivenBoxDetector(predictor.model, lambda _: (torch.zeros(0, 4), torch.zeros(0).long()))
    with pytest.raises(UserError, match=r"--boxes: .* Leave --boxes out"):
        replace(predictor.detector, model=model).record(LoadedImage("a", np.zeros((60, 80, 3), np.uint8)))


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.zeros(3, 60, 80).to_sparse(), "give tensor.to_dense()"),
        (torch.zeros(3, 60, 80, device="meta"), "without values"),
    ],
)
def test_tensors_of_another_layout_are_refused(weights: Path, tensor: torch.Tensor, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        Predictor(weights)(tensor)


def test_predictions_of_other_classes_are_not_saved_together(predictor: Predictor, tmp_path: Path) -> None:
    found = predictor(np.zeros((40, 40, 3), np.uint8))
    others = replace(found, class_names=tuple(f"x{name}" for name in found.class_names))
    with pytest.raises(UserError, match="save the predictions of each model"):
        save_predictions([found, others], tmp_path / "out")
    with pytest.raises(UserError, match="takes several predictions"):
        save_predictions(found, tmp_path / "out")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_record_takes_one_image(weights: Path, tmp_path: Path) -> None:
    for name in "ab":
        Image.new("RGB", (40, 40)).save(tmp_path / f"{name}.png")
    with pytest.raises(UserError, match="has several images, and record takes one"):
        Predictor(weights).record(tmp_path)


@pytest.mark.parametrize(
    "settings", [{"tiles": 64, "tile_overlap": float("nan")}, {"tile_overlap": 8}, {"tiles": "64"}]
)
def test_tiles_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="tile"):
        Predictor("not read", **settings)


def test_data_frame_without_objects_has_the_types_of_one_with_objects(predictor: Predictor) -> None:
    found = predictor(np.full((40, 40, 3), 90, np.uint8))
    assert len(found)
    filled, empty = (prediction.to_dataframe().dtypes[2:] for prediction in (found, found.above(1.0)))
    assert filled.equals(empty)
    assert set(map(str, empty)) == {"float64", "int64"}
    assert empty["area"] == "int64"


@pytest.mark.parametrize("keep_memory", [True, False])
def test_predictor_keeps_freed_memory_unless_told_not_to(
    keep_memory: bool, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr("mrcnn_zoo.inference.predictor.keep_freed_memory", lambda: calls.append("kept"))
    Predictor(weights, keep_memory=keep_memory)
    assert calls == ["kept"] * keep_memory
