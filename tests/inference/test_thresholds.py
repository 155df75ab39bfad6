"""`--threshold best`: score thresholds from the evaluation of a training, or from a file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mrcnn_zoo.checkpoint import Checkpointer
from mrcnn_zoo.cli.main import run_command
from mrcnn_zoo.config import load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inference import Predictor
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.training import run
from support.small_models import DIGITS, TINY_LAYERS, TINY_YAML

TINY = (*TINY_LAYERS, "MODEL.ROI_HEADS.NUM_CLASSES=3", "MODEL.ROI_HEADS.SCORE_THRESH_TEST=0.0")
NAMES = ("cat", "dog", "cow")


def save_checkpoint(folder: Path, **extra: Any) -> Path:
    cfg = load_config(DIGITS, [*TINY, "TEST.DETECTIONS_PER_IMAGE=20"])
    torch.manual_seed(1)
    state = {"model": build_model(cfg).state_dict(), "config": cfg.dump(), "class_names": list(NAMES), **extra}
    return Checkpointer(folder).save("model_final", state)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory, image: np.ndarray) -> dict[str, list[float]]:
    """The scores of all detections in the image by class name."""
    found = Predictor(save_checkpoint(tmp_path_factory.mktemp("all")), score_threshold=0.0)(image)
    return {name: [s for s, n in zip(found.scores.tolist(), found.names, strict=True) if n == name] for name in NAMES}


@pytest.fixture(scope="module")
def by_class(scores: dict[str, list[float]]) -> dict[str, float]:
    """Thresholds of two classes that some detections reach; cows have none."""
    return {name: float(np.median(scores[name])) if scores[name] else 0.9 for name in ("dog", "cat")}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, by_class: dict[str, float]) -> Path:
    stored = {"dataset": "val", "iteration": 3, "by_class": by_class}
    return save_checkpoint(tmp_path_factory.mktemp("run"), iteration=4, score_thresholds=stored)


def expected_scores(scores: dict[str, list[float]], by_class: dict[str, float]) -> list[float]:
    kept = [s for name in NAMES for s in scores[name] if s >= by_class.get(name, 0.5)]
    assert 0 < len(kept) < sum(map(len, scores.values()))
    return sorted(kept, reverse=True)


def test_best_keeps_what_reaches_the_threshold_of_its_class(weights: Path, image, scores, by_class, caplog) -> None:
    predictor = Predictor(weights, score_threshold="best")
    assert predictor.score_threshold == (by_class["cat"], by_class["dog"], 0.5)  # in the order of the model's classes
    assert predictor(image).scores.tolist() == pytest.approx(expected_scores(scores, by_class))
    assert "no score threshold of cow: 0.5 is used" in caplog.text
    assert "of the evaluation after iteration 3, its weights of iteration 4" in caplog.text


def test_command_predict_takes_best_and_a_file(weights: Path, tmp_path: Path, image, scores, by_class, capsys) -> None:
    Image.fromarray(image).save(tmp_path / "image.png")
    (tmp_path / "scores.json").write_text(json.dumps(by_class))
    for threshold in ("best", str(tmp_path / "scores.json")):
        output = tmp_path / Path(threshold).stem
        arguments = [str(tmp_path / "image.png"), "--weights", str(weights), "--output", str(output)]
        assert run_command("predict", [*arguments, "--threshold", threshold]) == 0
        rows = json.loads((output / "predictions.json").read_text())["annotations"]
        kept = sorted((row["score"] for row in rows), reverse=True)
        assert kept == pytest.approx(expected_scores(scores, by_class))
        assert "with a score of at least that of highest F1 of their class" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("threshold", "content", "message"),
    [
        (
            "best",
            None,
            r"has no score thresholds.*evaluate --weights .* --output results`, and give score_threshold results",
        ),
        ("bets", None, r"score_threshold = 'bets' must be a number.*Did you mean 'best'\?"),
        (1.5, None, "score_threshold = 1.5 must be a number in"),
        ("t.json", None, r"t.json: cannot be read .*No such file"),
        ("t.json", '{"cat": 2}', r"the score of 'cat' is 2, not a number in \[0, 1\]"),
        ("t.json", '{"horse": 0.2}', "score thresholds of horse, but the classes of the model are cat, dog, cow"),
    ],
)
def test_wrong_thresholds_are_refused(tmp_path: Path, monkeypatch, threshold, content, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(threshold).write_text(content)
    with pytest.raises(UserError, match=message):
        Predictor(save_checkpoint(tmp_path), score_threshold=threshold)


class ThresholdEvaluator:
    """AP of 1, 2, ...; a threshold per evaluation."""

    count = 0

    def __init__(self) -> None:
        self.score_thresholds: dict[str, float] = {}

    def process(self, samples: list[Any], detections: list[Any]) -> None:
        pass

    def evaluate(self, output_dir: Path | None = None) -> dict[str, dict[str, float]]:  # noqa: ARG002
        type(self).count += 1
        self.score_thresholds = {"square": 0.1 * self.count}
        return {"bbox": {"AP": {1: 5.0, 2: 9.0, 3: 7.0}[self.count]}}


def build_threshold_evaluator(cfg: Any, dataset: Any) -> ThresholdEvaluator:  # noqa: ARG001
    return ThresholdEvaluator()


def test_checkpoints_have_the_thresholds_of_their_evaluation(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(ThresholdEvaluator, "count", 0)
    evaluator = f"{__name__}:build_threshold_evaluator"
    overrides = ["SOLVER.MAX_ITER=3", "TEST.EVAL_PERIOD=1", "TEST.VAL_LOSS=False", f"EVAL.EVALUATOR={evaluator}"]
    cfg = load_config(TINY_YAML, ["OUTPUT_DIR", str(tmp_path), *overrides])
    run(cfg)
    stored = {
        name: torch.load(tmp_path / f"{name}.pth", weights_only=False)["score_thresholds"]
        for name in ("model_best", "model_final")
    }
    dataset = cfg.DATASETS.TEST[0]
    assert stored["model_best"] == {"dataset": dataset, "iteration": 2, "by_class": {"square": pytest.approx(0.2)}}
    assert stored["model_final"] == {"dataset": dataset, "iteration": 3, "by_class": {"square": pytest.approx(0.3)}}
