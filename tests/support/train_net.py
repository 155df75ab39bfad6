"""Runs tools/train_net.py on the tiny Mask R-CNN in separate processes."""

import os
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess, Popen

import torch

from support.small_models import TINY_YAML

REPOSITORY = Path(__file__).resolve().parents[2]
HOOKS = REPOSITORY / "tests" / "training"  # has hooks and schedules that configs name
TIME_LIMIT = 300  # seconds


def start_train_net(folder: Path, *arguments: str, prefix: tuple[str, ...] = (sys.executable,)) -> Popen[str]:
    """Start the script with the tiny config.

    Args:
        folder: working directory.
        arguments: options and overrides.
        prefix: command that runs the script.
    """
    script = [str(REPOSITORY / "tools" / "train_net.py"), "--config-file", str(TINY_YAML)]
    return Popen(
        [*prefix, *script, *arguments],
        cwd=folder,
        # The same number of threads as here: other summation orders change the last bits.
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(HOOKS)]),
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # signals to its process group must not reach the tests
    )


def run_train_net(folder: Path, *arguments: str, prefix: tuple[str, ...] = (sys.executable,)) -> CompletedProcess[str]:
    """Run the script; see `start_train_net`."""
    return finish(start_train_net(folder, *arguments, prefix=prefix))


def finish(process: Popen[str]) -> CompletedProcess[str]:
    """Wait for the process and collect its output.

    Raises:
        subprocess.TimeoutExpired: after TIME_LIMIT; the process is killed.
    """
    try:
        stdout, stderr = process.communicate(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return CompletedProcess(process.args, process.returncode, stdout, stderr)
