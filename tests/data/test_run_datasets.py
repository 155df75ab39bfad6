"""The training and test images of a run with DATASETS.FRACTION and FOLDS."""

import logging
from collections.abc import Callable
from typing import Any

import pytest

from mrcnn_zoo.config import CfgNode, changed_config, load_config
from mrcnn_zoo.data import Dataset, load_dataset, load_test, load_train, load_train_and_test
from mrcnn_zoo.data.formats.object_crops import CropImage
from mrcnn_zoo.data.run_datasets import check_common_split
from mrcnn_zoo.errors import UserError

CROPS = "{'crops': {'FORMAT': 'object_crops', 'DATASET': 'shapes_train', 'SIZE': 16}}"


def config(*overrides: Any) -> CfgNode:
    return load_config(None, ["DATASETS.TRAIN=[shapes_train]", "DATASETS.SCENES.NUM_TRAIN=12", *overrides])


def names_of(dataset: Dataset) -> list[str]:
    """Files of the images, or of those that crops are cut from."""
    sources = (record.source for record in dataset.records)
    return [source.source.name if isinstance(source, CropImage) else source.name for source in sources]


def folds(*overrides: Any, count: int = 3) -> list[tuple[list[Dataset], list[Dataset]]]:
    cfgs = [config(f"DATASETS.FOLDS={count}", f"DATASETS.FOLD={fold}", *overrides) for fold in range(count)]
    return [sides(cfg) for cfg in cfgs]


def sides(cfg: CfgNode, **options: Any) -> tuple[list[Dataset], list[Dataset]]:
    """Training and test datasets."""
    loaded = load_train_and_test(cfg, **options)
    return list(loaded.train), list(loaded.test)


def test_each_image_is_held_out_once_and_never_trained_on_then() -> None:
    whole = names_of(load_dataset(config(), "shapes_train"))
    held_out = []
    for (training,), (tested,) in folds():
        assert sorted([*names_of(training), *names_of(tested)]) == sorted(whole)
        assert training.class_names == tested.class_names
        held_out += names_of(tested)
    assert sorted(held_out) == sorted(whole)


def test_evaluation_alone_has_the_held_out_images_and_training_alone_the_others() -> None:
    for fold, ((training,), (tested,)) in enumerate(folds()):
        cfg = config("DATASETS.FOLDS=3", f"DATASETS.FOLD={fold}", "SEED=4")  # folds do not depend on the seed
        assert names_of(load_test(cfg)[0]) == names_of(tested)
        assert names_of(load_train(cfg)[0]) == names_of(training)


def test_crops_are_cut_from_the_part_of_their_side() -> None:
    overrides = (f"DATASETS.DEFINITIONS={CROPS}", "DATASETS.TRAIN=[crops]")
    for (training,), ((crops,), (tested,)) in zip((train for train, _ in folds()), folds(*overrides), strict=True):
        assert set(names_of(crops)) <= set(names_of(training))
        assert not set(names_of(crops)) & set(names_of(tested))
        assert len(crops) > len(training)
    # Crops among the test sets are those of held-out images.
    cfg = config(f"DATASETS.DEFINITIONS={CROPS}", "DATASETS.FOLDS=3", "DATASETS.TRAIN=[shapes_train, crops]")
    (images, _), (_, tested) = sides(changed_config(cfg, {"DATASETS.TEST": ["shapes_train", "crops"]}))
    assert not set(names_of(tested)) & set(names_of(images))


def test_fraction_is_taken_of_the_images_outside_of_the_fold() -> None:
    cfg = config("DATASETS.FOLDS=3", "DATASETS.FOLD=1", "DATASETS.FRACTION=0.5", "SEED=1")
    (training,), (tested,) = sides(cfg)
    (whole,), (same,) = folds()[1]
    assert (len(training), len(whole)) == (4, 8)
    assert set(names_of(training)) < set(names_of(whole))
    assert names_of(tested) == names_of(same)


def test_seed_of_the_run_chooses_the_fraction_unless_it_has_its_own() -> None:
    def chosen(*overrides: Any) -> list[str]:
        return names_of(load_train(config("DATASETS.FRACTION=0.3", *overrides))[0])

    assert chosen("SEED=1") == chosen("SEED=1") != chosen("SEED=2")
    own = "DATASETS.FRACTION_SEED=1"
    assert chosen("SEED=2", own) == chosen("SEED=3", own) == chosen("SEED=1")
    cfg = config("DATASETS.FRACTION=0.3", "SEED=2")
    assert names_of(sides(cfg, seed=1)[0][0]) == chosen("SEED=1")  # of a resumed run


def test_several_training_sets_are_divided_together(write_coco: Callable, annotation: Callable) -> None:
    path = write_coco([annotation(n, image_id=n) for n in range(1, 9)], num_images=8)
    definition = {"FORMAT": "coco", "IMAGES": str(path.parent), "ANNOTATIONS": str(path)}
    overrides = ("DATASETS.DEFINITIONS", {"one": definition, "other": definition}, "DATASETS.TRAIN=[one, other]")
    for training, tested in folds(*overrides, count=4):
        assert [dataset.name for dataset in (*training, *tested)] == ["one", "other"] * 2
        assert names_of(training[0]) == names_of(training[1])  # the same files are on the same side
        assert [len(dataset) for dataset in tested] == [2, 2]


def test_log_has_both_sides_with_their_groups(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    load_train(config("DATASETS.FOLDS=2", r"DATASETS.GROUP=^(\d{5})", "DATASETS.FRACTION=0.99"))
    (line,) = [record.message for record in caplog.records if "held out" in record.message]
    assert line.startswith("DATASETS.FOLD 0 of 2, DATASETS.FRACTION 0.99 of ")
    assert "images" in line
    assert "1 group); held out " in line  # scenes 0 to 9, and 10 and 11
    assert line.endswith("1 group)")


def test_groups_of_held_out_images_are_by_their_ids() -> None:
    loaded = load_train_and_test(config("DATASETS.FOLDS=2", r"DATASETS.GROUP=^(\d{5})", "DATASETS.FOLD=1"))
    # Ids are counted from 1, scenes from 0: ids 11 and 12 are the scenes 000010 and 000011.
    assert loaded.groups == {"shapes_train": {11: "00001", 12: "00001"}}
    assert [record.image_id for record in loaded.test[0].records] == [11, 12]
    assert not load_train_and_test(config("DATASETS.FOLDS=2")).groups


def test_class_without_training_image_is_a_warning(
    write_coco: Callable, annotation: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    boxes = [annotation(n, image_id=n, category_id=3 if n == 1 else 7) for n in range(1, 5)]
    path = write_coco(boxes, num_images=4)
    for fold in range(2):
        load_train(config(f"DATASETS.TRAIN=[{path.parent}]", "DATASETS.FOLDS=2", f"DATASETS.FOLD={fold}"))
    assert [record.message for record in caplog.records if "no training image has an object of dog" in record.message]
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["DATASETS.FOLDS=13"], r"DATASETS\.FOLDS = 13, but shapes_train .* has only 12 images, .* at most 12"),
        (["DATASETS.FOLDS=3", r"DATASETS.GROUP=^(\d{5})"], "has only 2 groups"),
        (["DATASETS.FRACTION=0.01"], r"DATASETS\.FRACTION = 0\.01 of 12 images is no image. Set it to at least 0\.083"),
        (["DATASETS.FOLDS=3", "DATASETS.GROUP=(slide)"], r"the image '000000 \(seed 0\)' .* does not match"),
    ],
)
def test_split_that_cannot_be_made_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_train_and_test(config(*overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["DATASETS.FOLDS=3", "DATASETS.FOLD=3"], r"DATASETS\.FOLD = 3 must be below DATASETS\.FOLDS = 3"),
        (["DATASETS.FOLDS=3", "DATASETS.TEST=[shapes_val]"], r"DATASETS\.TEST = \['shapes_val'\] with DATASETS\.FOLDS"),
        (
            ["DATASETS.FOLDS=3", "DATASETS.TRAIN=[a, b]", "DATASETS.TEST=[b]"],
            r"Remove DATASETS.TEST, set it to \['a', 'b'",
        ),
        (["DATASETS.FOLDS=1"], "DATASETS.FOLDS = 1 must be 0 or at least 2"),
        (["DATASETS.GROUP=(("], "no regular expression"),
        (["DATASETS.GROUP=abc"], "no group in parentheses"),
        (["DATASETS.FRACTION=0"], r"DATASETS\.FRACTION = 0\.0 must be in \(0, 1\]"),
    ],
)
def test_contradicting_keys_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(*overrides)


def test_folds_replace_the_test_set_of_a_base_file(tmp_path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "base.yaml"
    file.write_text("DATASETS: {TRAIN: [shapes_train], TEST: [shapes_val]}")
    assert load_config(file, ["DATASETS.FOLDS=3"]).DATASETS.TEST == ["shapes_train"]
    assert "DATASETS.TEST = ['shapes_val']" in caplog.text
    file.write_text("DATASETS: {TRAIN: [shapes_train], FOLDS: 3}")
    caplog.set_level(logging.INFO)
    # An evaluation on another dataset has all of its images.
    cfg = load_config(file, ["DATASETS.TEST=[shapes_val]", "DATASETS.SCENES.NUM_VAL=5"])
    caplog.clear()
    assert len(load_test(cfg)[0]) == 5
    assert not caplog.records  # the training data are not read for it


def test_stages_with_other_folds_or_overlapping_datasets_are_refused() -> None:
    cfg = config("DATASETS.FOLDS=3", f"DATASETS.DEFINITIONS={CROPS}")
    more = changed_config(cfg, {"DATASETS.TRAIN": ["shapes_train", "digits_train"]})
    with pytest.raises(UserError, match=r"stage 'one' is trained on images of shapes_train, stage 'two' on .*digits"):
        check_common_split({"one": cfg, "two": more})
    other = changed_config(cfg, {"DATASETS.FOLD": 1})
    with pytest.raises(UserError, match=r"DATASETS\.FOLD = 0 in stage 'one', but 1 in stage 'two'"):
        check_common_split({"one": cfg, "two": other})
    crops = changed_config(cfg, {"DATASETS.TRAIN": ["crops"]})
    digits = changed_config(cfg, {"DATASETS.TRAIN": ["digits_train"]})
    check_common_split({"crops": crops, "detector": cfg, "digits": digits})
