"""`sweep run` and `sweep status`. A shell script that writes results replaces the training."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from mrcnn_zoo.cli.main import USAGE_ERROR, run_command
from mrcnn_zoo.experiments.locks import FolderLock
from mrcnn_zoo.experiments.progress_table import sweep_table
from mrcnn_zoo.experiments.records import columns_of, read_results, read_sweep_folder, result_of
from support.shell_launcher import SCRIPT, trained

# Appends the name of the run to `trained`, and leaves an AP of 10 + seed.
TRAIN = """
name=${RUN#*/out/}
echo $name >> trained
case $name in broken*) echo "error: no luck"; exit 2;; esac
mkdir -p $RUN/inference
echo "{\\"bbox\\": {\\"AP\\": 1${RUN#*seed_}, \\"AP-x\\": null}}" > $RUN/inference/results.json
touch $RUN/last_checkpoint $RUN/model_final.pth
"""
ACTION = "run"
Sweep = Callable[..., int]


def states() -> dict[str, str]:
    return {str(run.key): run.status for run in read_sweep_folder("out").runs}


def test_finished_runs_are_skipped_and_have_results(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    text = "VARIANTS: {a: {}, b: {SOLVER.BASE_LR: 0.5}}\nSEEDS: [0, 1]"
    assert sweep(text) == 0
    assert trained() == ["a/seed_0", "b/seed_0", "a/seed_1", "b/seed_1"]
    assert sweep(text) == 0
    assert trained() == []
    record = read_sweep_folder("out")
    assert [result_of(run.results, "bbox/AP") for run in record.runs] == [10, 11, 10, 11]
    assert record.runs[0].results_dir == Path("out/a/seed_0/inference")
    capsys.readouterr()
    assert run_command("sweep", ["status", "out"]) == 0
    printed = capsys.readouterr().out
    assert "b/seed_1" in printed
    assert "4 runs: 4 finished" in printed


def test_a_dry_run_shows_what_would_be_done_and_writes_nothing(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("VARIANTS: {a: {}, b: {FROM: a}, c: {}}", "--only", "b", "--dry-run") == 0
    rows = [line.split("|")[1:4] for line in capsys.readouterr().out.splitlines() if line.startswith("|")][2:]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["a/seed_0", "train", "new"],
        ["b/seed_0", "train", "new"],
        ["c/seed_0", "leave", "not in --only"],
    ]
    assert trained() == []
    assert not Path("out").exists()


def test_only_trains_a_variant_and_those_it_starts_from(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    text = "VARIANTS: {c: {}, b: {FROM: a}, a: {}}"
    assert sweep(text, "--only", "b") == 0
    assert trained() == ["a/seed_0", "b/seed_0"]
    assert states() == {"c/seed_0": "waiting", "b/seed_0": "finished", "a/seed_0": "finished"}
    assert sweep(text, "--only", "d") == USAGE_ERROR
    assert "the sweep s has no variant 'd'" in capsys.readouterr().err


def test_a_failed_run_is_recorded_and_the_others_are_trained(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    text = "VARIANTS: {broken: {}, child: {FROM: broken}, grandchild: {FROM: child}, a: {}}"
    assert sweep(text) == 1
    assert trained() == ["broken/seed_0", "a/seed_0"]
    errors = {run.key.variant: run.error for run in read_sweep_folder("out").runs}
    assert errors == {
        "broken": "error: no luck",
        "child": "not trained: broken/seed_0, whose weights it starts from, has failed",
        "grandchild": "not trained: child/seed_0, whose weights it starts from, has failed",
        "a": "",
    }
    assert "3 runs failed" in capsys.readouterr().out
    Path(SCRIPT).write_text(TRAIN.replace("broken*", "nothing"))
    assert sweep(text) == 0
    assert trained() == ["broken/seed_0", "child/seed_0", "grandchild/seed_0"]


def test_changed_runs_are_refused_and_trained_again_with_overwrite(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "VARIANTS: {{a: {{SOLVER.BASE_LR: {rate}}}, b: {{}}, c: {{FROM: a}}}}"
    assert sweep(text.format(rate=0.5)) == 0
    assert len(trained()) == 3
    (Path("out") / "a" / "seed_0" / "mark").touch()
    assert sweep(text.format(rate=0.25)) == USAGE_ERROR
    message = capsys.readouterr().err
    assert "2 runs would give other results" in message
    assert "a/seed_0: SOLVER.BASE_LR = 0.25 (it was 0.5)" in message
    assert "c/seed_0: the run that FROM all names" in message
    assert "--overwrite" in message
    assert trained() == []
    assert sweep(text.format(rate=0.5), "LOG_PERIOD=7") == 0  # changes no result
    assert (Path("out") / "a" / "seed_0" / "mark").exists()
    assert sweep(text.format(rate=0.25), "--overwrite", "--only", "a") == 0
    assert trained() == ["a/seed_0"]
    assert states() == {"a/seed_0": "finished", "b/seed_0": "finished", "c/seed_0": "waiting"}
    assert not (Path("out") / "a" / "seed_0" / "mark").exists()
    assert sweep(text.format(rate=0.25), "--overwrite") == 0
    assert trained() == ["c/seed_0"]


def test_a_run_that_failed_before_its_first_checkpoint_may_change(sweep: Sweep) -> None:
    assert sweep("VARIANTS: {broken: {}}") == 1
    Path(SCRIPT).write_text(TRAIN.replace("broken*", "nothing"))
    assert sweep("VARIANTS: {broken: {SOLVER.BASE_LR: 0.5}}") == 0


def test_an_interrupted_sweep_ends_its_trainings_and_resumes(sweep: Sweep) -> None:
    # The first training signals the sweep, and ends like one that has saved.
    Path(SCRIPT).write_text(f"{TRAIN}\n[ -e again ] || {{ touch again; kill -TERM {os.getpid()}; exec sleep 60; }}")
    former = signal.getsignal(signal.SIGTERM)
    assert sweep("VARIANTS: {a: {}, b: {}}") == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == former
    assert states() == {"a/seed_0": "interrupted", "b/seed_0": "waiting"}
    assert trained() == ["a/seed_0"]
    assert sweep("VARIANTS: {a: {}, b: {}}") == 0
    assert trained() == ["a/seed_0", "b/seed_0"]


def test_a_second_sweep_in_the_folder_is_refused(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    lock = FolderLock(Path("out") / "sweep.lock")
    assert lock.acquire()
    assert sweep("") == USAGE_ERROR
    assert f"process {os.getpid()} on" in capsys.readouterr().err
    lock.release()
    assert sweep("") == 0
    assert sweep("NAME: another") == USAGE_ERROR
    assert "holds the sweep 's', not 'another'" in capsys.readouterr().err


def test_the_folder_of_another_training_is_refused(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("out") / "base" / "seed_0"
    folder.mkdir(parents=True)
    (folder / "last_checkpoint").touch()
    assert sweep("") == USAGE_ERROR
    assert "holds a training that is no run of a sweep" in capsys.readouterr().err


def test_damaged_files_of_one_run_do_not_hide_the_others(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    text = "VARIANTS: {a: {}, b: {}, c: {}}"
    assert sweep(text) == 0
    trained()
    (Path("out") / "a" / "seed_0" / "run.json").write_text('{"status": "fini')
    (Path("out") / "b" / "seed_0" / "inference" / "results.json").unlink()
    (Path("out") / "c" / "seed_0" / "inference" / "results.json").write_text('{"bbox": {"AP"')
    assert states() == {"a/seed_0": "failed", "b/seed_0": "failed", "c/seed_0": "failed"}
    assert run_command("sweep", ["status", "out"]) == 0
    printed = capsys.readouterr().out
    assert "out/a/seed_0/run.json cannot be read" in printed
    assert "out/b/seed_0/inference/results.json is missing" in printed
    assert "out/c/seed_0/inference/results.json cannot be read" in printed
    assert sweep(text) == USAGE_ERROR  # what the first run was trained from is unknown
    assert "1 run would give other results" in capsys.readouterr().err
    assert sweep(text, "--overwrite") == 0
    assert trained() == ["a/seed_0", "b/seed_0", "c/seed_0"]
    assert set(states().values()) == {"finished"}


def test_fields_of_a_damaged_run_file_of_other_types_do_not_stop_the_others(sweep: Sweep) -> None:
    assert sweep("VARIANTS: {a: {}, b: {}}") == 0
    for content in (
        '{"status": "finished", "config": []}',
        '{"status": "finished", "config": {"SEED": 0}, "data": []}',
    ):
        (Path("out") / "a" / "seed_0" / "run.json").write_text(content)
        assert states() == {"a/seed_0": "failed", "b/seed_0": "finished"}
        assert sweep("VARIANTS: {a: {}, b: {}}") == USAGE_ERROR
    assert sweep("VARIANTS: {a: {}, b: {}}", "--overwrite") == 0


def test_a_damaged_copy_of_the_sweep_is_written_again(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("") == 0
    (Path("out") / "sweep.yaml").write_text("BASE: [")
    assert run_command("sweep", ["status", "out"]) == USAGE_ERROR
    assert "`mrcnn-zoo sweep run` with the original file" in capsys.readouterr().err
    assert sweep("") == 0
    assert run_command("sweep", ["status", "out"]) == 0


def test_a_moved_folder_is_continued_from_its_copy_of_the_sweep(sweep: Sweep, tmp_path: Path) -> None:
    assert sweep("VARIANTS: {a: {}, b: {FROM: a}}", "--only", "a") == 0
    (tmp_path / "new").mkdir()
    Path("out").rename("new/out")
    Path(SCRIPT).rename(Path("new") / SCRIPT)
    trained()
    assert run_command("sweep", ["run", "new/out/sweep.yaml", "--launcher", "support.shell_launcher:build"]) == 0
    assert trained() == ["b/seed_0"]
    assert not Path("out").exists()
    assert "WEIGHTS: new/out/a/seed_0/model_final.pth" in Path("new/out/b/seed_0/run.yaml").read_text()


def test_columns_that_no_run_has_are_named(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("COLUMNS: [bbox/AP, bbox/AP-x, bbox/APP]") == 0
    assert "COLUMNS: no finished run has bbox/APP. Did you mean 'bbox/AP'? They have" in capsys.readouterr().out


def test_without_columns_each_of_several_test_sets_is_shown(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    results = '{\\"bbox\\": {\\"AP\\": 7}, \\"segm\\": {\\"AP\\": null}}'
    Path(SCRIPT).write_text(
        f'for d in v w; do mkdir -p $RUN/$d/inference; echo "{results}" > $RUN/$d/inference/results.json; done'
    )
    assert sweep("") == 0
    assert "base/seed_0: finished, v/bbox/AP 7.0, w/bbox/AP 7.0, after" in capsys.readouterr().out
    assert columns_of(read_sweep_folder("out")) == ("v/bbox/AP", "w/bbox/AP")


def test_tool_takes_the_file_as_config(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("") == 0
    capsys.readouterr()
    assert run_command("sweep", ["--config", "s.yaml", "--dry-run"]) == 0
    assert "1 run: 1 skip" in capsys.readouterr().out


def test_running_rows_come_first_where_the_terminal_is_too_low(sweep: Sweep) -> None:
    assert sweep("VARIANTS: {a: {}, b: {}, c: {}}", "--only", "a") == 0
    folder = Path("out") / "c" / "seed_0"
    lock = FolderLock(folder / "run.lock")
    assert lock.acquire()
    metrics = [{"iteration": 3, "total_loss": 1.5, "eta_seconds": 61}, {"iteration": 4, "bbox/AP": 7.25}]
    (folder / "metrics.json").write_text("".join(f"{json.dumps(line)}\n" for line in metrics) + '{"iteration": 5, "tot')
    *rows, summary = sweep_table(read_sweep_folder("out"), max_rows=2).splitlines()[2:]
    assert [[cell.strip() for cell in row.split("|")[1:7]] for row in rows] == [
        ["c/seed_0", "running", "5", "1.500", "0:01:01", "7.2"],
        ["a/seed_0", "finished", "-", "-", "-", "10.0"],
    ]
    assert summary == "s: 3 runs: 1 finished, 1 running, 1 waiting"
    lock.release()


# --- results ----------------------------------------------------------------------------------------------------------


def test_results_of_several_stages_are_in_the_recorded_order(tmp_path: Path) -> None:
    for name, value in (("first", 1.0), ("last", 2.0)):
        (tmp_path / name).mkdir()
        record = {"name": name, "results": {"bbox": {"AP": value, "AP-x": None}}}
        (tmp_path / name / "stage.json").write_text(json.dumps(record))
    os.utime(tmp_path / "first" / "stage.json")  # as in a copied folder
    (tmp_path / "run.json").write_text(json.dumps({"stages": ["first", "last"]}))
    results = read_results(tmp_path)
    assert result_of(results, "bbox/AP") == 2
    assert result_of(results, "stages/first/bbox/AP") == 1
    assert str(result_of(results, "bbox/AP-x")) == str(result_of(results, "segm/AP")) == "nan"


def test_results_of_several_test_sets_are_by_folder(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "inference").mkdir(parents=True)
        content = {"bbox": {"AP": len(name)}, "confusion": [[1]]}
        (tmp_path / name / "inference" / "results.json").write_text(json.dumps(content))
    assert read_results(tmp_path) == {"one": {"bbox": {"AP": 3}}, "two": {"bbox": {"AP": 3}}}
