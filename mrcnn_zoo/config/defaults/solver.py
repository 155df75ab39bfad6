"""Defaults of the solver keys."""

from mrcnn_zoo.config.keys import Key

DETECTRON2_KEYS = (
    Key("SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", ""),
    Key("SOLVER.MAX_ITER", 40000, ""),
    Key("SOLVER.BASE_LR", 0.001, ""),
    Key("SOLVER.BASE_LR_END", 0.0, ""),
    Key("SOLVER.MOMENTUM", 0.9, ""),
    Key("SOLVER.NESTEROV", False, ""),
    Key("SOLVER.WEIGHT_DECAY", 0.0001, ""),
    Key("SOLVER.WEIGHT_DECAY_NORM", 0.0, ""),
    Key("SOLVER.GAMMA", 0.1, ""),
    Key("SOLVER.STEPS", [30000], ""),
    Key("SOLVER.NUM_DECAYS", 3, ""),
    Key("SOLVER.WARMUP_FACTOR", 0.001, ""),
    Key("SOLVER.WARMUP_ITERS", 1000, ""),
    Key("SOLVER.WARMUP_METHOD", "linear", ""),
    Key("SOLVER.RESCALE_INTERVAL", False, ""),
    Key("SOLVER.CHECKPOINT_PERIOD", 5000, ""),
    Key("SOLVER.IMS_PER_BATCH", 16, ""),
    Key("SOLVER.REFERENCE_WORLD_SIZE", 0, ""),
    Key("SOLVER.BIAS_LR_FACTOR", 1.0, ""),
    Key("SOLVER.WEIGHT_DECAY_BIAS", None, ""),
    Key("SOLVER.CLIP_GRADIENTS.ENABLED", False, ""),
    Key("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value", ""),
    Key("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 1.0, ""),
    Key("SOLVER.CLIP_GRADIENTS.NORM_TYPE", 2.0, ""),
    Key("SOLVER.AMP.ENABLED", False, ""),
)

NEW_KEYS = (
    Key("SOLVER.OPTIMIZER", "SGD", "Registered optimizer: SGD or AdamW."),
    Key("SOLVER.BETAS", [0.9, 0.999], "Decay of the two running means of AdamW."),
    Key(
        "SOLVER.MAX_EPOCHS",
        0.0,
        "When above 0, the length of training in passes over the data; replaces MAX_ITER and scales STEPS and WARMUP_ITERS with it.",
    ),
    Key(
        "SOLVER.MAX_MINUTES",
        0.0,
        "When above 0, a time budget in minutes for training; the learning-rate schedule is stretched to end with it.",
    ),
    Key(
        "SOLVER.ACCUMULATE_STEPS",
        1,
        "Forward and backward passes whose gradients are added up before one optimizer step.",
    ),
    Key(
        "SOLVER.SCALE_LR_TO_BATCH",
        0,
        "When above 0, the batch size BASE_LR was chosen for; BASE_LR is scaled by IMS_PER_BATCH / this.",
    ),
    Key("SOLVER.FREEZE", [], 'Glob patterns of parameter names that are not trained, e.g. ["backbone.bottom_up.*"].'),
    Key("SOLVER.EMA.ENABLED", False, "Keep an exponential moving average of the weights, and evaluate and save that."),
    Key("SOLVER.EMA.DECAY", 0.999, "Share of the old average kept at each step."),
    Key("SOLVER.AMP.DTYPE", "auto", "Precision under AMP: auto, bfloat16 or float16 (needs a device that has it)."),
    Key(
        "SOLVER.EARLY_STOPPING.PATIENCE",
        0,
        "Evaluations without a better SOLVER.BEST_METRIC after which training stops; 0 never stops early.",
    ),
    Key(
        "SOLVER.BEST_METRIC",
        "auto",
        "Result that decides which checkpoint is the best, e.g. segm/AP; auto takes segm/AP when there are masks, else bbox/AP.",
    ),
    Key("SOLVER.KEEP_CHECKPOINTS", 3, "Periodic checkpoints kept besides best and final; 0 keeps all."),
    Key("SOLVER.TRAINING_SCHEDULE", "joint", "Registered training schedule: joint."),
)
