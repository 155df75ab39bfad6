"""`compare-proposals`: sources on the command line, tables and files, refusals."""

import csv
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mrcnn_zoo.checkpoint import Checkpointer
from mrcnn_zoo.cli.compare_proposals import SourceArgument, build_parser, read_sources
from mrcnn_zoo.cli.main import USAGE_ERROR, run_command
from mrcnn_zoo.cli.parser import read_arguments
from mrcnn_zoo.config import load_config
from mrcnn_zoo.data.proposals import StoredProposals, write_proposals
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling import build_model
from support.small_models import DIGITS, FEW_SCENES, TINY_LAYERS

TINY = [*TINY_LAYERS, *FEW_SCENES, "MODEL.RPN.POST_NMS_TOPK_TEST=30", "TEST.BATCH_SIZE=1"]
BASE = ["--config-file", DIGITS, "--dataset", "digits_val"]
Row = dict[str, str]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a training with fresh weights, and the proposals of its model in `proposals/`."""
    cfg = load_config(DIGITS, [*TINY, "MODEL.META_ARCHITECTURE=ProposalNetwork"])
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("run")
    Checkpointer(folder).save("model_final", {"model": build_model(cfg).state_dict(), "config": cfg.dump()})
    output = ["--output", str(folder / "proposals"), "DATASETS.TRAIN=[]"]
    for suffix in (".pkl", ".npz"):
        assert run_command("precompute-proposals", ["--weights", str(folder), "--format", suffix, *output]) == 0
    return folder


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """Runs the command with sources that must be refused in one message, and returns the message."""

    def check(*sources: object, options: tuple[str, ...] = ("--dataset", "digits_val")) -> str:
        words = ["--proposals", *map(str, sources), *options, "--output", str(tmp_path / "out"), *FEW_SCENES]
        assert run_command("compare-proposals", words) == USAGE_ERROR
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    return check


def compare(folder: Path, *words: str) -> dict[str, Row]:
    """Rows of the CSV by source."""
    assert run_command("compare-proposals", [*BASE, "--output", str(folder), "--proposals", *words]) == 0
    with (folder / "proposals.csv").open() as file:
        return {row["proposals"]: row for row in csv.DictReader(file)}


def test_generators_weights_and_files_are_compared_on_the_same_images(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run_folder / "proposals" / "digits_val_proposals"
    windows = "windows=SlidingWindow MODEL.SLIDING_WINDOW.SIZES=[24] MODEL.SLIDING_WINDOW.ASPECT_RATIOS [1.0]"
    names = ["GroundTruthProposals", windows, f"rpn={run_folder}", f"pkl={file}.pkl", f"npz={file}.npz"]
    rows = compare(tmp_path, *names, *TINY)
    assert list(rows) == ["GroundTruthProposals", "windows", "rpn", "pkl", "npz"]
    assert {row["images"] for row in rows.values()} == {"2"}
    assert rows["GroundTruthProposals"]["AR@1000"] == "100"
    assert float(rows["GroundTruthProposals"]["proposals_per_image"]) * 2 == int(rows["rpn"]["objects"])
    assert rows["windows"]["proposals_per_image"] == "100"  # 10 steps of at most 12 pixels from 0 to 128 - 24, squared
    assert rows["rpn"]["proposals_per_image"] == "30"
    for name in ("pkl", "npz"):
        own = {"proposals": name, "seconds_per_image": ""}
        assert rows[name] == rows["rpn"] | own
    assert all(float(rows[name]["seconds_per_image"]) > 0 for name in ("windows", "rpn"))
    printed = capsys.readouterr().out
    table = (tmp_path / "proposals.md").read_text()
    assert "| windows " in printed
    assert all(line in table for line in printed.splitlines() if line.startswith("|"))
    assert Image.open(tmp_path / "proposals.png").format == "PNG"
    assert printed.rstrip().endswith(f"{tmp_path / 'proposals.png'}")


def test_keys_of_a_source_are_closer_than_those_of_all_and_its_config(run_folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "windows.yaml"
    config.write_text(
        "MODEL:\n  SLIDING_WINDOW:\n    SIZES: [64]\n    ASPECT_RATIOS: [1.0]\nINPUT:\n  MIN_SIZE_TEST: 256\n"
    )
    sources = [f"a={run_folder} MODEL.RPN.POST_NMS_TOPK_TEST=3", f"b={run_folder}", f"w=SlidingWindow {config}"]
    rows = compare(tmp_path, *sources, "--num-images", "1", *TINY, "MODEL.RPN.POST_NMS_TOPK_TEST", "5")
    # The windows get the image of 128 pixels in the size of that config, 256: 7 positions at most 32 pixels apart.
    assert [rows[name]["proposals_per_image"] for name in "abw"] == ["3", "5", "49"]
    assert {row["images"] for row in rows.values()} == {"1"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SelectiveSearch", ("SelectiveSearch", "SelectiveSearch", None, ())),
        ("a/b=output/digits", ("a/b", "output/digits", None, ())),
        ("rpn=output/digits", ("rpn", "output/digits", None, ())),
        ("'my rpn=x.pth' a.yaml A.B=1 C.D 2", ("my rpn", "x.pth", "a.yaml", ("A.B=1", "C.D", "2"))),
        ("https://x.org/y?a=b", ("https://x.org/y?a=b", "https://x.org/y?a=b", None, ())),
        ("z=zoo://A/b", ("z", "zoo://A/b", None, ())),
    ],
)
def test_value_of_proposals_is_name_source_config_and_keys(text: str, expected: tuple) -> None:
    assert read_sources([text]) == [SourceArgument(*expected)]


def test_existing_file_is_a_source_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a=b.npz", "my file.npz"):
        Path(name).write_bytes(b"")
        assert read_sources([name]) == [SourceArgument(name, name, None, ())]


@pytest.mark.parametrize("text", ["", "rpn=", "a.yaml b.yaml c.yaml", "'x"])
def test_malformed_value_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--proposals "):
        read_sources([text])


def test_config_keys_end_the_list_of_sources() -> None:
    words = ["--proposals", "a=A X.Y=1", "B", "MODEL.DEVICE", "cpu", "SEED=3", "--dataset", "d", "--proposals", "C"]
    arguments = read_arguments(build_parser(), words)
    assert arguments.proposals == ["a=A X.Y=1", "B", "C"]
    assert arguments.overrides == ["MODEL.DEVICE", "cpu", "SEED=3"]
    misspelt = read_arguments(build_parser(), ["--proposals", "B", "MODEL.DEVISE=cpu", "TEST.NUM_IMAGES", "1"])
    assert misspelt.overrides == ["MODEL.DEVISE=cpu", "TEST.NUM_IMAGES", "1"]


def test_sources_that_cannot_propose_are_refused(refused: Callable[..., str], run_folder: Path, tmp_path: Path) -> None:
    for name, config in (("RPN", DIGITS), ("SeparateRPN", DIGITS), ("MultiBox", "Proposals/multibox_R_18_FPN_digits")):
        message = refused(f"{name} {config}.yaml")
        assert f"{name} needs features of a trained backbone" in message
        assert f"name the weights instead, e.g. {name}=output/model_final.pth" in message
    assert "name the proposal file instead" in refused("PrecomputedProposals")
    assert "Did you mean 'SlidingWindow'?" in refused("SlidingWindows")
    assert "'a' twice; name each source" in refused("a=SlidingWindow", "a=GroundTruthProposals")
    assert "there is no such file or folder, and it is not a reg" in refused(tmp_path / "gone.npz")
    assert f"The zoo has them: zoo://{DIGITS}" in refused(DIGITS)
    file = run_folder / "proposals" / "digits_val_proposals.npz"
    weights = tmp_path / "weights.pkl"
    weights.write_bytes(pickle.dumps({"model": {"a.weight": np.zeros(3)}}))
    assert "weights.pkl contains no config" in refused(weights)
    assert "a proposal file takes no config and no keys" in refused(f"{file} SEED=1")


def test_file_without_some_images_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    table = StoredProposals(np.array([[0, 0, 9, 9]], dtype=np.float32), np.ones(1, dtype=np.float32))
    path = write_proposals(tmp_path / "few.pkl", {1: table})
    assert "few.pkl has no proposals for 1 of 2 images of 'digits_val', the first is image 2" in refused(path)


def test_one_dataset_with_objects_is_required(refused: Callable[..., str]) -> None:
    assert "DATASETS.TEST is empty: name it with --dataset" in refused("SlidingWindow", options=())
    several = ("DATASETS.TEST=[digits_val, digits_train]",)
    assert "digits_val, digits_train are several: name it with --dataset" in refused("SlidingWindow", options=several)
