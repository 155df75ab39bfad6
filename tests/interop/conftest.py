"""Builds converted detectors as a user does: the config is written, loaded and built, then filled."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import nn

from mrcnn_zoo.config import load_config
from mrcnn_zoo.interop import Conversion
from mrcnn_zoo.modeling import build_model


@pytest.fixture
def build_converted(tmp_path: Path) -> Callable[[Conversion], nn.Module]:
    """Builds the model of a conversion from a written config and fills it; no weight may be missing or left."""

    def build(conversion: Conversion) -> nn.Module:
        path = tmp_path / "converted.yaml"
        path.write_text(yaml.safe_dump(nested(conversion.settings | {"MODEL.DEVICE": "cpu"})))
        model = build_model(load_config(path)).eval()
        counters = {name for name in model.state_dict() if name.endswith("num_batches_tracked")}
        missing, unexpected = model.load_state_dict(conversion.weights, strict=False)
        assert set(missing) <= counters
        assert all(name.endswith("num_batches_tracked") for name in unexpected)
        return model

    return build


def nested(settings: dict[str, Any]) -> dict[str, Any]:
    """{"A.B": 1} -> {"A": {"B": 1}}."""
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree
