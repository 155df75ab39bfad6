"""Small models: overrides of packaged configs, as `KEY=VALUE`, which commands accept too."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mrcnn_zoo.checkpoint import Checkpointer
from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.modeling import build_model

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "configs"
BASE_FPN = CONFIGS / "Base-RCNN-FPN.yaml"
DIGITS = "Quickstart/mask_rcnn_R_18_FPN_digits"
TINY_YAML = Path(__file__).with_name("tiny_mask_rcnn.yaml")  # trained on generated shapes

# Layers of eight channels; depth, number of classes and limits are those of the config.
TINY_LAYERS = (
    "MODEL.DEVICE=cpu",
    "MODEL.RESNETS.STEM_OUT_CHANNELS=8",
    "MODEL.RESNETS.RES2_OUT_CHANNELS=8",
    "MODEL.FPN.OUT_CHANNELS=8",
    "MODEL.ROI_BOX_HEAD.FC_DIM=8",
    "MODEL.ROI_MASK_HEAD.CONV_DIM=8",
)
# The same for configs of a pretrained ResNet-50.
TINY_RESNET_18 = (*TINY_LAYERS, "MODEL.RESNETS.DEPTH=18", "MODEL.WEIGHTS=")
# A run of a second on generated digits, without visualisations.
FEW_SCENES = (
    "DATASETS.SCENES.NUM_TRAIN=4",
    "DATASETS.SCENES.NUM_VAL=2",
    "DATALOADER.NUM_WORKERS=0",
    "VIS.NUM_IMAGES=0",
    "VIS.PLOTS=False",
    "VIS.REPORT=False",
)
CLASS_NAMES, CATEGORY_IDS = ("cat", "dog", "cow"), (7, 3, 40)  # of `save_tiny_checkpoint`
SIX_DETECTIONS = (
    "MODEL.ROI_HEADS.NUM_CLASSES=3",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST=0.0",
    "TEST.DETECTIONS_PER_IMAGE=6",
    "INPUT.MIN_SIZE_TEST=64",
)
SCORING_LAYERS = ("predictor", "subnet", "cls_score", "bbox_pred", "objectness", "anchor_deltas")


def varied_model(cfg: CfgNode) -> nn.Module:
    """A model in evaluation mode with random weights and varied scores and boxes.

    With the default initialisation, weights of the last layers are near 0 and all scores nearly equal.
    """
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for name, parameter in model.named_parameters():
        if any(part in name for part in SCORING_LAYERS):
            nn.init.normal_(parameter, std=0.1)
    return model


def config_of(settings: dict[str, Any], base: str | Path | None = None) -> CfgNode:
    """The config `base` with the overrides {key: value}."""
    return load_config(base, [part for item in settings.items() for part in item])


def save_tiny_checkpoint(folder: Path, *overrides: str, class_names: Sequence[str] = CLASS_NAMES) -> Path:
    """The checkpoint of a random model of three classes with six detections per image; without names for ()."""
    cfg = load_config(DIGITS, [*TINY_LAYERS, *SIX_DETECTIONS, *overrides])
    torch.manual_seed(1)
    state: dict[str, Any] = {"model": build_model(cfg).state_dict(), "config": cfg.dump()}
    if class_names:
        state |= {"class_names": list(class_names), "category_ids": list(CATEGORY_IDS)}
    return Checkpointer(folder).save("model_final", state)
