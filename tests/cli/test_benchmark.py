import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrcnn_zoo.cli.main import USAGE_ERROR, run_command

QUICKSTART = ["--config", "Quickstart/mask_rcnn_R_18_FPN_digits.yaml", "--malloc", "default"]
FEW_SCENES = ["DATASETS.SCENES.NUM_TRAIN", "16", "DATASETS.SCENES.NUM_VAL", "4", "SOLVER.IMS_PER_BATCH", "4"]
ONCE = ["--repeats", "1", "--num-batches", "1"]


def run(*arguments: str) -> int:
    return run_command("benchmark", [*QUICKSTART, *arguments, *FEW_SCENES])


@pytest.mark.parametrize("masks", ["bitmap", "rle"])
def test_inference_reports_detections_and_writes_json(
    masks: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "report.json"
    assert run("--task", "inference", *ONCE, "--no-memory", "--masks", masks, "--output", str(output)) == 0
    report = json.loads(output.read_text())
    assert report["rows"][0]["name"] == "mrcnn_zoo"
    assert report["rows"][0]["produced"] >= 5
    assert report["settings"]["image sizes"] == "128 x 128"
    assert "images / s" in capsys.readouterr().out


@pytest.mark.parametrize(
    "model",
    [
        ("MODEL.META_ARCHITECTURE", "ProposalNetwork"),
        ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"),
    ],
)
def test_inference_of_other_detectors_finds_instances(model: tuple[str, ...], tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    assert run("--task", "inference", *ONCE, "--no-memory", "--output", str(output), *model) == 0
    assert json.loads(output.read_text())["rows"][0]["produced"] >= 5


def test_training_step_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--task", "train", *ONCE, "--no-memory", "--batch-size", "2") == 0
    assert "mrcnn_zoo" in capsys.readouterr().out


@pytest.mark.slow
def test_variants_are_measured_in_processes_of_their_own(tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    small = ["MODEL.RPN.POST_NMS_TOPK_TEST=20", "MODEL.ROI_BOX_HEAD.POOLER_TYPE=ROIAlign"]
    variant = ["--variant", "TEST.DETECTIONS_PER_IMAGE=3"]
    assert run("--task", "inference", *ONCE, *variant, "--output", str(output), *small) == 0
    report = json.loads(output.read_text())
    plain, few = report["rows"]
    assert (plain["name"], few["name"]) == ("mrcnn_zoo", "mrcnn_zoo TEST.DETECTIONS_PER_IMAGE=3")
    assert few["produced"] == 3 < plain["produced"]
    ratio = report["ratios"]["mrcnn_zoo TEST.DETECTIONS_PER_IMAGE=3, times as fast as mrcnn_zoo (median of the rounds)"]
    assert ratio == pytest.approx(plain["seconds_median"] / few["seconds_median"])


def test_image_size_option_sets_the_sizes(tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    arguments = ["--task", "inference", *ONCE, "--no-memory", "--image-size", "96", "160", "--output", str(output)]
    assert run(*arguments) == 0
    assert json.loads(output.read_text())["settings"]["image sizes"] == "96 x 96"


def test_inference_takes_a_folder_of_images_without_annotations(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    output = tmp_path / "report.json"
    arguments = ["--task", "inference", *ONCE, "--no-memory", "--images", str(tmp_path), "--output", str(output)]
    assert run(*arguments) == 0
    assert json.loads(output.read_text())["settings"]["image sizes"] == "96 x 128"


def test_loading_counts_images_of_whole_batches(tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    assert run("--task", "data", *ONCE, "--output", str(output)) == 0
    assert json.loads(output.read_text())["rows"][0]["images_per_second"] > 0


def test_evaluation_measures_every_backend_with_the_given_detections(tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    assert run("--task", "eval", "--repeats", "1", "--detections", "10", "--output", str(output)) == 0
    report = json.loads(output.read_text())
    assert report["settings"]["detections"] == 40
    assert "pycocotools" in [row["name"] for row in report["rows"]]


def test_against_is_refused_for_tasks_without_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--task", "eval", "--against", "torchvision") == USAGE_ERROR
    assert "--against applies to --task inference, train, data" in capsys.readouterr().err


def test_loading_is_compared_on_coco_files_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--task", "data", "--against", "torchvision", "INPUT.CROP.ENABLED=True") == USAGE_ERROR
    assert "no INPUT.CROP.ENABLED = True; set it to False" in capsys.readouterr().err
    assert run("--task", "data", "--against", "torchvision", "INPUT.RANDOM_FLIP=horizontal") == USAGE_ERROR
    assert "reads a COCO file" in capsys.readouterr().err


@pytest.mark.parametrize("setting", ["TEST.AUG.ENABLED=True", "EVAL.GIVEN_BOXES=ground_truth"])
def test_settings_without_effect_are_refused(setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--task", "inference", setting) == USAGE_ERROR
    assert f"set {setting.split('=')[0]} " in capsys.readouterr().err


def test_too_many_images_are_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--task", "inference", "--num-batches", "5", "--no-memory") == USAGE_ERROR
    assert "has 4 images, the benchmark needs 5 (5 batches of 1)" in capsys.readouterr().err


def test_training_on_a_folder_without_annotations_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (80, 60)).save(tmp_path / "a.png")
    assert run("--task", "train", *ONCE, "--images", str(tmp_path)) == USAGE_ERROR
    assert "has 0 images with objects" in capsys.readouterr().err


def test_training_on_more_classes_than_the_model_has_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--task", "train", *ONCE, "MODEL.ROI_HEADS.NUM_CLASSES", "3") == USAGE_ERROR
    assert "MODEL.ROI_HEADS.NUM_CLASSES = 3, but dataset 'digits_val' has 10 classes" in capsys.readouterr().err


AGAINST_TORCHVISION = [
    *("--task", "train", "--against", "torchvision", *ONCE, "--batch-size", "1", "--image-size", "96", "128"),
    *("MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.DEVICE", "cpu"),
    *("MODEL.FPN.OUT_CHANNELS", "32", "MODEL.ROI_BOX_HEAD.FC_DIM", "32", "MODEL.ROI_MASK_HEAD.CONV_DIM", "16"),
]


def test_against_torchvision_measures_both(tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    arguments = [*AGAINST_TORCHVISION, "--images", "digits_val", "--no-memory", "--output", str(output)]
    assert run_command("benchmark", [*arguments, *FEW_SCENES]) == 0
    report = json.loads(output.read_text())
    assert [row["name"] for row in report["rows"]] == ["mrcnn_zoo", "torchvision"]
    assert report["rows"][0]["produced"] == report["rows"][1]["produced"]
    assert len(report["ratios"]) == 2


@pytest.mark.slow
def test_against_torchvision_with_memory(tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    arguments = [*AGAINST_TORCHVISION, "--images", "digits_val", "--output", str(output), *FEW_SCENES]
    assert run_command("benchmark", arguments) == 0
    report = json.loads(output.read_text())
    assert all(row["peak_memory_mib"] > 50 for row in report["rows"])
    assert len(report["ratios"]) == 3
