"""A backbone pretrained on crops from a config alone, and the detector that starts from it."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mrcnn_zoo.cli.predict import main as predict
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data import load_dataset
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inspection.pictures import save_picture
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.training.build import build_trainer
from mrcnn_zoo.training.preflight import plan_training
from mrcnn_zoo.training.run import run

LoadConfig = Callable[..., CfgNode]
CROPS = "{'shapes_crops': {'FORMAT': 'object_crops', 'DATASET': 'shapes_train', 'SIZE': 32}}"
PRETRAINING = (
    *("MODEL.META_ARCHITECTURE=Classifier", "MODEL.MASK_ON=False", "MODEL.CLASSIFIER.NUM_CLASSES=3"),
    *(f"DATASETS.DEFINITIONS={CROPS}", "DATASETS.TRAIN=shapes_crops", "DATASETS.TEST=shapes_crops"),
    *("INPUT.MIN_SIZE_TRAIN=[0]", "INPUT.MIN_SIZE_TEST=0", "DATALOADER.SAMPLER_TRAIN=ClassBalancedTrainingSampler"),
    *(
        "SOLVER.MAX_ITER=2",
        "SOLVER.IMS_PER_BATCH=4",
        "SOLVER.CHECKPOINT_PERIOD=1",
        "VIS.NUM_IMAGES=2",
        "DATASETS.SCENES.NUM_TRAIN=4",
    ),
)


def test_pretraining_resume_evaluation_and_prediction(
    tiny_config: LoadConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = tiny_config(*PRETRAINING)
    results = run(tiny_config(*PRETRAINING, "VIS.PLOTS=True"))
    output = Path(cfg.OUTPUT_DIR)
    assert set(results) == {"classification"}
    assert {path.name for path in (output / "pictures").iterdir()} >= {"confusion_matrix.png", "loss_curves.png"}
    assert (output / "model_best.pth").is_file()

    undisturbed = torch.load(output / "model_final.pth", weights_only=False)["model"]
    (output / "last_checkpoint").write_text("model_0000000.pth")
    run(cfg, resume=True)
    resumed = torch.load(output / "model_final.pth", weights_only=False)["model"]
    assert all(torch.equal(value, resumed[name]) for name, value in undisturbed.items())

    assert run(cfg, resume=True, eval_only=True)["classification"] == results["classification"]
    crop = load_dataset(cfg, "shapes_crops").records[0].source.read()
    save_picture(crop, tmp_path / "crop.png")  # type: ignore[arg-type]
    arguments = ["--weights", str(output / "model_final.pth"), "--output", str(tmp_path / "predicted")]
    assert predict([str(tmp_path / "crop.png"), *arguments, "--threshold", "0"]) == 0
    rows = (tmp_path / "predicted" / "predictions.csv").read_text().splitlines()
    assert len(rows) == 4  # the header, and each class with its probability

    caplog.clear()
    with caplog.at_level(logging.INFO):
        run(tiny_config("SOLVER.MAX_ITER=1", f"MODEL.WEIGHTS={output}/model_final.pth", f"OUTPUT_DIR={tmp_path}/rcnn"))
    report = next(text for text in caplog.messages if text.startswith("Weights of"))
    assert "| backbone.* " in report
    assert "skipped: not in the model" in next(line for line in report.splitlines() if line.startswith("| classifier"))


def test_settings_that_change_the_features_of_loaded_weights_are_named(
    tiny_config: LoadConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pretrained = tiny_config(*PRETRAINING, "MODEL.RESNETS.STEM_POOL=following")
    state = {"model": build_model(pretrained).state_dict(), "config": pretrained.dump(), "class_names": ["a", "b", "c"]}
    torch.save(state, tmp_path / "classifier.pth")
    cfg = tiny_config(f"MODEL.WEIGHTS={tmp_path}/classifier.pth", "MODEL.PIXEL_STD=[1.0, 1.0, 1.0]")
    build_trainer(plan_training(cfg, resume=False), writers=[])
    warnings = [text for text in caplog.messages if text.startswith("the weights were trained with")]
    assert warnings == [
        "the weights were trained with MODEL.PIXEL_STD = [57.375, 57.12, 58.395]; here it is [1.0, 1.0, 1.0]",
        f"the weights were trained with MODEL.RESNETS.STEM_POOL = following; here it is {cfg.MODEL.RESNETS.STEM_POOL}",
    ]


def test_a_classifier_needs_crops_of_a_detection_dataset(tiny_config: LoadConfig) -> None:
    cfg = tiny_config(*PRETRAINING, "DATASETS.TRAIN=shapes_train")
    with pytest.raises(UserError, match=r"objects, and a Classifier .* Use crops of its objects"):
        run(cfg)


def test_views_of_test_time_augmentation_are_refused(tiny_config: LoadConfig) -> None:
    with pytest.raises(UserError, match=r"TEST\.AUG merges boxes, and a Classifier has none"):
        run(tiny_config(*PRETRAINING, "TEST.AUG.ENABLED=True"))
