"""Parameter and buffer names and shapes of whole models are those of Detectron2's."""

from pathlib import Path

import pytest
import torch

from mrcnn_zoo.config import load_config, packaged_names
from mrcnn_zoo.registries import DETECTORS

# Our own, and those of Detectron2's projects, whose names tests/modeling/test_detectron2_parity.py compares.
WITHOUT_RECORDS = ("Quickstart", "Nuclei", "MaskScoring", "PointRend")


def has_a_record(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    return bool(folder) and folder.split("/")[0] not in WITHOUT_RECORDS and not file.startswith("Base-")


CONFIGS = [name.removesuffix(".yaml") for name in packaged_names() if has_a_record(name)]


def test_all_recorded_models_are_compared(shared_dir: Path) -> None:
    recorded = {path.stem for path in (shared_dir / "reference" / "detectron2" / "state_dict_keys").glob("*.txt")}
    assert recorded == {name.replace("/", "__") for name in CONFIGS}
    assert len(recorded) == 51


@pytest.mark.parametrize("name", CONFIGS)
def test_names_and_shapes_are_detectron2s(name: str, shared_dir: Path) -> None:
    cfg = load_config(name)
    with torch.device("meta"):
        model = DETECTORS.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    ours = {key: "x".join(map(str, value.shape)) for key, value in model.state_dict().items()}
    file = f"{name.replace('/', '__')}.txt"
    lines = (shared_dir / "reference" / "detectron2" / "state_dict_keys" / file).read_text().splitlines()
    assert ours == dict(line.split(" ") for line in lines)
