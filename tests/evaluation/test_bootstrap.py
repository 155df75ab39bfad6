"""AP of resampled images against pycocotools on datasets in which images are really contained several times."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrcnn_zoo.evaluation.backends import curves_by_pycocotools
from mrcnn_zoo.evaluation.bootstrap import ImageMatches, match_images, pool_matches
from mrcnn_zoo.evaluation.resampled_ap import bootstrap_interval, draw_images, draw_weights, resampled_ap
from mrcnn_zoo.evaluation.tables import coco_metrics

CATEGORIES = [{"id": 9, "name": "cat"}, {"id": 4, "name": "dog"}, {"id": 6, "name": "eel"}, {"id": 7, "name": "fox"}]
NAMES, IDS = [item["name"] for item in CATEGORIES], [item["id"] for item in CATEGORIES]
COPIES = 10  # ids of an image and its copies: 10 * id + copy

Coco = dict[str, Any]


def random_sets(seed: int, *, num_images: int = 12) -> tuple[Coco, Coco]:
    """Boxes of all size classes with crowds; detections with many equal scores. No fox exists, eels only in image 1."""
    rng = np.random.default_rng(seed)
    objects: list[Coco] = []
    found: list[Coco] = []
    for image_id in range(1, num_images + 1):
        for _ in range(rng.integers(0, 6)):
            category = 6 if image_id == 1 and rng.random() < 0.4 else int(rng.choice([9, 4]))
            x, y, w, h = *rng.uniform(0, 200, 2), *np.exp(rng.uniform(2.5, 5, 2))
            box = {"image_id": image_id, "category_id": category, "bbox": [x, y, w, h], "area": w * h}
            objects.append(box | {"id": len(objects) + 1, "iscrowd": int(rng.random() < 0.15)})
            for _ in range(rng.integers(0, 5)):
                moved = [
                    *(np.array([x, y]) + rng.normal(0, 0.06, 2) * [w, h]),
                    *(np.array([w, h]) * rng.uniform(0.85, 1.15, 2)),
                ]
                label = category if rng.random() < 0.85 else int(rng.choice(IDS))
                row = {"image_id": image_id, "category_id": label, "bbox": [float(v) for v in moved], "iscrowd": 0}
                row |= {"id": len(found) + 1, "score": round(float(rng.random()), 1), "area": moved[2] * moved[3]}
                found.append(row)
    images = [{"id": number, "height": 400, "width": 400} for number in range(1, num_images + 1)]
    shared = {"images": images, "categories": CATEGORIES}
    return shared | {"annotations": objects}, shared | {"annotations": found}


def with_copies(content: Coco, weights: np.ndarray) -> Coco:
    """The dataset in which image i is contained weights[i - 1] times."""
    images, rows = [], []
    for image, weight in zip(content["images"], weights.tolist(), strict=True):
        for copy in range(weight):
            images.append(image | {"id": COPIES * image["id"] + copy})
            of_image = [row for row in content["annotations"] if row["image_id"] == image["id"]]
            rows += [row | {"image_id": COPIES * image["id"] + copy} for row in of_image]
    rows = [row | {"id": number} for number, row in enumerate(rows, start=1)]
    return {"images": images, "categories": content["categories"], "annotations": rows}


def ap_by_pycocotools(truth: Coco, detections: Coco, limit: int = 100) -> dict[str, float]:
    metrics = coco_metrics(curves_by_pycocotools(truth, detections, "bbox", [limit]), NAMES, IDS)
    return {name: value for name, value in metrics.items() if name.startswith("AP")}


@pytest.mark.parametrize("seed", range(4))
def test_ap_equals_pycocotools_on_duplicated_images(seed: int) -> None:
    truth, detections = random_sets(seed)
    weights = np.concatenate([np.ones((1, 12), int), draw_weights(12, 6, seed=seed)])
    weights[2, 0] = 0  # no eel
    found = resampled_ap(match_images(truth, detections, "bbox"), weights)
    for place, counts in enumerate(weights):
        expected = ap_by_pycocotools(with_copies(truth, counts), with_copies(detections, counts))
        assert list(found) == list(expected)
        np.testing.assert_allclose([found[name][place] for name in found], list(expected.values()), rtol=0, atol=1e-11)
    assert 5 < found["AP"][0] < 95
    assert np.isnan(found["AP-fox"]).all()
    assert np.isnan(found["AP-eel"][2])


def test_limit_of_detections_is_applied_per_image_and_class() -> None:
    truth, detections = random_sets(5)
    found = resampled_ap(match_images(truth, detections, "bbox", max_detections=2), np.ones((1, 12), int))
    expected = ap_by_pycocotools(truth, detections, limit=2)
    assert found["AP"][0] == pytest.approx(expected["AP"], abs=1e-11)
    assert found["AP"][0] != pytest.approx(ap_by_pycocotools(truth, detections)["AP"], abs=1e-3)


def test_copies_of_equal_scores_alternate() -> None:
    # A true and a false detection with one score in one image, twice: t f t f. Recall 1 is reached with precision 2/3.
    image = {"id": 1, "height": 100, "width": 100}
    shared = {"images": [image], "categories": CATEGORIES[:1]}
    row = {"image_id": 1, "category_id": 9, "iscrowd": 0, "area": 400}
    truth = shared | {"annotations": [row | {"id": 1, "bbox": [0, 0, 20, 20]}]}
    boxes = ([0, 0, 20, 20], [50, 50, 20, 20])
    rows = [row | {"id": number, "bbox": box, "score": 0.5} for number, box in enumerate(boxes, start=1)]
    matches = match_images(truth, shared | {"annotations": rows}, "bbox")
    found = resampled_ap(matches, np.array([[1], [2]]))
    assert found["AP"] == pytest.approx([100, 100 * (51 + 50 * 2 / 3) / 101])


def test_parts_of_resamples_and_of_images_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, detections = random_sets(6)
    weights = draw_weights(12, 20, seed=1)
    whole = resampled_ap(match_images(truth, detections, "bbox"), weights)
    monkeypatch.setattr("mrcnn_zoo.evaluation.resampled_ap.MAX_CELLS", 100)
    monkeypatch.setattr("mrcnn_zoo.evaluation.bootstrap.IMAGES_PER_PART", 5)
    parts = resampled_ap(match_images(truth, detections, "bbox"), weights)
    for name, values in whole.items():
        np.testing.assert_array_equal(values, parts[name])
    only_all = resampled_ap(match_images(truth, detections, "bbox"), weights, areas=("all",))
    np.testing.assert_array_equal(only_all["AP"], whole["AP"])
    assert "APs" not in only_all


def test_without_detections_or_objects() -> None:
    truth, detections = random_sets(7)
    nothing = truth | {"annotations": []}
    assert resampled_ap(match_images(truth, nothing, "bbox"), np.ones((2, 12), int))["AP"].tolist() == [0, 0]
    assert np.isnan(resampled_ap(match_images(nothing, detections, "bbox"), np.ones((2, 12), int))["AP"]).all()
    assert len(resampled_ap(match_images(nothing, nothing, "bbox"), np.ones((0, 12), int))["AP"]) == 0


def test_file_has_everything_and_is_only_read_for_its_origin(tmp_path: Path) -> None:
    truth, detections = random_sets(8)
    matches = match_images(truth, detections, "bbox")
    path = matches.save(tmp_path / "matches.npz", origin="a1")
    again = ImageMatches.load(path, origin="a1")
    assert again is not None
    weights = draw_weights(12, 5)
    assert resampled_ap(again, weights)["AP"].tolist() == resampled_ap(matches, weights)["AP"].tolist()
    assert again.class_names == ("cat", "dog", "eel", "fox")
    assert ImageMatches.load(path, origin="b2") is None
    assert ImageMatches.load(tmp_path / "missing.npz") is None
    path.write_bytes(path.read_bytes()[:200])
    assert ImageMatches.load(path, origin="a1") is None


def test_pooled_matches_equal_those_of_all_images() -> None:
    truth, detections = random_sets(9)
    parts = []
    for remainder in (0, 1):
        part = []
        for content in (truth, detections):
            images = [image for image in content["images"] if image["id"] % 2 == remainder]
            rows = [row for row in content["annotations"] if row["image_id"] % 2 == remainder]
            part.append(content | {"images": images, "annotations": rows})
        parts.append(match_images(*part, "bbox"))
    weights = draw_weights(12, 5)
    pooled, whole = pool_matches(parts), match_images(truth, detections, "bbox")
    assert resampled_ap(pooled, weights)["AP"].tolist() == resampled_ap(whole, weights)["AP"].tolist()
    with pytest.raises(ValueError, match="6 images"):
        pool_matches([parts[0], parts[0]])


def test_resamples_draw_images_or_whole_groups() -> None:
    weights = draw_weights(50, 200, seed=3)
    assert (weights.sum(axis=1) == 50).all()
    assert weights.var() == pytest.approx(1, abs=0.1)  # of a binomial count with mean 1
    np.testing.assert_array_equal(weights, draw_weights(50, 200, seed=3))
    assert (weights != draw_weights(50, 200, seed=4)).any()
    grouped = draw_weights(6, 100, groups=["a", "b", "a", "c", "c", "c"])
    np.testing.assert_array_equal(grouped[:, 0], grouped[:, 2])
    np.testing.assert_array_equal(grouped[:, 3], grouped[:, 5])
    assert (grouped[:, [0, 1, 3]].sum(axis=1) == 3).all()


def test_groups_of_the_images_are_drawn_together() -> None:
    truth, detections = random_sets(3)
    alone = match_images(truth, detections, "bbox")
    groups = {number: f"slide {number // 4}" for number in range(1, 13)}
    matches = match_images(truth, detections, "bbox", groups=groups)
    assert (alone.num_groups, matches.num_groups) == (12, 4)
    weights = draw_images(matches, 50)
    assert (weights[:, 3:6] == weights[:, 3:4]).all()  # images 4 to 7 without the last
    assert (draw_images(alone, 50) != weights).any()


def test_interval_is_the_value_with_t_times_the_error_of_the_bootstrap() -> None:
    values = np.array([28.0, 30.0, 32.0, np.nan])
    # Standard deviation 2, with the factor sqrt(16 / 15); t of 15 degrees of freedom is 2.131.
    half = 2.131 * 2 * math.sqrt(16 / 15)
    assert bootstrap_interval(29.0, values, num_units=16) == pytest.approx((29 - half, 29 + half), rel=1e-3)
    assert bootstrap_interval(1.0, values, num_units=16)[0] == 0
    assert bootstrap_interval(99.0, values, num_units=16)[1] == 100
    assert np.isnan(bootstrap_interval(29.0, np.full(3, np.nan), num_units=16)).all()
    assert np.isnan(bootstrap_interval(29.0, values, num_units=1)).all()  # one slide has no variance


def test_interval_contains_an_ap_that_lies_below_its_resamples() -> None:
    truth, detections = random_sets(3)
    matches = match_images(truth, detections, "bbox")
    ap = resampled_ap(matches, np.concatenate([np.ones((1, 12), np.uint16), draw_images(matches, 400)]))["AP"]
    assert (ap[1:] > ap[0]).mean() > 0.8  # copies of images raise AP
    low, high = bootstrap_interval(ap[0], ap[1:], num_units=12)
    assert low < ap[0] < high
