"""`visualize-data --show`: what it prints, writes and refuses."""

from pathlib import Path

import pytest
from PIL import Image

from mrcnn_zoo.cli.main import run_command
from support.small_models import TINY_YAML

CONFIG = ["--config-file", str(TINY_YAML)]


def test_each_kind_is_a_picture_with_its_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = ["anchors", "labels", "rois", "mask-targets"]
    arguments = [*CONFIG, "--show", ",".join([*kinds, "sizes"]), "--num", "1", "--output", str(tmp_path)]
    assert run_command("visualize-data", arguments) == 0
    output = capsys.readouterr()
    names = [f"{kind}.png" for kind in kinds]
    assert sorted(path.name.split("_")[-1] for path in tmp_path.rglob("*.png")) == sorted([*names, "sizes.png"])
    printed = [line for line in output.out.splitlines() if line.endswith(".png")]
    assert all(Path(line).is_file() for line in printed)
    assert len(printed) == 5
    assert "p2: stride 4, size 16, height / width 1" in output.out
    assert "objects nearest in size" in output.out
    assert (
        "rois and mask-targets: without --weights the proposals are those of a RPN with initial weights" in output.err
    )
    again = [*CONFIG, "--show", "anchors", "--num", "1", "--output", str(tmp_path)]
    assert run_command("visualize-data", again) == 0  # replaces its own pictures


def test_augmented_images_of_a_batch_are_drawn_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        *CONFIG,
        "--show",
        "anchors,objects",
        "--source",
        "dataloader",
        "--num",
        "1",
        "--output",
        str(tmp_path),
    ]
    assert run_command("visualize-data", [*arguments, "--pixel", "20", "30"]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.split()]
    assert [path.name.startswith("train_batch_0") for path in paths] == [True] * 3  # the batch and its two images
    assert Image.open(paths[1]).width >= 400


def test_scores_of_a_trained_model_are_a_table_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--show", "scores", "--num", "2", "--output", str(tmp_path), "DATASETS.SCENES.NUM_TRAIN=2"]
    weights = "zoo://Quickstart/mask_rcnn_R_18_FPN_digits"
    assert run_command("visualize-data", ["--weights", weights, *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "scores on digits_train:"
    assert [line.split("|")[1].strip() for line in lines[3:-1]] == ["anchors", "anchors p2", "anchors p3", "regions"]
    assert lines[-1] == str(tmp_path / "scores.png")
    assert Image.open(lines[-1]).width > 800


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--show", "labels", "MODEL.PROPOSAL_GENERATOR.NAME=PrecomputedProposals"], "has no anchors"),
        (["--show", "rois", "MODEL.META_ARCHITECTURE=ProposalNetwork"], "has no region heads that sample regions"),
        (["--show", "anchors", "--pixel", "300", "3"], "--pixel 300 3 is outside the resized image"),
        (["--show", "labels", "DATASETS.TRAIN=()"], "names no dataset to draw"),
        (["--show", "labels", "MODEL.ROI_HEADS.NUM_CLASSES=7"], "Set MODEL.ROI_HEADS.NUM_CLASSES to 3"),
    ],
)
def test_refusals_name_the_cause(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("visualize-data", [*CONFIG, "--num", "1", "--output", str(tmp_path), *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*CONFIG, "--show", "lables"], "not 'lables'. Did you mean 'labels'"),
        ([*CONFIG, "--weights", "x.pth"], "annotations need no model"),
        ([*CONFIG, "--show", "scores"], "the scores are those of a trained model, give --weights FILE"),
    ],
)
def test_wrong_options_are_usage_errors(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_command("visualize-data", arguments)
    assert message in " ".join(capsys.readouterr().err.split())
