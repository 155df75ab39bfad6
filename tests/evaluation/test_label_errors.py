"""Suspected label errors on scenes whose single wrong label is known, and shares worked out by hand."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from mrcnn_zoo.evaluation.label_errors import ERROR_RATE, KINDS, Suspect, find_label_errors
from mrcnn_zoo.evaluation.label_evidence import ImagePairs, collect_evidence, image_pairs, local_median, local_share
from mrcnn_zoo.evaluation.metrics.contract import Evaluated
from mrcnn_zoo.evaluation.metrics.label_errors import LabelErrors
from support.evaluated import Item, evaluated_of, random_evaluated, rectangle

NUM_IMAGES = 30
WRONG = 7  # the image with the wrong label
PLACES = ((2, 2), (30, 4), (50, 30))
SIDE = 16


def score_of(image: int) -> float:
    return 0.9 + image / 400


def scene(objects: Sequence[Item], rows: Sequence[Item], *, num_classes: int = 2) -> Evaluated:
    """Thirty images of three objects that are found with IoU 0.88 to 1; image 7 has the given ones instead."""
    true, found = list(objects), list(rows)
    for image in range(1, NUM_IMAGES + 1):
        for number, (x, y) in enumerate(PLACES if image != WRONG else ()):
            category = 1 + (image + number) % num_classes
            true.append(rectangle(x, y, SIDE, SIDE, category=category, image=image))
            width = SIDE - image % 3
            found.append(rectangle(x, y, width, SIDE, category=category, image=image, score=score_of(image)))
    return evaluated_of(true, found, num_images=NUM_IMAGES, num_classes=num_classes)


def thing(x: int, y: int, width: int = SIDE, height: int = SIDE, **fields: object) -> Item:
    return rectangle(x, y, width, height, image=WRONG, **fields)  # type: ignore[arg-type]


CASES = {
    "missing": ([thing(2, 2)], [thing(2, 2, score=0.95), thing(30, 4, category=2, score=0.94)]),
    "extra": ([thing(2, 2), thing(30, 4, category=2)], [thing(2, 2, score=0.95)]),
    "wrong class": ([thing(2, 2, category=2)], [thing(2, 2, category=1, score=0.95)]),
    "loose": ([thing(2, 2)], [thing(9, 2, category=1, score=0.95)]),  # 9 of 16 columns shared: 9 / (32 - 9)
    "merged": ([thing(2, 2, 2 * SIDE)], [thing(2, 2, score=0.95), thing(2 + SIDE, 2, score=0.94)]),
    "split": ([thing(2, 2, 8), thing(10, 2, 8)], [thing(2, 2, score=0.95)]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tasks", [("bbox",), ("bbox", "segm")], ids=["boxes", "masks"])
def test_the_wrong_label_is_the_first_suspect_and_has_its_kind(kind: str, tasks: tuple[str, ...]) -> None:
    first, *others = find_label_errors(replace(scene(*CASES[kind]), tasks=tasks))
    assert (first.kind, first.image["id"]) == (kind, WRONG)
    assert first.score > 0.3
    assert all(suspect.image["id"] != WRONG for suspect in others)  # nothing is a suspect twice
    assert all(suspect.score < first.score for suspect in others)


def suspect_of(kind: str) -> Suspect:
    return find_label_errors(scene(*CASES[kind]))[0]


def test_suspects_name_their_objects_and_detections() -> None:
    missing, extra, wrong, loose, merged, split = map(suspect_of, KINDS)
    assert (missing.annotations, missing.class_name, missing.box) == ((), "b", (30.0, 4.0, 16.0, 16.0))
    assert (extra.annotation_ids, extra.detections, extra.class_name) == ((2,), (), "b")
    assert wrong.text == "labelled 'b', detected as 'a' with score 0.95 (the label's class: 0.00), IoU 1.00"
    assert "IoU 0.39; found objects of this size usually have 0.94" in loose.text
    assert (len(merged.annotations), len(merged.detections)) == (1, 2)
    assert "together they have IoU 1.00 with it, the best one alone 0.50" in merged.text
    assert (split.annotation_ids, split.box) == ((1, 2), (2.0, 2.0, 16.0, 16.0))


def test_score_is_the_expected_over_the_observed_number() -> None:
    suspect = suspect_of("missing")
    # All 88 agreeing objects are as reliable as the only suspect, whose own image has one error less to compare with.
    ratio = ERROR_RATE * 88
    assert suspect.score == pytest.approx(ratio / (1 + ratio))


def test_frequent_disagreement_has_a_lower_score_than_a_rare_one() -> None:
    def score(false: int) -> float:
        evaluated = scene(*CASES["missing"])
        others = [rectangle(2, 40, 12, 12, image=image, score=score_of(image)) for image in range(10, 10 + false)]
        suspects = find_label_errors(replace(evaluated, rows=[*evaluated.rows, *others]))
        return next(suspect.score for suspect in suspects if suspect.image["id"] == WRONG)

    assert score(0) > score(5) > score(15)


def test_unconfident_detection_without_object_is_no_missing_label() -> None:
    low = thing(30, 4, category=2, score=0.05)
    false = [
        rectangle(x, 48, 12, 12, image=image, score=0.04 + image / 1000) for image in range(8, 28) for x in (2, 20, 40)
    ]
    suspects = find_label_errors(scene([thing(2, 2)], [thing(2, 2, score=0.95), low, *false]))
    assert not [suspect for suspect in suspects if suspect.image["id"] == WRONG]


def test_object_labelled_twice_is_an_extra_one() -> None:
    first = find_label_errors(scene([thing(2, 2), thing(3, 2)], [thing(2, 2, score=0.95)]))[0]
    assert (first.kind, first.annotation_ids) == ("extra", (2,))
    assert "IoU 0.88 with another object" in first.text


def test_duplicate_of_another_class_is_no_second_suspect() -> None:
    rows = [thing(2, 2, category=1, score=0.95), thing(2, 2, category=2, score=0.3)]
    assert not [s for s in find_label_errors(scene([thing(2, 2)], rows)) if s.image["id"] == WRONG]


def test_detection_in_a_crowd_and_crowds_are_no_suspects() -> None:
    crowd = thing(28, 2, 40, 30, crowd=True)
    rows = [thing(2, 2, score=0.95), thing(30, 4, score=0.94)]
    assert not [s for s in find_label_errors(scene([thing(2, 2), crowd], rows)) if s.image["id"] == WRONG]


def test_class_that_is_not_annotated_in_the_image_is_not_missing() -> None:
    evaluated = scene(*CASES["missing"])
    fields = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    images = [image | fields for image in evaluated.ground_truth["images"]]
    federated = replace(evaluated, ground_truth=evaluated.ground_truth | {"images": images})
    assert not [s for s in find_label_errors(federated) if s.kind == "missing"]


def suspects_of_image(objects: Sequence[Item], rows: Sequence[Item], *, num_classes: int = 2) -> list[Suspect]:
    suspects = find_label_errors(scene(objects, rows, num_classes=num_classes))
    return [suspect for suspect in suspects if suspect.image["id"] == WRONG]


def test_two_detections_of_the_same_half_are_no_merged_objects() -> None:
    rows = [thing(2, 2, score=0.95), thing(8, 2, score=0.94)]  # they share 10 of 16 columns, IoU 0.45
    assert "merged" not in [suspect.kind for suspect in suspects_of_image([thing(2, 2, 2 * SIDE)], rows)]


def test_detection_of_an_object_inside_another_one_is_no_part_of_it() -> None:
    objects, rows = [thing(2, 2, 32), thing(24, 2, 10)], [thing(2, 2, 20, score=0.95), thing(24, 2, 10, score=0.94)]
    (suspect,) = suspects_of_image(objects, rows)
    assert (suspect.kind, suspect.annotation_ids) == ("loose", (1,))


def test_detection_over_two_objects_makes_neither_of_them_loose() -> None:
    objects = [thing(2, 2), thing(18, 2)]
    own, over_both = thing(2, 2, score=0.95), thing(4, 2, 30, score=0.94)  # IoU 16 / 30 with the second object
    assert suspects_of_image(objects, [own, over_both]) == []


def test_label_that_the_model_considers_is_a_weaker_suspect() -> None:
    rows = [thing(2, 2, category=1, score=0.95), thing(2, 2, category=2, score=0.6)]
    (suspect,) = suspects_of_image([thing(2, 2, category=2)], rows)
    assert suspect.kind == "wrong class"
    assert suspect.strength == pytest.approx(suspect.reliability * (0.95 - 0.6))


def test_pair_of_classes_that_is_often_confused_is_a_weaker_suspect() -> None:
    def reliability(detected: int) -> float:
        """Of the object of class b that is detected as class a, if five others are detected as another class."""
        others = [rectangle(2, 40, 12, 12, category=2, image=image) for image in range(10, 15)]
        rows = [item | {"score": 0.95, "category_id": detected} for item in others]
        suspects = suspects_of_image(
            [thing(2, 2, category=2), *others], [thing(2, 2, score=0.95), *rows], num_classes=3
        )
        return suspects[0].reliability

    # 30 of 87 objects and the six have class b: five confusions of the kind are (5 / (35 + 10)).
    assert reliability(1) / reliability(3) == pytest.approx(1 - 5 / 46, abs=0.01)


def test_only_disagreement_of_an_unreliable_model_has_a_reduced_score() -> None:
    true = [rectangle(2, 46, 12, 12, image=image) for image in range(10, 30)]
    found = [item | {"score": 0.3 + item["image_id"] / 1000} for item in true]
    parts = [  # false, and on objects: they are suspects of nothing
        rectangle(x, y, 7, SIDE, image=image, score=0.3 + image / 1000, category=1 + (image + number) % 2)
        for image in range(10, 30)
        for number, (x, y) in enumerate(PLACES[:2])
    ]
    suspects = suspects_of_image(
        [thing(2, 2), *true], [thing(2, 2, score=0.95), *found, *parts, thing(50, 30, score=0.32)]
    )
    (missing,) = [suspect for suspect in suspects if suspect.kind == "missing"]
    assert 0.15 < missing.reliability < 0.45  # one of three is right
    ratio = ERROR_RATE * (29 * 3 + 1 + 20)  # of the agreeing objects, over one disagreement
    assert missing.score == pytest.approx(missing.reliability / 0.5 * ratio / (1 + ratio))


@pytest.mark.parametrize("seed", range(4))
def test_score_does_not_fall_with_the_strength(seed: int) -> None:
    suspects = find_label_errors(random_evaluated(seed, num_images=40))
    for kind in KINDS:
        own = sorted((s for s in suspects if s.kind == kind and s.reliability >= 0.5), key=lambda s: s.strength)
        scores = [suspect.score for suspect in own]
        assert scores == sorted(scores), kind
    assert len({suspect.kind for suspect in suspects}) >= 4


def pairs_of(objects: Sequence[Item], rows: Sequence[Item]) -> ImagePairs:
    (pairs,) = image_pairs(evaluated_of(objects, rows, num_classes=2), "bbox")
    return pairs


def test_pairs_prefer_confident_detections_and_the_class_of_the_object() -> None:
    # Of two halves the second one covers more, but has a low score.
    halves = [rectangle(0, 0, 9, 10, score=0.9), rectangle(9, 0, 11, 10, score=0.1)]
    assert pairs_of([rectangle(0, 0, 20, 10)], halves).row_of.tolist() == [0]
    twice = [rectangle(0, 0, 10, 10, category=1), rectangle(0, 0, 10, 10, category=2)]
    assert pairs_of(twice, [rectangle(0, 0, 10, 10, category=2, score=0.9)]).row_of.tolist() == [-1, 0]


def test_detection_that_overlaps_a_better_one_by_half_is_not_leading() -> None:
    rows = [
        rectangle(0, 0, 10, 10, category=2, score=0.9),
        rectangle(0, 0, 10, 6, score=0.8),
        rectangle(0, 6, 10, 4, score=0.7),
    ]
    pairs = pairs_of([rectangle(0, 0, 10, 6)], rows)
    assert pairs.is_leading.tolist() == [True, False, True]
    assert pairs.row_of.tolist() == [0]
    assert pairs.is_right.tolist() == [True, False, False]


def test_agreement_of_an_image_is_smoothed_and_leaves_the_suspect_out() -> None:
    evidence = collect_evidence(scene(*CASES["missing"]), "segm")[WRONG - 1]
    assert evidence.overall == pytest.approx(
        2 * 88 / (2 * 88 + 1)
    )  # 29 x 3 + 1 objects are found, 1 detection is false
    assert evidence.agreement() == pytest.approx((2 + 10 * evidence.overall) / (2 + 1 + 10))
    assert evidence.agreement(1) == evidence.agreement(5) == pytest.approx((2 + 10 * evidence.overall) / (2 + 10))


@pytest.mark.parametrize("place", [(0, 20), (68, 20), (30, 0), (30, 48)], ids=["left", "right", "top", "bottom"])
def test_objects_at_the_border_are_compared_with_each_other(place: tuple[int, int]) -> None:
    objects = [rectangle(x, y, 12, 12, image=image) for image in range(1, 41) for x, y in (place, (30, 24))]
    rows = [item | {"score": 0.9} for item in objects if (item["bbox"][0], item["bbox"][1]) != place]
    evidence = collect_evidence(evaluated_of(objects, rows, num_images=40), "bbox")[0]
    # Half of the objects of this size are found. At the border 0 of 20 expected, elsewhere 40 of 20; 20 more of both.
    assert evidence.found_share == pytest.approx([0.5 * 20 / 40, 0.5 * 60 / 40], abs=0.15)


@pytest.mark.parametrize("objects", [[], [rectangle(0, 0, 10, 10)]], ids=["no_objects", "objects"])
def test_without_detections_there_are_no_strong_suspects(objects: list[Item]) -> None:
    assert find_label_errors(evaluated_of(objects, [])) == []  # nothing is ever found, so nothing is unusual


def test_detections_without_objects_are_no_suspects() -> None:
    assert find_label_errors(evaluated_of([], [rectangle(0, 0, 10, 10, score=0.9)])) == []


def test_local_share_is_that_of_all_where_there_are_few_and_follows_the_groups() -> None:
    values, is_true = np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, True, True, True])
    everything = np.ones(4, dtype=bool)
    assert local_share(values, is_true, [], is_used=everything).tolist() == [0.75] * 4
    assert local_share(values, is_true, [], is_used=values > 0.15).tolist() == [1.0] * 4
    # Group 0: 0 of 0.75 expected, (0 + 20) / (0.75 + 20); group 1: 3 of 2.25, (3 + 20) / (2.25 + 20).
    found = local_share(values, is_true, [np.array([0, 1, 1, 1])], is_used=everything)
    assert found == pytest.approx([0.75 * 20 / 20.75, *[0.75 * 23 / 22.25] * 3])
    assert local_share(values, is_true, [], is_used=~everything).tolist() == [0.0] * 4


def test_local_values_are_those_of_the_hundred_nearest() -> None:
    values, at = np.arange(500.0), np.array([0.0, 250.0, 499.0])
    shares = local_share(values, values >= 250, [], is_used=np.ones(500, dtype=bool))
    assert shares[[0, 250, 499]].tolist() == [0.0, 0.5, 1.0]  # 50 of the cases 200 to 299 are true
    assert local_median(values, values, at=at).tolist() == [49.5, 249.5, 449.5]
    assert local_median(values[:0], values[:0], at=values[:2]).tolist() == [0.0, 0.0]


def test_metric_writes_the_suspects_as_csv_and_json() -> None:
    report = LabelErrors()(scene(*CASES["wrong class"]))
    first = next(csv.DictReader(io.StringIO(str(report.files["label_errors.csv"]))))
    content = json.loads(report.files["label_errors.json"])
    assert (first["kind"], first["image_id"], first["class"], first["annotation_ids"]) == ("wrong class", "7", "b", "1")
    assert [float(first[name]) for name in ("x", "y", "width", "height")] == [2, 2, 16, 16]
    assert content["suspects"][0]["detections"][0]["score"] == 0.95
    assert content["suspects"][0]["score"] == float(first["score"])
    assert "labelled 'b', detected as 'a'" in report.details
    assert report.text.startswith("## Suspected label errors\n\n1 wrong class")


def test_metric_without_suspects_has_a_table_of_none() -> None:
    report = LabelErrors()(evaluated_of([], []))
    assert (report.text.split(";")[0], report.details) == ("## Suspected label errors\n\nnone", "")
    assert json.loads(report.files["label_errors.json"])["suspects"] == []
