"""`mrcnn-zoo export`: what it refuses before the work."""

from pathlib import Path

import pytest

from mrcnn_zoo.checkpoint import read_weights
from mrcnn_zoo.cli.export import default_size
from mrcnn_zoo.cli.main import USAGE_ERROR, run_command
from mrcnn_zoo.config import load_config
from mrcnn_zoo.errors import UserError
from support.small_models import save_tiny_checkpoint


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("weights"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the file to write is missing: --output model.onnx"),
        (["--output", "x.pth"], "--output x.pth must end in .onnx or .pt2"),
        (["--output", "x.pt2", "--to", "onnx"], "--output x.pt2 must end in .onnx"),
        (["--output", "x.pt2", "INPUT.MIN_SIZE_TEST=0"], "Give the largest one with --size H W"),
        (["--output", "x.pt2", "TEST.AUG.ENABLED=True"], "an exported model predicts one view"),
        (["--output", "x.pt2", "MODEL.OPTIMIZE=fused"], "the plain float32 model is exported. Set MODEL.OPTIMIZE none"),
        (
            ["--output", "x.pt2", "MODEL.ROI_HEADS.SUPPRESSION=soft_linear"],
            "SoftSuppression (MODEL.ROI_HEADS.SUPPRESSION)",
        ),
    ],
)
def test_refusals(
    arguments: list[str],
    message: str,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command("export", ["--weights", str(weights), *arguments]) == USAGE_ERROR
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_programs_are_no_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"")
    assert run_command("export", ["--weights", str(path), "--output", str(tmp_path / "x.pt2")]) == USAGE_ERROR
    assert "is exported already" in capsys.readouterr().err
    with pytest.raises(UserError, match="is an exported program"):
        read_weights(path)


@pytest.mark.parametrize(
    ("settings", "size"),
    [((800, 1333), (800, 1333)), ((800, 800), (800, 800)), ((300, 1333), (300, 500)), ((900, 600), (600, 600))],
)
def test_default_size_is_landscape(settings: tuple[int, int], size: tuple[int, int]) -> None:
    cfg = load_config(None, ["INPUT.MIN_SIZE_TEST", settings[0], "INPUT.MAX_SIZE_TEST", settings[1]])
    assert default_size(cfg) == size
