"""`sweep search`. A shell script replaces the training: its metric is the learning rate of the trial."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from mrcnn_zoo.cli.main import USAGE_ERROR
from mrcnn_zoo.config import load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.experiments.records import read_run_file, read_sweep_folder
from mrcnn_zoo.experiments.search import Search, intermediate_values
from mrcnn_zoo.experiments.search_space import Choices, Interval, read_space
from mrcnn_zoo.experiments.search_study import SearchStudy
from support.shell_launcher import SCRIPT, trained
from support.small_models import TINY_YAML

optuna = pytest.importorskip("optuna")

SPACE = "SPACE: {SOLVER.BASE_LR: {LOW: 0.1, HIGH: 0.9}, SOLVER.OPTIMIZER: [SGD, AdamW]}"
TRAIN = """
echo ${RUN#*/out/} >> trained
mkdir -p $RUN/inference
rate=$(sed -n 's/.*BASE_LR: //p' $RUN/run.yaml)
echo "{\\"segm\\": {\\"AP\\": $rate}}" > $RUN/inference/results.json
echo "{\\"iteration\\": 9, \\"segm/AP\\": $rate}" > $RUN/metrics.json
touch $RUN/last_checkpoint
"""
ACTION = "search"
Sweep = Callable[..., int]


def open_study() -> SearchStudy:
    return SearchStudy(Path("out"), space=read_space(Path("s.yaml")), objective="segm/AP", seed=0, jobs=1)


def runs(*numbers: int) -> list[str]:
    return [f"trial_{number}/seed_0" for number in numbers]


def test_trials_are_runs_of_a_sweep_and_the_best_is_a_config(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(SPACE, "--trials", "3", "LOG_PERIOD=7") == 0
    assert trained() == runs(0, 1, 2)
    trials = open_study().trials()
    assert [trial.state for trial in trials] == ["complete"] * 3
    assert [trial.objective for trial in trials] == [trial.values["SOLVER.BASE_LR"] for trial in trials]
    record = read_sweep_folder("out")
    assert [run.status for run in record.runs] == ["finished"] * 3
    best = max(trials, key=lambda trial: trial.objective)
    cfg = load_config("out/best.yaml")
    assert (best.objective, best.values["SOLVER.OPTIMIZER"]) == (cfg.SOLVER.BASE_LR, cfg.SOLVER.OPTIMIZER)
    assert (7, str(Path.cwd() / "out" / "best")) == (cfg.LOG_PERIOD, cfg.OUTPUT_DIR)
    printed = capsys.readouterr().out
    assert f"| {best.number} *     | complete | {best.objective:.2f}" in printed
    assert "share in the variation of segm/AP: SOLVER." in printed
    assert sweep(SPACE, "--trials", "3", "LOG_PERIOD=7") == 0
    assert trained() == []


def test_a_continued_search_draws_the_values_of_an_undisturbed_one(sweep: Sweep) -> None:
    assert sweep(SPACE, "--trials", "3") == 0
    undisturbed = [trial.values for trial in open_study().trials()]
    assert len({str(values) for values in undisturbed}) == 3
    for trials in ("1", "2", "3"):
        assert sweep(SPACE, "--trials", trials, "--output", "again") == 0
    again = SearchStudy(Path("again"), space=read_space(Path("s.yaml")), objective="segm/AP", seed=0, jobs=1)
    assert [trial.values for trial in again.trials()] == undisturbed


def test_running_trials_are_matched_to_their_runs(sweep: Sweep) -> None:
    # Killed between the end of a training and its record in the study: the run is finished, the trial is running.
    assert sweep(SPACE, "--trials", "1") == 0
    (Path("out") / "study.db").unlink()
    assert open_study().new_trial().number == 0
    # Killed between the draw of a trial and its training.
    assert open_study().new_trial().number == 1
    assert trained() == runs(0)
    assert sweep(SPACE, "--trials", "3") == 0
    assert trained() == runs(1, 2)
    assert [trial.state for trial in open_study().trials()] == ["complete"] * 3


def test_an_interrupted_search_resumes_its_trials(sweep: Sweep) -> None:
    Path(SCRIPT).write_text(f"[ -e again ] || {{ touch again; kill -TERM {os.getpid()}; exec sleep 60; }}\n{TRAIN}")
    assert sweep(SPACE, "--trials", "2") == 128 + signal.SIGTERM
    assert [trial.state for trial in open_study().trials()] == ["running"]
    assert sweep(SPACE, "--trials", "2") == 0
    assert trained() == runs(0, 1)
    assert [trial.state for trial in open_study().trials()] == ["complete"] * 2


def test_a_failed_trial_is_recorded_and_three_in_a_row_end_the_search(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(SCRIPT).write_text("echo x >> trained; echo 'error: no luck'; exit 2")
    assert sweep(SPACE, "--trials", "9") == 1
    assert len(trained()) == 3
    assert [(trial.state, trial.error) for trial in open_study().trials()] == [("fail", "error: no luck")] * 3
    assert "3 trials have failed one after the other" in capsys.readouterr().out
    Path(SCRIPT).write_text(TRAIN)
    assert sweep(SPACE, "--trials", "4", "--overwrite") == 0
    assert Counter(trial.state for trial in open_study().trials()) == {"complete": 4}


def test_a_trial_without_the_metric_or_with_values_that_contradict_has_failed(sweep: Sweep) -> None:
    assert sweep(f"{SPACE}\nOBJECTIVE: bbox/AP", "--trials", "1") == 1
    (trial,) = open_study().trials()
    assert trial.error == "finished without a value of bbox/AP; its metrics are segm/AP"
    text = "SPACE: {SOLVER.MOMENTUM: [0.0], SOLVER.NESTEROV: [true], SOLVER.BASE_LR: [0.1, 0.2]}"
    assert sweep(text, "--trials", "1", "--output", "other") == 1
    assert "NESTEROV" in read_run_file(Path("other") / "trial_0" / "seed_0")["error"]


def test_a_trial_below_the_median_is_stopped(sweep: Sweep) -> None:
    text = "SPACE: {SOLVER.BASE_LR: {LOW: 0.5, HIGH: 0.6}}"
    assert sweep(text, "--trials", "5") == 0
    trained()
    # Leaves a bad evaluation, and would train on for a minute; the second evaluation is being written.
    lines = '{"iteration": 9, "segm/AP": 0.2}\\n{"iteration": 19, "segm/AP'
    bad = f"touch $RUN/last_checkpoint; printf '{lines}' > $RUN/new; mv $RUN/new $RUN/metrics.json; exec sleep 60"
    Path(SCRIPT).write_text(TRAIN.replace("mkdir -p $RUN/inference", bad))
    assert sweep(text, "--trials", "6") == 0
    assert trained() == runs(5)
    pruned = open_study().trials()[5]
    assert (pruned.state, pruned.objective) == ("pruned", 0.2)
    folder = Path("out") / "trial_5" / "seed_0"
    assert read_run_file(folder)["pruned"]
    assert read_run_file(folder)["status"] == "interrupted"
    assert sweep(text, "--trials", "6") == 0
    assert trained() == []


def test_the_evaluations_of_a_training_that_ended_between_two_polls_count(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Search, "_prune", lambda _: None)
    assert sweep(SPACE, "--trials", "1") == 0
    (trial,) = open_study().trials()
    (recorded,) = optuna.load_study(study_name=None, storage="sqlite:///out/study.db").trials
    assert recorded.intermediate_values == {9: trial.objective}


def test_a_search_refused_before_its_first_trial_may_change(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(SPACE, "--trials", "1", "HOOKS=[DrawCurve]") == USAGE_ERROR
    assert "Did you mean 'DrawCurves'?" in " ".join(capsys.readouterr().err.split())
    assert sweep(SPACE.replace("0.9", "0.8"), "--trials", "1") == 0


def test_another_space_or_config_is_refused(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(SPACE, "--trials", "1") == 0
    other = SPACE.replace("0.9", "0.8")
    for text, options, message in (
        (other, [], "changed are SPACE.SOLVER.BASE_LR."),
        (f"{SPACE}\nOBJECTIVE: bbox/AP", [], "changed are OBJECTIVE = bbox/AP (it was segm/AP)."),
        (SPACE, ["SOLVER.MOMENTUM=0.5"], "changed are SOLVER.MOMENTUM = 0.5 (it was 0.9)."),
        (f"{SPACE}\nSEEDS: [0, 1]", [], "no several SEEDS beside SPACE"),
        (f"{SPACE}\nVARIANTS: {{a: {{}}, b: {{}}}}", [], "no VARIANTS or GRID beside SPACE"),
        ("", [], "SPACE is missing"),
    ):
        assert sweep(text, *options) == USAGE_ERROR
        assert message in " ".join(capsys.readouterr().err.split())
    assert sweep(SPACE, "--trials", "1", "SOLVER.BASE_LR=0.3") == 0  # every trial has its own


def test_evaluations_are_read_by_iteration(tmp_path: Path) -> None:
    assert intermediate_values(tmp_path, "segm/AP") == {}
    lines = [
        '{"iteration": 4, "segm/AP": 1.0}',
        '{"iteration": 4, "val/loss": 1.0}',
        '{"iteration": 9, "segm/AP": null}',
    ]
    lines += ['{"iteration": 14, "segm/AP": 3.0, "segm/AP50": 9.0}', '{"iteration": 14, "segm/AP": 2.0}', '{"iter']
    (tmp_path / "metrics.json").write_text("\n".join(lines))
    assert intermediate_values(tmp_path, "segm/AP") == {4: 1.0, 14: 2.0}


# --- the space --------------------------------------------------------------------------------------------------------


def read(folder: Path, space: str) -> tuple[Choices | Interval, ...]:
    path = folder / "s.yaml"
    path.write_text(f"SPACE:\n  {space}\n")
    return read_space(path)


def test_values_are_converted_to_the_type_of_the_key(tmp_path: Path) -> None:
    assert read(tmp_path, "SOLVER: {BASE_LR: {LOW: 1e-4, HIGH: 1, LOG: true}, MOMENTUM: [0, 0.9]}") == (
        Interval("SOLVER.BASE_LR", 1e-4, 1.0, log=True),
        Choices("SOLVER.MOMENTUM", (0.0, 0.9)),
    )
    (interval,) = read(tmp_path, "SOLVER.IMS_PER_BATCH: {LOW: 1, HIGH: 8, STEP: 2}")
    assert interval == Interval("SOLVER.IMS_PER_BATCH", 1, 7, step=2, is_integer=True)
    (steps,) = read(tmp_path, "SOLVER.STEPS: [[10], [20, 30]]")
    assert steps == Choices("SOLVER.STEPS", ([10], [20, 30]))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("SOLVER.BASE_LT: [1]", "s.yaml:2: there is no config key SOLVER.BASE_LT. Did you mean 'SOLVER.BASE_LR'?"),
        ("SOLVER.BASE_LR: {LO: 1, HIGH: 2}", "SOLVER.BASE_LR has no field 'LO'. Did you mean 'LOW'?"),
        ("SOLVER.BASE_LR: {HIGH: 2}", "SPACE: SOLVER.BASE_LR has no LOW."),
        ("SOLVER.BASE_LR: {LOW: 2, HIGH: 1}", "LOW = 2.0 must be below HIGH = 1.0"),
        ("SOLVER.BASE_LR: {LOW: -1, HIGH: 1}", "SPACE, LOW: SOLVER.BASE_LR = -1.0 must be at least 0."),
        ("SOLVER.BASE_LR: {LOW: 0, HIGH: 1, LOG: true}", "with LOG there is no STEP, and LOW = 0.0 must be above 0"),
        ("SOLVER.BASE_LR: {LOW: 0, HIGH: 1, LOG: 2}", "LOG = 2 must be true or false"),
        ("SOLVER.BASE_LR: {LOW: 0, HIGH: 1, STEP: 0}", "STEP = 0 must be a number above 0"),
        ("SOLVER.BASE_LR: 3", "SOLVER.BASE_LR = 3 must be {LOW:"),
        ("SOLVER.BASE_LR: [1, 1.0]", "has a value twice"),
        ("SOLVER.IMS_PER_BATCH: {LOW: 0.5, HIGH: 2}", "SOLVER.IMS_PER_BATCH takes an integer or 'auto', not 0.5"),
        ("SOLVER.IMS_PER_BATCH: [2, 0]", "SOLVER.IMS_PER_BATCH = 0 must be at least 1."),
        ("SOLVER.OPTIMIZER: [SGD, AdamWW]", "is no name of OPTIMIZERS. Did you mean 'AdamW'?"),
        ("MODEL.MASK_ON: {LOW: 0, HIGH: 1}", "MODEL.MASK_ON takes true or false, not 0"),
        ("SEED: [1, 2]", "SPACE has SEED, but SEEDS lists the seeds."),
    ],
)
def test_a_mistake_in_the_space_is_refused_with_its_line(space: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, space)
    assert message in str(caught.value)


# --- real trainings ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_search_loses_and_repeats_no_trial(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(f"BASE: {TINY_YAML}\n{SPACE.replace('0.1', '0.001').replace('0.9', '0.01')}\n")
    command = [sys.executable, "-m", "mrcnn_zoo", "sweep", "search", "s.yaml", "--trials", "3", "SOLVER.MAX_ITER=3"]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, "SOLVER.STEPS=[]"], cwd=tmp_path, stdout=subprocess.DEVNULL)

    folder = tmp_path / "output" / "sweeps" / "s"
    for number in (0, 1):  # killed while the trial is trained; its training goes on alone
        process = start()
        end = time.monotonic() + 300
        while not (folder / f"trial_{number}" / "seed_0" / "metrics.json").exists():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        process.kill()
        process.wait()
    assert start().wait() == 0
    study = SearchStudy(folder, space=read_space(tmp_path / "s.yaml"), objective="segm/AP", seed=0, jobs=1)
    assert [trial.state for trial in study.trials()] == ["complete"] * 3
    assert sorted(path.name for path in folder.glob("trial_*")) == ["trial_0", "trial_1", "trial_2"]
    for number in range(3):
        content = (folder / f"trial_{number}" / "seed_0" / "metrics.json").read_text()
        assert content.count('"total_loss"') == 3
