"""Runs on data with the same classes under other ids, in another order, or only some of them."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from mrcnn_zoo.checkpoint import load_checkpoint
from mrcnn_zoo.cli.main import main
from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.data import load_dataset
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.training import run
from support.annotation_files import write_dataset
from support.small_models import TINY_YAML

TinyConfig = Callable[..., CfgNode]
DIGITS = "Quickstart/mask_rcnn_R_18_FPN_digits"
WEIGHTS = f"zoo://{DIGITS}"
SHAPES = ("circle", "square", "triangle")


def with_ids(annotations: Path, ids: Mapping[str, int], *, only: Sequence[str] = (), name: str = "other") -> Path:
    """The same annotations with other category ids, written beside; `only` keeps the objects of some classes."""
    content = json.loads(annotations.read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    kept = [entry for entry in content["annotations"] if not only or names[entry["category_id"]] in only]
    content["annotations"] = [entry | {"category_id": ids[names[entry["category_id"]]]} for entry in kept]
    categories = [category for category in content["categories"] if not only or category["name"] in only]
    content["categories"] = [category | {"id": ids[category["name"]]} for category in categories]
    path = annotations.with_name(f"{name}.json")
    path.write_text(json.dumps(content))
    return path


def defined(**annotation_files: Path) -> list[object]:
    """Overrides that define datasets."""
    definitions = {
        name: {"FORMAT": "coco", "IMAGES": str(path.parent / "images"), "ANNOTATIONS": str(path)}
        for name, path in annotation_files.items()
    }
    return ["DATASETS.DEFINITIONS", definitions]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of digits as COCO JSON."""
    folder = tmp_path_factory.mktemp("digits") / "data"
    write_dataset("coco", {"": load_dataset(load_config(DIGITS, ["DATASETS.SCENES.NUM_VAL", 2]), "digits_val")}, folder)
    return folder / "annotations.json"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight small scenes of shapes as COCO JSON."""
    folder = tmp_path_factory.mktemp("shapes") / "data"
    tiny = TINY_YAML
    write_dataset("coco", {"": load_dataset(load_config(tiny), "shapes_train")}, folder)
    return folder / "annotations.json"


def rotated(names: Sequence[str]) -> dict[str, int]:
    """Every class with the id of the next."""
    return {name: 1 + (place + 1) % len(names) for place, name in enumerate(names)}


def digits_config(tmp_path: Path, annotations: Path, *overrides: object) -> CfgNode:
    settings = {
        "DATASETS.TRAIN": "[te]",
        "DATASETS.TEST": "[te]",
        "MODEL.DEVICE": "cpu",
        "MODEL.WEIGHTS": WEIGHTS,
        "DATALOADER.NUM_WORKERS": 0,
        "OUTPUT_DIR": str(tmp_path),
        "VIS.NUM_IMAGES": 0,
        "VIS.NUM_BATCHES": 0,
        "VIS.PLOTS": False,
        "VIS.REPORT": False,
        "SOLVER.EMA.ENABLED": False,
        "SOLVER.IMS_PER_BATCH": 1,
        "SOLVER.MAX_ITER": 1,
        "SOLVER.BASE_LR": 1e-12,
        "SOLVER.WARMUP_ITERS": 0,
        "SOLVER.STEPS": "[]",
        "SEED": 1,
    }
    pairs = [item for pair in settings.items() for item in pair]
    return load_config(DIGITS, [*pairs, *defined(te=annotations), *overrides])


def test_results_and_validation_losses_do_not_depend_on_category_ids(digits: Path, tmp_path: Path) -> None:
    other = with_ids(digits, rotated("0123456789"))
    both = [*defined(tr=digits, te=digits), "DATASETS.TRAIN", "[tr]"]
    swapped = [*defined(tr=digits, te=other), "DATASETS.TRAIN", "[tr]"]
    same = run(digits_config(tmp_path / "same", digits, *both))
    changed = run(digits_config(tmp_path / "other", digits, *swapped))
    assert same["bbox"]["AP"] > 50
    np.testing.assert_equal(changed, same)
    results = [load_checkpoint(tmp_path / name / "model_best.pth")["results"] for name in ("same", "other")]
    np.testing.assert_equal(results[0], results[1])
    assert results[0]["val"]["loss_cls"] < 0.5
    rows = json.loads((tmp_path / "other" / "inference" / "coco_instances_results.json").read_text())
    best = max(rows, key=lambda row: row["score"])
    truth = json.loads(other.read_text())["annotations"]
    assert any(best["category_id"] == entry["category_id"] for entry in truth)  # ids of the test set


def test_eval_only_and_evaluate_match_classes_by_name(digits: Path, tmp_path: Path, caplog) -> None:
    part = with_ids(digits, rotated("9876543210"), only="12345", name="part")
    with caplog.at_level(logging.INFO):
        results = run(digits_config(tmp_path, part), eval_only=True)
    assert results["bbox"]["AP"] > 50
    assert sorted(name for name in results["bbox"] if name.startswith("AP-")) == [f"AP-{digit}" for digit in "12345"]
    assert caplog.text.count("te: the model's classes are mapped to the 5 of the dataset by name") == 1
    overrides = [*map(str, defined(te=part)), "DATASETS.TEST", "[te]", "MODEL.DEVICE", "cpu", "VIS.NUM_IMAGES", "0"]
    assert main(["evaluate", "--weights", WEIGHTS, "--output-dir", str(tmp_path / "evaluate"), *overrides]) == 0
    evaluated = json.loads((tmp_path / "evaluate" / "inference" / "results.json").read_text())
    assert evaluated["bbox"]["AP"] == pytest.approx(results["bbox"]["AP"])


def test_a_test_class_that_is_not_trained_on_is_refused_before_anything_is_written(
    shapes: Path, tiny_config: TinyConfig, tmp_path: Path
) -> None:
    train = with_ids(shapes, {"circle": 1, "square": 2, "triangle": 3}, only=("circle", "square"), name="two")
    cfg = tiny_config(
        *defined(tr=train, te=shapes), "DATASETS.TRAIN=[tr]", "DATASETS.TEST=[te]", "MODEL.ROI_HEADS.NUM_CLASSES=2"
    )
    with pytest.raises(UserError, match=r"te has 1 class that the model lacks: triangle\. The model has 2 classes"):
        run(cfg)
    assert not (tmp_path / "output" / "config.yaml").exists()


def test_two_test_sets_may_hold_different_classes(shapes: Path, tiny_config: TinyConfig) -> None:
    round_ones = with_ids(shapes, rotated(SHAPES), only=("circle",), name="round")
    others = with_ids(shapes, rotated(SHAPES), only=("triangle", "square"), name="others")
    definitions = defined(a=round_ones, b=others, tr=shapes)
    cfg = tiny_config(*definitions, "DATASETS.TRAIN=[tr]", "DATASETS.TEST=[a, b]", "SOLVER.MAX_ITER=1")
    results = run(cfg)
    assert [name for name in results["a"]["segm"] if "-" in name] == ["AP-circle"]
    assert {name for name in results["b"]["segm"] if "-" in name} == {"AP-square", "AP-triangle"}


def test_several_training_sets_with_other_ids_equal_the_same_with_equal_ids(
    shapes: Path, tiny_config: TinyConfig, tmp_path: Path
) -> None:
    weights = {}
    for name, second in (("same", shapes), ("other", with_ids(shapes, rotated(SHAPES)))):
        folder = f"OUTPUT_DIR={tmp_path / name}"
        run(
            tiny_config(
                *defined(a=shapes, b=second), "DATASETS.TRAIN=[a, b]", "DATASETS.TEST=[]", "SOLVER.MAX_ITER=2", folder
            )
        )
        weights[name] = load_checkpoint(tmp_path / name / "model_final.pth")
    torch.testing.assert_close(weights["other"]["model"], weights["same"]["model"], rtol=0, atol=0)
    assert weights["other"]["class_names"] == list(SHAPES)
    assert weights["other"]["category_ids"] == [1, 2, 3]


def test_training_sets_with_different_classes_are_united(
    shapes: Path, tiny_config: TinyConfig, tmp_path: Path, caplog
) -> None:
    ids = {"circle": 1, "square": 2, "triangle": 3}
    first = with_ids(shapes, ids, only=("square", "circle"), name="first")
    second = with_ids(shapes, ids, only=("triangle",), name="second")
    data = [*defined(a=first, b=second, te=shapes), "DATASETS.TRAIN=[a, b]", "DATASETS.TEST=[te]"]
    results = run(tiny_config(*data, "SOLVER.MAX_ITER=1"))
    assert {name for name in results["bbox"] if "-" in name} == {f"AP-{name}" for name in SHAPES}
    assert load_checkpoint(tmp_path / "output" / "model_final.pth")["class_names"] == list(SHAPES)
    assert caplog.text.count("a+b: the union by name has 3 classes: circle, square, triangle.") == 1
    with pytest.raises(UserError, match=r"NUM_CLASSES = 2, but dataset 'a\+b' has 3 classes: circle, square, triangle"):
        run(tiny_config(*data, "MODEL.ROI_HEADS.NUM_CLASSES=2"), overwrite=True)


def test_the_classes_of_a_proposal_network_mean_nothing(shapes: Path, tiny_config: TinyConfig) -> None:
    train = with_ids(shapes, rotated(SHAPES), only=("square",), name="square")
    model = ("MODEL.META_ARCHITECTURE=ProposalNetwork", "MODEL.MASK_ON=False", "SOLVER.MAX_ITER=1")
    cfg = tiny_config(*defined(tr=train, te=shapes), "DATASETS.TRAIN=[tr]", "DATASETS.TEST=[te]", *model)
    assert run(cfg).keys() == {"box_proposals"}
    assert run(cfg, eval_only=True, resume=True).keys() == {"box_proposals"}


def test_a_resumed_run_whose_file_has_another_order_goes_on_bit_for_bit(
    shapes: Path, tiny_config: TinyConfig, tmp_path: Path, caplog
) -> None:
    changing = shapes.with_name("changing.json")
    settings = [
        *defined(a=changing),
        "DATASETS.TRAIN=[a]",
        "DATASETS.TEST=[]",
        "SOLVER.STEPS=[]",
        "SOLVER.WARMUP_ITERS=1",
    ]
    changing.write_text(shapes.read_text())
    run(tiny_config(*settings, "SOLVER.MAX_ITER=4", f"OUTPUT_DIR={tmp_path / 'whole'}"))
    parts = f"OUTPUT_DIR={tmp_path / 'parts'}"
    run(tiny_config(*settings, "SOLVER.MAX_ITER=2", parts))
    with_ids(shapes, {"triangle": 4, "square": 9, "circle": 11}, name="changing")
    run(tiny_config(*settings, "SOLVER.MAX_ITER=4", parts), resume=True)
    whole, resumed = (load_checkpoint(tmp_path / name / "model_final.pth") for name in ("whole", "parts"))
    assert (resumed["class_names"], resumed["category_ids"]) == (list(SHAPES), [1, 2, 3])
    for part in ("model", "optimizer"):
        torch.testing.assert_close(resumed[part], whole[part], rtol=0, atol=0)
    assert "the classes of the training data are in another order" in caplog.text
    with_ids(shapes, {"circle": 1, "square": 2, "triangle": 3}, only=("circle", "square"), name="changing")
    with pytest.raises(UserError, match=r"cannot be resumed from with other classes.*triangle vanished"):
        run(tiny_config(*settings, "SOLVER.MAX_ITER=6", parts), resume=True)


def test_categories_of_one_name_have_a_row_each(shapes: Path, tiny_config: TinyConfig, tmp_path: Path) -> None:
    content = json.loads(shapes.read_text())
    for category in content["categories"][1:]:
        category["name"] = "box "
    twins = shapes.with_name("twins.json")
    twins.write_text(json.dumps(content))
    results = run(tiny_config(*defined(a=twins), "DATASETS.TRAIN=[a]", "DATASETS.TEST=[a]", "SOLVER.MAX_ITER=1"))
    names = ["circle", "box (id 2)", "box (id 3)"]
    assert [name for name in results["bbox"] if "-" in name] == [f"AP-{name}" for name in names]
    assert load_checkpoint(tmp_path / "output" / "model_final.pth")["class_names"] == names


def test_fine_tuning_and_predictions_go_by_names_and_ids(shapes: Path, tiny_config: TinyConfig, tmp_path: Path) -> None:
    train = with_ids(shapes, {"square": 40, "circle": 7}, only=("circle", "square"), name="ids")
    first = f"OUTPUT_DIR={tmp_path / 'first'}"
    run(tiny_config(*defined(a=shapes), "DATASETS.TRAIN=[a]", "DATASETS.TEST=[]", "SOLVER.MAX_ITER=1", first))
    weights = tmp_path / "first" / "model_final.pth"
    settings = [*defined(a=train), "DATASETS.TRAIN=[a]", "DATASETS.TEST=[]", "SOLVER.MAX_ITER=1", "SOLVER.BASE_LR=0"]
    run(tiny_config(*settings, f"MODEL.WEIGHTS={weights}", "MODEL.ROI_HEADS.NUM_CLASSES=2"))
    theirs, ours = load_checkpoint(weights), load_checkpoint(tmp_path / "output" / "model_final.pth")
    bias = "roi_heads.box_predictor.cls_score.bias"
    assert ours["class_names"] == ["circle", "square"]
    assert torch.equal(ours["model"][bias], theirs["model"][bias][[0, 1, 3]])
    image = next((shapes.parent / "images").iterdir())
    arguments = ["--weights", str(tmp_path / "output" / "model_final.pth"), "--output", str(tmp_path / "found")]
    assert main(["predict", str(image), *arguments, "--threshold", "0"]) == 0
    content = json.loads((tmp_path / "found" / "predictions.json").read_text())
    assert content["categories"] == [{"id": 7, "name": "circle"}, {"id": 40, "name": "square"}]
    assert {row["category_id"] for row in content["annotations"]} <= {7, 40}


def test_the_number_of_classes_is_never_contradicted(shapes: Path, tiny_config: TinyConfig, tmp_path: Path) -> None:
    first = f"OUTPUT_DIR={tmp_path / 'first'}"
    run(tiny_config(*defined(a=shapes), "DATASETS.TRAIN=[a]", "DATASETS.TEST=[]", "SOLVER.MAX_ITER=1", first))
    one = with_ids(shapes, rotated(SHAPES), only=("square",), name="one")
    settings = [*defined(a=one), "DATASETS.TEST=[a]", f"MODEL.WEIGHTS={tmp_path / 'first' / 'model_final.pth'}"]
    with pytest.raises(UserError, match=r"NUM_CLASSES = 1, but .*model_final\.pth was trained on 3 classes: circle"):
        run(tiny_config(*settings, "MODEL.ROI_HEADS.NUM_CLASSES=1"), eval_only=True)
    assert run(tiny_config(*settings, "MODEL.ROI_HEADS.NUM_CLASSES=3"), eval_only=True)["bbox"].keys() >= {"AP-square"}
    bare = tmp_path / "bare.pth"
    torch.save(load_checkpoint(tmp_path / "first" / "model_final.pth")["model"], bare)
    with pytest.raises(UserError, match=r"NUM_CLASSES = 1, but .*bare\.pth was trained on 3 classes\. Set"):
        run(tiny_config(*settings, f"MODEL.WEIGHTS={bare}", "MODEL.ROI_HEADS.NUM_CLASSES=1"), eval_only=True)
    with pytest.raises(UserError, match=r"no class names, and 3 classes .*'a' has 1 class: square"):
        run(tiny_config(*settings, f"MODEL.WEIGHTS={bare}", "MODEL.ROI_HEADS.NUM_CLASSES=3"), eval_only=True)
