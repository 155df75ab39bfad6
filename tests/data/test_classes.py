"""Agreement of classes."""

from dataclasses import replace

import pytest

from mrcnn_zoo.config.class_count import class_count
from mrcnn_zoo.data.classes import check_num_classes, merge_datasets
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.errors import UserError


def _dataset(name: str, *class_names: str, images: int = 1) -> Dataset:
    records = tuple(ImageRecord(number, None, (4, 4)) for number in range(images))  # type: ignore[arg-type]
    return Dataset(name, records, class_names, tuple(range(len(class_names))))


def test_merged_datasets_follow_each_other() -> None:
    merged = merge_datasets([_dataset("a", "cat", images=2), _dataset("b", "cat", images=3)])
    assert (merged.name, merged.class_names) == ("a+b", ("cat",))
    assert [record.image_id for record in merged.records] == [0, 1, 0, 1, 2]


def test_one_dataset_is_itself() -> None:
    dataset = _dataset("a", "cat")
    assert merge_datasets([dataset]) is dataset


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("dog", "cat"), "number 0 is 'cat' in one and 'dog' in the other"),
        (("cat",), "2 .cat, dog. and 1 .cat."),
    ],
)
def test_datasets_with_other_classes_are_refused(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=f"the classes of 'a' and 'b' differ: {message}"):
        merge_datasets([_dataset("a", "cat", "dog"), _dataset("b", *names)])


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


def test_detector_without_classes_fits_all(cfg) -> None:
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    check_num_classes(cfg, _dataset("pets", "cat", "dog"))


def test_many_classes_are_not_all_listed(cfg) -> None:
    with pytest.raises(UserError, match="c19, and 10 more"):
        check_num_classes(cfg, _dataset("many", *(f"c{number}" for number in range(30))))


def test_number_of_keypoints_must_fit(cfg) -> None:
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
