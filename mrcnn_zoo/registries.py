"""Every extension point of the framework, on one page.

Per registry: its name, the config key that selects from it (none where several do; see `config explain KEY`), the
package that registers the builders, the contract of the built components, for some the class that they are instances
of, and in the comment the arguments of a builder. `BACKBONES.get(name)` returns the builder.
"""

from mrcnn_zoo.registry import Registry

CONTRACTS = "mrcnn_zoo.modeling.contracts"
MODULE = "torch.nn:Module"

# --- modeling ---------------------------------------------------------------------------------------------------------
DETECTORS = Registry(
    "DETECTORS",
    key="MODEL.META_ARCHITECTURE",
    package="mrcnn_zoo.modeling.detectors",
    contract=f"{CONTRACTS}:Detector",
    base=MODULE,
)  # (cfg)
BACKBONES = Registry(
    "BACKBONES",
    key="MODEL.BACKBONE.NAME",
    package="mrcnn_zoo.modeling.backbones",
    contract=f"{CONTRACTS}:Backbone",
)  # (cfg, channels)
NORMS = Registry("NORMS", package="mrcnn_zoo.layers.norm")  # (channels)
ANCHOR_GENERATORS = Registry(
    "ANCHOR_GENERATORS",
    key="MODEL.ANCHOR_GENERATOR.NAME",
    package="mrcnn_zoo.modeling.anchors",
    contract=f"{CONTRACTS}:AnchorGenerator",
)  # (cfg, strides)
PROPOSAL_GENERATORS = Registry(
    "PROPOSAL_GENERATORS",
    key="MODEL.PROPOSAL_GENERATOR.NAME",
    package="mrcnn_zoo.modeling.proposal_generators",
    contract=f"{CONTRACTS}:ProposalGenerator",
)  # (cfg, feature_specs)
RPN_HEADS = Registry(
    "RPN_HEADS",
    key="MODEL.RPN.HEAD_NAME",
    package="mrcnn_zoo.modeling.proposal_generators",
    contract=f"{CONTRACTS}:RPNHead",
)  # (cfg, channels, anchors per cell)
MATCHERS = Registry(
    "MATCHERS", package="mrcnn_zoo.modeling.assignment", contract=f"{CONTRACTS}:Matcher"
)  # (thresholds, labels, *, allow_low_quality)
SAMPLERS = Registry(
    "SAMPLERS", package="mrcnn_zoo.modeling.assignment", contract=f"{CONTRACTS}:Sampler"
)  # (count, *, positive_fraction)
BOX_CODERS = Registry("BOX_CODERS", package="mrcnn_zoo.ops.box_coding", contract=f"{CONTRACTS}:BoxCoder")  # (weights)
BOX_LOSSES = Registry(
    "BOX_LOSSES", package="mrcnn_zoo.losses", contract="mrcnn_zoo.losses.box_regression:BoxLoss"
)  # (beta)
MASK_LOSSES = Registry(
    "MASK_LOSSES", key="MODEL.ROI_MASK_HEAD.LOSS", package="mrcnn_zoo.losses", contract="mrcnn_zoo.losses.mask:MaskLoss"
)  # ()
POOLING_OPERATIONS = Registry(
    "POOLING_OPERATIONS", package="mrcnn_zoo.modeling.poolers", contract=f"{CONTRACTS}:PoolingOperation"
)  # (side, scale, sampling)
ROI_HEADS = Registry(
    "ROI_HEADS",
    key="MODEL.ROI_HEADS.NAME",
    package="mrcnn_zoo.modeling.roi_heads",
    contract=f"{CONTRACTS}:RoIHeads",
)  # (cfg, specs)
BOX_HEADS = Registry(
    "BOX_HEADS",
    key="MODEL.ROI_BOX_HEAD.NAME",
    package="mrcnn_zoo.modeling.roi_heads",
    contract=f"{CONTRACTS}:BoxHead",
)  # (cfg, spec)
MASK_HEADS = Registry(
    "MASK_HEADS",
    key="MODEL.ROI_MASK_HEAD.NAME",
    package="mrcnn_zoo.modeling.roi_heads",
    contract=f"{CONTRACTS}:RegionHead",
    base=MODULE,
)  # (cfg, spec)
POINT_HEADS = Registry(
    "POINT_HEADS",
    key="MODEL.POINT_HEAD.NAME",
    package="mrcnn_zoo.modeling.roi_heads",
    contract=f"{CONTRACTS}:PointHead",
)  # (cfg, spec of the fine features, number of coarse maps)
KEYPOINT_HEADS = Registry(
    "KEYPOINT_HEADS",
    key="MODEL.ROI_KEYPOINT_HEAD.NAME",
    package="mrcnn_zoo.modeling.roi_heads",
    contract=f"{CONTRACTS}:RegionHead",
    base=MODULE,
)  # (cfg, spec)
REGION_BRANCHES = Registry(
    "REGION_BRANCHES",
    key="MODEL.ROI_HEADS.BRANCHES",
    package="mrcnn_zoo.modeling.roi_heads",
    contract=f"{CONTRACTS}:NamedBranch",
    base=MODULE,
)  # (cfg, spec)
REGION_CLASSIFICATIONS = Registry(
    "REGION_CLASSIFICATIONS",
    key="MODEL.ROI_BOX_HEAD.CLS_LOSS_TYPE",
    package="mrcnn_zoo.modeling.roi_heads",
    contract=f"{CONTRACTS}:RegionClassification",
)  # (cfg)
SUPPRESSIONS = Registry(
    "SUPPRESSIONS",
    key="MODEL.ROI_HEADS.SUPPRESSION",
    package="mrcnn_zoo.modeling.suppression",
    contract=f"{CONTRACTS}:Suppression",
)  # (cfg, iou threshold)

# --- data -------------------------------------------------------------------------------------------------------------
DATASET_FORMATS = Registry("DATASET_FORMATS", package="mrcnn_zoo.data.formats")  # (cfg, name, definition)
ANNOTATION_FORMATS = Registry(
    "ANNOTATION_FORMATS",
    package="mrcnn_zoo.data.formats",
    contract="mrcnn_zoo.data.annotations.contract:AnnotationFormat",
)  # (); of files that are found by content, read and written; each is in DATASET_FORMATS, too
AUGMENTATIONS = Registry(
    "AUGMENTATIONS", package="mrcnn_zoo.data.transforms", contract="mrcnn_zoo.data.transforms.transform:Augmentation"
)  # (cfg)
DATA_SAMPLERS = Registry(
    "DATA_SAMPLERS",
    key="DATALOADER.SAMPLER_TRAIN",
    package="mrcnn_zoo.data.loading.samplers",
    contract="mrcnn_zoo.data.loading.samplers:DataSampler",
)  # (cfg, dataset, seed)

# --- checkpoints ------------------------------------------------------------------------------------------------------
CHECKPOINT_CONVERTERS = Registry(
    "CHECKPOINT_CONVERTERS", package="mrcnn_zoo.interop"
)  # (); selected by the names in a file: a BackboneConverter or a DetectorConverter

# --- evaluation and training ------------------------------------------------------------------------------------------
EVALUATORS = Registry(
    "EVALUATORS",
    key="EVAL.EVALUATOR",
    package="mrcnn_zoo.evaluation",
    contract="mrcnn_zoo.evaluation.evaluator:Evaluator",
)  # (cfg, dataset)
AP_BACKENDS = Registry(
    "AP_BACKENDS", key="EVAL.BACKEND", package="mrcnn_zoo.evaluation.backends"
)  # itself the function: (ground truth, detections, task, limits, *, sigmas) -> Curves
METRICS = Registry(
    "METRICS",
    key="EVAL.METRICS",
    package="mrcnn_zoo.evaluation.metrics",
    contract="mrcnn_zoo.evaluation.metrics.contract:Metric",
)  # (cfg)
OPTIMIZERS = Registry(
    "OPTIMIZERS", key="SOLVER.OPTIMIZER", package="mrcnn_zoo.training.optimizer", contract="torch.optim:Optimizer"
)  # (cfg, groups)
LR_SCHEDULES = Registry(
    "LR_SCHEDULES", key="SOLVER.LR_SCHEDULER_NAME", package="mrcnn_zoo.training.lr_schedule"
)  # (cfg)
HOOKS = Registry(
    "HOOKS", key="HOOKS", package="mrcnn_zoo.training.hooks", contract="mrcnn_zoo.training.hook:Hook"
)  # (cfg, workspace)
METRIC_WRITERS = Registry(
    "METRIC_WRITERS",
    key="WRITERS",
    package="mrcnn_zoo.training.writers",
    contract="mrcnn_zoo.training.writers.contract:MetricWriter",
)  # (cfg, place)
TRAINING_SCHEDULES = Registry(
    "TRAINING_SCHEDULES", key="SOLVER.TRAINING_SCHEDULE", package="mrcnn_zoo.training.stages"
)  # (cfg) -> list of Stages

# --- sweeps -----------------------------------------------------------------------------------------------------------
LAUNCHERS = Registry(
    "LAUNCHERS",
    package="mrcnn_zoo.experiments.launchers",
    contract="mrcnn_zoo.experiments.launchers.contract:Launcher",
)  # (options); selected by `sweep run --launcher`
