"""Checks and measurements on a machine with a GPU, started by dev/gpu_checks.sh and described in dev/BENCHMARKS.md.

Each part runs in a separate process with a time limit; a failed part does not stop the others. Without a GPU all parts
run on the CPU at tiny sizes, which tests this script.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gpu_report import FAILED, PASSED, TIMED_OUT, PartResult, last_lines, machine, write_report

REPOSITORY = Path(__file__).resolve().parents[1]
QUICKSTART = REPOSITORY / "configs" / "Quickstart" / "mask_rcnn_R_18_FPN_digits.yaml"
AGREEMENT_LINE = "agreement: "  # prefix of lines of tests/gpu, "agreement: <model> | <what> | <value> | <limit>"
PRECISIONS = {  # of the digits quickstart
    "float32": ("SOLVER.AMP.ENABLED", "False"),
    "bfloat16": ("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "bfloat16"),
    "float16": ("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "float16"),
}
SLACK_ON_CPU = 4  # factor of the time limits
FULL_TRAINING = ("SOLVER.MAX_ITER", "300")
TINY_TRAINING = (
    *("SOLVER.MAX_ITER", "8", "SOLVER.WARMUP_ITERS", "2", "LOG_PERIOD", "2"),
    *("DATASETS.SCENES.NUM_TRAIN", "16", "DATASETS.SCENES.NUM_VAL", "4"),
)


@dataclass(frozen=True)
class Part:
    """A check or measurement, and its time limit in seconds."""

    run: Callable[[PartResult, bool], None]  # (result, on_gpu)
    limit: float


def check_agreement(result: PartResult, on_gpu: bool) -> None:
    """Run the tests marked `gpu`; without a GPU those that can compare the CPU with itself."""
    files = [path for path in (REPOSITORY / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text("utf-8")]
    if not on_gpu:
        files = [REPOSITORY / "tests" / "gpu"]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-s", "-p", "no:cacheprovider", *map(str, files)]
    environment = {**os.environ, "MRCNN_ZOO_CHECK_DEVICE": "cuda" if on_gpu else "cpu"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith(AGREEMENT_LINE):
            model, what, value, limit = line.removeprefix(AGREEMENT_LINE).split(" | ")
            result.add(f"{model}: {what}", float(value), float(limit))
    output = done.stdout + done.stderr
    summary = next((line for line in reversed(done.stdout.splitlines()) if " in " in line), "no summary")
    result.add("tests", summary.strip("= "))
    if done.returncode:
        result.fail(last_lines(output, 60))


def train_digits(result: PartResult, on_gpu: bool) -> None:
    """Train the quickstart in each precision, concurrently; losses must decrease, AP is reported."""
    # In the folder of the results, which is removed even if this process is killed.
    with tempfile.TemporaryDirectory(dir=Path(result.path).parent if result.path else None) as folder:
        running = {}
        for precision, keys in PRECISIONS.items():
            if precision == "float16" and not on_gpu:
                result.add("float16", "needs a GPU")
                continue
            running[precision] = _start_training(Path(folder) / precision, keys, on_gpu)
        for precision, process in running.items():
            output, _ = process.communicate()
            if process.returncode:
                result.fail(f"{precision}:\n{last_lines(output, 60)}")
                continue
            with result.attempt(precision):
                _add_training(result, precision, Path(folder) / precision / "metrics.json")


def measure_training_speed(result: PartResult, on_gpu: bool) -> None:
    """Training speed of R50-FPN with batches of 16."""
    import gpu_speed

    size = gpu_speed.FULL if on_gpu else gpu_speed.TINY
    gpu_speed.measure_training(result, device="cuda" if on_gpu else "cpu", size=size)


def measure_inference_speed(result: PartResult, on_gpu: bool) -> None:
    """Inference speed of R50-FPN with single images and batches."""
    import gpu_speed

    size = gpu_speed.FULL if on_gpu else gpu_speed.TINY
    gpu_speed.measure_inference(result, device="cuda" if on_gpu else "cpu", size=size)


PARTS = {
    "CPU and GPU agree": Part(check_agreement, limit=100),
    "digits quickstart": Part(train_digits, limit=80),
    "training against torchvision": Part(measure_training_speed, limit=90),
    "inference against torchvision": Part(measure_inference_speed, limit=80),
}


def main() -> int:
    """Run the parts, print and write the report; returns 1 if a part failed."""
    arguments = _arguments()
    if arguments.part:
        return _run_here(arguments.part, arguments.result)
    info = machine()
    slack = 1 if info["on_gpu"] else SLACK_ON_CPU
    with tempfile.TemporaryDirectory() as folder:
        results = [
            run_part(name, part.limit * slack, Path(folder) / f"{number}.json")
            for number, (name, part) in enumerate(PARTS.items())
            if not arguments.only or any(word.lower() in name.lower() for word in arguments.only)
        ]
    print("\n" + write_report(arguments.output, results, info))
    print(f"written: {arguments.output / 'gpu_checks.json'}, {arguments.output / 'gpu_checks.md'}")
    return int(any(result.status != PASSED for result in results))


def run_part(name: str, limit: float, path: Path) -> PartResult:
    """Run one part in a new process; returns its result, which is partial if it failed or timed out."""
    command = [sys.executable, str(Path(__file__).resolve()), "--part", name, "--result", str(path)]
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    print(f"--- {name}, at most {limit:.0f} s", flush=True)
    started = time.monotonic()
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    status = ""
    try:
        _, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        status = TIMED_OUT
        os.killpg(process.pid, signal.SIGKILL)  # with its child processes
        _, errors = process.communicate()
    result = PartResult.read(name, path)
    result.seconds = time.monotonic() - started
    if status:
        result.status = status
        result.failures.append(f"stopped after {limit:.0f} s; the table has the results until then")
    elif process.returncode and result.status == PASSED:
        result.status = FAILED
        result.failures.append(last_lines(errors) or f"exit status {process.returncode}")
    return result


def _run_here(name: str, path: str) -> int:
    import torch

    result = PartResult(name, path)
    result.save()
    with result.attempt(name):
        PARTS[name].run(result, torch.cuda.is_available())
    return int(result.status != PASSED)


def _start_training(folder: Path, keys: tuple[str, ...], on_gpu: bool) -> subprocess.Popen[str]:
    length = FULL_TRAINING if on_gpu else TINY_TRAINING
    quiet = ("VIS.NUM_IMAGES", "0", "VIS.NUM_BATCHES", "0", "TEST.EVAL_PERIOD", "0", "SOLVER.CHECKPOINT_PERIOD", "0")
    command = [sys.executable, "-m", "mrcnn_zoo.cli.main", "train", "--config-file", str(QUICKSTART)]
    command += ["OUTPUT_DIR", str(folder), *length, *quiet, *keys]
    environment = {"OMP_NUM_THREADS": "4", **os.environ}  # the trainings share the CPU
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _add_training(result: PartResult, precision: str, path: Path) -> None:
    """Add the first and last logged losses of metrics.json and the AP."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if "total_loss" in line]
    for name in ("total_loss", *(name for name in steps[-1] if name.startswith("loss_"))):
        first, last = steps[0][name], steps[-1][name]
        result.add(f"{precision}: {name}, first and last logged", f"{first:.4g}, {last:.4g}")
    memory = max(float(line["memory_mb"]) for line in steps)
    result.add(f"{precision}: peak memory in MiB", memory)
    for line in lines:
        result_of_run = {name: value for name, value in line.items() if name in ("bbox/AP", "segm/AP")}
        for name, value in result_of_run.items():
            result.add(f"{precision}: {name}", "none" if value is None else float(value))
    if not steps[-1]["total_loss"] < steps[0]["total_loss"]:
        result.fail(f"{precision}: the total loss did not decrease")
    if not any("bbox/AP" in line for line in lines):
        result.fail(f"{precision}: {path.name} has no evaluation results")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("OUT") or "output/gpu_checks")
    parser.add_argument("output", nargs="?", type=Path, default=default, help="folder (default: $OUT, or %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="parts whose name contains one of these words")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)  # for the process of a part
    parser.add_argument("--result", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
