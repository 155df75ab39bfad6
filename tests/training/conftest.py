"""Trainers of the tiny model and runs of a small Mask R-CNN, in temporary folders."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.training.trainer import Trainer
from support.small_models import TINY_YAML
from support.tiny_trainer import Recorder
from support.tiny_trainer import make_trainer as make_tiny_trainer
from support.train_net import run_train_net


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """`support.tiny_trainer.make_trainer` with checkpoints in a temporary folder."""
    return partial(make_tiny_trainer, folder=tmp_path)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def tiny_config(tmp_path: Path) -> Callable[..., CfgNode]:
    """The config of a small real Mask R-CNN on generated shapes, with overrides; OUTPUT_DIR is a temporary folder."""

    def load(*overrides: Any) -> CfgNode:
        return load_config(TINY_YAML, ["OUTPUT_DIR", str(tmp_path / "output"), *overrides])

    return load


@pytest.fixture
def train_net(tmp_path: Path) -> Callable[..., CompletedProcess]:
    """Runs tools/train_net.py on the tiny config in a process of its own, in a temporary folder."""
    return partial(run_train_net, tmp_path)
