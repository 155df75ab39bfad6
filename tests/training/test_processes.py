"""Runs in processes of their own: killed, terminated, crashed, and several that train together."""

import json
import re
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess, Popen

import pytest
import torch

from mrcnn_zoo.checkpoint import load_checkpoint
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.training import replay_batch, run
from support.train_net import finish, run_train_net, start_train_net

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")

TrainNet = Callable[..., CompletedProcess]
TinyConfig = Callable[..., CfgNode]

# Every anchor and every region is sampled, so that nothing is left to chance.
ALL_SAMPLED = (
    "MODEL.RESNETS.NORM=FrozenBN",
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE=100000",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE=100000",
    "SOLVER.IMS_PER_BATCH=4",
)
# The FPN still computes p5, with weights that no loss depends on.
UNUSED_LEVEL = (
    "MODEL.RPN.IN_FEATURES=['p2', 'p3', 'p4']",
    "MODEL.ROI_HEADS.IN_FEATURES=['p2', 'p3', 'p4']",
    "MODEL.ANCHOR_GENERATOR.SIZES=[[16], [24], [32]]",
)


def logged(folder: Path, key: str) -> dict[int, float]:
    lines = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    return {line["iteration"]: line[key] for line in lines if key in line}


def lines(folder: Path) -> list[dict[str, float]]:
    """Of metrics.json, without what measures time and memory."""
    measured = {"time", "data_time", "images_per_second", "eta_seconds", "memory_mb"}
    parsed = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    return [{name: value for name, value in line.items() if name not in measured} for line in parsed]


def test_killed_run_goes_on_as_if_nothing_had_happened(
    train_net: TrainNet, tiny_config: TinyConfig, tmp_path: Path
) -> None:
    settings = ("SOLVER.EMA.ENABLED=True", "DATASETS.TEST=[]", "LOG_PERIOD=4")  # with a checkpoint between two lines
    killed = train_net("HOOKS=['foreign_hooks:kill_after_7']", "OUTPUT_DIR=killed", *settings)
    assert killed.returncode == -9, killed.stderr
    assert (tmp_path / "killed" / "last_checkpoint").read_text() == "model_0000005.pth"
    run(tiny_config(*settings, f"OUTPUT_DIR={tmp_path / 'killed'}"), resume=True)
    run(tiny_config(*settings, f"OUTPUT_DIR={tmp_path / 'whole'}"))

    resumed, whole = (load_checkpoint(tmp_path / name / "model_final.pth") for name in ("killed", "whole"))
    assert whole["iteration"] == 10
    for part in ("model", "optimizer", "ema", "sampler"):
        torch.testing.assert_close(resumed[part], whole[part], rtol=0, atol=0)
    lines_of_whole = lines(tmp_path / "whole")
    assert [line["iteration"] for line in lines_of_whole] == [3, 7, 9]
    assert {"total_loss", "loss_mask", "rpn/num_pos_anchors", "lr"} <= lines_of_whole[0].keys()
    assert lines(tmp_path / "killed") == lines_of_whole


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of two processes that nothing interrupted."""
    folder = tmp_path_factory.mktemp("two")
    done = run_train_net(folder, "--num-gpus", "2", "OUTPUT_DIR=out", "DATASETS.TEST=[]")
    assert done.returncode == 0, done.stderr
    return folder / "out" / "model_final.pth"


def assert_same_training(first: Path, second: Path) -> None:
    """Of two checkpoints, bit for bit."""
    one, other = load_checkpoint(first), load_checkpoint(second)
    for part in ("model", "optimizer", "sampler"):
        torch.testing.assert_close(one[part], other[part], rtol=0, atol=0)


@pytest.mark.slow  # five processes in turn
@pytest.mark.parametrize("prefix", [(sys.executable,), (*TORCHRUN, "--max-restarts", "1")], ids=["agent", "torchrun"])
def test_restart_after_sigkill_of_one_process_ends_bit_equal(
    prefix: tuple[str, ...], train_net: TrainNet, two_processes: Path, tmp_path: Path
) -> None:
    options = () if prefix[-1] == "1" else ("--num-gpus", "2", "--max-restarts", "1")
    hook = "HOOKS=['foreign_hooks:kill_second_once_after_7']"
    done = train_net(*options, hook, "OUTPUT_DIR=out", "DATASETS.TEST=[]", prefix=prefix)
    assert done.returncode == 0, done.stderr
    assert "resuming from out/model_0000005.pth" in done.stdout
    assert_same_training(tmp_path / "out" / "model_final.pth", two_processes)


@pytest.mark.slow  # two processes
def test_sigterm_of_a_group_saves_in_time(train_net: TrainNet, tmp_path: Path) -> None:
    hook = "HOOKS=['foreign_hooks:terminate_group_after_4']"
    done = train_net("--num-gpus", "2", "--max-restarts", "1", hook, "OUTPUT_DIR=out")
    assert done.returncode == 143, done.stderr
    assert "--resume" in done.stderr
    assert "Traceback" not in done.stderr
    assert load_checkpoint(tmp_path / "out" / "model_0000003.pth")["iteration"] == 4


def start_machines(folder: Path, *arguments: str) -> list[Popen[str]]:
    """Two agents with a process each, which meet on the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    common = ("--num-machines", "2", "--dist-url", f"tcp://127.0.0.1:{port}", "OUTPUT_DIR=out", "DATASETS.TEST=[]")
    return [start_train_net(folder, "--machine-rank", str(rank), *common, *arguments) for rank in range(2)]


@pytest.mark.slow  # two agents and their processes
def test_two_machines_train_as_one(two_processes: Path, tmp_path: Path) -> None:
    for done in map(finish, start_machines(tmp_path)):
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    assert_same_training(tmp_path / "out" / "model_final.pth", two_processes)


@pytest.mark.slow  # two agents and their processes
@pytest.mark.parametrize("victim", [0, 1])
def test_end_of_one_machine_ends_the_run(victim: int, tmp_path: Path) -> None:
    hook = f"HOOKS=['foreign_hooks:kill_launcher_{victim}_after_4']"
    machines = [finish(machine) for machine in start_machines(tmp_path, hook, "SOLVER.MAX_ITER=2000")]
    assert machines[victim].returncode == -signal.SIGKILL
    assert machines[1 - victim].returncode in (1, 130, 143), machines[1 - victim].stderr


@pytest.mark.slow  # two processes
def test_non_finite_loss_is_one_message_and_is_not_restarted(train_net: TrainNet) -> None:
    hook = "HOOKS=['foreign_hooks:poison_weights']"
    done = train_net("--num-gpus", "2", "--max-restarts", "3", hook, "OUTPUT_DIR=out")
    assert done.returncode == 1
    assert done.stderr.count("loss is not finite in iteration 3") == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "resuming" not in done.stdout


def test_sigterm_saves_and_says_how_to_go_on(train_net: TrainNet, tmp_path: Path) -> None:
    done = train_net("HOOKS=['foreign_hooks:terminate_group_after_4']", "OUTPUT_DIR=out", "DATALOADER.NUM_WORKERS=1")
    assert done.returncode == 143, done.stderr
    assert "--resume" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out" / "last_checkpoint").read_text() == "model_0000003.pth"
    assert load_checkpoint(tmp_path / "out" / "model_0000003.pth")["iteration"] == 4


@pytest.mark.slow  # whole runs; test_one_global_batch.py compares the gradients of more models
def test_two_processes_give_the_gradients_of_one_and_stop_together(
    train_net: TrainNet, tiny_config: TinyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (*ALL_SAMPLED, *UNUSED_LEVEL, "TEST.EVAL_PERIOD=2", "TEST.BATCH_SIZE=1", "SOLVER.WARMUP_ITERS=0")
    hooks = "HOOKS=['foreign_hooks:save_gradients', 'foreign_hooks:interrupt_second_after_2']"
    done = train_net("--num-gpus", "2", "OUTPUT_DIR=two", hooks, *settings)
    assert done.returncode == 130, done.stderr
    assert (tmp_path / "two" / "last_checkpoint").read_text() == "model_0000001.pth"
    monkeypatch.syspath_prepend(Path(__file__).parent)
    one = f"OUTPUT_DIR={tmp_path / 'one'}"
    run(tiny_config(*settings, "SOLVER.MAX_ITER=2", "SOLVER.STEPS=[]", "HOOKS=['foreign_hooks:save_gradients']", one))

    # After the first update weights differ by rounding: a unit close to zero may be on in one run and off in the other.
    for iteration, tolerance in enumerate((1e-5, 5e-3)):
        alone, together = (torch.load(tmp_path / name / f"gradients_{iteration}.pt") for name in ("one", "two"))
        assert alone.keys() == together.keys()
        assert "backbone.fpn_output4.weight" in alone
        assert "backbone.fpn_output5.weight" not in alone
        for name, gradient in alone.items():
            difference = (together[name] - gradient).norm() / gradient.norm()
            assert difference < tolerance, name
    for key in ("total_loss", "val/total_loss"):
        assert logged(tmp_path / "two", key) == pytest.approx(logged(tmp_path / "one", key), rel=1e-4)


@pytest.mark.slow  # torchrun
def test_non_finite_loss_stops_all_processes_of_torchrun(train_net: TrainNet, tmp_path: Path) -> None:
    done = train_net("HOOKS=['foreign_hooks:poison_weights']", "OUTPUT_DIR=out", prefix=TORCHRUN)
    assert done.returncode != 0
    messages = re.findall(
        r"loss is not finite in iteration 3.\n  process 1: loss_mask = nan; images: (.*)", done.stderr
    )
    assert len(messages) == 2, done.stderr
    saved = list((tmp_path / "out" / "nonfinite").iterdir())
    assert [path.name for path in saved] == ["iter_0000003_rank_1.pt"]
    again = replay_batch(saved[0], trust=["foreign_hooks"])[0].losses
    assert again["loss_mask"].isnan()
    assert again["loss_rpn_cls"].isfinite()
    assert "loss is not finite" in (tmp_path / "out" / "log.txt").read_text()


@pytest.mark.slow
def test_mistake_of_the_user_is_one_message(train_net: TrainNet, tmp_path: Path) -> None:
    done = train_net("MODEL.ROI_HEADS.NUM_CLASSES=5", "OUTPUT_DIR=out")
    assert done.returncode == 2
    assert done.stderr.startswith("error: MODEL.ROI_HEADS.NUM_CLASSES = 5, but dataset 'shapes_train' has 3 classes")
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out").glob("*.pth"))
