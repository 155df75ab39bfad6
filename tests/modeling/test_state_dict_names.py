"""Parameter and buffer names and shapes of whole models are those of Detectron2's."""

import pytest

from mrcnn_zoo.config import load_config, packaged_names
from mrcnn_zoo.registries import DETECTORS
from mrcnn_zoo.training.stages import build_stages
from support.references import detectron2_shapes, on_meta_device, shapes_of

OWN_FOLDERS = (
    "Alternating",
    "Nuclei",
    "Pretraining",
    "Proposals",
    "Quickstart",
    "RealTime",
    "Recipes",
    "Stages",
    "Suppression",
)
# Of Detectron2's projects tests/modeling/test_detectron2_parity.py compares the names.
WITHOUT_RECORDS = (*OWN_FOLDERS, "MaskScoring", "PointRend")


def has_a_record(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    return bool(folder) and folder.split("/")[0] not in WITHOUT_RECORDS and not file.startswith("Base-")


CONFIGS = [name.removesuffix(".yaml") for name in packaged_names() if has_a_record(name)]


OWN_CONFIGS = [name.removesuffix(".yaml") for name in packaged_names() if name.startswith(OWN_FOLDERS)]


def test_all_recorded_models_are_compared() -> None:
    assert detectron2_shapes().keys() == set(CONFIGS)
    assert len(detectron2_shapes()) == 51


@pytest.mark.parametrize("name", CONFIGS)
def test_names_and_shapes_are_detectron2s(name: str) -> None:
    cfg = load_config(name)
    with on_meta_device():
        model = DETECTORS.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    assert shapes_of(model) == detectron2_shapes()[name]


@pytest.mark.parametrize("name", OWN_CONFIGS)
def test_model_of_each_stage_of_our_configs_has_weights(name: str) -> None:
    for stage in build_stages(load_config(name)):
        with on_meta_device():
            model = DETECTORS.get(stage.cfg.MODEL.META_ARCHITECTURE)(stage.cfg)
        assert shapes_of(model), stage.name
