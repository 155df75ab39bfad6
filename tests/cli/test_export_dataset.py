import json
from pathlib import Path

import pytest

from mrcnn_zoo.cli.main import USAGE_ERROR, run_command


def test_synthetic_scenes_are_exported_with_overrides_in_any_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    options = ["DATASETS.SCENES.NUM_VAL", "3", "--overwrite", "DATASETS.SCENES.NUM_OBJECTS=[2,2]"]
    assert run_command("export-dataset", ["digits_val", str(folder), *options]) == 0
    content = json.loads((folder / "annotations.json").read_text())
    assert (len(content["images"]), len(content["annotations"])) == (3, 6)
    assert f"3 images, 6 objects, 10 classes are in {folder}: COCO JSON" in capsys.readouterr().out


def test_folder_in_use_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    arguments = ["shapes_val", str(tmp_path), "DATASETS.SCENES.NUM_VAL", "1"]
    assert run_command("export-dataset", arguments) == USAGE_ERROR
    assert "is not empty: it holds notes.txt" in capsys.readouterr().err


def test_unknown_dataset_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("export-dataset", ["digit_val", str(tmp_path / "out")]) == USAGE_ERROR
    assert "Did you mean 'digits_val'?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
