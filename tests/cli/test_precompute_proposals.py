"""`precompute-proposals`, and a Fast R-CNN trained on its files."""

import json
import shlex
from pathlib import Path

import pytest
import torch

from mrcnn_zoo.checkpoint import Checkpointer
from mrcnn_zoo.cli.main import run_command
from mrcnn_zoo.config import load_config
from mrcnn_zoo.data.proposals import read_proposal_file, read_proposals
from mrcnn_zoo.modeling import build_model
from support.small_models import DIGITS, FEW_SCENES, TINY_LAYERS

TINY = [*TINY_LAYERS, *FEW_SCENES, "MODEL.MASK_ON=False", "MODEL.RPN.POST_NMS_TOPK_TEST=7", "VIS.NUM_IMAGES=1"]


def save_weights(folder: Path, architecture: str) -> Path:
    """A checkpoint as a run writes it, with fresh weights."""
    cfg = load_config(DIGITS, [*TINY, f"MODEL.META_ARCHITECTURE={architecture}"])
    torch.manual_seed(1)
    state = {"model": build_model(cfg).state_dict(), "config": cfg.dump(), "class_names": list("0123456789")}
    return Checkpointer(folder).save("model_final", state)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_weights(tmp_path_factory.mktemp("run"), "ProposalNetwork")


@pytest.mark.parametrize(("architecture", "suffix"), [("ProposalNetwork", ".pkl"), ("GeneralizedRCNN", ".npz")])
def test_fast_rcnn_trains_and_evaluates_with_the_printed_keys(
    architecture: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    weights = save_weights(tmp_path, architecture)
    arguments = ["--weights", str(weights), "--output-dir", str(tmp_path), "--format", suffix]
    assert run_command("precompute-proposals", arguments) == 0
    proposals = read_proposals(tmp_path / f"digits_train_proposals{suffix}")
    assert len(proposals) == 4
    assert all(len(table.boxes) == 7 for table in proposals.values())
    printed = capsys.readouterr().out
    assert f"digits_val_proposals{suffix}: 14 proposals in 2 images" in printed
    keys = printed.split("and these keys:")[1].split("\n")
    overrides = shlex.split(" ".join(keys[1:4]))
    training = [*TINY, "SOLVER.MAX_ITER=1", "TEST.EVAL_PERIOD=0", f"OUTPUT_DIR={tmp_path / 'fast'}", *overrides]
    assert run_command("train", ["--config-file", DIGITS, *training]) == 0
    results = json.loads((tmp_path / "fast" / "inference" / "results.json").read_text())
    assert "bbox" in results


def test_proposal_network_is_evaluated_by_recall(tmp_path: Path) -> None:
    network = ["MODEL.META_ARCHITECTURE=ProposalNetwork", "SOLVER.MAX_ITER=1", "TEST.EVAL_PERIOD=0"]
    assert run_command("train", ["--config-file", DIGITS, *TINY, *network, f"OUTPUT_DIR={tmp_path}"]) == 0
    evaluated = tmp_path / "evaluated"
    arguments = ["--weights", str(tmp_path / "model_best.pth"), "--output-dir", str(evaluated)]
    assert run_command("evaluate", arguments) == 0
    results = json.loads((evaluated / "inference" / "results.json").read_text())
    assert set(results) == {"box_proposals"}
    assert 0 <= results["box_proposals"]["AR@1000"] <= 100
    assert list((evaluated / "pictures").rglob("*.png"))


@pytest.mark.parametrize("suffix", [".pkl", ".npz"])
def test_generator_without_parameters_needs_no_weights(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    generator = ["MODEL.PROPOSAL_GENERATOR.NAME=SlidingWindow", "MODEL.SLIDING_WINDOW.SIZES=[64]", "DATASETS.TRAIN=()"]
    arguments = ["--config-file", DIGITS, "--output", str(tmp_path), "--format", suffix, *TINY, *generator]
    assert run_command("precompute-proposals", arguments) == 0
    file = read_proposal_file(tmp_path / f"digits_val_proposals{suffix}")
    assert file.origin is not None
    assert (file.origin.dataset, file.origin.num_images, file.origin.generator) == ("digits_val", 2, "SlidingWindow")
    assert file.origin.settings["MODEL.SLIDING_WINDOW.SIZES"] == [64]
    assert file.origin.weights == ""
    # 3 x 3 squares of 64, and 2 x 5 windows of 90 x 45 in both directions, in 128 x 128.
    assert [len(table.boxes) for table in file.proposals.values()] == [29, 29]
    assert run_command("precompute-proposals", [*arguments, "--resume"]) == 0
    assert "58 proposals in 2 images, finished before" in capsys.readouterr().out
    assert run_command("precompute-proposals", [*arguments, "--resume", "MODEL.SLIDING_WINDOW.STRIDE=0.4"]) == 2
    assert "proposals of another computation (other settings)" in capsys.readouterr().err


def test_recall_of_a_generator_without_parameters_is_evaluated_without_a_warning(tmp_path: Path) -> None:
    keys = ["MODEL.META_ARCHITECTURE=ProposalNetwork", "VIS.NUM_IMAGES=0", "VIS.PLOTS=False", f"OUTPUT_DIR={tmp_path}"]
    arguments = ["--config-file", DIGITS, "--eval-only", *TINY, *keys]
    assert run_command("train", [*arguments, "MODEL.PROPOSAL_GENERATOR.NAME=SlidingWindow"]) == 0
    assert "random weights" not in read_log(tmp_path)
    assert run_command("train", arguments) == 0
    assert "evaluating random weights" in read_log(tmp_path)


def read_log(folder: Path) -> str:
    """The log of a run."""
    return (folder / "log.txt").read_text()


def test_datasets_whose_files_would_have_one_name_are_refused(capsys: pytest.CaptureFixture) -> None:
    names = "DATASETS.TRAIN=['a/b', 'a_b']"
    generator = "MODEL.PROPOSAL_GENERATOR.NAME=SlidingWindow"
    assert run_command("precompute-proposals", ["--config-file", DIGITS, *TINY, generator, names]) == 2
    assert "proposals in the same file" in read_error(capsys)


@pytest.mark.parametrize(
    ("name", "message"), [("RPN", "no weights to load"), ("PrecomputedProposals", "has no proposals of its own")]
)
def test_generator_without_weights_or_without_proposals_is_refused(
    name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["--config-file", DIGITS, "--output", str(tmp_path), *TINY, f"MODEL.PROPOSAL_GENERATOR.NAME={name}"]
    assert run_command("precompute-proposals", arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_file_of_another_dataset_is_refused_before_training(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["--config-file", DIGITS, "--output", str(tmp_path), *TINY]
    assert run_command("precompute-proposals", [*arguments, "MODEL.PROPOSAL_GENERATOR.NAME=SlidingWindow"]) == 0
    capsys.readouterr()
    keys = [
        *("MODEL.LOAD_PROPOSALS=True", "MODEL.PROPOSAL_GENERATOR.NAME=PrecomputedProposals"),
        f"DATASETS.PROPOSAL_FILES_TEST={tmp_path / 'digits_val_proposals.npz'}",
    ]
    train = ["--config-file", DIGITS, "--output", str(tmp_path / "run"), *TINY, *keys]
    assert run_command("train", [*train, f"DATASETS.PROPOSAL_FILES_TRAIN={tmp_path}/digits_val_proposals.npz"]) == 2
    assert "proposals of the dataset 'digits_val' (2 images, SlidingWindow), not of 'digits_train'" in read_error(
        capsys
    )
    keys = [f"DATASETS.PROPOSAL_FILES_TRAIN={tmp_path}/digits_train_proposals.npz", "DATASETS.SCENES.MAX_OVERLAP=0.3"]
    assert run_command("train", [*train, *keys]) == 2
    assert "was written for other images of 'digits_train': image 1 " in read_error(capsys)


def read_error(capsys: pytest.CaptureFixture) -> str:
    """The message without the line breaks of a terminal."""
    return " ".join(capsys.readouterr().err.split())


def test_message_names_the_share_of_the_images(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["--weights", str(weights), "--output-dir", str(tmp_path), "TEST.NUM_IMAGES=1", "DATASETS.TRAIN=()"]
    assert run_command("precompute-proposals", arguments) == 0
    assert "7 proposals in 1 image of 2 (TEST.NUM_IMAGES is 1)" in capsys.readouterr().out


def test_missing_datasets_and_invalid_output_are_one_message(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["--weights", str(weights), "--output-dir", str(tmp_path)]
    assert run_command("precompute-proposals", [*arguments, "DATASETS.TRAIN=()", "DATASETS.TEST=()"]) == 2
    assert "name the datasets" in capsys.readouterr().err
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert run_command("precompute-proposals", [*arguments[:2], "--output-dir", str(blocked), "DATASETS.TRAIN=()"]) == 2
    assert f"--output {blocked} is a file; name a folder" in capsys.readouterr().err
