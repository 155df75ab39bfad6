"""The nuclei of the 2018 Data Science Bowl, and the stratified split."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.catalog import load_dataset
from mrcnn_zoo.data.formats import masks
from mrcnn_zoo.data.formats.dsb2018 import choose_validation, load_dsb2018, stratum_of
from mrcnn_zoo.data.formats.masks import MaskFiles, modality_of, read_image_with_masks
from mrcnn_zoo.data.images.reading import read_bitmap as read
from mrcnn_zoo.errors import UserError


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache for this test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("MRCNN_ZOO_CACHE", str(folder))
    return folder


def _save_mask(path: Path, box: tuple[int, int, int, int] | None, size: tuple[int, int] = (32, 48)) -> None:
    bitmap = np.zeros(size, np.uint8)
    if box:
        x1, y1, x2, y2 = box
        bitmap[y1:y2, x1:x2] = 255
    Image.fromarray(bitmap).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten images of 32 x 48 (height x width) with two nuclei each."""
    folder = tmp_path / "stage1_train"
    for number in range(10):
        for kind in ("images", "masks"):
            (folder / f"image{number}" / kind).mkdir(parents=True)
        pixels = np.full((32, 48, 4), 255, np.uint8)
        pixels[:, :, :3] = number
        Image.fromarray(pixels).save(folder / f"image{number}" / "images" / f"image{number}.png")
        _save_mask(folder / f"image{number}" / "masks" / "a.png", (2, 3, 12, 9))
        _save_mask(folder / f"image{number}" / "masks" / "b.png", (20, 20, 30, 32))
    return folder


def test_each_mask_is_an_object(root: Path) -> None:
    dataset = load_dsb2018("nuclei", root)
    assert (len(dataset), dataset.class_names, dataset.category_ids, dataset.notes) == (10, ("nucleus",), (1,), ())
    record = dataset.records[4]
    assert record.source.read()[0, 0].tolist() == [4, 4, 4]
    assert (record.image_id, record.image_size) == (5, (32, 48))
    assert [item.box for item in record.instances] == [(2, 3, 12, 9), (20, 20, 30, 32)]
    assert [item.area for item in record.instances] == [60, 120]
    bitmap = coco_mask.decode(record.instances[1].segmentation)
    assert bitmap.sum() == 120
    assert bitmap[20:32, 20:30].all()


def test_annotation_ids_are_distinct_and_not_zero(root: Path) -> None:
    items = [item for record in load_dsb2018("nuclei", root).records for item in record.instances]
    assert sorted(item.annotation_id for item in items) == list(range(1, 21))


def test_cached_result_equals_the_first(root: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_dsb2018("nuclei", root)
    assert len(list(cache_folder.iterdir())) == 1
    monkeypatch.setattr(masks, "read_bitmap", None)  # a second reading fails
    assert load_dsb2018("nuclei", root) == first


def test_changed_file_is_read_again(root: Path) -> None:
    load_dsb2018("nuclei", root)
    _save_mask(root / "image0" / "masks" / "a.png", (2, 3, 4, 5))
    assert load_dsb2018("nuclei", root).records[0].instances[0].box == (2, 3, 4, 5)


def test_wrong_size_mask_is_refused_with_both_sizes(root: Path) -> None:
    path = root / "image3" / "masks" / "b.png"
    _save_mask(path, (0, 0, 5, 5), size=(48, 32))
    with pytest.raises(UserError, match=re.escape(str(path)) + " is 32 x 48 .* image3.png is 48 x 32"):
        load_dsb2018("nuclei", root)


def test_size_of_a_mask_is_compared_before_it_is_decoded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _save_mask(next(root.iterdir()) / "masks" / "huge.png", None, size=(320, 480))
    monkeypatch.setattr(masks, "read_bitmap", lambda path: pytest.fail(path) if "huge" in path else read(path))
    with pytest.raises(UserError, match=r"huge.png is 480 x 320 pixels"):
        load_dsb2018("nuclei", root)


def test_refused_dataset_leaves_no_cache(root: Path, cache_folder: Path) -> None:
    _save_mask(root / "image3" / "masks" / "b.png", (0, 0, 5, 5), size=(48, 32))
    with pytest.raises(UserError):
        load_dsb2018("nuclei", root)
    assert not cache_folder.exists()


def test_empty_mask_is_dropped_with_a_note(root: Path) -> None:
    _save_mask(root / "image3" / "masks" / "b.png", None)
    dataset = load_dsb2018("nuclei", root)
    assert len(dataset.records[3].instances) == 1
    assert dataset.notes == ("empty mask files left out: 1 (first: file image3/masks/b.png)",)


def test_overlapping_masks_are_kept_with_a_note(root: Path) -> None:
    _save_mask(root / "image3" / "masks" / "b.png", (11, 3, 15, 9))
    dataset = load_dsb2018("nuclei", root)
    assert [item.area for item in dataset.records[3].instances] == [60, 24]
    assert dataset.notes == ("masks that overlap another kept as they are: 1 (first: file image3/masks/b.png)",)


def test_image_without_masks_has_no_objects(root: Path) -> None:
    for path in (root / "image3" / "masks").iterdir():
        path.unlink()
    assert load_dsb2018("nuclei", root).records[3].instances == ()


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_folder_without_images_or_masks_is_named(root: Path, kind: str) -> None:
    for path in (root / "image3" / kind).iterdir():
        path.unlink()
    (root / "image3" / kind).rmdir()
    with pytest.raises(UserError, match=re.escape(str(root / "image3" / kind)) + " is missing"):
        load_dsb2018("nuclei", root)


def test_two_images_in_one_folder_are_refused(root: Path) -> None:
    _save_mask(root / "image3" / "images" / "other.png", None)
    with pytest.raises(UserError, match="image3/images must hold one PNG, it holds 2"):
        load_dsb2018("nuclei", root)


def test_truncated_mask_is_named(root: Path) -> None:
    path = root / "image3" / "masks" / "b.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match=re.escape(str(path))):
        load_dsb2018("nuclei", root)


def test_folder_without_subfolders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no folders"):
        load_dsb2018("nuclei", tmp_path)


def test_train_and_val_partition_the_images(root: Path) -> None:
    ids = [{record.image_id for record in load_dsb2018("n", root, split=split).records} for split in ("train", "val")]
    assert not ids[0] & ids[1]
    assert ids[0] | ids[1] == set(range(1, 11))
    assert len(ids[1]) == 2


def test_fields_of_a_definition_are_read(root: Path, cfg) -> None:
    definition = {"FORMAT": "dsb2018", "IMAGES": str(root), "SPLIT": "val", "VAL_FRACTION": 0.5, "CLASS": "cell"}
    cfg.DATASETS.DEFINITIONS = CfgNode({"cells": definition})
    dataset = load_dataset(cfg, "cells")
    assert (len(dataset), dataset.class_names) == (5, ("cell",))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("SPLIT", "test", "SPLIT = 'test' is not one of train, val, all"),
        ("VAL_FRACTION", 1.5, "VAL_FRACTION = 1.5"),
        ("SPLTI", "val", "Did you mean 'SPLIT'"),
        ("SEED", "a", "SEED = 'a' must be of type int"),
    ],
)
def test_invalid_field_is_named(root: Path, cfg, field: str, value: object, message: str) -> None:
    cfg.DATASETS.DEFINITIONS = CfgNode({"cells": {"FORMAT": "dsb2018", "IMAGES": str(root), field: value}})
    with pytest.raises(UserError, match=message):
        load_dataset(cfg, "cells")


@pytest.mark.parametrize(
    ("name", "background", "object_colour"),
    [
        ("fluorescence", (5, 5, 5), (120, 120, 120)),
        ("brightfield", (226, 226, 226), (90, 90, 90)),
        ("stained_white", (220, 220, 215), (90, 20, 140)),
        ("stained_tinted", (180, 160, 220), (80, 30, 180)),
    ],
)
def test_modality_is_derived_from_the_colours(name: str, background, object_colour) -> None:
    pixels = np.zeros((20, 20, 3), np.uint8) + np.array(background, np.uint8)
    pixels[5:12, 5:12] = object_colour
    assert modality_of(pixels) == name


def test_real_folders_are_read(shared_dir: Path) -> None:
    root = shared_dir / "data" / "dsb2018" / "stage1_train"
    names = sorted(path.name for path in root.iterdir())[::60]
    for name in names:
        paths = sorted((root / name / "masks").glob("*.png"))
        files = MaskFiles(f"{name}/images/{name}.png", tuple((str(path.relative_to(root)), "") for path in paths))
        image = read_image_with_masks(files, root=root)
        assert len(image.objects) + len(image.empty_masks) == len(paths)
        expected = np.asarray(Image.open(paths[0])) > 0
        decoded = coco_mask.decode({"size": list(image.size), "counts": image.objects[0].counts})
        assert np.array_equal(decoded.astype(bool), expected)
        assert stratum_of(image).endswith(f"{image.size[0]}x{image.size[1]}")


STRATA = {f"image{number}": "big" if number < 70 else "small" if number < 97 else "rare" for number in range(100)}


def test_share_is_exact_and_proportional() -> None:
    chosen = choose_validation(STRATA, 0.2)
    counts = {stratum: sum(STRATA[name] == stratum for name in chosen) for stratum in set(STRATA.values())}
    # Shares are 14, 5.4 and 0.6: the remaining image is of the stratum with the largest remainder.
    assert counts == {"big": 14, "small": 5, "rare": 1}


def test_choice_does_not_depend_on_the_order() -> None:
    backwards = dict(reversed(STRATA.items()))
    assert choose_validation(STRATA, 0.2) == choose_validation(backwards, 0.2)


def test_choice_is_the_same_on_every_machine() -> None:
    names = dict.fromkeys(("a", "b", "c", "d", "e"), "one")
    # sha256sum of "0:a" to "0:e" begins with 9d, e0, be, 7d, e0: the two smallest are those of d and a.
    assert choose_validation(names, 0.4) == {"a", "d"}


def test_another_seed_gives_another_choice() -> None:
    assert choose_validation(STRATA, 0.2, seed=1) != choose_validation(STRATA, 0.2, seed=0)


@pytest.mark.parametrize(("fraction", "count"), [(0.0, 0), (1.0, 100), (0.5, 50)])
def test_extreme_fractions(fraction: float, count: int) -> None:
    assert len(choose_validation(STRATA, fraction)) == count


def test_no_images_give_no_validation_images() -> None:
    assert choose_validation({}, 0.2) == set()
