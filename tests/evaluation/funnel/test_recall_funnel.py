"""The recall funnel of real models: counts that sum, the last stage of COCO, and the same results without it."""

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from mrcnn_zoo.config import CfgNode, changed_config, load_config
from mrcnn_zoo.data import load_test
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation import evaluate
from mrcnn_zoo.evaluation.backends import detection_set
from mrcnn_zoo.evaluation.class_mapping import with_classes_of
from mrcnn_zoo.evaluation.evaluator import run_evaluation
from mrcnn_zoo.evaluation.ground_truth import coco_ground_truth
from mrcnn_zoo.evaluation.operating_points import match_detections
from mrcnn_zoo.evaluation.predictions_file import evaluate_predictions
from mrcnn_zoo.evaluation.preflight import check_evaluation
from mrcnn_zoo.inference.trained import load_trained
from mrcnn_zoo.registries import EVALUATORS
from mrcnn_zoo.structures import Detections, Sample
from support.processes import run_in_processes
from support.small_models import BASE_FPN, DIGITS, TINY_RESNET_18, varied_model

IMAGES = 6
# Limits with which each stage of the shipped model loses objects.
NARROW = (
    *("MODEL.RPN.POST_NMS_TOPK_TEST", 8, "MODEL.RPN.NMS_THRESH", 0.3, "MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.1),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.5, "TEST.DETECTIONS_PER_IMAGE", 3, "MODEL.RPN.PRE_NMS_TOPK_TEST", 20),
)
LOADING = ("DATALOADER.NUM_WORKERS", 0, "MODEL.DEVICE", "cpu", "DATASETS.SCENES.NUM_VAL", IMAGES)


@dataclass(frozen=True)
class Run:
    model: nn.Module
    cfg: CfgNode
    dataset: Dataset
    names: tuple[str, ...]
    results: dict[str, dict[str, float]]
    folder: Path
    page: str


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    overrides = [*NARROW, *LOADING, "EVAL.FUNNEL", True]
    model, cfg, names = load_trained(f"zoo://{DIGITS}", overrides=overrides)
    (dataset,) = load_test(cfg)
    # An uncounted region over the whole first image.
    first, *others = dataset.records
    crowd = replace(first.instances[0], box=(0.0, 0.0, *map(float, first.image_size[::-1])), is_crowd=True)
    dataset = replace(dataset, records=(replace(first, instances=(crowd, *first.instances)), *others))
    folder = tmp_path_factory.mktemp("funnel")
    results = evaluate(model, dataset, cfg, output_dir=folder)
    text = (folder / "inference" / "results.md").read_text()
    return Run(model, cfg, dataset, tuple(names), results, folder / "inference", text)


def funnel_file(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "recall_funnel.json").read_text())


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_losses_and_found_objects_sum(run: Run, task: str) -> None:
    content = funnel_file(run.folder)["tasks"][task]
    num_objects = sum(not item.is_crowd for record in run.dataset.records for item in record.instances)
    assert content["objects"] == num_objects == len(content["traces"])
    stages = Counter(trace["stage"] for trace in content["traces"])
    left = num_objects
    for stage in content["stages"]:
        left -= stages[stage]
        assert content["after"][stage] == left
    assert stages["found"] == left
    assert sum(loss["objects"] for loss in content["losses"]) + stages["found"] == num_objects
    assert len([stage for stage in content["stages"] if stages[stage]]) >= 3  # several stages lose objects
    assert all((trace["sentence"] == "") == (trace["stage"] == "found") for trace in content["traces"])


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_the_last_stage_is_coco_s_recall(run: Run, task: str) -> None:
    truth = coco_ground_truth(run.dataset, task)
    rows = json.loads((run.folder / "coco_instances_results.json").read_text())
    matches = match_detections(truth, detection_set(rows, truth, task), task, max_detections=3)
    expected = sum(int(of_class.is_true.sum()) for of_class in matches.values())
    content = funnel_file(run.folder)["tasks"][task]
    assert content["after"]["final"] == expected
    assert 0 < expected < content["objects"]
    assert run.results[f"funnel_{task}"]["final"] == pytest.approx(100 * expected / content["objects"])


def test_results_without_the_funnel_are_equal(run: Run, tmp_path: Path) -> None:
    results = evaluate(run.model, run.dataset, changed_config(run.cfg, {"EVAL.FUNNEL": False}), output_dir=tmp_path)
    assert list(results) == ["bbox", "segm"]
    for task, metrics in results.items():
        assert metrics == pytest.approx(run.results[task], abs=0, rel=0, nan_ok=True)
    for name in ("coco_instances_results.json", "score_thresholds.json"):
        assert (tmp_path / "inference" / name).read_bytes() == (run.folder / name).read_bytes()
    assert not (tmp_path / "inference" / "recall_funnel.json").exists()


def test_tables_and_advice_are_in_the_page(run: Run) -> None:
    assert "## Recall funnel (segm, IoU 0.5)" in run.page
    assert "| after box head " in run.page
    assert "Largest loss: " in run.page
    assert "### Objects of each class after each stage (bbox)" in run.page


def test_metric_names_are_those_of_the_results(run: Run) -> None:
    names = EVALUATORS.get("coco")(run.cfg, run.dataset).metric_names()
    own = [name for name in names if name.startswith("funnel_")]
    assert own == [f"{task}/{name}" for task, group in run.results.items() if "funnel" in task for name in group]
    assert len(own) == 12


def test_classes_of_the_model_in_another_order(run: Run) -> None:
    order = run.names[::-1]
    records = tuple(
        replace(
            record,
            instances=tuple(replace(item, class_index=9 - item.class_index) for item in record.instances),
        )
        for record in run.dataset.records
    )
    dataset = replace(run.dataset, records=records, class_names=order)
    model = with_classes_of(dataset, run.model, run.names)
    results = run_evaluation(model, dataset, run.cfg).results
    for task in ("funnel_bbox", "funnel_segm"):
        assert results[task] == run.results[task]


MODELS = {
    "CascadeROIHeads": (
        *("MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
        *("MODEL.MASK_ON", False, "MODEL.RPN.POST_NMS_TOPK_TEST", 50),
    ),
    "RetinaNet": (
        *("MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.MASK_ON", False, "MODEL.RETINANET.NUM_CLASSES", 10),
        *("MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone", "MODEL.RETINANET.SCORE_THRESH_TEST", 0.3),
        *("MODEL.FPN.IN_FEATURES", ["res3", "res4", "res5"], "MODEL.RETINANET.TOPK_CANDIDATES_TEST", 30),
    ),
    "ProposalNetwork": ("MODEL.META_ARCHITECTURE", "ProposalNetwork", "MODEL.MASK_ON", False),
    "SelectiveSearch": ("MODEL.PROPOSAL_GENERATOR.NAME", "SelectiveSearch", "MODEL.MASK_ON", False),
}
STAGES = {
    "CascadeROIHeads": [
        *("anchors", "top_k", "nms", "boxes_of_stage_0", "boxes_of_stage_1", "box_head", "suppression", "final"),
    ],
    "RetinaNet": ["anchors", "box_head", "suppression", "final"],
    "ProposalNetwork": ["anchors", "top_k", "nms"],
    "SelectiveSearch": ["proposals", "box_head", "suppression", "final"],
}


@pytest.mark.parametrize("name", MODELS)
def test_other_detectors(name: str, tmp_path: Path) -> None:
    cfg = load_config(
        BASE_FPN,
        [
            *TINY_RESNET_18, *LOADING, *MODELS[name], "MODEL.ROI_HEADS.NUM_CLASSES", 10, "EVAL.FUNNEL", True,
            "DATASETS.TEST", ["digits_val"], "DATASETS.SCENES.NUM_VAL", 2, "INPUT.MIN_SIZE_TEST", 128,
        ],
    )  # fmt: skip
    (dataset,) = load_test(cfg)
    results = evaluate(varied_model(cfg), dataset, cfg, output_dir=tmp_path)
    assert list(results["funnel_bbox"]) == STAGES[name]
    shares = list(results["funnel_bbox"].values())
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0
    names = EVALUATORS.get("coco")(cfg, dataset).metric_names()
    assert [f"funnel_bbox/{stage}" for stage in STAGES[name]] == [n for n in names if n.startswith("funnel_bbox")]
    stored = json.loads((tmp_path / "inference" / "results.json").read_text())
    assert stored["funnel_bbox"] == pytest.approx(results["funnel_bbox"])


def evaluate_a_share(_rank: int) -> dict[str, dict[str, float]]:
    model, cfg, _ = load_trained(f"zoo://{DIGITS}", overrides=[*NARROW, *LOADING, "EVAL.FUNNEL", True])
    return evaluate(model, load_test(cfg)[0], cfg)


@pytest.mark.slow
def test_processes_gather_their_objects(run: Run, tmp_path: Path) -> None:
    for results in run_in_processes(evaluate_a_share, folder=tmp_path):
        assert results["funnel_segm"] == run.results["funnel_segm"]


class Oracle(nn.Module):
    """A user's detector, which knows no recorder."""

    def predict(self, samples: list[Sample]) -> list[Detections]:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"TEST.AUG.ENABLED": True}, r"EVAL\.FUNNEL True .* TEST\.AUG\.ENABLED True replaces: set .* False"),
        ({"EVAL.GIVEN_BOXES": "ground_truth"}, r"EVAL\.GIVEN_BOXES ground_truth replaces: set EVAL\.GIVEN_BOXES ''"),
        (
            {"EVAL.EVALUATOR": "box_proposals"},
            r"the ProposalEvaluator of this model has no recall funnel",
        ),
    ],
)
def test_settings_that_are_refused_before_anything_is_predicted(
    run: Run, overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_evaluation(changed_config(run.cfg, overrides), [run.dataset])


def test_detector_without_recorder_is_refused(run: Run) -> None:
    with pytest.raises(UserError, match=r"EVAL\.FUNNEL True needs a detector with .*, which Oracle does not have"):
        evaluate(Oracle(), run.dataset, run.cfg)


def test_results_file_has_no_stages(run: Run, tmp_path: Path) -> None:
    for name in ("found.json", "truth.json"):
        (tmp_path / name).write_text("[]")
    with pytest.raises(UserError, match=r"EVAL\.FUNNEL True traces the stages of a model"):
        evaluate_predictions(tmp_path / "found.json", tmp_path / "truth.json", run.cfg)
