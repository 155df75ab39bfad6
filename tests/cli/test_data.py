"""`mrcnn-zoo data`: info, convert, split, merge, tile, sample."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from scipy.ndimage import binary_fill_holes

from mrcnn_zoo.cli.main import USAGE_ERROR, run_command
from mrcnn_zoo.config import load_config
from mrcnn_zoo.data.annotations.folders import write_dataset
from mrcnn_zoo.data.catalog import load_dataset
from mrcnn_zoo.data.masks import segmentation_rle
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.registries import ANNOTATION_FORMATS
from support.annotation_files import example_dataset

FORMATS = sorted(ANNOTATION_FORMATS.names())
Run = Callable[..., str]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """labelme files with two images of each side."""
    folder = tmp_path_factory.mktemp("source")
    parts = {side: example_dataset(folder / "photos", split=side) for side in ("train", "val")}
    write_dataset(parts, folder / "cells", ANNOTATION_FORMATS.get("labelme")())
    return folder / "cells"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs an action that must succeed, and returns what it printed."""

    def run_action(*arguments: object) -> str:
        capsys.readouterr()
        status = run_command("data", list(map(str, arguments)))
        captured = capsys.readouterr()
        assert status == 0, captured.err
        return captured.out

    return run_action


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs an action that must end in one message, and returns the message."""

    def run_action(*arguments: object) -> str:
        capsys.readouterr()
        assert run_command("data", list(map(str, arguments))) == USAGE_ERROR
        return capsys.readouterr().err

    return run_action


def load(name: object) -> Dataset:
    return load_dataset(load_config(None, ["MODEL.MASK_ON", True]), str(name))


def covered(record: ImageRecord, *, has_holes: bool) -> np.ndarray:
    """(H, W) pixels of any object."""
    found = np.zeros(record.image_size, dtype=bool)
    for item in record.instances:
        found |= coco_mask.decode(segmentation_rle(item.segmentation, record.image_size)).astype(bool)
    return found if has_holes else binary_fill_holes(found)


# --- convert ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--no-images",)], ids=["copies", "references"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_keeps_images_sides_classes_and_masks(
    name: str, options: tuple[str, ...], source: Path, tmp_path: Path, run: Run, refused: Run
) -> None:
    command = ("convert", source, tmp_path / "out", "--to", name, *options)
    if options and not ANNOTATION_FORMATS.get(name)().finds_images_elsewhere:
        assert "leave --no-images out" in refused(*command)
        return
    has_holes = "holes of polygons filled: 2" not in run(*command)
    old, new = load(source), load(tmp_path / "out")
    assert set(new.class_names) == set(old.class_names)
    assert new.format_name == name
    assert len(new) == len(old)
    for record in old.records:
        (again,) = (found for found in new.records if Path(record.source.name).stem in Path(found.source.name).stem)
        assert (again.split, again.image_size) == (record.split, record.image_size)
        np.testing.assert_array_equal(again.source.read(), record.source.read())
        expected, found = (covered(item, has_holes=has_holes) for item in (record, again))
        assert (expected & found).sum() >= 0.98 * (expected | found).sum()


def test_format_of_the_source_is_the_default_and_coco_for_generated_scenes(
    source: Path, tmp_path: Path, run: Run
) -> None:
    printed = run("convert", f"{source}:val", tmp_path / "out")
    assert (tmp_path / "out" / "val" / "val_first.json").is_file()
    assert f"2 images, 3 objects, 2 classes (val 2) are in {tmp_path / 'out'}: labelme JSON" in printed
    assert f"To use them: DATASETS.TRAIN {tmp_path / 'out'}" in printed
    run("convert", "digits_val", tmp_path / "digits", "DATASETS.SCENES.NUM_VAL", "2")
    assert (tmp_path / "digits" / "annotations.json").is_file()


def test_what_a_format_cannot_hold_is_printed(source: Path, tmp_path: Path, run: Run) -> None:
    printed = run("convert", source, tmp_path / "out", "--to", "via")
    assert "Lost in this format:\n" in printed
    assert "  holes of polygons filled: 2 (first: object train_first, annotation 3)" in printed


def test_tolerance_makes_polygons_of_fewer_points(source: Path, tmp_path: Path, run: Run) -> None:
    run("convert", source, tmp_path / "exact", "--to", "via")
    run("convert", source, tmp_path / "simple", "--to", "via", "--tolerance", "4")
    sizes = [(tmp_path / name / "train" / "via_project.json").stat().st_size for name in ("exact", "simple")]
    assert sizes[1] <= sizes[0]


def test_classes_are_merged_and_left_out(source: Path, tmp_path: Path, run: Run) -> None:
    printed = run("convert", source, tmp_path / "out", "--classes", "{animal: [cat, dog]}")
    assert "6 objects, 1 class" in printed
    run("convert", source, tmp_path / "cats", "--classes", "[cat]")
    assert load(tmp_path / "cats").class_names == ("cat",)


def test_bad_requests_are_one_message_before_work(source: Path, tmp_path: Path, refused: Run) -> None:
    assert "Did you mean 'yolo'?" in refused("convert", source, tmp_path / "out", "--to", "yolov")
    assert "--from" in refused("convert", source, tmp_path / "out", "--from", "cocoa")
    assert "names 'horse'" in refused("convert", source, tmp_path / "out", "--classes", "{animal: [horse]}")
    assert "--classes" in refused("convert", source, tmp_path / "out", "--classes", "{animal: [")
    assert "--overlap 64 must be below --size 64" in refused(
        "tile", source, tmp_path / "out", "--size", 64, "--overlap", 64
    )
    assert "nothing is divided" in refused("split", source, tmp_path / "out", "--val", 0)
    assert "two datasets or more" in refused("merge", source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_nothing_existing_is_replaced(source: Path, tmp_path: Path, run: Run, refused: Run) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    assert "it holds thesis.tex" in refused("convert", source, tmp_path / "out", "--overwrite")
    run("convert", source, tmp_path / "cells")
    assert "--overwrite" in refused("sample", source, tmp_path / "cells", "--num", 1)
    run("sample", source, tmp_path / "cells", "--num", 1, "--overwrite")
    assert len(load(tmp_path / "cells")) == 1


def test_folder_below_the_source_is_refused(source: Path, refused: Run) -> None:
    assert "Name a folder beside it" in refused("convert", f"{source}:val", source / "yolo", "--to", "yolo")
    assert not (source / "yolo").exists()


# --- split, sample, merge, tile ---------------------------------------------------------------------------------------


def test_split_replaces_the_sides(source: Path, tmp_path: Path, run: Run) -> None:
    printed = run("split", source, tmp_path / "out", "--val", 0.25, "--test", 0.25, "--to", "yolo")
    assert "the former sides (train 2, val 2) are replaced" in printed
    assert [len(list((tmp_path / "out" / "images" / side).iterdir())) for side in ("train", "val", "test")] == [2, 1, 1]


def test_groups_stay_together(source: Path, tmp_path: Path, run: Run) -> None:
    run("split", source, tmp_path / "out", "--val", 0.5, "--group", "(first|second)")
    for side in ("train", "val"):
        stems = {path.stem.split("_")[1] for path in (tmp_path / "out" / side).glob("*.json")}
        assert len(stems) == 1


def test_merge_unites_classes_and_keeps_equal_names_apart(source: Path, tmp_path: Path, run: Run) -> None:
    run("convert", source, tmp_path / "renamed", "--classes", "{horse: dog}", "--to", "yolo")
    printed = run("merge", f"{source}:train", tmp_path / "renamed", tmp_path / "out", "--to", "labelme")
    assert "6 images, 9 objects, 3 classes (train 4, val 2)" in printed
    assert "renamed has no class dog: such objects are background in its images" in printed
    assert "4 images with the name of another one got a name of their own" in printed
    assert len(load(tmp_path / "out")) == 6


def test_classes_of_several_datasets_are_merged(source: Path, tmp_path: Path, run: Run) -> None:
    run("convert", source, tmp_path / "renamed", "--classes", "{hound: dog, puss: cat}")
    classes = "{dog: [dog, hound], ignore: [puss]}"
    printed = run("merge", source, tmp_path / "renamed", tmp_path / "out", "--classes", classes)
    assert "8 images, 10 objects, 2 classes" in printed
    assert f"{tmp_path / 'renamed'} has no class cat" in printed
    assert "has no class dog" not in printed


def test_tiles_have_their_place_in_the_name(source: Path, tmp_path: Path, run: Run) -> None:
    printed = run("tile", source, tmp_path / "out", "--size", 32, "--overlap", 4, "--empty", "drop")
    assert "of 4 images, 32 x 32 with an overlap of 4" in printed
    tiles = load(tmp_path / "out")
    names = {Path(record.source.name).name for record in tiles.records if record.split == "train"}
    assert names <= {f"train_first_x{x}_y{y}.png" for x in (0, 28) for y in (0, 8)}
    whole = {Path(record.source.name).name: record.source.read() for record in load(source).records}
    for record in tiles.records:
        stem, left, top = Path(record.source.name).stem.rsplit("_", 2)
        x, y = int(left[1:]), int(top[1:])
        np.testing.assert_array_equal(record.source.read(), whole[f"{stem}.png"][y : y + 32, x : x + 32])


# --- info -------------------------------------------------------------------------------------------------------------


def test_info_prints_the_numbers(source: Path, run: Run) -> None:
    printed = run("info", source)
    assert printed.startswith(f"{source}, labelme JSON, one file per image: 4 images, 6 objects, 2 classes\n")
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert {"train 2 3 1", "val 2 3 1", "all 4 6 2"} <= set(lines)  # images, objects, images without objects
    assert "dog 4 66.7 % 2 13.5" in lines  # objects, share, images, median of the square roots of the areas
    assert "Images (width x height): all 60 x 40" in lines


def test_info_does_not_replace_a_picture(source: Path, tmp_path: Path, refused: Run) -> None:
    (tmp_path / "cells.png").write_text("mine")
    assert "--overwrite" in refused("info", source, "--output", tmp_path / "cells.png")


def test_info_of_a_definition(source: Path, tmp_path: Path, run: Run) -> None:
    config = tmp_path / "cells.yaml"
    config.write_text(f"DATASETS: {{DEFINITIONS: {{mine: {{IMAGES: {source}, SPLIT: val}}}}}}")
    assert run("info", "mine", "--config-file", config).startswith("mine, labelme JSON, one file per image: 2 images")
