"""torchvision's entries of the zoo, whose config is derived from the weights; here random ones under their address."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mrcnn_zoo import model_zoo
from mrcnn_zoo.cli.main import USAGE_ERROR, run_command
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation import load_trained
from mrcnn_zoo.interop import coco_classes
from mrcnn_zoo.model_zoo import index
from mrcnn_zoo.model_zoo.download import cached_path

NAME = "torchvision/fasterrcnn_resnet50_fpn"
ADDRESS = f"zoo://{NAME}"
SMALL_IMAGES = [
    "MODEL.DEVICE=cpu",
    "INPUT.MIN_SIZE_TEST=64",
    "DATALOADER.NUM_WORKERS=0",
    "VIS.NUM_IMAGES=0",
    "VIS.PLOTS=False",
]
SMALL_IMAGES += ["MODEL.RPN.POST_NMS_TOPK_TEST=50", "VIS.REPORT=False"]
PERSON, UNUSED = 1, 12  # rows of torchvision's class scores, which begin with the background


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with random weights as the downloaded ones of NAME."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MRCNN_ZOO_CACHE", str(folder))
        place = cached_path(model_zoo.get_checkpoint_url(NAME))
    place.parent.mkdir(parents=True)
    torch.save(random_weights(), place)
    return folder


@pytest.fixture(autouse=True)
def _offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and the checksum of the random weights in the index."""
    monkeypatch.setenv("MRCNN_ZOO_CACHE", str(cache))
    monkeypatch.setenv("MRCNN_ZOO_OFFLINE", "1")
    models = index.read_index()
    digest = hashlib.sha256(cached_path(models[NAME].weights or "").read_bytes()).hexdigest()
    models[NAME] = replace(models[NAME], sha256=digest)
    monkeypatch.setattr(index, "read_index", lambda: models)


def random_weights() -> dict[str, Tensor]:
    """Of torchvision's model, which finds a person and an unused class everywhere.

    All of them look at one small pool of numbers, so that the file is small too.
    """
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    with torch.device("meta"):
        shapes = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    pool = torch.randn(1_000_000, generator=torch.Generator().manual_seed(1)) * 0.01
    weights = {}
    for name, meta in shapes.items():
        if ".bn" in name or "downsample.1" in name:
            weights[name] = torch.full(meta.shape, float(name.endswith(("weight", "running_var"))))
        else:
            strides = [1 if side == meta.dim() - 1 else 37 + 2 * side for side in range(meta.dim())]
            weights[name] = pool.as_strided(meta.shape, strides)
    weights["roi_heads.box_predictor.cls_score.bias"] = torch.zeros(91)
    weights["roi_heads.box_predictor.cls_score.bias"][[PERSON, UNUSED]] = 8.0
    return weights


def test_model_is_built_with_its_weights() -> None:
    model = model_zoo.get(NAME, trained=True)
    assert not model.training
    scores = model.state_dict()["roi_heads.box_predictor.cls_score.bias"]
    assert scores.nonzero().flatten().tolist() == [PERSON - 1, UNUSED - 1]


def test_config_is_derived_from_the_weights_and_names_them() -> None:
    cfg = model_zoo.get_config(NAME, trained=True)
    assert cfg.is_frozen()
    assert cfg.MODEL.WEIGHTS == ADDRESS
    assert (cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.RESNETS.DEPTH, cfg.INPUT.FORMAT) == (90, 50, "RGB")
    assert list(cfg.DATASETS.TEST) == ["coco_2017_val"]


def test_address_needs_no_config_and_takes_overrides() -> None:
    overrides = ["DATASETS.TEST=['mine']", "TEST.DETECTIONS_PER_IMAGE", 7]
    _, cfg, class_names = load_trained(ADDRESS, overrides=overrides)
    assert class_names == coco_classes.COCO_CLASSES_BY_ID
    assert (list(cfg.DATASETS.TEST), cfg.TEST.DETECTIONS_PER_IMAGE) == (["mine"], 7)


@pytest.mark.parametrize("ask", [model_zoo.get_config, model_zoo.get])
def test_untrained_model_is_refused(ask) -> None:
    with pytest.raises(
        UserError, match=rf"config of {NAME} is derived from its weights.*trained=True, or name {ADDRESS}"
    ):
        ask(NAME)


def test_info_shows_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("zoo", ["info", NAME]) == 0
    printed = capsys.readouterr().out
    assert "derived from the weights" in printed
    assert f"mrcnn-zoo predict --weights {ADDRESS} IMAGE" in printed
    assert f"mrcnn-zoo evaluate --weights {ADDRESS}\n" in printed


def test_reproduce_is_refused_with_the_publisher(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("zoo", ["reproduce", NAME]) == USAGE_ERROR
    assert "cannot be trained here: the training recipe belongs to torchvision. The weights" in capsys.readouterr().err


def test_evaluation_is_on_coco_with_its_80_classes(
    shared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "coco").symlink_to(shared_dir / "data" / "coco_mini")
    monkeypatch.setenv("MRCNN_ZOO_DATASETS", str(tmp_path))
    caplog.set_level("INFO")
    output = tmp_path / "out"
    arguments = ["--weights", ADDRESS, "--output-dir", str(output), "TEST.NUM_IMAGES=2", *SMALL_IMAGES]
    assert run_command("evaluate", arguments) == 0
    assert "mapped to the 80 of the dataset by name; detections of others (N/A) do not count" in caplog.text
    results = json.loads((output / "inference" / "results.json").read_text())
    assert {"AP", "AP-person", "AP-toothbrush"} <= set(results["bbox"])
    rows = json.loads((output / "inference" / "coco_instances_results.json").read_text())
    assert {row["category_id"] for row in rows} == {PERSON}


def test_prediction_has_class_names(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (80, 60)).save(tmp_path / "grey.png")
    arguments = [str(tmp_path / "grey.png"), "--weights", ADDRESS, "--output", str(tmp_path / "out")]
    sets = [part for setting in SMALL_IMAGES for part in ("--set", setting)]
    assert run_command("predict", [*arguments, "--threshold", "0.1", *sets]) == 0
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {row["category_name"] for row in content["annotations"]} == {"person", "N/A"}
