"""Training on bad input ends in one message without partial results, or in a log message and a training."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mrcnn_zoo.cli.main import USAGE_ERROR, run_command
from support.small_models import TINY_YAML

SIDE = 64  # pixels
NAN = float("nan")

Document = dict[str, Any]
Change = Callable[[Document], None]


@pytest.fixture(scope="module")
def good_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO folder of two images with two objects each, annotations 1 to 4, that is never written to."""
    folder = tmp_path_factory.mktemp("coco")
    numbers = (1, 2)
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    document = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": SIDE, "width": SIDE} for n in numbers],
        "annotations": [_annotation(2 * n - 1 + k, image=n, x=4 + 30 * k, y=8) for n in numbers for k in (0, 1)],
        "categories": [{"id": n, "name": name} for n, name in ((1, "circle"), (2, "square"), (5, "triangle"))],
    }
    (folder / "annotations.json").write_text(json.dumps(document))
    return folder


def _annotation(number: int, *, image: int, x: float, y: float) -> Document:
    corners = [x, y, x + 24, y, x + 24, y + 30, x, y + 30]
    box = [x, y, 24, 30]
    return {"id": number, "image_id": image, "category_id": 1, "bbox": box, "segmentation": [corners], "area": 720}


@pytest.fixture
def coco(good_folder: Path, tmp_path: Path) -> Callable[[Change], Path]:
    """Makes a copy of the folder with its annotations changed in place by a function."""

    def change(function: Change) -> Path:
        folder = tmp_path / "coco"
        shutil.copytree(good_folder, folder)
        document = json.loads((folder / "annotations.json").read_text())
        function(document)
        (folder / "annotations.json").write_text(json.dumps(document))
        return folder

    return change


def _set(number: int, **fields: Any) -> Change:
    """Sets fields of one annotation."""
    return lambda document: document["annotations"][number - 1].update(fields)


def _nothing(document: Document) -> None:
    pass


def _train(output: Path, *overrides: str, config: Path = TINY_YAML) -> int:
    fixed = [f"OUTPUT_DIR={output}", "SOLVER.MAX_ITER=1", "DATASETS.TEST=[]", "DATASETS.DEFAULTS.VAL_FRACTION=0"]
    fixed += ["WRITERS=[json]"]
    return run_command("train", ["--config-file", str(config), *fixed, *overrides])


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Trains, checks that the error is one message and leaves no result, and returns the message."""

    def check(*overrides: str, config: Path = TINY_YAML) -> str:
        output = tmp_path / "output"
        assert _train(output, *overrides, config=config) == USAGE_ERROR
        printed = capsys.readouterr()
        lines = printed.err.splitlines()
        messages = [line for line in lines if line.startswith("error: ")]
        assert len(messages) == 1
        assert "Traceback" not in printed.err + printed.out
        written = [path.name for path in output.rglob("*") if path.is_file()]
        assert [name for name in written if name.endswith((".pth", ".tmp", ".csv")) or "checkpoint" in name] == []
        assert not (output / "inference").exists()
        metrics = output / "metrics.json"
        assert not metrics.exists() or metrics.read_text() == ""
        return "\n".join(lines[lines.index(messages[0]) :])

    return check


# --- data that is refused ---------------------------------------------------------------------------------------------


def test_valid_folder_trains(good_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert _train(tmp_path / "output", f"DATASETS.TRAIN=[{good_folder}]") == 0
    assert (tmp_path / "output" / "model_final.pth").is_file()
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert [message for message in warnings if str(good_folder) in message] == []


@pytest.mark.parametrize(
    ("kept", "workers"), [(0.6, 0), (0.0, 0), (0.6, 1)], ids=["half", "empty", "half, read by a worker"]
)
def test_truncated_image_is_refused(coco, refused, kept: float, workers: int) -> None:
    folder = coco(_nothing)
    for path in folder.glob("*.png"):
        path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    message = refused(f"DATASETS.TRAIN=[{folder}]", f"DATALOADER.NUM_WORKERS={workers}")
    assert str(folder) in message
    assert ".png" in message
    assert "truncated" in message or "cut off" in message


def test_missing_image_file_is_refused(coco, refused) -> None:
    folder = coco(_nothing)
    (folder / "2.png").unlink()
    message = refused(f"DATASETS.TRAIN=[{folder}]")
    assert f"{folder}: 1 of the 2 images that {folder / 'annotations.json'} lists are missing: 2.png." in message


def test_duplicate_annotation_ids_are_refused(coco, refused) -> None:
    folder = coco(_set(3, id=1))
    message = refused(f"DATASETS.TRAIN=[{folder}]")
    assert f"{folder / 'annotations.json'}: id 1 is used 2 times in 'annotations'" in message


def test_unknown_category_is_refused(coco, refused) -> None:
    folder = coco(_set(3, category_id=4))
    message = refused(f"DATASETS.TRAIN=[{folder}]")
    assert f"{folder / 'annotations.json'}: annotation 3 has category_id 4" in message
    assert "5 (triangle)" in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set(3, image_id=[1]), "annotation 3 has image_id [1], which is not the id"),
        (_set(3, id=2**70), f"id {2**70} in 'annotations' is too large"),
        (_set(3, id="three"), "id 'three' in 'annotations' is not a whole number"),
        (_set(3, id=True), "id True in 'annotations' is not a whole number"),
        (_set(3, iscrowd=2), "annotation 3 has iscrowd 2, which must be 0 or 1"),
        (_set(3, segmentation=[[1, 2, "x", 3, 4, 5]]), "segmentation of annotation 3 has the coordinate 'x'"),
        (_set(3, segmentation={"size": [SIDE, 9], "counts": [SIDE * 9]}), "annotation 3 is a mask of [64, 9] pixels"),
        (lambda document: document["images"][0].update(height=2**70), "image 1 has height"),
    ],
)
def test_invalid_annotation_values_are_refused(coco, refused, change: Change, words: str) -> None:
    folder = coco(change)
    message = refused(f"DATASETS.TRAIN=[{folder}]")
    assert str(folder / "annotations.json") in message
    assert words in message


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("images", "'images' is empty"),
        ("categories", "'categories' is empty"),
        ("annotations", "none of its 2 images has an object"),
    ],
)
def test_empty_dataset_is_refused(coco, refused, section: str, words: str) -> None:
    def empty(document: Document) -> None:
        document["annotations"].clear()
        document[section].clear()

    folder = coco(empty)
    message = refused(f"DATASETS.TRAIN=[{folder}]", "MODEL.MASK_ON=False")
    assert str(folder) in message
    assert words in message


def _nuclei(folder: Path, *, mask_side: int) -> Path:
    for kind, pixels in (
        ("images", np.full((SIDE, SIDE, 3), 90, dtype=np.uint8)),
        ("masks", np.full((SIDE, mask_side), 255, dtype=np.uint8)),
    ):
        (folder / "a" / kind).mkdir(parents=True)
        Image.fromarray(pixels).save(folder / "a" / kind / "m.png")
    return folder


def test_mask_png_of_another_size_is_refused(tmp_path: Path, refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = _nuclei(tmp_path / "nuclei", mask_side=40)
    message = refused("DATASETS.TRAIN=[mine]", f"DATASETS.DEFINITIONS.mine={{FORMAT: dsb2018, IMAGES: {folder}}}")
    assert f"{folder / 'a/masks/m.png'} is 40 x 64 pixels (width x height)" in message
    assert "is 64 x 64" in message


# --- data that is repaired --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"segmentation": [[4, 8, 28, 8]]}, "polygons with fewer than 3 points left out"),
        ({"bbox": [NAN, 8, 24, 30]}, "boxes that are NaN, infinite or not above 0 in size taken from the mask"),
        ({"bbox": [4, 8, -24, 30]}, "boxes that are NaN, infinite or not above 0 in size taken from the mask"),
        ({"bbox": [10**400, 8, 24, 30]}, "boxes that are NaN, infinite or not above 0 in size taken from the mask"),
        ({"bbox": [90, 8, 24, 30], "segmentation": []}, "boxes outside their image left out"),
        (
            {"segmentation": [[4, 8, 28, 8, 10**400, 38, 4, 38]]},
            "masks with points far outside their image clipped to it",
        ),
        ({"area": 0}, "areas that are not above 0, or larger than the image, computed from mask or box"),
        ({"bbox": [34, 30, 24, 30]}, "boxes that contradict their mask taken from the mask"),
    ],
    ids=[
        "two points",
        "NaN box",
        "negative box",
        "endless box",
        "box outside",
        "endless mask",
        "no area",
        "mask and box disagree",
    ],
)
def test_repairable_annotation_is_logged_once_and_training_continues(
    coco, tmp_path: Path, caplog: pytest.LogCaptureFixture, fields: Document, note: str
) -> None:
    folder, output = coco(_set(1, **fields)), tmp_path / "output"
    assert _train(output, f"DATASETS.TRAIN=[{folder}]") == 0
    assert (output / "model_final.pth").is_file()
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert sum(line.startswith(f"{folder}: {note}: 1 (first: annotation 1") for line in warnings) == 1


# --- configs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("SOLVER: {BASE_LP: 0.1}", "x.yaml:2: there is no config key SOLVER.BASE_LP. Did you mean 'SOLVER.BASE_LR'"),
        ("SOLVER: {BASE_LR: fast}", "x.yaml:2: SOLVER.BASE_LR takes a number, not 'fast'"),
        ("DATALOADER: 4", "x.yaml:2: DATALOADER"),
        ("SOLVER: [", "x.yaml:"),
    ],
    ids=["typo", "type", "section", "syntax"],
)
def test_invalid_yaml_is_refused(tmp_path: Path, refused, text: str, words: str) -> None:
    config = tmp_path / "x.yaml"
    config.write_text(f"_BASE_: {TINY_YAML}\n{text}\n")
    assert words in refused(config=config)


def test_yaml_with_a_missing_base_is_refused(tmp_path: Path, refused) -> None:
    config = tmp_path / "x.yaml"
    config.write_text("_BASE_: no_such_base.yaml\n")
    message = refused(config=config)
    assert "x.yaml:1" in message
    assert "no_such_base.yaml" in message


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        ("{FORMAT: coco, IMAGES: FILE}", "the image folder (IMAGES) FILE is a file"),
        ("{FORMAT: coco, IMAGES: FILE, ANNOTATIONS: FILE}", "the image folder (IMAGES) FILE is a file"),
        ("{FORMAT: dsb2018, IMAGES: FILE}", "the folder of images (IMAGES) FILE is a file"),
        ("{FORMAT: coco, IMAGES: 5}", "DATASETS.DEFINITIONS.mine.IMAGES = 5 must be of type str"),
        ("{FORMAT: dsb2018, IMAGES: 5}", "DATASETS.DEFINITIONS.mine.IMAGES = 5 must be of type str"),
        ("{FORMAT: coco, IMAGES: [a]}", "DATASETS.DEFINITIONS.mine.IMAGES = ['a'] must be of type str"),
        ("{FORMAT: 5, IMAGES: a}", "DATASETS.DEFINITIONS.mine.FORMAT = 5 must be one of"),
        ("{FORMAT: [coco], IMAGES: a}", "DATASETS.DEFINITIONS.mine.FORMAT = ['coco'] must be one of"),
        ("{FORMAT: digits, DIGITS_SOURCE: 5}", "mine: DATASETS.SCENES.DIGITS_SOURCE takes a string, not 5"),
        ("5", "DATASETS.DEFINITIONS.mine = 5 must be a mapping"),
    ],
)
def test_invalid_dataset_definition_is_refused(good_folder: Path, refused, definition: str, words: str) -> None:
    file = str(good_folder / "annotations.json")
    overrides = ["DATASETS.TRAIN=[mine]", f"DATASETS.DEFINITIONS.mine={definition.replace('FILE', file)}"]
    assert words.replace("FILE", file) in refused(*overrides)


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a training of one step."""
    output = tmp_path_factory.mktemp("trained")
    assert _train(output) == 0
    return output / "model_final.pth"


def test_truncated_checkpoint_is_refused(checkpoint: Path, tmp_path: Path, refused) -> None:
    path = tmp_path / "cut.pth"
    path.write_bytes(checkpoint.read_bytes()[:10_000])
    message = refused(f"MODEL.WEIGHTS={path}")
    assert str(path) in message
    assert "truncated" in message


def test_checkpoint_of_another_model_is_refused(tmp_path: Path, refused) -> None:
    path = tmp_path / "other.pth"
    torch.save({"model": {"encoder.weight": torch.zeros(3, 4), "encoder.bias": torch.zeros(3)}}, path)
    assert str(path) in refused(f"MODEL.WEIGHTS={path}")


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("truncated", "model_final.pth"),
        ("another model", "another model than the config's: roi_heads.box_head.fc1.weight is 64x"),
    ],
)
def test_resume_from_a_mismatched_checkpoint_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], mistake: str, words: str
) -> None:
    output = tmp_path / "output"
    shutil.copytree(checkpoint.parent, output)
    path = output / checkpoint.name
    if mistake == "truncated":
        path.write_bytes(path.read_bytes()[:10_000])
    before = path.read_bytes()
    overrides = ["SOLVER.MAX_ITER=2"] + (["MODEL.ROI_BOX_HEAD.FC_DIM=32"] if mistake == "another model" else [])
    arguments = ["--config-file", str(TINY_YAML), "--resume", f"OUTPUT_DIR={output}", "DATASETS.TEST=[]", *overrides]
    assert run_command("train", arguments) == USAGE_ERROR
    printed = capsys.readouterr()
    messages = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert len(messages) == 1
    assert words in messages[0]
    assert "Traceback" not in printed.err + printed.out
    assert path.read_bytes() == before
