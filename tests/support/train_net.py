"""Runs of tools/train_net.py on the tiny Mask R-CNN, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess, Popen

import torch

from support.small_models import TINY_YAML

REPOSITORY = Path(__file__).resolve().parents[2]
HOOKS = REPOSITORY / "tests" / "training"  # where new processes find the hooks and schedules that configs name
TIME_LIMIT = 300  # seconds


def start_train_net(folder: Path, *arguments: str, prefix: tuple[str, ...] = (sys.executable,)) -> Popen[str]:
    """Start it on the tiny config.

    Args:
        folder: to start it in.
        arguments: options and overrides.
        prefix: what starts the script.
    """
    script = [str(REPOSITORY / "tools" / "train_net.py"), "--config-file", str(TINY_YAML)]
    return Popen(
        [*prefix, *script, *arguments],
        cwd=folder,
        # As many threads as here: sums in another order differ in their last bits.
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(HOOKS)]),
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # signals for its group must not reach the tests
    )


def run_train_net(folder: Path, *arguments: str, prefix: tuple[str, ...] = (sys.executable,)) -> CompletedProcess[str]:
    """Run it to its end; see `start_train_net`."""
    return finish(start_train_net(folder, *arguments, prefix=prefix))


def finish(process: Popen[str]) -> CompletedProcess[str]:
    """Wait for its end.

    Raises:
        subprocess.TimeoutExpired: after TIME_LIMIT; it is killed then.
    """
    try:
        stdout, stderr = process.communicate(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return CompletedProcess(process.args, process.returncode, stdout, stderr)
