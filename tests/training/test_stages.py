"""Runs of several stages: the heads alone, then all of a small Mask R-CNN on digits."""

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from torch import Tensor

from mrcnn_zoo.checkpoint import load_checkpoint
from mrcnn_zoo.config import CfgNode, changed_config, config_from_text, load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.tables import UnexpectedResultsError, stages_table
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.registries import TRAINING_SCHEDULES
from mrcnn_zoo.training import Stage, run
from mrcnn_zoo.training.run_context import derived_seed, seed_everything
from mrcnn_zoo.training.stages import build_stages
from mrcnn_zoo.training.stopping import TrainingInterrupted
from support.small_models import TINY_YAML

TrainNet = Callable[..., CompletedProcess]

HERE = Path(__file__).parent
TWO_STAGES = (
    "DATASETS.TRAIN=['digits_train']",
    "DATASETS.TEST=['digits_val']",
    "DATASETS.SCENES.NUM_VAL=2",
    "MODEL.ROI_HEADS.NUM_CLASSES=10",
    "MODEL.RESNETS.NORM=FrozenBN",
    "SOLVER.MAX_ITER=5",
    "SOLVER.STEPS=[]",
    "SOLVER.WARMUP_ITERS=1",
    "TEST.VAL_LOSS=False",
    "WRITERS=['console', 'json', 'csv', 'tensorboard']",
)
PARTS = ("model", "optimizer", "sampler")


def digits(folder: Path, *overrides: Any, schedule: str = "foreign_schedules:heads_then_all") -> CfgNode:
    settings = [*TWO_STAGES, "SOLVER.TRAINING_SCHEDULE", schedule, "OUTPUT_DIR", str(folder), *overrides]
    return load_config(TINY_YAML, settings)


def hook(name: str) -> str:
    return f"HOOKS=['foreign_schedules:{name}']"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def model_in(folder: Path, name: str = "model_final.pth") -> dict[str, Tensor]:
    return load_checkpoint(folder / name)["model"]


def assert_equal_trainings(one: Path, other: Path) -> None:
    states = [load_checkpoint(folder / "model_final.pth") for folder in (one, other)]
    for part in PARTS:
        torch.testing.assert_close(states[0][part], states[1][part], rtol=0, atol=0)


@pytest.fixture(autouse=True, scope="module")
def foreign_code() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        yield


@dataclass(frozen=True)
class Undisturbed:
    folder: Path
    results: Mapping[str, Any]


@pytest.fixture(scope="module")
def whole(foreign_code: None, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:  # noqa: ARG001
    """Both stages, trained without a fault."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return Undisturbed(folder, run(digits(folder)))


# --- a run of two stages ----------------------------------------------------------------------------------------------


def test_frozen_weights_stay_in_the_first_stage_and_move_in_the_second(whole: Undisturbed) -> None:
    cfg = digits(whole.folder)
    seed_everything(derived_seed(cfg.SEED, "model"))
    initial = build_model(cfg).state_dict()
    heads, everything = (model_in(whole.folder / name) for name in ("heads", "all"))
    moved_first = {name.split(".")[0] for name in initial if not torch.equal(heads[name], initial[name])}
    moved_then = {name.split(".")[0] for name in initial if not torch.equal(everything[name], heads[name])}
    assert moved_first == {"proposal_generator", "roi_heads"}
    assert moved_then == {"backbone", "proposal_generator", "roi_heads"}


def test_two_stages_equal_two_runs_one_after_the_other(whole: Undisturbed, tmp_path: Path) -> None:
    from foreign_schedules import HEADS_ONLY

    untested = "DATASETS.TEST=[]"
    run(changed_config(digits(tmp_path / "one", untested, schedule="joint"), HEADS_ONLY, source="test"))
    weights = f"MODEL.WEIGHTS={tmp_path / 'one' / 'model_final.pth'}"
    run(digits(tmp_path / "two", untested, weights, schedule="joint"))
    assert_equal_trainings(whole.folder / "heads", tmp_path / "one")
    assert_equal_trainings(whole.folder / "all", tmp_path / "two")


def test_stage_that_freezes_random_weights_is_warned_of(whole: Undisturbed) -> None:
    logs = {name: (whole.folder / name / "log.txt").read_text() for name in ("heads", "all")}
    assert "backbone (pyramid), backbone.bottom_up: weights that are frozen and random" in logs["heads"]
    assert "frozen and random" not in logs["all"]


def test_stage_that_freezes_the_weights_of_an_earlier_one_is_not_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(digits(tmp_path / "run", "SOLVER.MAX_ITER=4", "DATASETS.TEST=[]", schedule="alternating_4_step"))
    printed = capsys.readouterr()
    assert "stage 4 of 4, detector_2" in printed.out + printed.err
    assert "frozen and random" not in printed.out + printed.err


def test_tensorboard_shows_both_stages_as_one_run(whole: Undisturbed) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert len(list(whole.folder.rglob("events.out.tfevents.*"))) == len(
        list(whole.folder.glob("events.out.tfevents.*"))
    )
    events = accumulator.EventAccumulator(str(whole.folder)).Reload()
    # Written at the end of each stage: 3 iterations, then 5.
    assert [(event.step, event.value) for event in events.Scalars("stage")][-1] == (7, 2)
    assert {event.value for event in events.Scalars("stage") if event.step < 3} == {1}


def test_each_stage_has_its_files_and_its_results(whole: Undisturbed) -> None:
    assert whole.results.keys() == {"bbox", "segm", "stages"}
    assert list(whole.results["stages"]) == ["heads", "all"]
    assert whole.results["bbox"] == pytest.approx(whole.results["stages"]["all"]["bbox"], nan_ok=True, abs=0)
    log = (whole.folder / "log.txt").read_text()
    for name, iterations in (("heads", 3), ("all", 5)):
        folder = whole.folder / name
        results = whole.results["stages"][name]
        lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
        assert [line["iteration"] for line in lines if "total_loss" in line] == list(range(iterations))
        config = config_from_text((folder / "config.yaml").read_text())
        assert iterations == config.SOLVER.MAX_ITER
        assert config.SOLVER.TRAINING_SCHEDULE == "joint"  # the config of a stage is that of a separate run
        record = json.loads((folder / "stage.json").read_text())
        assert record["handed_over"] == {"weights": "model_final.pth"}
        assert record["results"]["segm"]["AP"] == results["segm"]["AP"]
        assert f"iter {iterations}/{iterations} " in (folder / "log.txt").read_text()
        assert f"iter {iterations}/{iterations} " in log
        (row,) = (line for line in log.splitlines() if line.startswith(f"| {name}") and " segm " in line)
        assert [cell.strip() for cell in row.split("|")[1:4]] == [name, "segm", f"{results['segm']['AP']:.2f}"]
    assert [path.name for path in whole.folder.glob("*.pth")] == ["model_final.pth"]
    assert (whole.folder / "model_final.pth").read_bytes() == (whole.folder / "all" / "model_final.pth").read_bytes()
    assert "iter 5/5" not in (whole.folder / "heads" / "log.txt").read_text()


def test_expected_results_are_those_of_the_last_stage(tmp_path: Path) -> None:
    expected = "TEST.EXPECTED_RESULTS=[[bbox, AP, 90.0, 1.0]]"
    with pytest.raises(UnexpectedResultsError, match="bbox/AP is"):
        run(digits(tmp_path / "run", expected, "SOLVER.MAX_ITER=1"))
    assert (tmp_path / "run" / "all" / "stage.json").exists()


# --- interrupted and resumed ------------------------------------------------------------------------------------------


def test_run_interrupted_in_the_second_stage_resumes_there(whole: Undisturbed, tmp_path: Path) -> None:
    cfg = digits(tmp_path / "run", hook("interrupt_all_after_2"))
    with pytest.raises(TrainingInterrupted, match=r"after 2 iterations, saved in .*all\. Continue .*--resume"):
        run(cfg)
    assert (tmp_path / "run" / "all" / "last_checkpoint").read_text() == "model_0000001.pth"
    heads = contents(tmp_path / "run" / "heads")
    results = run(cfg, resume=True)
    assert contents(tmp_path / "run" / "heads") == heads  # it is not trained, evaluated or written again
    assert_equal_trainings(tmp_path / "run" / "all", whole.folder / "all")
    for name in ("heads", "all"):
        for task in ("bbox", "segm"):
            expected = whole.results["stages"][name][task]
            assert results["stages"][name][task] == pytest.approx(expected, nan_ok=True, abs=0)


@pytest.mark.slow  # a separate process; the interrupted run above tests the same in this one
def test_run_killed_in_the_second_stage_resumes_there(whole: Undisturbed, train_net: TrainNet, tmp_path: Path) -> None:
    schedule = "SOLVER.TRAINING_SCHEDULE=foreign_schedules:heads_then_all"
    untested = "DATASETS.TEST=[]"
    killed = train_net(*TWO_STAGES, untested, schedule, hook("kill_all_after_4"), "OUTPUT_DIR=run")
    assert killed.returncode == -9, killed.stderr
    assert (tmp_path / "run" / "all" / "last_checkpoint").read_text() == "model_0000002.pth"
    assert not (tmp_path / "run" / "all" / "stage.json").exists()
    run(digits(tmp_path / "run", untested), resume=True)
    assert_equal_trainings(tmp_path / "run" / "all", whole.folder / "all")
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("stage 1 of 2, heads") == 2
    assert log.count("iter 1/3 ") == 1  # the first stage was trained once


def test_signal_in_the_last_evaluation_of_a_stage_keeps_the_next_from_starting(tmp_path: Path) -> None:
    cfg = digits(tmp_path / "run", hook("terminate_after_heads"), "SOLVER.MAX_ITER=1")
    with pytest.raises(TrainingInterrupted, match="after stage 'heads', which is finished") as interruption:
        run(cfg)
    assert interruption.value.exit_status == 143
    assert (tmp_path / "run" / "heads" / "stage.json").exists()
    assert not (tmp_path / "run" / "all").exists()


def test_finished_run_is_not_trained_again_and_warns_once_of_a_changed_config(
    whole: Undisturbed, caplog: pytest.LogCaptureFixture
) -> None:
    before = {name: contents(whole.folder / name) for name in ("heads", "all")}
    with caplog.at_level(logging.WARNING):
        results = run(digits(whole.folder, "SOLVER.MOMENTUM=0.5"), resume=True)
    assert {name: contents(whole.folder / name) for name in ("heads", "all")} == before
    assert results["segm"] == pytest.approx(whole.results["segm"], nan_ok=True, abs=0)
    for name in ("heads", "all"):
        (message,) = (text for text in caplog.messages if f"'{name}' is finished" in text)
        assert "SOLVER.MOMENTUM = 0.5 (it was 0.9)" in message
        assert "OUTPUT_DIR" not in message


def test_stage_that_is_finished_before_an_earlier_one_is_refused(whole: Undisturbed) -> None:
    record = whole.folder / "heads" / "stage.json"
    content = record.read_text()
    record.unlink()
    try:
        with pytest.raises(UserError, match=r"stage 'all' has been trained .* but 'heads' .* not finished"):
            run(digits(whole.folder), resume=True)
    finally:
        record.write_text(content)


def test_evaluation_alone_is_that_of_the_last_stage(whole: Undisturbed, tmp_path: Path) -> None:
    resumed = run(digits(whole.folder), eval_only=True, resume=True)
    weights = f"MODEL.WEIGHTS={whole.folder / 'all'}"
    alone = run(digits(tmp_path / "evaluation", weights), eval_only=True)
    for task in ("bbox", "segm"):
        assert resumed[task] == pytest.approx(whole.results[task], nan_ok=True, abs=0)
        assert alone[task] == pytest.approx(whole.results[task], nan_ok=True, abs=0)
    assert (tmp_path / "evaluation" / "inference" / "results.json").exists()


# --- folders ----------------------------------------------------------------------------------------------------------


def test_overwriting_removes_the_checkpoints_of_all_stages(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(digits(folder, "SOLVER.MAX_ITER=1", "DATASETS.TEST=[]"))
    before = contents(folder)
    with pytest.raises(UserError, match=r"holds a training \(heads/model_final.pth\).*--resume.*--overwrite"):
        run(digits(folder))
    assert contents(folder) == before
    with pytest.raises(TrainingInterrupted):
        run(digits(folder, hook("interrupt_heads_after_2"), "DATASETS.TEST=[]"), overwrite=True)
    assert [path.name for path in folder.rglob("*.pth")] == ["model_0000001.pth"]
    assert not list(folder.rglob("stage.json"))


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("misspelt_dataset", r"stage 'two': .*Did you mean 'digits_train'"),
        ("misspelt_parameter", r"stage 'two': SOLVER.FREEZE: 'backbon.\*' matches no parameter"),
    ],
)
def test_mistake_in_a_later_stage_is_found_before_the_first_is_trained(
    tmp_path: Path, schedule: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(digits(tmp_path / "run", schedule=f"foreign_schedules:{schedule}"))
    assert not (tmp_path / "run").exists()


# --- what is handed over ----------------------------------------------------------------------------------------------


def test_proposals_of_a_stage_are_what_the_next_one_is_trained_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = ("SOLVER.MAX_ITER=2", "DATASETS.SCENES.NUM_TRAIN=4")
    results = run(digits(folder, *settings, schedule="foreign_schedules:proposals_then_detector"))
    assert results["stages"]["rpn"].keys() == {"box_proposals"}
    assert results["stages"]["detector"].keys() == {"bbox", "segm"}
    record = json.loads((folder / "rpn" / "stage.json").read_text())
    assert record["handed_over"] == {
        "weights": "model_final.pth",
        "digits_train": "digits_train.npz",
        "digits_val": "digits_val.npz",
    }
    trained = config_from_text((folder / "detector" / "config.yaml").read_text())
    assert [str(folder / "rpn" / "digits_train.npz")] == trained.DATASETS.PROPOSAL_FILES_TRAIN
    assert not any(name.startswith("proposal_generator") for name in model_in(folder / "detector"))


def test_hand_over_that_is_not_there_is_refused(tmp_path: Path, schedule_of: Callable[..., None]) -> None:
    schedule_of(lambda cfg: [Stage("one", cfg, hand_over=lambda cfg: {"pictures": Path(cfg.OUTPUT_DIR) / "none"})])
    with pytest.raises(UserError, match=r"stage 'one' returns the output 'pictures', but .*none does not exist"):
        run(digits(tmp_path / "run", "SOLVER.MAX_ITER=1", "DATASETS.TEST=[]", schedule="ours"))
    assert not (tmp_path / "run" / "one" / "stage.json").exists()


@pytest.mark.slow  # starts two processes
def test_two_processes_agree_on_the_stages(train_net: TrainNet, tmp_path: Path) -> None:
    schedule = "SOLVER.TRAINING_SCHEDULE=foreign_schedules:proposals_then_detector"
    settings = (
        *TWO_STAGES,
        schedule,
        "SOLVER.MAX_ITER=1",
        "DATASETS.TEST=[]",
        "DATASETS.SCENES.NUM_TRAIN=4",
        "SEED=-1",
    )
    done = train_net("--num-gpus", "2", *settings, "OUTPUT_DIR=run")
    assert done.returncode == 0, done.stderr
    for name in ("rpn", "detector"):
        assert json.loads((tmp_path / "run" / name / "stage.json").read_text())["name"] == name
    assert "results of 2 stages" in (tmp_path / "run" / "log.txt").read_text()


# --- schedules --------------------------------------------------------------------------------------------------------


@pytest.fixture
def schedule_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def register(build: Callable[[CfgNode], Any]) -> None:
        TRAINING_SCHEDULES.names()  # loads those of the package
        monkeypatch.setitem(TRAINING_SCHEDULES._builders, "ours", build)

    return register


def test_schedule_of_configs_is_a_schedule_of_stages(tmp_path: Path) -> None:
    cfg = digits(tmp_path / "run", schedule="foreign_schedules:two_configs")
    stages = build_stages(cfg)
    assert [stage.name for stage in stages] == ["stage_1", "stage_2"]
    assert [stage.starts_from for stage in stages] == ["", "stage_1"]
    assert [stage.folder for stage in stages] == [tmp_path / "run" / "stage_1", tmp_path / "run" / "stage_2"]
    assert [stage.cfg.SOLVER.MAX_ITER for stage in stages] == [3, 5]


def test_one_config_is_a_stage_in_the_folder_of_the_run(tmp_path: Path, schedule_of: Callable[..., None]) -> None:
    schedule_of(lambda cfg: [cfg])
    cfg = digits(tmp_path / "run", schedule="ours")
    (stage,) = build_stages(cfg)
    assert (stage.name, stage.folder, stage.cfg) == ("", tmp_path / "run", cfg)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda cfg: cfg, "returned CfgNode; it must return a list of Stages"),
        (lambda cfg: [], "returned an empty list; it must return a list"),  # noqa: ARG005
        (lambda cfg: [Stage("one", cfg), cfg], "returned Stage, CfgNode"),
        (lambda cfg: [Stage("one", cfg), Stage("one", cfg)], "two stages 'one'"),
        (lambda cfg: [Stage("one", cfg), Stage("", cfg)], "one of them without a name"),
        (lambda cfg: [Stage("one/two", cfg)], "without slashes"),
        (lambda cfg: [Stage("inference", cfg)], "none of .*inference"),
        (lambda cfg: [Stage("one", cfg, starts_from="two"), Stage("two", cfg)], "it is the first stage"),
        (
            lambda cfg: [Stage("heads", cfg), Stage("all", cfg, starts_from="head")],
            "before it are heads.* Did you mean 'heads'",
        ),
    ],
)
def test_list_that_is_none_of_stages_is_refused(
    tmp_path: Path, schedule_of: Callable[..., None], build: Callable[[CfgNode], Any], message: str
) -> None:
    schedule_of(build)
    with pytest.raises(UserError, match=rf"SOLVER.TRAINING_SCHEDULE = ours.*{message}"):
        run(digits(tmp_path / "run", schedule="ours"))
    assert not (tmp_path / "run").exists()


def test_table_of_stages_has_a_row_for_each_task() -> None:
    results = {
        "rpn": {"box_proposals": {"AR@100": 50.0}},
        "frozen": {"bbox": {"AP": 1.0, "AP-cat": 1.0}, "segm": {"AP": 2.0, "AP-cat": 2.0}},
        "all": {"a": {"bbox": {"AP": math.nan}}, "b": {"bbox": {"AP": 3.5}}},
        "untested": {},
    }
    first, second, third = stages_table(results).split("\n\n")
    assert first.splitlines()[2:] == ["| rpn     | box_proposals |    50.00 |"]
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in second.splitlines()[2:]] == [
        ["frozen", "bbox", "1.00"],
        ["frozen", "segm", "2.00"],
        ["all", "a/bbox", "-"],
        ["all", "b/bbox", "3.50"],
    ]
    assert "untested" in third
