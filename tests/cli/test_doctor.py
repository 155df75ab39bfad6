"""`mrcnn-zoo doctor`: exit status, printed text, HTML and JSON."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrcnn_zoo.cli.main import USAGE_ERROR, run_command
from support.browser import DESKTOP, PHONE, Browser, browser, open_page
from support.doctor_sets import change_annotations, image_file, write_clean_set
from support.small_models import TINY_YAML

SMALL = 800_000  # bytes of a page of a few findings


@pytest.fixture(scope="module", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MRCNN_ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clean_set(tmp_path_factory.mktemp("doctor") / "clean")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as running:
        yield running


def doctor(folder: Path, *arguments: object) -> int:
    overrides = ["DATASETS.TRAIN", f"[{folder}]", "DATASETS.TEST", "[]"]
    return run_command("doctor", ["--config", str(TINY_YAML), *map(str, arguments), *overrides])


def test_clean_set_exits_with_0_and_prints_what_was_measured(clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(clean, "--images", "8") == 0
    text = capsys.readouterr().out
    assert "0 errors, 0 warnings, 2 notes" in text
    assert "32 images, 82 objects, 3 classes; 8 images read" in text
    assert "0.9 million parameters; about " in text
    assert "Checked and fine:" in text


def test_errors_exit_with_1_and_are_written_with_pictures(
    clean: Path, tmp_path: Path, chromium: Browser, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = Path(shutil.copytree(clean, tmp_path / "damaged"))
    broken, copied = image_file(damaged, "train", 0), image_file(damaged, "val", 0)
    broken.write_bytes(b"\xff\xd8\xffnothing")
    pixels = np.asarray(Image.open(image_file(damaged, "train", 1)))
    Image.fromarray(pixels[::-1]).save(copied)

    def thin(content: dict) -> None:
        content["annotations"][5]["bbox"][2:] = [0.4, 30.0]
        content["annotations"][5].pop("segmentation")

    change_annotations(damaged, "train", thin)
    page, values = tmp_path / "<b>.html", tmp_path / "doctor.json"
    assert doctor(damaged, "--no-estimate", "--html", page, "--output", values) == 1
    text = capsys.readouterr().out
    assert f"ERROR: {damaged}: 1 image cannot be read" in text
    assert broken.name in text
    assert "2 errors" in text

    found = json.loads(values.read_text(encoding="utf-8"))["findings"]
    by_check = {finding["check"]: finding for finding in found if finding["severity"] in ("error", "warning")}
    assert by_check["files"]["examples"][0]["images"] == [str(broken)]
    assert by_check["similar_images"]["count"] == 1
    assert by_check["boxes"]["examples"][0]["annotation_ids"] == [6]

    for size in (DESKTOP, PHONE):
        opened = open_page(chromium, page, size=size)
        opened.check()
        kinds = opened.page.eval_on_selector_all(".finding .kind", "all => all.map(one => one.textContent)")
        assert kinds == sorted(kinds, key=["error", "warning", "note"].index)
        assert kinds.count("error") == 2
        assert opened.page.eval_on_selector_all(
            '[data-check="similar_images"] img', "all => all.map(one => one.naturalWidth)"
        ) == [360, 360]
        assert opened.page.eval_on_selector_all('[data-check="files"] img', "all => all.length") == 0
    assert page.stat().st_size < SMALL


def test_existing_files_are_kept(clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "doctor.html"
    page.write_text("mine", encoding="utf-8")
    assert doctor(clean, "--html", page) == USAGE_ERROR
    assert "--overwrite" in capsys.readouterr().err
    assert page.read_text(encoding="utf-8") == "mine"


def test_config_is_the_recipe_where_only_data_are_given(clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("doctor", ["--no-estimate", "--images", "4", "DATASETS.TRAIN", f"[{clean}]"]) == 0
    assert capsys.readouterr().out.startswith("Recipes/own_data\n")
    with pytest.raises(SystemExit):
        run_command("doctor", [])


def test_config_without_data_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("doctor", ["--config", str(TINY_YAML), "DATASETS.TRAIN", "[]", "DATASETS.TEST", "[]"]) == (
        USAGE_ERROR
    )
    assert "names no dataset to check" in capsys.readouterr().err
