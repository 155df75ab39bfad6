"""Whole runs of a small real Mask R-CNN in this process."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mrcnn_zoo.checkpoint import load_checkpoint
from mrcnn_zoo.config import CfgNode, config_from_text
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.training import build as assembly
from mrcnn_zoo.training import run

TinyConfig = Callable[..., CfgNode]

OVERFIT = (
    "DATASETS.SCENES.NUM_TRAIN=2",
    "DATASETS.TEST=['shapes_train']",
    "SOLVER.OPTIMIZER=AdamW",
    "SOLVER.BASE_LR=0.003",
    "SOLVER.LR_SCHEDULER_NAME=WarmupCosineLR",
    "SOLVER.WARMUP_ITERS=10",
    "SOLVER.MAX_ITER=100",
    "SOLVER.CHECKPOINT_PERIOD=0",
    "TEST.VAL_LOSS=False",
    "LOG_PERIOD=50",
)


def test_two_scenes_are_overfitted(tiny_config: TinyConfig) -> None:
    results = run(tiny_config(*OVERFIT))
    assert results["segm"]["AP"] > 75  # 3 and 10 after two steps
    assert results["bbox"]["AP"] > 85


def test_run_writes_its_output_files(tiny_config: TinyConfig, tmp_path: Path) -> None:
    drawn = ("VIS.NUM_IMAGES=1", "VIS.NUM_BATCHES=1", "VIS.PLOTS=True", "VIS.REPORT=True")
    cfg = tiny_config("SOLVER.MAX_ITER=4", "TEST.EVAL_PERIOD=2", *drawn)
    results = run(cfg)
    output = tmp_path / "output"
    assert results.keys() == {"bbox", "segm"}
    assert config_from_text((output / "config.yaml").read_text()) == cfg
    environment = json.loads((output / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__.split("+")[0]
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "total_loss" in line] == [0, 1, 2, 3]
    assert {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"} <= lines[0].keys()
    assert [line["iteration"] for line in lines if "val/loss_mask" in line] == [1, 3]
    assert [line["iteration"] for line in lines if "bbox/AP" in line] == [1, 3]
    rows = (output / "results.csv").read_text().splitlines()
    assert len(rows) == 3
    assert "segm/AP" in rows[0]
    for name in (
        "log.txt",
        "last_checkpoint",
        "model_0000002.pth",
        "model_best.pth",
        "model_final.pth",
        "inference/coco_instances_results.json",
        "inference/results.json",
        "pictures/train_batch_0000000.png",
        "pictures/loss_curves.png",
        "pictures/precision_recall.png",
        "pictures/confusion_matrix.png",
        "config_changes.json",
        "inference/stage_times.json",
        "report.html",
    ):
        assert (output / name).stat().st_size > 0, name
    assert len(list((output / "pictures" / "predictions" / "shapes_val").glob("*.png"))) == 1
    assert (output / "last_checkpoint").read_text() == "model_final.pth"
    log = (output / "log.txt").read_text()
    assert "confusion_matrix.png" in log.split("plots: ")[1]
    assert f"report: {output / 'report.html'}" in log
    page = (output / "report.html").read_text()
    assert f'<td data-label="bbox"><span>{results["bbox"]["AP50"]:.2f}</span></td>' in page
    assert "shapes_val (4 images" in page
    assert "iter 4/4 " in log
    assert "loss_mask" in log  # the console shows only the first numbers
    aps = [float(line["bbox/AP"]) for line in lines if "bbox/AP" in line]
    assert f"| bbox   | {aps[1]:.2f} ({aps[1] - aps[0]:+.2f}) |" in log


RETINANET = (
    "MODEL.META_ARCHITECTURE=RetinaNet",
    "MODEL.MASK_ON=False",
    "MODEL.BACKBONE.NAME=build_retinanet_resnet_fpn_backbone",
    "MODEL.FPN.IN_FEATURES=[res3, res4, res5]",
    "MODEL.RETINANET.NUM_CLASSES=3",
    "MODEL.RETINANET.NUM_CONVS=1",
)


@pytest.mark.parametrize("architecture", [(), RETINANET], ids=["Mask R-CNN", "RetinaNet"])
def test_resumed_run_equals_the_uninterrupted_one(
    architecture: tuple[str, ...], tiny_config: TinyConfig, tmp_path: Path
) -> None:
    settings = (
        *architecture,
        "SOLVER.EMA.ENABLED=True",
        "TEST.EVAL_PERIOD=2",
        "SOLVER.STEPS=[3]",
        "SOLVER.WARMUP_ITERS=1",
    )
    run(tiny_config(*settings, "SOLVER.MAX_ITER=5", f"OUTPUT_DIR={tmp_path / 'whole'}"))
    parts = f"OUTPUT_DIR={tmp_path / 'parts'}"
    run(tiny_config(*settings, "SOLVER.MAX_ITER=2", "SOLVER.STEPS=[]", parts))
    run(tiny_config(*settings, "SOLVER.MAX_ITER=5", parts), resume=True)
    whole, resumed = (load_checkpoint(tmp_path / name / "model_final.pth") for name in ("whole", "parts"))
    for part in ("model", "remembered", "optimizer", "ema", "scaler", "sampler"):
        torch.testing.assert_close(resumed[part], whole[part], rtol=0, atol=0)
    assert torch.equal(resumed["generators"][0]["torch"], whole["generators"][0]["torch"])
    assert not (tmp_path / "whole" / "pictures").exists()  # VIS.PLOTS False


def test_resumed_run_on_a_gpu_logs_what_is_not_bit_equal(
    tiny_config: TinyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("DATASETS.TEST=[]", "SOLVER.STEPS=[]", "SOLVER.WARMUP_ITERS=0")
    run(tiny_config(*settings, "SOLVER.MAX_ITER=1"))
    run(tiny_config(*settings, "SOLVER.MAX_ITER=2"), resume=True)
    log = tmp_path / "output" / "log.txt"
    assert "summed in no fixed order" not in log.read_text()
    monkeypatch.setattr(assembly, "_device_of", lambda _: torch.device("cuda"))
    run(tiny_config(*settings, "SOLVER.MAX_ITER=3"), resume=True)
    assert "RoIAlign's for instance) are summed in no fixed order" in log.read_text()


def test_fresh_seed_is_drawn_and_kept(tiny_config: TinyConfig, tmp_path: Path) -> None:
    seeds = []
    for name in ("a", "b"):
        run(tiny_config("SEED=-1", "SOLVER.MAX_ITER=1", "DATASETS.TEST=[]", f"OUTPUT_DIR={tmp_path / name}"))
        seeds.append(load_checkpoint(tmp_path / name / "model_final.pth")["seed"])
        assert f"seed {seeds[-1]}" in (tmp_path / name / "log.txt").read_text()
    assert min(seeds) >= 0
    assert seeds[0] != seeds[1]


def test_number_of_classes_must_be_that_of_the_data(tiny_config: TinyConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"MODEL.ROI_HEADS.NUM_CLASSES = 80.*has 3 classes"):
        run(tiny_config("MODEL.ROI_HEADS.NUM_CLASSES=80"))
    assert not list((tmp_path / "output").glob("*.pth"))


@pytest.mark.parametrize("key", ["MODEL.KEYPOINT_ON=True", "EVAL.BACKEND=hotcoco"])
def test_evaluation_that_would_fail_is_refused_before_the_training(
    tiny_config: TinyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    cfg = tiny_config(key, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS=5", "TEST.KEYPOINT_OKS_SIGMAS=[0.1]")
    with pytest.raises(UserError, match=r"must be 5 positive numbers|pip install hotcoco"):
        run(cfg)
    assert not (tmp_path / "output" / "config.yaml").exists()


def test_folder_of_another_training_is_refused(tiny_config: TinyConfig, tmp_path: Path) -> None:
    cfg = tiny_config("SOLVER.MAX_ITER=1", "DATASETS.TEST=[]")
    run(cfg)
    before = (tmp_path / "output" / "model_final.pth").read_bytes()
    with pytest.raises(UserError, match=r"--resume.*--overwrite"):
        run(cfg)
    assert (tmp_path / "output" / "model_final.pth").read_bytes() == before
    with pytest.raises(UserError, match="give one of them"):
        run(cfg, resume=True, overwrite=True)


def test_overwriting_removes_the_former_checkpoints(tiny_config: TinyConfig, tmp_path: Path) -> None:
    run(tiny_config("SOLVER.MAX_ITER=3", "DATASETS.TEST=[]"))
    run(tiny_config("SOLVER.MAX_ITER=1", "DATASETS.TEST=[]"), overwrite=True)
    assert [path.name for path in (tmp_path / "output").glob("*.pth")] == ["model_final.pth"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("DATASETS.TRAIN=['shapes_trian']", "Did you mean 'shapes_train'"),
        ("MODEL.ROI_HEADS.NUM_CLASSES=80", "has 3 classes"),
        ("MODEL.WEIGHTS=missing.pth", "missing.pth"),
        ("WRITERS=['jsno']", "Did you mean 'json'"),
        ("SOLVER.OPTIMIZER=SGDD", "Did you mean 'SGD'"),
        ("EVAL.BACKEND=hotcocoa", "Did you mean 'hotcoco'"),
        ("HOOKS=['SaveBset']", "Did you mean 'SaveBest'"),
        ("MODEL.LOAD_PROPOSALS=True", "PROPOSAL_FILES_TRAIN"),
    ],
)
def test_mistake_when_overwriting_leaves_the_former_training_untouched(
    tiny_config: TinyConfig, tmp_path: Path, mistake: str, message: str
) -> None:
    output = tmp_path / "output"
    output.mkdir()
    for name in ("model_final.pth", "metrics.json", "config.yaml", "log.txt"):
        (output / name).write_text("former")
    (output / "last_checkpoint").write_text("model_final.pth")
    before = contents(output)
    with pytest.raises(UserError, match=message):
        run(tiny_config(mistake), overwrite=True)
    assert contents(output) == before


@pytest.mark.parametrize("eval_only", [False, True])
def test_truncated_weights_leave_nothing_written(tiny_config: TinyConfig, tmp_path: Path, eval_only: bool) -> None:
    torch.save({"model": {"weight": torch.zeros(1000)}}, tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:2000])
    with pytest.raises(UserError, match=r"cut.pth"):
        run(tiny_config("MODEL.WEIGHTS", str(tmp_path / "cut.pth")), eval_only=eval_only)
    assert not (tmp_path / "output").exists()


def test_resuming_with_another_model_is_one_message_and_changes_no_file(
    tiny_config: TinyConfig, tmp_path: Path
) -> None:
    run(tiny_config("SOLVER.MAX_ITER=1", "DATASETS.TEST=[]"))
    before = contents(tmp_path / "output")
    with pytest.raises(UserError, match=r"another model.*is 64x.* in the checkpoint, 32x.* in the model") as refusal:
        run(tiny_config("SOLVER.MAX_ITER=2", "DATASETS.TEST=[]", "MODEL.ROI_BOX_HEAD.FC_DIM=32"), resume=True)
    assert "\n" not in str(refusal.value)
    assert "size mismatch" not in str(refusal.value)
    assert contents(tmp_path / "output") == before


@pytest.mark.parametrize("eval_only", [False, True])
def test_output_folder_below_a_file_is_refused(tiny_config: TinyConfig, tmp_path: Path, eval_only: bool) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"OUTPUT_DIR = .*lies below .*file, which is a file"):
        run(tiny_config(f"OUTPUT_DIR={tmp_path / 'file' / 'a' / 'b'}"), eval_only=eval_only)


def test_unwritable_output_folder_is_refused(
    tiny_config: TinyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    with pytest.raises(UserError, match=r"OUTPUT_DIR = .* cannot be written"):
        run(tiny_config())
    assert not (tmp_path / "output").exists()


def test_resume_without_a_checkpoint_starts_afresh(tiny_config: TinyConfig, tmp_path: Path) -> None:
    run(tiny_config("SOLVER.MAX_ITER=1", "DATASETS.TEST=[]"), resume=True)
    assert load_checkpoint(tmp_path / "output" / "model_final.pth")["iteration"] == 1


def test_foreign_checkpoint_is_not_resumed_from(tiny_config: TinyConfig, tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    torch.save({"model": {}, "iteration": 5}, output / "model_0000004.pth")
    (output / "last_checkpoint").write_text("model_0000004.pth")
    with pytest.raises(UserError, match=r"cannot be resumed from: it has no optimizer.*MODEL.WEIGHTS"):
        run(tiny_config(), resume=True)


def test_evaluation_alone_gives_the_results_of_training(tiny_config: TinyConfig, tmp_path: Path) -> None:
    trained = run(tiny_config(*OVERFIT, "SOLVER.MAX_ITER=40"))
    assert trained["bbox"]["AP"] > 0
    weights = str(tmp_path / "output" / "model_final.pth")
    alone = run(
        tiny_config(*OVERFIT, "MODEL.WEIGHTS", weights, f"OUTPUT_DIR={tmp_path / 'evaluation'}"), eval_only=True
    )
    resumed = run(tiny_config(*OVERFIT), eval_only=True, resume=True)
    for task in ("bbox", "segm"):
        assert alone[task] == pytest.approx(trained[task], nan_ok=True, abs=0)
        assert resumed[task] == pytest.approx(trained[task], nan_ok=True, abs=0)
    assert not (tmp_path / "evaluation" / "model_final.pth").exists()


def test_frozen_parameters_stay(tiny_config: TinyConfig, tmp_path: Path) -> None:
    norm = "MODEL.RESNETS.NORM=FrozenBN"
    cfg = tiny_config("SOLVER.FREEZE=['backbone.bottom_up.*']", norm, "DATASETS.TEST=[]", "SOLVER.MAX_ITER=5")
    run(cfg)
    start = load_checkpoint(tmp_path / "output" / "model_0000002.pth")["model"]
    end = load_checkpoint(tmp_path / "output" / "model_final.pth")["model"]
    changed = {name.split(".")[1] for name in start if not torch.equal(start[name], end[name])}
    assert changed
    assert "bottom_up" not in changed


def test_weights_of_another_class_count_start_new_heads(
    tiny_config: TinyConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tiny_config("SOLVER.MAX_ITER=1", "DATASETS.TEST=[]"))
    digits = ("DATASETS.TRAIN=['digits_train']", "DATASETS.TEST=[]", "MODEL.ROI_HEADS.NUM_CLASSES=10")
    weights = ("MODEL.WEIGHTS", str(tmp_path / "output" / "model_final.pth"))
    with caplog.at_level("INFO"):
        run(tiny_config(*digits, *weights, "SOLVER.MAX_ITER=1", f"OUTPUT_DIR={tmp_path / 'fine'}"))
    assert re.search(r"roi_heads.box_predictor.* re-initialised", caplog.text)
    assert load_checkpoint(tmp_path / "fine" / "model_final.pth")["class_names"] == [str(digit) for digit in range(10)]


def test_length_in_epochs(tiny_config: TinyConfig, tmp_path: Path) -> None:
    run(tiny_config("SOLVER.MAX_EPOCHS=1.5", "SOLVER.ACCUMULATE_STEPS=2", "DATASETS.TEST=[]"))
    assert load_checkpoint(tmp_path / "output" / "model_final.pth")["iteration"] == 3  # 1.5 x 8 images, 4 per step


def test_empty_training_data_is_refused(tiny_config: TinyConfig) -> None:
    with pytest.raises(UserError, match=r"DATASETS.TRAIN is empty"):
        run(tiny_config("DATASETS.TRAIN=[]"))


def test_early_stopping_ends_a_run(tiny_config: TinyConfig, tmp_path: Path) -> None:
    # A learning rate of 0 changes nothing, so no evaluation is better than the first.
    frozen: tuple[Any, ...] = ("SOLVER.BASE_LR=0.0", "TEST.EVAL_PERIOD=1", "SOLVER.EARLY_STOPPING.PATIENCE=2")
    run(tiny_config(*frozen, "SOLVER.BEST_METRIC=val/total_loss", "MODEL.RESNETS.NORM=FrozenBN"))
    assert load_checkpoint(tmp_path / "output" / "model_final.pth")["iteration"] == 3
    assert load_checkpoint(tmp_path / "output" / "model_best.pth")["iteration"] == 1
    assert "training stopped early" in (tmp_path / "output" / "log.txt").read_text()


def test_best_of_the_last_evaluation_is_kept_by_a_longer_training(tiny_config: TinyConfig, tmp_path: Path) -> None:
    # With a learning rate of 0 the second evaluation equals the first, so the first stays the best.
    settings = ("SOLVER.BASE_LR=0.0", "SOLVER.BEST_METRIC=val/total_loss", "MODEL.RESNETS.NORM=FrozenBN")
    run(tiny_config(*settings, "SOLVER.MAX_ITER=1"))
    run(tiny_config(*settings, "SOLVER.MAX_ITER=2"), resume=True)
    assert load_checkpoint(tmp_path / "output" / "model_best.pth")["iteration"] == 1
    best = load_checkpoint(tmp_path / "output" / "model_final.pth")["hooks"]["SaveBest"]
    assert (best["iteration"], best["evaluations_since"]) == (1, 1)


@pytest.mark.parametrize("eval_only", [False, True])
def test_resuming_under_another_schedule_is_refused(
    tiny_config: TinyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eval_only: bool
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    run(tiny_config("SOLVER.MAX_ITER=1", "DATASETS.TEST=[]"))
    before = contents(tmp_path / "output")
    other = tiny_config("SOLVER.TRAINING_SCHEDULE=foreign_schedules:heads_then_all")
    with pytest.raises(UserError, match=r"'joint'.*'foreign_schedules:heads_then_all'.*--overwrite"):
        run(other, resume=True, eval_only=eval_only)
    assert contents(tmp_path / "output") == before
