"""Defaults of the solver keys."""

from mrcnn_zoo.config.keys import (
    AT_LEAST_ONE,
    NOT_EMPTY,
    NOT_NEGATIVE,
    PAIR,
    POSITIVE,
    SHARE,
    SHARE_ABOVE_ZERO,
    SHARE_BELOW_ONE,
    Key,
    Range,
)
from mrcnn_zoo.registries import LR_SCHEDULES, OPTIMIZERS, TRAINING_SCHEDULES

DETECTRON2_KEYS = (
    Key(
        "SOLVER.LR_SCHEDULER_NAME",
        "WarmupMultiStepLR",
        "Registered learning-rate schedule, e.g. WarmupMultiStepLR or WarmupCosineLR.",
        registry=LR_SCHEDULES,
    ),
    Key(
        "SOLVER.MAX_ITER",
        40000,
        "Length of training in iterations, which are optimizer steps. Of MAX_ITER, MAX_EPOCHS and MAX_MINUTES the "
        "one set closest to the command line is used: the command line comes before files, and a file before its "
        "base. At equal distance MAX_MINUTES comes before MAX_EPOCHS, and MAX_EPOCHS before MAX_ITER.",
        range=AT_LEAST_ONE,
    ),
    Key("SOLVER.BASE_LR", 0.001, "Learning rate after the warm-up.", range=NOT_NEGATIVE),
    Key("SOLVER.BASE_LR_END", 0.0, "Final learning rate of a cosine schedule.", range=NOT_NEGATIVE),
    Key("SOLVER.MOMENTUM", 0.9, "Momentum of SGD, in [0, 1).", range=SHARE_BELOW_ONE),
    Key("SOLVER.NESTEROV", False, "Use Nesterov's momentum in SGD."),
    Key(
        "SOLVER.WEIGHT_DECAY",
        0.0001,
        "Weight decay of all parameters but those of norms (WEIGHT_DECAY_NORM) and biases (WEIGHT_DECAY_BIAS).",
        range=NOT_NEGATIVE,
    ),
    Key("SOLVER.WEIGHT_DECAY_NORM", 0.0, "Weight decay of the parameters of norms.", range=NOT_NEGATIVE),
    Key(
        "SOLVER.GAMMA",
        0.1,
        "Factor of the learning rate at each step of a multi-step schedule.",
        range=SHARE_ABOVE_ZERO,
    ),
    Key(
        "SOLVER.STEPS",
        [30000],
        "Iterations at which a multi-step schedule multiplies the learning rate by GAMMA.",
        range=AT_LEAST_ONE,
        ascends=True,
    ),
    Key("SOLVER.NUM_DECAYS", 3, "Number of equally spaced steps of WarmupStepWithFixedGammaLR.", range=AT_LEAST_ONE),
    Key("SOLVER.WARMUP_FACTOR", 0.001, "Factor of the learning rate at the start of the warm-up.", range=SHARE),
    Key("SOLVER.WARMUP_ITERS", 1000, "Length of the warm-up in iterations; 0 for none.", range=NOT_NEGATIVE),
    Key(
        "SOLVER.WARMUP_METHOD",
        "linear",
        "Course of the warm-up from WARMUP_FACTOR: linear growth, or constant until it ends.",
        choices=("linear", "constant"),
    ),
    Key(
        "SOLVER.RESCALE_INTERVAL",
        False,
        "Compress the whole schedule into the iterations after the warm-up, instead of replacing its first "
        "iterations by the warm-up.",
    ),
    Key(
        "SOLVER.CHECKPOINT_PERIOD",
        5000,
        "Iterations between two checkpoints; 0 saves only at the end.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "SOLVER.IMS_PER_BATCH",
        16,
        "Images per batch, over all processes together. auto: the largest number that fits into the memory of the "
        "GPU, found by trial steps; learning rate, lengths and periods are then scaled from SOLVER.SCALE_LR_TO_BATCH "
        "images, or from 16 where that is 0.",
        other_types=(str,),
        words=("auto",),
        range=AT_LEAST_ONE,
    ),
    Key(
        "SOLVER.REFERENCE_WORLD_SIZE",
        0,
        "Number of processes the settings were made for: with another number, batch size, learning rate and "
        "lengths are scaled to match; 0 never scales.",
        range=NOT_NEGATIVE,
    ),
    Key("SOLVER.BIAS_LR_FACTOR", 1.0, "Factor of the learning rate for biases.", range=NOT_NEGATIVE),
    Key(
        "SOLVER.WEIGHT_DECAY_BIAS",
        None,
        "Weight decay of biases; None takes SOLVER.WEIGHT_DECAY.",
        other_types=(float,),
        range=NOT_NEGATIVE,
    ),
    Key("SOLVER.CLIP_GRADIENTS.ENABLED", False, "Clip gradients before each optimizer step."),
    Key(
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE",
        "value",
        "Kind of clipping: value (each number), norm (each parameter's gradient) or full_model (the norm over all "
        "parameters).",
        choices=("value", "norm", "full_model"),
    ),
    Key("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 1.0, "Maximum absolute value or norm after clipping.", range=POSITIVE),
    Key(
        "SOLVER.CLIP_GRADIENTS.NORM_TYPE",
        2.0,
        "Order of the norm that is clipped; 2 is the Euclidean, .inf the maximum.",
        range=Range(low=0, low_open=True, allows_infinity=True),
    ),
    Key("SOLVER.AMP.ENABLED", False, "Train in mixed precision; evaluations stay in float32."),
)

NEW_KEYS = (
    Key("SOLVER.OPTIMIZER", "SGD", "Registered optimizer: SGD or AdamW.", registry=OPTIMIZERS),
    Key(
        "SOLVER.BETAS",
        [0.9, 0.999],
        "Decay rates of the two running means of AdamW.",
        range=SHARE_BELOW_ONE,
        length=PAIR,
    ),
    Key(
        "SOLVER.MAX_EPOCHS",
        0.0,
        "When above 0, the length of training in passes over the data; replaces MAX_ITER and scales STEPS and "
        "WARMUP_ITERS with it, unless these are set closer to the command line than MAX_ITER (a warm-up to no less "
        "than 5% of the training). See MAX_ITER for the priority among the lengths.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "SOLVER.MAX_MINUTES",
        0.0,
        "When above 0, a time budget in minutes, from the first step to the last, evaluations included; it replaces "
        "MAX_ITER, and the learning-rate schedule is stretched to end with it. The warm-up keeps its WARMUP_ITERS. "
        "See MAX_ITER for the priority among the lengths.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "SOLVER.ACCUMULATE_STEPS",
        1,
        "Forward and backward passes that accumulate gradients for one optimizer step.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "SOLVER.SCALE_LR_TO_BATCH",
        0,
        "When above 0, the batch size that BASE_LR was chosen for; BASE_LR is multiplied by the images of one "
        "optimizer step, IMS_PER_BATCH * ACCUMULATE_STEPS, divided by this.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "SOLVER.FREEZE",
        [],
        'Glob patterns of parameter names that are not trained, e.g. ["backbone.bottom_up.*"], or parts as in '
        "SOLVER.TRAIN.",
        element_types=(str,),
    ),
    Key(
        "SOLVER.TRAIN",
        [],
        "Parts of the model that are trained, all others are frozen with their batch-norm statistics; empty: all. A "
        "part is backbone, proposal_generator (or rpn), roi_heads, suppression, heads (all but the bottom-up network), "
        "5+, 4+, 3+ or 2+ (the heads and the stages of the bottom-up network from this number on), all, none (nothing "
        "is trained, only evaluated and saved), or a glob pattern of parameter names. [suppression] computes the "
        "losses of the suppression alone, on the detections that it gets at inference. SOLVER.FREEZE and "
        "MODEL.BACKBONE.FREEZE_AT freeze parts of them.",
        element_types=(str,),
    ),
    Key(
        "SOLVER.EMA.ENABLED", False, "Keep an exponential moving average of the weights, which is evaluated and saved."
    ),
    Key("SOLVER.EMA.DECAY", 0.999, "Share of the previous average kept at each step.", range=SHARE_BELOW_ONE),
    Key(
        "SOLVER.AMP.DTYPE",
        "auto",
        "Precision under AMP: bfloat16, float16 (needs CUDA), or auto: bfloat16 where the hardware computes it, else "
        "float16 on CUDA and float32 on the CPU.",
        choices=("auto", "bfloat16", "float16"),
    ),
    Key(
        "SOLVER.EARLY_STOPPING.PATIENCE",
        0,
        "Evaluations without a better SOLVER.BEST_METRIC after which training stops; 0 never stops early.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "SOLVER.BEST_METRIC",
        "auto",
        "Result that selects the best checkpoint, e.g. segm/AP or val/total_loss (of a loss the lowest is the best);"
        " auto takes segm/AP when there are masks, else keypoints/AP, else bbox/AP, or box_proposals/AR@1000 of a "
        "ProposalNetwork, or classification/top1 of a Classifier.",
    ),
    Key(
        "SOLVER.KEEP_CHECKPOINTS",
        3,
        "Number of periodic checkpoints kept besides best and final; 0 keeps all.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "SOLVER.TRAINING_SCHEDULE",
        "joint",
        "Registered training schedule, which returns the list of stages of a run: joint, a single one; stages, those "
        "of SOLVER.STAGES; the others write such a list, which is logged. A custom one is a function from a config to "
        "a list of mrcnn_zoo.training.Stage.",
        registry=TRAINING_SCHEDULES,
    ),
    Key(
        "SOLVER.STAGES",
        [],
        "Stages of the schedule `stages`, in their order; each is a mapping. NAME: of the stage and of its folder in "
        "OUTPUT_DIR. TRAIN: a part or a list of parts that are trained, as in SOLVER.TRAIN (without it all; none: "
        "the stage only joins weights, evaluates and saves). FROM: an earlier stage, from which all weights are "
        "taken, or a mapping {part: stage} or {part: stage:part of its model}, e.g. {backbone: rpn_1, roi_heads: "
        "detector_1, proposal_generator.rpn: rpn_2:proposal_generator, proposals: rpn_1}, where parts are those of "
        "SOLVER.TRAIN, modules or name patterns, and proposals are the boxes that the stage rpn_1 has written for all "
        "datasets; other weights are those of MODEL.WEIGHTS, or random. OVERRIDES: config keys of this stage alone.",
        element_types=(dict,),
    ),
    Key(
        "SOLVER.STAGE_SHARES",
        [],
        "Shares of the run's length (MAX_ITER, MAX_EPOCHS or MAX_MINUTES) of the stages of a ready-made schedule, one "
        "number in any unit per stage that trains, e.g. [2, 2, 1, 1]; empty: equal shares. All stages together see as "
        "many images as a joint training. SOLVER.STEPS are scaled with them.",
        element_types=(int, float),
        range=POSITIVE,
    ),
    Key(
        "SOLVER.STAGE_RATES",
        [],
        "Factors of the learning rate in the stages of a ready-made schedule, one per stage that trains; empty: 1, and "
        "0.1 in the last stage of gradual_unfreezing.",
        element_types=(int, float),
        range=POSITIVE,
    ),
    Key(
        "SOLVER.STAGE_OVERRIDES",
        {},
        "Config keys of single stages by the stage's name, which count before those of the schedule or of "
        "SOLVER.STAGES, e.g. {rpn_1: {SOLVER.BASE_LR: 0.01}}. Where SOLVER.IMS_PER_BATCH is among them, a stage of a "
        "ready-made schedule has the number of iterations of as many images.",
    ),
    Key(
        "SOLVER.ALTERNATING_ROUNDS",
        2,
        "Rounds of RPN and detector in alternating_4_step; from the second on both use the fixed backbone of the first "
        "detector.",
        range=Range(low=2),
    ),
    Key(
        "SOLVER.UNFREEZE",
        ["heads", "4+", "all"],
        "Parts that are trained in the stages of gradual_unfreezing, one part of SOLVER.TRAIN per stage.",
        length=NOT_EMPTY,
    ),
)
