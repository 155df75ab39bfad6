"""Configs and models by name, and the index that they are listed in."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mrcnn_zoo import model_zoo
from mrcnn_zoo.checkpoint import Checkpointer
from mrcnn_zoo.config import find_config, load_config, locations, packaged_names
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling import build_model

QUICKSTART = "Quickstart/mask_rcnn_R_18_FPN_digits"
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
    monkeypatch.setattr(locations, "CHECKOUT", package.parent)
    monkeypatch.setattr(locations, "PACKAGE_FOLDER", package)
    monkeypatch.setattr(locations, "INSTALLED_CONFIGS", package / "_configs")
    torch.manual_seed(1)
    weights = Checkpointer(tmp_path).save("small", {"model": build_model(load_config("Lab/small")).state_dict()})
    write_index(package, weights=str(weights), sha256=hashlib.sha256(weights.read_bytes()).hexdigest())
    return package


def write_index(package: Path, *, weights: str | None, sha256: str | None) -> None:
    entry = {"weights": weights, "sha256": sha256, "results": {}, "reproduce": "mrcnn-zoo train", "notes": ""}
    (package / "_model_zoo").mkdir(exist_ok=True)
    (package / "_model_zoo" / "index.json").write_text(json.dumps({"models": {"Lab/small": entry}}))


def test_every_config_has_an_entry_and_every_entry_a_config() -> None:
    configs = {name.removesuffix(".yaml") for name in packaged_names() if not Path(name).name.startswith("Base-")}
    assert configs
    assert model_zoo.list() == sorted(configs)


def test_entries_are_complete_and_say_how_to_reproduce_them() -> None:
    index = json.loads((locations.CHECKOUT / "model_zoo" / "index.json").read_text())
    for name, entry in index["models"].items():
        assert set(entry) == {"weights", "sha256", "results", "reproduce", "notes"}
        assert f"--config-file {name}" in entry["reproduce"]
        tasks = {"bbox/AP", "segm/AP"} if model_zoo.get_config(name).MODEL.MASK_ON else {"bbox/AP"}
        assert tasks <= set(entry["results"])


@pytest.mark.parametrize("name", [QUICKSTART, f"{QUICKSTART}.yaml"])
def test_a_config_by_name_is_the_frozen_one(name: str) -> None:
    cfg = model_zoo.get_config(name)
    assert cfg.is_frozen()
    assert cfg.dump() == load_config(QUICKSTART).dump()


@pytest.mark.parametrize("name", ["Quickstart/mask_rcnn_R_18_FPN_digit", "mask_rcnn_R_18_FPN_digits.yaml"])
def test_an_unknown_name_gets_the_nearest_one(name: str) -> None:
    for ask in (model_zoo.get_config, model_zoo.get_checkpoint_url, model_zoo.get):
        with pytest.raises(UserError, match=f"Did you mean '{QUICKSTART}'"):
            ask(name)


def test_a_base_config_is_no_model() -> None:
    with pytest.raises(UserError, match="the model zoo has no 'Base-RCNN-FPN'"):
        model_zoo.get_config("Base-RCNN-FPN")


def test_a_model_without_published_weights_says_how_to_train_it(installed: Path) -> None:
    write_index(installed, weights=None, sha256=None)
    for ask in (model_zoo.get_checkpoint_url, lambda name: model_zoo.get(name, trained=True)):
        with pytest.raises(UserError, match=r"Lab/small has no published weights yet\. Train it: mrcnn-zoo train"):
            ask("Lab/small")


@pytest.mark.usefixtures("installed")
def test_a_trained_model_has_the_published_weights() -> None:
    assert model_zoo.list() == ["Lab/small"]
    published = torch.load(model_zoo.get_checkpoint_url("Lab/small"), weights_only=True)["model"]
    trained, fresh = model_zoo.get("Lab/small", trained=True), model_zoo.get("Lab/small")
    key = "backbone.fpn_output2.weight"
    assert not trained.training
    assert torch.equal(trained.state_dict()[key], published[key])
    assert not torch.equal(fresh.state_dict()[key], published[key])


def test_another_file_than_the_published_one_is_refused(installed: Path) -> None:
    write_index(installed, weights=model_zoo.get_checkpoint_url("Lab/small"), sha256="0" * 64)
    with pytest.raises(UserError, match=r"its SHA-256 is [0-9a-f]{64}, not 0{64}"):
        model_zoo.get("Lab/small", trained=True)


def test_an_installation_without_index_is_named_as_incomplete(installed: Path) -> None:
    (installed / "_model_zoo" / "index.json").unlink()
    with pytest.raises(UserError, match=r"index\.json is missing: the package is not installed completely"):
        model_zoo.list()


def test_names_are_had_without_torch() -> None:
    code = "import sys; from mrcnn_zoo import model_zoo; model_zoo.list(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=locations.CHECKOUT, check=True)
