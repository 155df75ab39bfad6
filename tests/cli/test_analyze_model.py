"""`analyze-model`: what it prints and writes."""

import json
from pathlib import Path

import pytest
from PIL import Image

from mrcnn_zoo.cli.main import run_command
from support.small_models import TINY_YAML

CONFIG = ["--config-file", str(TINY_YAML), "--repeats", "1"]


def test_tables_findings_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    Image.new("RGB", (90, 60)).save(tmp_path / "grey.png")
    arguments = [*CONFIG, "--depth", "1", "--image", str(tmp_path / "grey.png"), "--output", str(output)]
    assert run_command("analyze-model", arguments) == 0
    printed = capsys.readouterr().out
    assert "input: 64 x 43 pixels" in printed  # INPUT.MAX_SIZE_TEST 64
    assert "weights: initial" in printed
    content = json.loads((output / "model_analysis.json").read_text())
    model = content["modules"][0]
    assert f"GeneralizedRCNN: {model['parameters']:,} parameters" in printed
    # All regions that the config allows: RPN.POST_NMS_TOPK_TEST 30 and TEST.DETECTIONS_PER_IMAGE 100 of 3 * 30.
    (head,) = (row for row in content["modules"] if row["name"] == "roi_heads.box_head")
    assert head["shape"] == "30 x 64"
    assert len((output / "model_analysis.csv").read_text().splitlines()) > len(content["modules"])
    assert Image.open(output / "weights.png").width > 400
    assert run_command("analyze-model", arguments) == 2
    assert "model_analysis.json" in capsys.readouterr().err
