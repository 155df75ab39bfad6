"""`mrcnn-zoo convert-checkpoint`: written files, notes and refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mrcnn_zoo.benchmark.inputs import calibrate_random_weights
from mrcnn_zoo.cli.main import main
from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.evaluation import load_trained
from mrcnn_zoo.inference.trained import open_trained
from mrcnn_zoo.interop.detectron2 import save_detector
from mrcnn_zoo.interop.torchvision.export import to_torchvision
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.structures import Sample
from support.small_models import TINY_RESNET_18

CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x"
SMALL = [
    *TINY_RESNET_18,
    *("MODEL.RESNETS.STRIDE_IN_1X1", False, "MODEL.ROI_HEADS.NUM_CLASSES", 3),
    *("INPUT.MIN_SIZE_TEST", 96, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
]
NAMES = ("cat", "dog", "cow")
IDS = (7, 3, 40)


@pytest.fixture(scope="module")
def cfg() -> CfgNode:
    return load_config(CONFIG, SMALL)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "squares.png"
    pixels = np.random.default_rng(0).integers(0, 255, (6, 7, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def ours(cfg: CfgNode, image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of ours with calibrated random weights."""
    torch.manual_seed(0)
    model = build_model(cfg)
    pixels = torch.from_numpy(np.array(Image.open(image))).permute(2, 0, 1).flip(0)
    calibrate_random_weights(model, [Sample(pixels, 0, (96, 112))])
    path = tmp_path_factory.mktemp("ours") / "model_final.pth"
    save_detector(path, model.state_dict(), config=cfg.dump(), class_names=NAMES, category_ids=IDS)
    return path


def convert(*arguments: object) -> int:
    return main(["convert-checkpoint", *map(str, arguments)])


def test_safetensors_file_needs_no_config(ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    target = tmp_path / "model.safetensors"
    assert convert(ours, target, "--half") == 0
    assert "unused in" in capsys.readouterr().out
    model, cfg, trained = open_trained(target, overrides=["MODEL.DEVICE", "cpu"])
    assert (trained.class_names, trained.category_ids) == (NAMES, IDS)
    assert cfg.MODEL.RESNETS.STEM_OUT_CHANNELS == 8
    assert next(model.parameters()).dtype == torch.float32
    assert target.stat().st_size < 0.6 * ours.stat().st_size


def test_written_yaml_names_the_weights_and_no_device(ours: Path, tmp_path: Path) -> None:
    assert convert(ours, tmp_path / "model.safetensors") == 0
    written = load_config(tmp_path / "model.yaml")
    assert str(written.MODEL.WEIGHTS) == str(tmp_path / "model.safetensors")
    assert written.MODEL.DEVICE == "auto"
    assert written.MODEL.FPN.OUT_CHANNELS == 8
    assert (tmp_path / "model.yaml").read_text().startswith(f"# Converted from {ours}.\n")


def test_torchvision_file_needs_no_config(cfg: CfgNode, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.manual_seed(0)
    torch.save(to_torchvision(build_model(cfg).state_dict()), tmp_path / "theirs.pth")
    assert convert(tmp_path / "theirs.pth", tmp_path / "ours.safetensors") == 0
    printed = capsys.readouterr().out
    assert "recognised as torchvision detector" in printed
    assert "unused in" in printed
    _, converted, _ = load_trained(tmp_path / "ours.safetensors", overrides=["MODEL.DEVICE", "cpu"])
    assert converted.MODEL.ANCHOR_GENERATOR.NAME == "TorchvisionAnchorGenerator"
    assert (converted.INPUT.FORMAT, converted.MODEL.ROI_BOX_HEAD.POOLER_TYPE) == ("RGB", "ROIAlign")


def test_verify_shows_what_half_precision_changes(
    ours: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert convert(ours, tmp_path / "same.pth", "--verify", image) == 0
    assert "largest difference: boxes 0.0e+00 px, scores 0.0e+00, masks 0.0e+00" in capsys.readouterr().out
    assert convert(ours, tmp_path / "half.safetensors", "--half", "--verify", image) == 0
    printed = capsys.readouterr().out
    assert "largest difference" in printed
    assert "scores 0.0e+00" not in printed


def test_settings_that_differ_in_torchvision_are_noted(
    ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert convert(ours, tmp_path / "theirs.pth", "--to", "torchvision") == 0
    printed = capsys.readouterr().out
    assert (
        "note: torchvision's model has MODEL.ROI_BOX_HEAD.POOLER_TYPE = ROIAlign where this one has ROIAlignV2"
        in printed
    )
    assert "PIXEL_STD" not in printed  # the first convolution is adapted to it


def test_settings_that_detectron2_lacks_are_noted(ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert convert(ours, tmp_path / "d2.pth", "--to", "detectron2", "MODEL.ROI_HEADS.MIN_SIZE_TEST=2") == 0
    assert "note: Detectron2 has no MODEL.ROI_HEADS.MIN_SIZE_TEST = 2.0" in capsys.readouterr().out
    content = torch.load(tmp_path / "d2.pth", weights_only=True)
    assert content["class_names"] == list(NAMES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{ours}", "{tmp}/x.onnx"], "should end in .pth or .safetensors for ours"),
        (["{ours}", "{tmp}/x.safetensors", "--to", "detectron2"], "should end in .pth for detectron2"),
        (["{ours}", "{tmp}/x.pth", "--verify", "{tmp}/no.png"], "no.png does not exist"),
        (["{tmp}/none.pth", "{tmp}/x.pth"], "none.pth does not exist"),
        (["{ours}", "{tmp}/x.pth", "MODEL.FPN.OUT_CHANNELS=16"], "parameters of the model untrained"),
    ],
)
def test_mistakes_are_reported_without_a_traceback(
    arguments: list[str], message: str, ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert convert(*(part.format(ours=ours, tmp=tmp_path) for part in arguments)) == 2
    assert message in capsys.readouterr().err


def test_stride_in_1x1_is_refused_for_torchvision(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    deep = load_config(CONFIG, [*SMALL, "MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.STRIDE_IN_1X1", True])
    save_detector(tmp_path / "deep.pth", build_model(deep).state_dict(), config=deep.dump(), class_names=())
    assert convert(tmp_path / "deep.pth", tmp_path / "theirs.pth", "--to", "torchvision") == 2
    assert "STRIDE_IN_1X1" in capsys.readouterr().err
    assert not (tmp_path / "theirs.pth").exists()


def test_verify_reports_a_source_that_it_cannot_build(
    cfg: CfgNode, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "theirs.pth")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    arguments = ("--config-file", tmp_path / "config.yaml", "--verify", image)
    assert convert(tmp_path / "theirs.pth", tmp_path / "ours.pth", *arguments) == 0
    assert "taken for a file of Detectron2, which is not installed" in capsys.readouterr().out
