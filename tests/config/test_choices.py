"""Names that select from a builder's table: `Key.choices` are exactly the names that the builder accepts."""

import ast
from collections.abc import Callable
from typing import Any

import pytest
import torch

from mrcnn_zoo.config import CfgNode, changed_config, choice_of, load_config
from mrcnn_zoo.config.defaults import ALL_KEYS, KEYS_BY_NAME
from mrcnn_zoo.data.images.pixels import depth_reduction_of, pixel_format_of
from mrcnn_zoo.data.synthetic.scenes import BACKGROUNDS
from mrcnn_zoo.data.transforms.crop import build_random_crop
from mrcnn_zoo.data.transforms.flip import build_random_flip
from mrcnn_zoo.data.transforms.resize import build_resize_shortest_edge
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.backbones.fpn import build_resnet_fpn_backbone
from mrcnn_zoo.modeling.backbones.resnet import build_resnet_backbone
from mrcnn_zoo.modeling.backbones.vgg import build_vgg_backbone
from mrcnn_zoo.modeling.proposal_generators.multibox import build_multibox
from mrcnn_zoo.modeling.proposal_generators.rpn import build_rpn
from mrcnn_zoo.modeling.proposal_generators.selective_search import build_combination
from mrcnn_zoo.modeling.roi_heads.mask_head import build_mask_rcnn_conv_upsample_head
from mrcnn_zoo.structures import FeatureSpec
from mrcnn_zoo.training.gradients import build_clipper
from mrcnn_zoo.training.lr_schedule import build_lr_schedule
from mrcnn_zoo.training.step import build_precision
from support.source_files import files_in

SMALL = {
    "MODEL.RESNETS.OUT_FEATURES": ["res2"],
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    "MODEL.VGG.OUT_FEATURES": ["conv1"],
    "MODEL.FPN.IN_FEATURES": ["res2"],
    "MODEL.FPN.OUT_CHANNELS": 8,
    "MODEL.PIXEL_MEAN": [100.0],
    "MODEL.PIXEL_STD": [1.0],
    "SOLVER.AMP.ENABLED": True,
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "INPUT.CROP.SIZE": [1, 1],
    "INPUT.MIN_SIZE_TRAIN": [8, 16],
}
BUILDERS: dict[str, Callable[[CfgNode], Any]] = {
    "INPUT.FORMAT": pixel_format_of,
    "INPUT.SIXTEEN_BIT": depth_reduction_of,
    "INPUT.RANDOM_FLIP": build_random_flip,
    "INPUT.CROP.TYPE": build_random_crop,
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": build_resize_shortest_edge,
    "MODEL.RESNETS.DEPTH": lambda cfg: build_resnet_backbone(cfg, 1),
    "MODEL.RESNETS.STEM_POOL": lambda cfg: build_resnet_backbone(cfg, 1),
    "MODEL.VGG.DEPTH": lambda cfg: build_vgg_backbone(cfg, 1),
    "MODEL.FPN.FUSE_TYPE": lambda cfg: build_resnet_fpn_backbone(cfg, 1),
    "MODEL.FPN.TOP_BLOCK": lambda cfg: build_resnet_fpn_backbone(cfg, 1),
    "MODEL.ROI_MASK_HEAD.UPSAMPLE": lambda cfg: build_mask_rcnn_conv_upsample_head(cfg, FeatureSpec(8, 16)),
    "SOLVER.WARMUP_METHOD": build_lr_schedule,
    "MODEL.RPN.RANK_BY": lambda cfg: build_rpn(cfg, {"res4": FeatureSpec(8, 16)}),
    "MODEL.RPN.CLS_LOSS_TYPE": lambda cfg: build_rpn(cfg, {"res4": FeatureSpec(8, 16)}),
    "MODEL.MULTIBOX.MATCHING": lambda cfg: build_multibox(cfg, {"res4": FeatureSpec(8, 16)}),
    "MODEL.SELECTIVE_SEARCH.MODE": build_combination,
    "SOLVER.AMP.DTYPE": lambda cfg: build_precision(cfg, torch.device("cuda")),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": build_clipper,
}
# Keys whose choices are not the names of a builder's table.
NO_TABLE = {
    "INPUT.PAGES",
    "VERSION",
    "FLOAT32_PRECISION",  # torch's names
    "WANDB.MODE",  # W&B's names
    "MODEL.OPTIMIZE",  # ways of inference
    "MODEL.DTYPE",  # torch's names
    "INPUT.MASK_FORMAT",  # makes no difference
    "DATASETS.DEFAULTS.SPLIT",  # sides of a dataset
    "DATASETS.SCENES.BACKGROUND",  # also of a dataset's definition, see below
}


def keys_of_tables() -> set[str]:
    """The keys that the package passes to `choice_of`."""
    calls = [
        node
        for file in files_in("mrcnn_zoo")
        for node in file.nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "choice_of"
    ]
    return {ast.literal_eval(call.args[1]) for call in calls}


def test_every_key_with_choices_is_covered_here() -> None:
    with_choices = {key.name for key in ALL_KEYS if key.choices}
    assert with_choices == NO_TABLE | set(BUILDERS)
    assert keys_of_tables() == set(BUILDERS)


@pytest.mark.filterwarnings("ignore:torch.cuda.amp.GradScaler is enabled")
@pytest.mark.parametrize("name", BUILDERS)
def test_builder_accepts_exactly_the_choices_of_the_key(name: str) -> None:
    base = changed_config(load_config(), SMALL, source="test")
    for choice in KEYS_BY_NAME[name].choices:
        BUILDERS[name](changed_config(base, {name: choice}, source="test"))
    unknown = base.clone()
    unknown.defrost()
    section, _, leaf = name.rpartition(".")
    unknown.value_of(section)[leaf] = -1 if isinstance(KEYS_BY_NAME[name].default, int) else "nothing"
    with pytest.raises(UserError, match=f"{name} = .* is not one of"):
        BUILDERS[name](unknown)


def test_table_with_other_names_than_the_key_is_an_error() -> None:
    with pytest.raises(AssertionError, match=r"INPUT.RANDOM_FLIP declares"):
        choice_of(load_config(), "INPUT.RANDOM_FLIP", {"horizontal": 1})


def test_backgrounds_have_the_names_of_their_key() -> None:
    assert set(BACKGROUNDS) == set(KEYS_BY_NAME["DATASETS.SCENES.BACKGROUND"].choices)


@pytest.mark.parametrize("key", [key for key in ALL_KEYS if key.choices], ids=lambda key: key.name)
def test_unknown_choice_is_refused_when_the_config_is_loaded(key: Any) -> None:
    value = 3 if isinstance(key.default, int) else f"{key.choices[-1]}x"
    with pytest.raises(UserError, match=f"command line: {key.name} = .* is not one of"):
        load_config(None, [key.name, value])
