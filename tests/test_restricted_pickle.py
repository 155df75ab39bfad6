"""Checkpoints of MMEngine's trainer, with objects of classes that are not installed."""

import sys
import types
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import torch

from mrcnn_zoo.checkpoint import read_weights
from mrcnn_zoo.errors import UserError


class HistoryBuffer:
    """Like the class of MMEngine: arrays and functions."""

    def __init__(self) -> None:
        self.history = np.arange(3.0)
        self.functions = {"mean": HistoryBuffer.mean}

    def mean(self) -> float:
        return float(self.history.mean())


def save_with(module_name: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType(module_name)
    module.HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    monkeypatch.setattr(HistoryBuffer, "__module__", module_name)
    with monkeypatch.context() as patch:
        for parent in accumulate(module_name.split("."), "{}.{}".format):
            patch.setitem(sys.modules, parent, module)
        content = {"message_hub": {"loss": HistoryBuffer(), "b": HistoryBuffer()}, "meta": {"cfg": "a = 1"}}
        torch.save({**content, "state_dict": {"x.weight": torch.ones(2)}}, path)


def test_mmengine_objects_become_placeholders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "epoch_12.pth"
    save_with("mmengine.logging.history_buffer", path, monkeypatch)
    file = read_weights(path)
    assert file.weights["x.weight"].tolist() == [1, 1]
    assert file.meta["meta"] == {"cfg": "a = 1"}


def test_other_objects_raise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "epoch_12.pth"
    save_with("somewhere.else", path, monkeypatch)
    with pytest.raises(UserError, match=r"reading it would run somewhere\.else\.HistoryBuffer"):
        read_weights(path)
