"""Configs and models by name, and the index that they are listed in."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mrcnn_zoo import model_zoo
from mrcnn_zoo.checkpoint import Checkpointer, load_weights
from mrcnn_zoo.config import files, find_config, load_config, packaged_names
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation import load_trained
from mrcnn_zoo.model_zoo.download import local_path
from mrcnn_zoo.model_zoo.index import ZooEntry, read_index
from mrcnn_zoo.model_zoo.weights import check_entry, path_of
from mrcnn_zoo.modeling import build_model
from support.references import REFERENCES

QUICKSTART = "Quickstart/mask_rcnn_R_18_FPN_digits"
ENTRIES = list(read_index().values())
SMALL = """\
_BASE_: {base}
MODEL:
  RESNETS: {{STEM_OUT_CHANNELS: 8, RES2_OUT_CHANNELS: 8}}
  FPN: {{OUT_CHANNELS: 8}}
  ROI_BOX_HEAD: {{FC_DIM: 8}}
  ROI_MASK_HEAD: {{CONV_DIM: 8}}
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package whose only model is `Lab/small`; its published weights are a file beside."""
    package = tmp_path / "site-packages" / "mrcnn_zoo"
    config = package / "_configs" / "Lab" / "small.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(SMALL.format(base=find_config(QUICKSTART)))
    monkeypatch.setattr(files, "CHECKOUT", package.parent)
    monkeypatch.setattr(files, "PACKAGE_FOLDER", package)
    monkeypatch.setattr(files, "INSTALLED_CONFIGS", package / "_configs")
    torch.manual_seed(1)
    checkpoint = {"model": build_model(load_config("Lab/small")).state_dict()}
    weights = Checkpointer(package / "_model_zoo" / "weights").save("small", checkpoint)
    write_index(package, weights="weights/small.pth", sha256=hashlib.sha256(weights.read_bytes()).hexdigest())
    return package


def write_index(package: Path, *, weights: str | None, sha256: str = "", md5: str = "", **fields: Any) -> None:
    entry = {
        "source": "mrcnn_zoo",
        "config": "Lab/small",
        "weights": weights,
        "sha256": sha256,
        "md5": md5,
        "reproduce": "mrcnn-zoo train",
    }
    (package / "_model_zoo").mkdir(exist_ok=True)
    index = {"models": {"Lab/small": entry | fields}}
    (package / "_model_zoo" / "index.json").write_text(json.dumps(index))


# --- the index --------------------------------------------------------------------------------------------------------


def test_every_config_has_an_entry_and_every_entry_s_config_exists() -> None:
    configs = {name.removesuffix(".yaml") for name in packaged_names() if not Path(name).name.startswith("Base-")}
    assert configs
    assert configs - set(model_zoo.list()) == set()
    assert {entry.config for entry in ENTRIES if entry.config} <= configs


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_entries_have_all_fields(entry: ZooEntry) -> None:
    assert entry.source in ("mrcnn_zoo", "Detectron2", "torchvision")
    assert [bool(entry.config), entry.config_from_weights, bool(entry.reason)].count(True) == 1
    assert bool(entry.config) == bool(entry.reproduce)
    if entry.config:
        assert f"--config-file {entry.config}" in (entry.reproduce or "")
    if entry.weights:
        assert entry.licence
        assert entry.results
        assert entry.md5 or entry.sha256
        assert entry.is_shipped or entry.weights.startswith("https://")


def test_published_weights_of_detectron2_are_listed() -> None:
    published = json.loads((REFERENCES / "detectron2" / "model_zoo.json").read_text())
    assert len(published) == 64
    found = {
        entry.name: (entry.weights, entry.md5) for entry in ENTRIES if entry.source == "Detectron2" and entry.weights
    }
    of_projects = {name: found.pop(name) for name in list(found) if name.startswith("PointRend/")}
    assert all(f"model_final_{md5}.pkl" in url for url, md5 in of_projects.values())
    assert found == {name: (model["url"], model["md5_prefix"]) for name, model in published.items()}
    assert all(model_zoo.info(name).licence == "CC BY-SA 3.0" for name in published)


# Read by eye off the recorded rows, by the headings of Detectron2's tables, and off torchvision's pull request 937:
# box, mask, keypoint AP, proposal AR, PQ; s/iteration, s/image, GB.
PUBLISHED = {
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x": ((38.6, 35.2, None, None, None), (0.261, 0.043, 3.4)),
    "COCO-Detection/faster_rcnn_R_50_FPN_3x": ((40.2, None, None, None, None), (0.209, 0.038, 3.0)),
    "COCO-Detection/rpn_R_50_FPN_1x": ((None, None, None, 58.0, None), (0.186, 0.032, 2.7)),
    "COCO-Detection/fast_rcnn_R_50_FPN_1x": ((37.8, None, None, None, None), (0.140, 0.029, 2.6)),
    "COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x": ((55.4, None, 65.5, None, None), (0.316, 0.066, 5.0)),
    "COCO-PanopticSegmentation/panoptic_fpn_R_101_3x": ((42.4, 38.5, None, None, 43.0), (0.392, 0.066, 6.0)),
    "Misc/cascade_mask_rcnn_R_50_FPN_3x": ((44.3, 38.5, None, None, None), (0.328, 0.053, 4.0)),
    "Misc/cascade_mask_rcnn_X_152_32x8d_FPN_IN5k_gn_dconv": ((50.2, 44.0, None, None, None), (None, 0.234, 15.1)),
    "Misc/panoptic_fpn_R_101_dconv_cascade_gn_3x": ((47.4, 41.3, None, None, 46.1), (None, 0.098, 11.4)),
    "Cityscapes/mask_rcnn_R_50_FPN": ((None, 36.5, None, None, None), (0.240, 0.078, 4.4)),
    "PascalVOC-Detection/faster_rcnn_R_50_C4": ((51.9, None, None, None, None), (0.537, 0.081, 4.8)),
    "new_baselines/mask_rcnn_R_50_FPN_400ep_LSJ": ((47.4, 42.5, None, None, None), (0.376, 0.069, None)),
    "Detectron1-Comparisons/keypoint_rcnn_R_50_FPN_1x": ((53.1, None, 64.2, None, None), (0.313, 0.071, 5.0)),
    "torchvision/maskrcnn_resnet50_fpn": ((37.9, 34.6, None, None, None), (0.2728, 0.0903, 5.4)),
}
RESULTS = ("bbox/AP", "segm/AP", "keypoints/AP", "box_proposals/AR@1000", "panoptic_seg/PQ")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_results_are_in_their_columns(name: str) -> None:
    entry, (results, speed) = model_zoo.info(name), PUBLISHED[name]
    assert tuple(entry.results.get(key) for key in RESULTS) == results
    assert (entry.seconds_per_iteration, entry.seconds_per_image, entry.memory_gb) == speed


def test_torchvision_s_weights_are_those_of_torchvision() -> None:
    from torchvision.models import get_model_weights

    entries = [entry for entry in ENTRIES if entry.source == "torchvision"]
    assert len(entries) == 7
    for entry in entries:
        weights = get_model_weights(entry.name.partition("/")[2]).COCO_V1
        metrics = weights.meta["_metrics"]["COCO-val2017"]
        assert entry.weights == weights.url
        assert entry.weights.endswith(f"-{entry.sha256}.pth")
        assert sorted(entry.results.values()) == sorted(metrics.values())
        assert entry.results["bbox/AP"] == metrics["box_map"]


def test_page_is_written_from_the_index() -> None:
    command = [sys.executable, "dev/model_zoo.py", "check"]
    outcome = subprocess.run(command, cwd=files.CHECKOUT, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_shipped_files_are_small_and_match_their_checksums() -> None:
    for entry in ENTRIES:
        if entry.is_shipped:
            assert check_entry(entry).is_correct
            assert path_of(entry).stat().st_size < 8_000_000
            assert path_of(entry).suffix == ".safetensors"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("MASK_rcnn_R_18_FPN_DIGITS", [QUICKSTART]),
        ("COCO-Detection/*c4_1x", ["COCO-Detection/faster_rcnn_R_50_C4_1x", "COCO-Detection/rpn_R_50_C4_1x"]),
        ("c4_1", None),
        ("no such model", []),
    ],
)
def test_names_are_found_by_a_part_or_a_pattern(pattern: str, expected: list[str] | None) -> None:
    if expected is None:
        assert len(model_zoo.list(pattern)) == 3
    else:
        assert model_zoo.list(pattern) == expected


# --- by name ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [QUICKSTART, f"{QUICKSTART}.yaml"])
def test_get_config_returns_a_frozen_config(name: str) -> None:
    cfg = model_zoo.get_config(name)
    assert cfg.is_frozen()
    assert cfg.dump() == load_config(QUICKSTART).dump()


@pytest.mark.parametrize(
    "name", ["Quickstart/mask_rcnn_R_18_FPN_digit", "mask_rcnn_R_18_FPN_digits.yaml", "quickstart"]
)
def test_unknown_name_gets_the_nearest_one(name: str) -> None:
    for function in (model_zoo.info, model_zoo.get_config, model_zoo.get_checkpoint_url, model_zoo.get):
        with pytest.raises(UserError, match=f"Did you mean '{QUICKSTART}'"):
            function(name)


def test_base_config_is_no_model() -> None:
    with pytest.raises(UserError, match="the model zoo has no 'Base-RCNN-FPN'"):
        model_zoo.get_config("Base-RCNN-FPN")


def test_missing_weights_are_refused_with_the_training_command(installed: Path) -> None:
    write_index(installed, weights=None)
    for function in (model_zoo.get_checkpoint_url, lambda name: model_zoo.get(name, trained=True)):
        with pytest.raises(UserError, match=r"Lab/small has no published weights yet\. Train it: mrcnn-zoo train"):
            function("Lab/small")


def test_missing_config_is_refused_with_the_reason(installed: Path) -> None:
    write_index(installed, weights="https://x/y.pkl", config=None, reason="panoptic")
    for function in (model_zoo.get_config, model_zoo.get, lambda name: model_zoo.get(name, trained=True)):
        with pytest.raises(UserError, match="weights of Lab/small, but no config that builds it: panoptic"):
            function("Lab/small")


def test_overrides_of_an_entry_are_part_of_its_config(installed: Path) -> None:
    write_index(installed, weights=None, overrides=["MODEL.ROI_HEADS.NUM_CLASSES", 3, "SOLVER.STEPS", [5, 7]])
    cfg = model_zoo.get_config("Lab/small")
    assert (cfg.MODEL.ROI_HEADS.NUM_CLASSES, list(cfg.SOLVER.STEPS)) == (3, [5, 7])


@pytest.mark.usefixtures("installed")
def test_trained_model_has_the_shipped_weights() -> None:
    assert model_zoo.list() == ["Lab/small"]
    published = torch.load(model_zoo.get_checkpoint_url("Lab/small"), weights_only=True)["model"]
    trained, fresh = model_zoo.get("Lab/small", trained=True), model_zoo.get("Lab/small")
    key = "backbone.fpn_output2.weight"
    assert not trained.training
    assert torch.equal(trained.state_dict()[key], published[key])
    assert not torch.equal(fresh.state_dict()[key], published[key])


@pytest.mark.usefixtures("installed")
def test_zoo_address_is_accepted_as_weights() -> None:
    cfg = model_zoo.get_config("Lab/small", trained=True)
    assert cfg.MODEL.WEIGHTS == "zoo://Lab/small"
    report = load_weights(build_model(cfg), cfg.MODEL.WEIGHTS)
    assert report.loaded
    assert not report.missing
    model, cfg, _ = load_trained("zoo://Lab/small", overrides=["TEST.DETECTIONS_PER_IMAGE", 7])
    assert not model.training
    assert (cfg.MODEL.FPN.OUT_CHANNELS, cfg.TEST.DETECTIONS_PER_IMAGE) == (8, 7)
    with pytest.raises(UserError, match=r"has no 'zoo://Lab/smal'\. Did you mean 'Lab/small'"):
        local_path("zoo://Lab/smal")


def test_downloaded_weights_are_cached(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = Path(model_zoo.get_checkpoint_url("Lab/small"))
    md5 = hashlib.md5(weights.read_bytes()).hexdigest()
    monkeypatch.setenv("MRCNN_ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MRCNN_ZOO_OFFLINE", "1")
    write_index(installed, weights="https://lab/models/small.pth", md5=md5[:6])
    with pytest.raises(UserError, match=r"https://lab/models/small\.pth is not in the cache"):
        model_zoo.get("Lab/small", trained=True)
    place = tmp_path / "cache/lab/models/small.pth"
    place.parent.mkdir(parents=True)
    place.write_bytes(weights.read_bytes())
    assert not model_zoo.get("Lab/small", trained=True).training
    place.write_bytes(b"damaged")
    with pytest.raises(UserError, match=rf"its md5 is [0-9a-f]{{32}} but should begin with {md5[:6]}\. Delete it"):
        model_zoo.get("Lab/small", trained=True)


def test_another_file_than_the_shipped_one_is_refused_and_kept(installed: Path) -> None:
    weights = Path(model_zoo.get_checkpoint_url("Lab/small"))
    write_index(installed, weights="weights/small.pth", sha256="0" * 64)
    with pytest.raises(UserError, match=r"its sha256 is [0-9a-f]{64} but should be 0{64}\. Install the package again"):
        model_zoo.get("Lab/small", trained=True)
    assert weights.is_file()
    weights.unlink()
    with pytest.raises(UserError, match=r"weights/small\.pth, but are not: install the package again"):
        model_zoo.get("Lab/small", trained=True)


def test_installation_without_index_is_named_as_incomplete(installed: Path) -> None:
    (installed / "_model_zoo" / "index.json").unlink()
    with pytest.raises(UserError, match=r"index\.json is missing: the package is not installed completely"):
        model_zoo.list()


def test_listing_names_does_not_import_torch() -> None:
    code = "import sys; from mrcnn_zoo import model_zoo; model_zoo.list(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=files.CHECKOUT, check=True)  # raises nothing
