"""`evaluate`, `predict` and `visualize-data`: what they print, write and return."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mrcnn_zoo.checkpoint import Checkpointer
from mrcnn_zoo.cli.main import run_command
from mrcnn_zoo.cli.parser import is_image_input
from mrcnn_zoo.config import load_config
from mrcnn_zoo.data.catalog import load_dataset
from mrcnn_zoo.inference.prediction_summary import count_table
from mrcnn_zoo.modeling import build_model
from support.small_models import DIGITS, FEW_SCENES, TINY_LAYERS

TINY = [
    *TINY_LAYERS,
    *FEW_SCENES,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST=0.0",
    "TEST.DETECTIONS_PER_IMAGE=5",
    "DATASETS.SCENES.NUM_TRAIN=10",
    "DATASETS.SCENES.NUM_VAL=3",
    "VIS.NUM_IMAGES=2",
    "VIS.SCORE_THRESH=0.0",
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A checkpoint as a run writes it, with fresh weights."""
    cfg = load_config(DIGITS, TINY)
    torch.manual_seed(1)
    names = [str(digit) for digit in range(10)]
    state = {"model": build_model(cfg).state_dict(), "config": cfg.dump(), "class_names": names}
    return Checkpointer(tmp_path_factory.mktemp("run")).save("model_final", state)


def test_evaluate_needs_a_checkpoint_only(weights: Path, tmp_path: Path) -> None:
    assert run_command("evaluate", ["--weights", str(weights), "--output-dir", str(tmp_path), "VIS.PLOTS=True"]) == 0
    results = json.loads((tmp_path / "inference" / "results.json").read_text())
    assert {"AP", "AP50", "AR5", "AP-7"} <= set(results["segm"])
    assert (tmp_path / "inference" / "coco_instances_results.json").is_file()
    assert "NUM_CLASSES: 10" in (tmp_path / "inference" / "config.yaml").read_text()
    assert "torch" in json.loads((tmp_path / "inference" / "environment.json").read_text())["versions"]
    pictures = {str(path.relative_to(tmp_path / "pictures")) for path in (tmp_path / "pictures").rglob("*.png")}
    assert {"precision_recall.png", "confusion_matrix.png"} <= pictures
    assert len(pictures) == 2 + 2


def test_evaluate_takes_overrides_before_and_after_options(weights: Path, tmp_path: Path) -> None:
    arguments = ["TEST.NUM_IMAGES", "1", "--weights", str(weights), "VIS.NUM_IMAGES=0", "--output-dir", str(tmp_path)]
    assert run_command("evaluate", arguments) == 0
    rows = json.loads((tmp_path / "inference" / "coco_instances_results.json").read_text())
    assert len({row["image_id"] for row in rows}) == 1
    assert not list(tmp_path.rglob("*.png"))  # neither predictions nor plots


def test_evaluate_fails_when_the_results_are_not_the_expected_ones(weights: Path, tmp_path: Path, capsys) -> None:
    expected = "TEST.EXPECTED_RESULTS=[['bbox','AP',99.0,0.1]]"
    arguments = ["--weights", str(weights), "--output-dir", str(tmp_path), "VIS.NUM_IMAGES=0", expected]
    assert run_command("evaluate", arguments) != 0
    assert "bbox/AP is" in capsys.readouterr().err


def test_predict_draws_the_readable_images_and_returns_1_for_the_others(weights: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(np.full((60, 80, 3), 120, dtype=np.uint8)).save(folder / "good.png")
    (folder / "bad.png").write_bytes(b"no image")
    output = tmp_path / "out"
    arguments = [str(folder / "good.png"), "--weights", str(weights), "--output", str(output), "--threshold", "0"]
    assert run_command("predict", arguments) == 0
    assert run_command("predict", [*arguments, str(folder / "bad.png"), "--set", "TEST.DETECTIONS_PER_IMAGE=2"]) == 1
    assert "1 input could not be read (see above); the others are done" in capsys.readouterr().err
    content = json.loads((output / "predictions.json").read_text())
    assert len(content["annotations"]) == 2
    assert content["annotations"][0]["category_name"] in "0123456789"
    assert (output / "good.png").is_file()
    assert not (output / "bad.png").exists()


def test_commands_keep_freed_memory_on_the_cpu(weights: Path, tmp_path: Path, monkeypatch) -> None:
    told = []
    monkeypatch.setattr("mrcnn_zoo.ops.memory.keep_freed_memory", lambda: told.append("kept"))
    Image.new("RGB", (80, 60)).save(tmp_path / "image.png")
    few = ["--weights", str(weights), "--output-dir", str(tmp_path / "out")]
    assert run_command("evaluate", [*few, "TEST.NUM_IMAGES=1", "VIS.NUM_IMAGES=0"]) == 0
    assert run_command("predict", [str(tmp_path / "image.png"), *few]) == 0
    assert told == ["kept", "kept"]


def test_threshold_above_1_is_a_usage_error(capsys) -> None:
    with pytest.raises(SystemExit):
        run_command("predict", ["image.png", "--threshold", "50"])
    assert "--threshold takes a number from 0 to 1, not '50'" in capsys.readouterr().err


def test_predict_refuses_a_picture_as_output(tmp_path: Path, capsys) -> None:
    Image.new("RGB", (80, 60)).save(tmp_path / "a.png")
    assert run_command("predict", [str(tmp_path / "a.png"), "--output", str(tmp_path / "b.jpg")]) == 2
    assert "b.jpg is the name of a picture; name the folder" in capsys.readouterr().err


def test_missing_checkpoint_is_one_message(capsys) -> None:
    assert run_command("predict", ["image.png", "--weights", "nowhere.pth"]) == 2
    error = capsys.readouterr().err
    assert "nowhere.pth does not exist" in error
    assert "Traceback" not in error


def test_visualize_data_draws_each_dataset_and_prints_the_paths(tmp_path: Path, capsys) -> None:
    arguments = ["--config-file", DIGITS, "--num", "2", "--output-dir", str(tmp_path), *TINY]
    assert run_command("visualize-data", arguments) == 0
    printed = capsys.readouterr().out.split()
    assert len(printed) == 4
    assert {Path(path).parent.name for path in printed} == {"digits_train", "digits_val"}
    assert all(Path(path).is_file() for path in printed)


def test_visualize_data_draws_batches_of_the_training_loader(tmp_path: Path, capsys) -> None:
    arguments = ["--config-file", DIGITS, "--source", "dataloader", "--num", "1", "--output-dir", str(tmp_path), *TINY]
    assert run_command("visualize-data", arguments) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "train_batch_0.png")]


def test_visualize_data_without_a_dataset_names_the_key(tmp_path: Path, capsys) -> None:
    arguments = [
        "--config-file",
        "Base-RCNN-FPN",
        "--output-dir",
        str(tmp_path),
        "DATASETS.TRAIN=()",
        "DATASETS.TEST=()",
    ]
    assert run_command("visualize-data", arguments) == 2
    assert "names no dataset to draw" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_evaluate_writes_a_log_and_reports_replaced_results(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--weights", str(weights), "--output-dir", str(tmp_path), "VIS.NUM_IMAGES=0", "TEST.NUM_IMAGES=1"]
    note = f"the results of an earlier evaluation in {tmp_path / 'inference'} will be replaced"
    assert run_command("evaluate", arguments) == 0
    assert note not in capsys.readouterr().out
    log = (tmp_path / "log.txt").read_text()
    assert "113 weights loaded" in log
    assert "results in %" in log
    assert run_command("evaluate", arguments) == 0
    printed = capsys.readouterr().out
    assert printed.count(note) == 1
    assert printed.count("113 weights loaded") == 1


def test_predictions_are_corrected_in_labelme_and_loaded_as_training_data(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.full((60, 80, 3), 120, dtype=np.uint8)).save(images / f"{name}.png")
    output = tmp_path / "corrections"
    arguments = [str(images), "--weights", str(weights), "--output", str(output), "--threshold", "0"]
    assert run_command("predict", [*arguments, "--format", "labelme"]) == 0
    assert f"DATASETS.TRAIN {output}" in capsys.readouterr().out
    content = json.loads((output / "a.json").read_text())
    assert content["imagePath"] == "../images/a.png"
    content["shapes"] = content["shapes"][:1]  # as in the tool: one object stays, with another class
    content["shapes"][0]["label"] = "eight"
    (output / "a.json").write_text(json.dumps(content))
    corrected = load_dataset(load_config(None, ["MODEL.MASK_ON", True]), str(output))
    assert [Path(record.source.name).resolve() for record in corrected.records] == [images / "a.png", images / "b.png"]
    first, second = corrected.records
    assert [corrected.class_names[item.class_index] for item in first.instances] == ["eight"]
    assert len(second.instances) == 5
    assert run_command("predict", [*arguments, "--format", "labelme", "--overwrite"]) == 2
    assert "added or changed since it was written: a.json" in capsys.readouterr().err
    assert json.loads((output / "a.json").read_text()) == content


def test_predicted_masks_become_polygons_within_a_tolerance(weights: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((60, 80, 3), 120, dtype=np.uint8)).save(tmp_path / "a.png")
    arguments = [str(tmp_path / "a.png"), "--weights", str(weights), "--threshold", "0", "--format", "coco"]
    assert run_command("predict", [*arguments, "--output", str(tmp_path / "out"), "RESULTS.SIMPLIFY", "1.5"]) == 0
    content = json.loads((tmp_path / "out/annotations.json").read_text())
    # Without a tolerance all are run lengths; those with holes stay so.
    assert list in [type(annotation["segmentation"]) for annotation in content["annotations"]]


def test_predict_prints_a_table_of_counts_and_the_written_files(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (80, 60)).save(tmp_path / "image.png")
    arguments = [str(tmp_path / "image.png"), str(weights), "--output", str(tmp_path / "out"), "--threshold", "0"]
    assert run_command("predict", [*arguments, "TEST.DETECTIONS_PER_IMAGE", "1"]) == 0
    printed = capsys.readouterr().out
    assert f"{tmp_path / 'image.png'}: 1 object\n" in printed
    assert "1 object with a score of at least 0 in 1 image. Written:" in printed
    for name in ("predictions.json", "predictions.csv", "image.png"):
        assert f"  {tmp_path / 'out' / name} " in printed


def test_predict_reports_the_threshold_of_the_model(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (80, 60)).save(tmp_path / "image.png")
    key = "MODEL.ROI_HEADS.SCORE_THRESH_TEST"
    arguments = [str(tmp_path / "image.png"), "--weights", str(weights), "--output", str(tmp_path / "out"), key, "0.2"]
    for threshold, count in (("0.1", 1), ("0.2", 0)):
        assert run_command("predict", [*arguments, "--threshold", threshold]) == 0
        assert capsys.readouterr().out.count(f"Set {key} {threshold}") == count


def test_predict_reports_that_no_image_could_be_read(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("no image")
    arguments = ["--weights", str(weights), "--output", str(tmp_path / "out")]
    assert run_command("predict", [str(tmp_path), *arguments]) == 1
    assert "none of the 2 images could be read; nothing is written" in capsys.readouterr().err
    assert run_command("predict", [str(tmp_path / "a.png"), *arguments]) == 1
    error = capsys.readouterr().err
    assert "the image could not be read; nothing is written" in error
    assert not (tmp_path / "out").exists()


def test_predict_does_not_take_keys_for_images(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (80, 60)).save(tmp_path / "image.png")
    arguments = [str(tmp_path / "image.png"), "--weights", str(weights), "MODEL.DEVISE", "cpu"]
    assert run_command("predict", [*arguments, "--output", str(tmp_path / "out")]) == 2
    assert "there is no config key MODEL.DEVISE. Did you mean 'MODEL.DEVICE'?" in capsys.readouterr().err


def test_count_table_fits_the_width_and_names_hidden_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {f"image_{n}.png": Counter({f"a class of name {k}": k + 1 for k in range(20)}) for n in range(30)}
    lines = count_table(counts).splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[-2].split()[:3] == ["all", "30", "images"]
    assert lines[-2].split()[-1] == str(30 * 210)
    assert lines[-1].startswith("Not shown: 10 more images and ")
    monkeypatch.setattr("mrcnn_zoo.inference.prediction_summary.terminal_width", lambda _: 60)
    assert max(map(len, count_table(counts).splitlines()[:-1])) <= 60
    assert count_table({"a.png": Counter(cat=2)}).splitlines()[-1].split() == ["a.png", "2"]
    assert count_table({"a.png": Counter()}).splitlines()[-1].split() == ["a.png", "0"]


def test_predict_takes_the_options_of_detectron2s_demo(weights: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(np.full((60, 80, 3), 120, dtype=np.uint8)).save(tmp_path / name)
    config = tmp_path / "my.yaml"
    config.write_text(torch.load(weights, weights_only=False)["config"])
    output = tmp_path / "out"
    arguments = [
        "--config-file",
        config,
        "--input",
        tmp_path / "a.png",
        tmp_path / "b.png",
        "--input",
        tmp_path / "c.png",
    ]
    arguments += ["--output", output, "--confidence-threshold", "0", "--opts", "MODEL.WEIGHTS", weights]
    assert run_command("predict", [*map(str, arguments), "TEST.DETECTIONS_PER_IMAGE", "2"]) == 0
    content = json.loads((output / "predictions.json").read_text())
    assert [Path(image["file_name"]).name for image in content["images"]] == ["a.png", "b.png", "c.png"]
    assert len(content["annotations"]) == 6
    alone = ["--input", str(tmp_path / "a.png"), "--output", str(tmp_path / "alone"), "--opts", "MODEL.WEIGHTS"]
    assert run_command("predict", [*alone, str(weights)]) == 0  # the config in the weights


def test_web_addresses_are_images_unless_they_name_weights() -> None:
    for address in ("https://a.org/photo.jpg?size=2", "http://a.org/photo", "https://a.org/x/1.TIF"):
        assert is_image_input(address)
    for address in ("https://a.org/model.pth", "https://a.org/model_final_a54504.pkl?x=1", "zoo://Quickstart/a"):
        assert not is_image_input(address)
