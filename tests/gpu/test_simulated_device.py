"""Runs on_simulated_device.py in a new process: a device has to be registered before the first backward pass."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import backend_registration

HERE = Path(__file__).parent


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason=f"needs torch 2.10 or later, which supports backends written in Python; this is {torch.__version__}",
)
@pytest.mark.parametrize("tests", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_tests_pass_on_simulated_device(tests: str) -> None:
    paths = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    path = str(HERE / "on_simulated_device.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", path, "-m", tests, "-p", "no:cacheprovider"],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
