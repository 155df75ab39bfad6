"""Classes are matched by name."""

from dataclasses import replace

import pytest

from mrcnn_zoo.config.rules import class_count
from mrcnn_zoo.data.classes import (
    check_num_classes,
    distinct_names,
    in_classes,
    in_classes_of_checkpoint,
    merge_datasets,
    unite_classes,
    with_distinct_names,
)
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.errors import UserError


def _dataset(name: str, *class_names: str, images: int = 1) -> Dataset:
    records = tuple(ImageRecord(number, None, (4, 4)) for number in range(images))  # type: ignore[arg-type]
    return Dataset(name, records, class_names, tuple(range(len(class_names))))


def test_merged_datasets_are_concatenated() -> None:
    merged = merge_datasets([_dataset("a", "cat", images=2), _dataset("b", "cat", images=3)])
    assert (merged.name, merged.class_names) == ("a+b", ("cat",))
    assert [record.image_id for record in merged.records] == [0, 1, 0, 1, 2]


def test_merging_one_dataset_returns_it() -> None:
    dataset = _dataset("a", "cat")
    assert merge_datasets([dataset]) is dataset


def _objects(dataset: Dataset, *class_indices: int) -> Dataset:
    instances = tuple(InstanceRecord((0, 0, 2, 2), class_index) for class_index in class_indices)
    return replace(dataset, records=(replace(dataset.records[0], instances=instances),))


def _names_of_objects(dataset: Dataset) -> list[str]:
    return [dataset.class_names[item.class_index] for record in dataset.records for item in record.instances]


def test_union_of_classes_keeps_the_order_of_the_first_dataset(caplog) -> None:
    first = replace(_objects(_dataset("a", "cat", "dog"), 0, 1), category_ids=(5, 2))
    second = replace(_objects(_dataset("b", "cow", "dog", "ape"), 0, 1, 2), category_ids=(2, 5, 9))
    merged = merge_datasets([first, second])
    assert merged.class_names == ("cat", "dog", "cow", "ape")
    assert merged.category_ids == (5, 2, 6, 9)  # 2 is taken
    assert _names_of_objects(merged) == ["cat", "dog", "cow", "dog", "ape"]
    (line,) = [record.getMessage() for record in caplog.records]
    assert "4 classes: cat, dog, cow, ape" in line
    assert "a has no cow, ape; b has no cat" in line


def test_different_order_of_classes_is_not_a_warning(caplog) -> None:
    merged = merge_datasets([_objects(_dataset("a", "cat", "dog"), 0), _objects(_dataset("b", "dog", "cat"), 0)])
    assert (merged.class_names, merged.category_ids) == (("cat", "dog"), (0, 1))
    assert _names_of_objects(merged) == ["cat", "dog"]
    assert not caplog.records


def test_category_ids_of_equal_classes_are_those_of_the_first_dataset() -> None:
    other = replace(_dataset("b", "cat", "dog"), category_ids=(3, 4))
    assert [dataset.category_ids for dataset in unite_classes([_dataset("a", "cat", "dog"), other])] == [(0, 1)] * 2


def test_in_classes_maps_class_indices_by_name() -> None:
    dataset = in_classes(_objects(_dataset("a", "dog", "cat"), 0, 1, 1), ("cat", "cow", "dog"), (4, 5, 6))
    assert [item.class_index for item in dataset.records[0].instances] == [2, 0, 0]
    assert (dataset.class_names, dataset.category_ids) == (("cat", "cow", "dog"), (4, 5, 6))


def test_class_that_the_model_lacks_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(
        UserError, match=r"a has 2 classes that the model lacks: Cat, kite\. 'Cat': Did you mean 'cat'\? The"
    ):
        in_classes(_dataset("a", "Cat", "dog", "kite"), ("cat", "dog"))


def test_resumed_run_keeps_the_class_order_of_its_checkpoint(caplog) -> None:
    data = [_objects(_dataset("a", "dog", "cat"), 0, 1)]
    (resumed,) = in_classes_of_checkpoint(data, ["cat", "dog"], [7, 8], source="x.pth")
    assert (resumed.class_names, resumed.category_ids) == (("cat", "dog"), (7, 8))
    assert _names_of_objects(resumed) == ["dog", "cat"]
    assert "another order than in x.pth" in caplog.text
    (resumed,) = in_classes_of_checkpoint(data, ["cat", "dog"], [], source="x.pth")
    assert resumed.category_ids == (1, 0)  # of the data


def test_resumed_run_refuses_other_classes() -> None:
    with pytest.raises(UserError, match=r"kite appeared and cat vanished since then.*MODEL\.WEIGHTS x\.pth"):
        in_classes_of_checkpoint([_dataset("a", "dog", "kite")], ["cat", "dog"], [], source="x.pth")
    with pytest.raises(UserError, match=r"classes of the training data, cat vanished since"):
        in_classes_of_checkpoint([_dataset("a", "dog")], ["cat", "dog"], [], source="x.pth")


def test_resumed_run_without_class_names_keeps_the_order_of_the_data(caplog) -> None:
    data = [_dataset("a", "dog", "cat")]
    assert in_classes_of_checkpoint(data, [], [], source="x.pth") == data
    assert "x.pth has no class names" in caplog.text


def test_categories_with_equal_names_get_their_ids_appended() -> None:
    dataset = with_distinct_names(replace(_dataset("a", "box", " disc ", "box"), category_ids=(3, 4, 9)))
    assert dataset.class_names == ("box (id 3)", "disc", "box (id 9)")
    padding, repetition = dataset.notes
    assert padding == "white space around class names is left out: ' disc '"
    assert repetition.startswith("2 categories have the name 'box'; they are kept apart as 'box (id 3)', 'box (id 9)'")


def test_names_that_are_equal_after_stripping_get_their_ids_appended() -> None:
    assert distinct_names(["a", "a "], [1, 2])[0] == ("a (id 1)", "a (id 2)")
    assert distinct_names(["a", "A", "b  c"], [1, 2, 3]) == (("a", "A", "b  c"), ())
    assert distinct_names(["a (id 1)", "a", "a"], [5, 1, 2])[0] == ("a (id 1)", "a (id 1)'", "a (id 2)")


def test_no_dataset_is_refused() -> None:
    with pytest.raises(UserError, match=r"DATASETS\.TRAIN is empty"):
        merge_datasets([])


@pytest.mark.parametrize(
    ("detector", "section"),
    [("GeneralizedRCNN", "ROI_HEADS"), ("PanopticFPN", "ROI_HEADS"), ("RetinaNet", "RETINANET")],
)
def test_contradicting_number_of_classes_is_refused(cfg, detector: str, section: str) -> None:
    cfg.MODEL.META_ARCHITECTURE = detector
    dataset = _dataset("pets", "cat", "dog")
    message = f"MODEL.{section}.NUM_CLASSES = 80, but dataset 'pets' has 2 classes: cat, dog. Set .* to 2"
    with pytest.raises(UserError, match=message):
        check_num_classes(cfg, dataset)
    cfg.MODEL[section].NUM_CLASSES = 2
    check_num_classes(cfg, dataset)


def test_detector_without_classes_accepts_any_dataset(cfg) -> None:
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    check_num_classes(cfg, _dataset("pets", "cat", "dog"))  # raises nothing


def test_many_classes_are_not_all_listed(cfg) -> None:
    with pytest.raises(UserError, match="c19, and 10 more"):
        check_num_classes(cfg, _dataset("many", *(f"c{number}" for number in range(30))))


def test_wrong_number_of_keypoints_is_refused(cfg) -> None:
    dataset = replace(_dataset("people", "person"), keypoint_names=("nose", "tail"))
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1
    check_num_classes(cfg, dataset)
    cfg.MODEL.KEYPOINT_ON = True
    with pytest.raises(UserError, match=r"NUM_KEYPOINTS = 17.*2 keypoints: nose, tail"):
        check_num_classes(cfg, dataset)
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 2
    check_num_classes(cfg, dataset)


def test_each_architecture_has_a_key_for_its_number_of_classes(cfg) -> None:
    cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.RETINANET.NUM_CLASSES = 3, 4
    counts = {}
    for name in ("GeneralizedRCNN", "RetinaNet", "ProposalNetwork", "my.package:build"):
        cfg.MODEL.META_ARCHITECTURE = name
        counts[name] = class_count(cfg)
    assert counts == {"GeneralizedRCNN": 3, "RetinaNet": 4, "ProposalNetwork": None, "my.package:build": None}
