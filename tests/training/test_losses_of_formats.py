"""Training on nuclei in each annotation format gives the losses of training on the original files."""

from pathlib import Path

import pytest

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.data import Dataset
from mrcnn_zoo.registries import ANNOTATION_FORMATS
from support.nuclei_formats import EXACT, SMALL, in_format, largest_difference, losses_of, nuclei

CONFIG = "Nuclei/mask_rcnn_R_18_FPN_small.yaml"
STEPS = 2


@pytest.fixture(scope="module")
def cfg() -> CfgNode:
    return load_config(CONFIG, [*SMALL, "INPUT.CROP.SIZE", [64, 64], "SOLVER.IMS_PER_BATCH", 1])


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return nuclei(tmp_path_factory.mktemp("nuclei"), 3)


@pytest.fixture(scope="module")
def losses(original: Dataset, cfg: CfgNode) -> list[dict[str, float]]:
    return losses_of(original, cfg, STEPS)


@pytest.mark.parametrize("name", ANNOTATION_FORMATS.names())
def test_losses_are_those_of_the_original_files(
    original: Dataset, losses: list[dict[str, float]], cfg: CfgNode, tmp_path: Path, name: str
) -> None:
    written = in_format(name, original, tmp_path / "data")
    assert [record.image_id for record in written.records] == [record.image_id for record in original.records]
    difference = largest_difference(losses_of(written, cfg, STEPS), losses)
    assert difference < (1e-6 if name in EXACT else 0.02)


def test_losses_of_other_masks_differ(original: Dataset, losses: list[dict[str, float]], cfg: CfgNode) -> None:
    records = original.records
    swapped = [records[1], records[0], *records[2:]]
    changed = Dataset("swapped", tuple(swapped), original.class_names, original.category_ids)
    assert largest_difference(losses_of(changed, cfg, STEPS), losses) > 1e-3
