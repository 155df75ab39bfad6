"""Every extension point of the framework, on one page.

Each line: what the registry holds, the config key that picks from it (none where several do: `config explain KEY` knows
them), the package that fills it, and what a builder is called with. `BACKBONES.get(name)` returns the builder.
"""

from mrcnn_zoo.registry import Registry

# --- modeling ---------------------------------------------------------------------------------------------------------
DETECTORS = Registry("DETECTORS", key="MODEL.META_ARCHITECTURE", package="mrcnn_zoo.modeling.detectors")  # (cfg)
BACKBONES = Registry("BACKBONES", key="MODEL.BACKBONE.NAME", package="mrcnn_zoo.modeling.backbones")  # (cfg, channels)
NORMS = Registry("NORMS", package="mrcnn_zoo.layers.norm")  # (channels)
ANCHOR_GENERATORS = Registry(
    "ANCHOR_GENERATORS", key="MODEL.ANCHOR_GENERATOR.NAME", package="mrcnn_zoo.modeling.anchors"
)  # (cfg, strides)
PROPOSAL_GENERATORS = Registry(
    "PROPOSAL_GENERATORS", key="MODEL.PROPOSAL_GENERATOR.NAME", package="mrcnn_zoo.modeling.proposal_generators"
)  # (cfg, feature_specs)
RPN_HEADS = Registry(
    "RPN_HEADS", key="MODEL.RPN.HEAD_NAME", package="mrcnn_zoo.modeling.proposal_generators"
)  # (cfg, channels, anchors per cell)
MATCHERS = Registry("MATCHERS", package="mrcnn_zoo.modeling.assignment")  # (thresholds, labels, *, allow_low_quality)
SAMPLERS = Registry("SAMPLERS", package="mrcnn_zoo.modeling.assignment")  # (count, *, positive_fraction)
BOX_CODERS = Registry("BOX_CODERS", package="mrcnn_zoo.modeling.assignment")  # (weights)
BOX_LOSSES = Registry("BOX_LOSSES", package="mrcnn_zoo.losses")  # (beta)
MASK_LOSSES = Registry("MASK_LOSSES", key="MODEL.ROI_MASK_HEAD.LOSS", package="mrcnn_zoo.losses")  # ()
POOLING_OPERATIONS = Registry("POOLING_OPERATIONS", package="mrcnn_zoo.modeling.poolers")  # (side, scale, sampling)
ROI_HEADS = Registry("ROI_HEADS", key="MODEL.ROI_HEADS.NAME", package="mrcnn_zoo.modeling.roi_heads")  # (cfg, specs)
BOX_HEADS = Registry("BOX_HEADS", key="MODEL.ROI_BOX_HEAD.NAME", package="mrcnn_zoo.modeling.roi_heads")  # (cfg, spec)
MASK_HEADS = Registry(
    "MASK_HEADS", key="MODEL.ROI_MASK_HEAD.NAME", package="mrcnn_zoo.modeling.roi_heads"
)  # (cfg, spec)
POINT_HEADS = Registry(
    "POINT_HEADS", key="MODEL.POINT_HEAD.NAME", package="mrcnn_zoo.modeling.roi_heads"
)  # (cfg, spec of the fine features, number of coarse maps)
KEYPOINT_HEADS = Registry(
    "KEYPOINT_HEADS", key="MODEL.ROI_KEYPOINT_HEAD.NAME", package="mrcnn_zoo.modeling.roi_heads"
)  # (cfg, spec)
REGION_BRANCHES = Registry(
    "REGION_BRANCHES", key="MODEL.ROI_HEADS.BRANCHES", package="mrcnn_zoo.modeling.roi_heads"
)  # (cfg, spec)
REGION_CLASSIFICATIONS = Registry(
    "REGION_CLASSIFICATIONS", key="MODEL.ROI_BOX_HEAD.CLS_LOSS_TYPE", package="mrcnn_zoo.modeling.roi_heads"
)  # (cfg)
SUPPRESSIONS = Registry(
    "SUPPRESSIONS", key="MODEL.ROI_HEADS.SUPPRESSION", package="mrcnn_zoo.modeling.suppression"
)  # (cfg, iou threshold)

# --- data -------------------------------------------------------------------------------------------------------------
DATASET_FORMATS = Registry("DATASET_FORMATS", package="mrcnn_zoo.data.formats")  # (cfg, name, definition)
AUGMENTATIONS = Registry("AUGMENTATIONS", package="mrcnn_zoo.data.transforms")  # (cfg)
DATA_SAMPLERS = Registry(
    "DATA_SAMPLERS", key="DATALOADER.SAMPLER_TRAIN", package="mrcnn_zoo.data.samplers"
)  # (cfg, dataset, seed)

# --- checkpoints ------------------------------------------------------------------------------------------------------
CHECKPOINT_CONVERTERS = Registry(
    "CHECKPOINT_CONVERTERS", package="mrcnn_zoo.checkpoint.conversion"
)  # (); the names in a file pick: a Converter of backbones, or a DetectorSource

# --- evaluation and training ------------------------------------------------------------------------------------------
EVALUATORS = Registry("EVALUATORS", key="EVAL.EVALUATOR", package="mrcnn_zoo.evaluation")  # (cfg, dataset)
AP_BACKENDS = Registry(
    "AP_BACKENDS", key="EVAL.BACKEND", package="mrcnn_zoo.evaluation.backends"
)  # called itself: (ground truth, detections, task, limits, *, sigmas) -> Curves
OPTIMIZERS = Registry("OPTIMIZERS", key="SOLVER.OPTIMIZER", package="mrcnn_zoo.training.optimizer")  # (cfg, groups)
LR_SCHEDULES = Registry(
    "LR_SCHEDULES", key="SOLVER.LR_SCHEDULER_NAME", package="mrcnn_zoo.training.lr_schedule"
)  # (cfg)
HOOKS = Registry("HOOKS", key="HOOKS", package="mrcnn_zoo.training.hooks")  # (cfg, workspace)
METRIC_WRITERS = Registry("METRIC_WRITERS", key="WRITERS", package="mrcnn_zoo.training.writers")  # (cfg, place)
TRAINING_SCHEDULES = Registry(
    "TRAINING_SCHEDULES", key="SOLVER.TRAINING_SCHEDULE", package="mrcnn_zoo.training.schedules"
)  # (cfg) -> list of configs
