"""Runs of ready-made schedules and of lists of stages, with a tiny Mask R-CNN on digits."""

import json
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mrcnn_zoo.checkpoint import load_checkpoint, load_weights
from mrcnn_zoo.config import CfgNode, config_from_text, load_config
from mrcnn_zoo.data import load_dataset
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.evaluator import build_prediction_loader
from mrcnn_zoo.inference.trained import load_trained
from mrcnn_zoo.structures import Detections, Sample
from mrcnn_zoo.training import run
from support.small_models import TINY_YAML

DIGITS = (
    "DATASETS.TRAIN=[digits_train]",
    "DATASETS.TEST=[]",
    "DATASETS.SCENES.NUM_TRAIN=4",
    "DATASETS.SCENES.NUM_VAL=2",
    "MODEL.ROI_HEADS.NUM_CLASSES=10",
    "SOLVER.STEPS=[]",
    "SOLVER.WARMUP_ITERS=0",
    "SOLVER.CHECKPOINT_PERIOD=1",
)
FOUR = ("rpn_1", "detector_1", "rpn_2", "detector_2")


def digits(folder: Path, schedule: str, *overrides: Any) -> CfgNode:
    return load_config(TINY_YAML, [*DIGITS, f"SOLVER.TRAINING_SCHEDULE={schedule}", f"OUTPUT_DIR={folder}", *overrides])


def weights_in(folder: Path) -> dict[str, Tensor]:
    return load_checkpoint(folder / "model_final.pth")["model"]


def part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Without the counters of batch norms, which are never loaded from a file."""
    return {
        name: value
        for name, value in weights.items()
        if name.startswith(f"{prefix}.") and not name.endswith("num_batches_tracked")
    }


def assert_equal_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert one
    for name in one:
        assert torch.equal(one[name], other[name]), name


def trained(folder: Path, *overrides: str) -> nn.Module:
    return load_trained(folder / "model_final.pth", overrides=overrides)[0]


def samples_of(cfg: CfgNode, model: nn.Module) -> list[Sample]:
    return next(iter(build_prediction_loader(cfg, load_dataset(cfg, "digits_val"), model)))


def assert_equal_detections(one: list[Detections], other: list[Detections]) -> None:
    for first, second in zip(one, other, strict=True):
        assert len(first.boxes) == len(second.boxes) > 0
        for column in ("boxes", "scores", "classes"):
            assert torch.equal(getattr(first, column), getattr(second, column))
        assert torch.equal(first.masks.probabilities, second.masks.probabilities)


def heads_on(detector: nn.Module, samples: list[Sample], proposals_of: nn.Module) -> list[Detections]:
    """What the features and region heads of a detector predict in the proposals of another model."""
    with torch.no_grad():
        batch = proposals_of.collate(samples)
        proposals = proposals_of.proposal_generator.predict(proposals_of.backbone(batch.pixels), batch)
        return detector.roi_heads.predict(detector.backbone(batch.pixels), proposals)


# --- four steps -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def four_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("four") / "run"
    run(digits(folder, "alternating_4_step", "SOLVER.MAX_ITER=8"))
    return folder


def test_frozen_parameters_and_statistics_do_not_move(four_steps: Path) -> None:
    rpn_1, detector_1, rpn_2, detector_2 = (weights_in(four_steps / name) for name in FOUR)
    assert any(name.endswith("running_mean") for name in part(detector_1, "backbone"))
    assert_equal_bits(part(rpn_2, "backbone"), part(detector_1, "backbone"))
    assert_equal_bits(part(detector_2, "backbone"), part(detector_1, "backbone"))
    assert_equal_bits(part(detector_2, "proposal_generator"), part(rpn_2, "proposal_generator"))
    assert not torch.equal(rpn_1["backbone.fpn_output2.weight"], detector_1["backbone.fpn_output2.weight"])
    for name, value in part(detector_2, "roi_heads").items():
        assert not torch.equal(value, detector_1[name]), name


def test_stage_starts_from_the_parts_of_earlier_ones(four_steps: Path) -> None:
    joined = load_checkpoint(four_steps / "detector_2" / "initial_weights.pth")
    assert_equal_bits(part(joined["model"], "roi_heads"), part(weights_in(four_steps / "detector_1"), "roi_heads"))
    assert {origin for name, origin in joined["origins"].items() if name.startswith("proposal_")} == {"stage rpn_2"}
    rpn = load_checkpoint(four_steps / "rpn_2" / "initial_weights.pth")
    assert {name.split(".")[0] for name in rpn["model"]} == {"backbone"}


def test_detector_is_trained_on_the_proposals_that_the_first_stage_has_written(four_steps: Path) -> None:
    config = config_from_text((four_steps / "detector_1" / "config.yaml").read_text())
    assert [str(four_steps / "rpn_1" / "proposals" / "digits_train.npz")] == config.DATASETS.PROPOSAL_FILES_TRAIN
    assert config.MODEL.PROPOSAL_GENERATOR.NAME == "PrecomputedProposals"
    assert (four_steps / "rpn_1" / "proposals" / "digits_train.npz").exists()
    limit = config.MODEL.RPN.POST_NMS_TOPK_TRAIN
    counts = np.load(four_steps / "rpn_1" / "proposals" / "digits_train.npz")["counts"]
    assert config.MODEL.RPN.POST_NMS_TOPK_TEST < counts.max() <= limit  # as many as in training


def test_last_checkpoint_predicts_what_its_parts_predict(four_steps: Path) -> None:
    whole = load_trained(four_steps)[0]
    rpn, detector = trained(four_steps / "rpn_2"), trained(four_steps / "detector_2")
    cfg = digits(four_steps, "joint", "DATASETS.TEST=[digits_val]")
    samples = samples_of(cfg, whole)
    assert_equal_detections(whole.predict(samples), heads_on(detector, samples, proposals_of=rpn))


def test_log_lists_the_trained_frozen_and_loaded_parts(four_steps: Path) -> None:
    lines = (four_steps / "detector_2" / "log.txt").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "| stage " in line]
    assert [(row[0], row[3], row[4]) for row in rows] == [
        ("backbone (pyramid)", "frozen", "stage rpn_2"),
        ("backbone.bottom_up", "frozen", "stage rpn_2"),
        ("proposal_generator.rpn_head", "frozen", "stage rpn_2"),
        ("roi_heads.box_head", "trained", "stage detector_1"),
        ("roi_heads.box_predictor", "trained", "stage detector_1"),
        ("roi_heads.mask_head", "trained", "stage detector_1"),
    ]
    own = part(weights_in(four_steps / "detector_2"), "roi_heads.box_head")
    assert rows[3][1:3] == [str(len(own)), f"{sum(value.numel() for value in own.values()):,}"]
    assert (
        "FROM: {backbone: rpn_2, proposal_generator: rpn_2, roi_heads: detector_1}"
        in (four_steps / "log.txt").read_text()
    )


def test_finished_run_resumes_to_the_same_files_and_overwrites(four_steps: Path) -> None:
    cfg = digits(four_steps, "alternating_4_step", "SOLVER.MAX_ITER=8")
    before = {path: path.stat().st_mtime_ns for path in four_steps.rglob("*.pth")}
    run(cfg, resume=True)
    assert {path: path.stat().st_mtime_ns for path in four_steps.rglob("*.pth")} == before
    (four_steps / "last_checkpoint").unlink()  # as after a kill before the end of the run
    run(cfg, resume=True)
    assert (four_steps / "last_checkpoint").read_text() == "model_final.pth"
    with pytest.raises(UserError, match=r"holds a training \(rpn_1/model_final.pth\)"):
        run(cfg)


@pytest.mark.slow  # separate processes
def test_run_killed_in_the_third_stage_ends_as_an_undisturbed_one(
    four_steps: Path, train_net: Callable[..., CompletedProcess], tmp_path: Path
) -> None:
    settings = (*DIGITS, "SOLVER.TRAINING_SCHEDULE=alternating_4_step", "SOLVER.MAX_ITER=8", "OUTPUT_DIR=run")
    killed = train_net(*settings, "HOOKS=['foreign_schedules:kill_rpn_2_after_1']")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "run" / "rpn_2" / "last_checkpoint").read_text() == "model_0000000.pth"
    assert not (tmp_path / "run" / "rpn_2" / "stage.json").exists()
    resumed = train_net(*settings, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    for name in (*FOUR, "."):
        one, other = (load_checkpoint(folder / name / "model_final.pth") for folder in (tmp_path / "run", four_steps))
        for key in ("model", "optimizer", "sampler", "iteration"):
            torch.testing.assert_close(one[key], other[key], rtol=0, atol=0)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "stage 2 of 4, detector_1, is finished" in log
    assert os.sep not in (tmp_path / "run" / "last_checkpoint").read_text()


# --- features that are not shared -------------------------------------------------------------------------------------


def test_separate_rpn_is_the_two_networks_apart(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    tested = "SOLVER.STAGE_OVERRIDES={joined: {DATASETS.TEST: [digits_val], TEST.VAL_LOSS: False}}"
    run(digits(folder, "separate_rpn", "SOLVER.MAX_ITER=2", tested))
    whole = load_trained(folder)[0]
    rpn, detector = trained(folder / "rpn"), trained(folder / "detector")
    final, apart = weights_in(folder), weights_in(folder / "rpn")
    assert_equal_bits(part(final, "backbone"), part(weights_in(folder / "detector"), "backbone"))
    for ours, theirs in (("backbone", "backbone"), ("rpn", "proposal_generator")):
        moved = {name.replace(theirs, f"proposal_generator.{ours}", 1): v for name, v in part(apart, theirs).items()}
        assert_equal_bits(part(final, f"proposal_generator.{ours}"), moved)
    samples = samples_of(digits(folder, "joint"), whole)
    assert_equal_detections(whole.predict(samples), heads_on(detector, samples, proposals_of=rpn))
    records = {name: json.loads((folder / name / "stage.json").read_text()) for name in ("detector", "joined")}
    assert records["joined"]["results"].keys() == {"bbox", "segm"}
    assert load_checkpoint(folder / "model_final.pth")["iteration"] == 0


# --- from a classifier ------------------------------------------------------------------------------------------------


def test_detector_starts_from_the_backbone_of_a_classifier(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(digits(folder, "backbone_pretraining", "SOLVER.MAX_ITER=2"))
    joined = load_checkpoint(folder / "detector" / "initial_weights.pth")
    assert_equal_bits(joined["model"], part(weights_in(folder / "backbone"), "backbone"))
    assert set(joined["origins"].values()) == {"stage backbone"}


# --- weights of the run, mistakes -------------------------------------------------------------------------------------


def list_of(*items: dict[str, Any]) -> tuple[Any, ...]:
    return ("SOLVER.STAGES", list(items), "SOLVER.MAX_ITER=1")


def test_other_weights_are_those_of_the_run(four_steps: Path, tmp_path: Path) -> None:
    base = four_steps / "detector_2" / "model_final.pth"
    items = list_of({"NAME": "one", "TRAIN": "roi_heads"}, {"NAME": "two", "TRAIN": [], "FROM": {"roi_heads": "one"}})
    run(digits(tmp_path / "run", "stages", *items, f"MODEL.WEIGHTS={base}"))
    first, last, initial = (weights_in(f) for f in (tmp_path / "run" / "one", tmp_path / "run", base.parent))
    assert_equal_bits(part(last, "backbone"), part(initial, "backbone"))
    assert_equal_bits(part(last, "proposal_generator"), part(initial, "proposal_generator"))
    assert_equal_bits(part(last, "roi_heads"), part(first, "roi_heads"))
    assert not torch.equal(first["roi_heads.box_head.fc1.weight"], initial["roi_heads.box_head.fc1.weight"])


ONE = {"NAME": "one"}
RPN_ALONE = {"MODEL.META_ARCHITECTURE": "ProposalNetwork", "MODEL.MASK_ON": False}


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (
            {"FROM": {"roi_head": "one"}},
            r"STAGES\[1\].FROM \(stage 'two'\), roi_head: 'roi_head' matches no weight of the model. Did you mean",
        ),
        (
            {"FROM": {"roi_heads": "one:roi_headz"}},
            r"'roi_headz' matches no weight of stage 'one'.* Did you mean 'roi_heads",
        ),
        ({"FROM": {"roi_heads": "one:backbone"}}, r"no name of 'roi_heads' is the same in stage 'one'"),
        (
            {"FROM": {"backbone": "one"}, "OVERRIDES": {"MODEL.FPN.OUT_CHANNELS": 16}},
            r"backbone.fpn_\w+.weight is 16x\S+ in this stage, 32x\S+ in stage 'one'",
        ),
        ({"TRAIN": "roi_headz"}, r"stage 'two': SOLVER.TRAIN: 'roi_headz' matches no parameter.* Did you mean 'roi_h"),
    ],
)
def test_mistake_in_a_part_is_found_before_the_first_stage(
    tmp_path: Path, second: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(digits(tmp_path / "run", "stages", *list_of(ONE, {"NAME": "two", **second})))
    assert not (tmp_path / "run").exists()


def test_mistake_in_the_first_stage_names_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^stage 'one': SOLVER.TRAIN: 'roi_headz' matches no parameter"):
        run(digits(tmp_path / "run", "stages", *list_of({**ONE, "TRAIN": "roi_headz"})))
    assert not (tmp_path / "run").exists()


def test_proposals_of_a_stage_without_proposals_are_refused(tmp_path: Path) -> None:
    retinanet = {
        "MODEL.META_ARCHITECTURE": "RetinaNet",
        "MODEL.MASK_ON": False,
        "MODEL.RETINANET.NUM_CLASSES": 10,
        "MODEL.RETINANET.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    }
    items = list_of({"NAME": "one", "OVERRIDES": retinanet}, {"NAME": "two", "FROM": {"proposals": "one"}})
    with pytest.raises(UserError, match=r"STAGES\[1\].FROM .*proposals: the model of stage 'one' has no proposals"):
        run(digits(tmp_path / "run", "stages", *items))
    assert not (tmp_path / "run").exists()


def test_loading_the_folder_of_a_run_is_loading_its_last_stage(four_steps: Path) -> None:
    model = trained(four_steps / "detector_2")
    report = load_weights(model, four_steps)
    assert report.is_complete
    assert str(four_steps / "model_final.pth") == report.source


def test_list_changed_after_the_run_is_noticed_by_resume_and_overwrite(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    two = {"NAME": "two", "TRAIN": "none", "FROM": "one"}

    def train(*items: dict[str, Any], **options: bool) -> None:
        run(digits(folder, "stages", *list_of(*items), "WRITERS=[]"), **options)

    train(ONE, two)
    with caplog.at_level(logging.WARNING, logger="mrcnn_zoo"):
        train(ONE, two, resume=True)
        assert "config has changed" not in caplog.text
        train(ONE, {**two, "FROM": {"backbone": "one"}}, resume=True)
    assert "FROM = {'backbone': 'one:backbone'} (it was {'all': 'one'})" in caplog.text
    train(ONE, resume=True)  # the last stage is another one now
    assert (folder / "model_final.pth").read_bytes() == (folder / "one" / "model_final.pth").read_bytes()
    train(ONE, overwrite=True)
    assert not (folder / "two" / "stage.json").exists()
