"""Training schedules by name. Those of several stages make a list like SOLVER.STAGES, which is logged.

Source: Ren et al. 2015 (Faster R-CNN), sec. 3.2; He et al. 2017 (Mask R-CNN), sec. 3.1 (RPN trained separately
for ablations); Schwalbe 2018 (seminar notes), sec. 4.2 and 4.3; matterport/Mask_RCNN for the stages `heads`, `4+`,
`all`; Hosang et al. 2017 (Learning Non-Maximum Suppression), sec. 4.
"""

from collections.abc import Sequence
from typing import Any

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.rules import class_count, section_of_boxes
from mrcnn_zoo.config.stage_list import SCHEDULE
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registries import TRAINING_SCHEDULES
from mrcnn_zoo.training.parts import NOTHING
from mrcnn_zoo.training.stages.lengths import with_lengths
from mrcnn_zoo.training.stages.listed import build_listed_stages, with_stage_overrides
from mrcnn_zoo.training.stages.stage import JOINT, Stage

Item = dict[str, Any]  # an entry of SOLVER.STAGES

BACKBONE = "backbone"  # the stage of a classifier, and the part that is taken from it
NOT_OF_CLASSIFIERS = {
    "TEST.AUG.ENABLED": False,
    "EVAL.GIVEN_BOXES": "",
    "EVAL.FUNNEL": False,
    "MODEL.LOAD_PROPOSALS": False,
}
GREEDY = "greedy"  # the suppression that learns nothing
WITHOUT_REGION_HEADS = ("RetinaNet", "ProposalNetwork", "Classifier")
UNFREEZING_RATES = 0.1  # of the last stage, as in matterport's training of COCO


@TRAINING_SCHEDULES.register(JOINT)
def joint(cfg: CfgNode) -> list[Stage]:
    """One stage, in which all parts of the model are trained, or those of SOLVER.TRAIN."""
    return [Stage("", cfg)]


@TRAINING_SCHEDULES.register(SCHEDULE)
def stages(cfg: CfgNode) -> list[Stage]:
    """The stages of SOLVER.STAGES."""
    return build_listed_stages(cfg, with_stage_overrides(cfg, cfg.SOLVER.STAGES))


@TRAINING_SCHEDULES.register("backbone_pretraining")
def backbone_pretraining(cfg: CfgNode) -> list[Stage]:
    """A classifier of one-object crops of the training sets, then the detector from its backbone."""
    return _ready_made(cfg, [_classifier(cfg), {"NAME": "detector", "FROM": {BACKBONE: BACKBONE}}])


@TRAINING_SCHEDULES.register("rpn_only")
def rpn_only(cfg: CfgNode) -> list[Stage]:
    """The backbone with the region proposal network, evaluated by its recall."""
    return _ready_made(cfg, [{"NAME": "rpn", "OVERRIDES": _rpn_alone(cfg)}])


@TRAINING_SCHEDULES.register("alternating_4_step")
def alternating_4_step(cfg: CfgNode) -> list[Stage]:
    """RPN, detector on its proposals, RPN on the detector's fixed backbone, heads on both fixed (Ren et al. 2015)."""
    return _ready_made(cfg, _alternating(cfg))


@TRAINING_SCHEDULES.register("pretrained_alternating_4_step")
def pretrained_alternating_4_step(cfg: CfgNode) -> list[Stage]:
    """A classifier of one-object crops, then alternating_4_step with its backbone as initial weights."""
    return _ready_made(cfg, [_classifier(cfg), *_alternating(cfg, initial={BACKBONE: BACKBONE})])


@TRAINING_SCHEDULES.register("separate_rpn")
def separate_rpn(cfg: CfgNode) -> list[Stage]:
    """RPN and detector without shared features, joined in one model with a SeparateRPN (He et al. 2017, ablations)."""
    _check_two_stages(cfg)
    parts = {
        "backbone": "detector",
        "roi_heads": "detector",
        "proposal_generator.backbone": "rpn:backbone",
        "proposal_generator.rpn": "rpn:proposal_generator",
    }
    joined = {"MODEL.PROPOSAL_GENERATOR.NAME": "SeparateRPN"}
    return _ready_made(
        cfg,
        [
            {"NAME": "rpn", "OVERRIDES": _rpn_alone(cfg)},
            {"NAME": "detector", "FROM": {"proposals": "rpn"}},
            {"NAME": "joined", "TRAIN": "none", "FROM": parts, "OVERRIDES": joined},
        ],
    )


@TRAINING_SCHEDULES.register("gradual_unfreezing")
def gradual_unfreezing(cfg: CfgNode) -> list[Stage]:
    """The parts of SOLVER.UNFREEZE one after the other, e.g. heads, 4+, all, as in matterport's Mask R-CNN."""
    parts = list(cfg.SOLVER.UNFREEZE)
    if "" in parts or NOTHING in parts or len(set(parts)) < len(parts):
        raise UserError(
            f"SOLVER.UNFREEZE = {parts} must hold different parts, each of which trains something, e.g. "
            "[heads, 4+, all]."
        )
    items: list[Item] = [{"NAME": part, "TRAIN": part} for part in parts]
    for item, earlier in zip(items[1:], parts, strict=False):
        item["FROM"] = earlier
    return _ready_made(cfg, items, rates=[1.0] * (len(parts) - 1) + [UNFREEZING_RATES])


@TRAINING_SCHEDULES.register("learned_suppression")
def learned_suppression(cfg: CfgNode) -> list[Stage]:
    """The detector with greedy suppression, then a suppression that learns, on its candidates (Hosang et al. 2017)."""
    key = f"MODEL.{section_of_boxes(cfg)}.SUPPRESSION"
    learned = cfg.value_of(key) if cfg.value_of(key) != GREEDY else "GossipNet"
    return _ready_made(
        cfg,
        [
            {"NAME": "detector", "OVERRIDES": {key: GREEDY}},
            {"NAME": "suppression", "TRAIN": "suppression", "FROM": "detector", "OVERRIDES": {key: learned}},
        ],
    )


def _alternating(cfg: CfgNode, initial: dict[str, str] | None = None) -> list[Item]:
    """Two stages per round: from the second round on both use the backbone of the first detector, which stays."""
    _check_two_stages(cfg)
    rpn = _rpn_alone(cfg)
    initial = initial or {}
    items: list[Item] = [
        {"NAME": "rpn_1", **({"FROM": initial} if initial else {}), "OVERRIDES": rpn},
        {"NAME": "detector_1", "FROM": {**initial, "proposals": "rpn_1"}},
    ]
    for number in range(2, cfg.SOLVER.ALTERNATING_ROUNDS + 1):
        # In the second round the RPN is new, as in Ren et al.: the first was trained on other features.
        source: Any = {"backbone": "detector_1"} if number == 2 else f"rpn_{number - 1}"
        parts = {
            "backbone": f"rpn_{number}",
            "proposal_generator": f"rpn_{number}",
            "roi_heads": f"detector_{number - 1}",
        }
        items += [
            {"NAME": f"rpn_{number}", "TRAIN": "proposal_generator", "FROM": source, "OVERRIDES": rpn},
            # The whole architecture, whose RPN proposes: the checkpoint is an ordinary one.
            {"NAME": f"detector_{number}", "TRAIN": "roi_heads", "FROM": parts},
        ]
    return items


def _check_two_stages(cfg: CfgNode) -> None:
    name = cfg.MODEL.META_ARCHITECTURE
    if name in WITHOUT_REGION_HEADS:
        raise UserError(
            f"SOLVER.TRAINING_SCHEDULE = {cfg.SOLVER.TRAINING_SCHEDULE} trains an RPN and region heads in turn, and "
            f"MODEL.META_ARCHITECTURE = {name} does not have both. Set it to GeneralizedRCNN, or "
            "choose another schedule."
        )


def _rpn_alone(cfg: CfgNode) -> Item:
    return {"MODEL.META_ARCHITECTURE": "ProposalNetwork", **_without_masks(cfg)}


def _classifier(cfg: CfgNode) -> Item:
    """The stage of a classifier of crops of the run's datasets, in their own size, as many of each class as of none."""
    names = {split: list(cfg.DATASETS[split]) for split in ("TRAIN", "TEST")}
    crops = {
        f"{name}_crops": {"FORMAT": "object_crops", "DATASET": name}
        for name in dict.fromkeys([*names["TRAIN"], *names["TEST"]])
    }
    overrides = {
        "MODEL.META_ARCHITECTURE": "Classifier",
        "MODEL.CLASSIFIER.NUM_CLASSES": class_count(cfg),
        **_without_masks(cfg),
        "DATASETS.DEFINITIONS": crops,
        **{f"DATASETS.{split}": [f"{name}_crops" for name in of_split] for split, of_split in names.items()},
        "INPUT.MIN_SIZE_TRAIN": [0],
        "INPUT.MIN_SIZE_TEST": 0,
        "INPUT.CROP.ENABLED": False,
        "DATALOADER.SAMPLER_TRAIN": "ClassBalancedTrainingSampler",
        **{key: off for key, off in NOT_OF_CLASSIFIERS.items() if cfg.value_of(key) != off},
    }
    return {"NAME": BACKBONE, "OVERRIDES": overrides}


def _without_masks(cfg: CfgNode) -> Item:
    """Keys of a stage without region heads: no masks, keypoints and augmented tests, and a metric that it has."""
    settings = {
        "MODEL.MASK_ON": False,
        "MODEL.KEYPOINT_ON": False,
        "SOLVER.BEST_METRIC": "auto",
        "TEST.AUG.ENABLED": False,
    }
    return {key: value for key, value in settings.items() if cfg.value_of(key) != value}


def _ready_made(cfg: CfgNode, items: Sequence[Item], *, rates: Sequence[float] = ()) -> list[Stage]:
    """The stages of a list, with their shares of the run's length and the user's overrides."""
    items = with_lengths(cfg, items, rates=list(cfg.SOLVER.STAGE_RATES) or rates)
    return build_listed_stages(cfg, with_stage_overrides(cfg, items))
