"""Defaults of the anchors and of the region proposal network."""

from mrcnn_zoo.config.keys import (
    AT_LEAST_ONE,
    FOUR,
    MINUS_ONE_OR_MORE,
    NOT_EMPTY,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    SHARE_ABOVE_ZERO,
    SHARE_BELOW_ONE,
    Key,
    Range,
)
from mrcnn_zoo.registries import (
    ANCHOR_GENERATORS,
    BOX_CODERS,
    BOX_LOSSES,
    MATCHERS,
    PROPOSAL_GENERATORS,
    RPN_HEADS,
    SAMPLERS,
)

DETECTRON2_KEYS = (
    Key(
        "MODEL.PROPOSAL_GENERATOR.NAME",
        "RPN",
        "Registered proposal generator, the source of the regions that the heads classify: RPN, "
        "PrecomputedProposals (from files, with MODEL.LOAD_PROPOSALS), SelectiveSearch, EdgeBoxes, SlidingWindow, "
        "MultiBox (a network with one-to-one matching), or GroundTruthProposals (an oracle for ablations).",
        registry=PROPOSAL_GENERATORS,
    ),
    Key(
        "MODEL.PROPOSAL_GENERATOR.MIN_SIZE",
        0,
        "Proposals with a side shorter than this many pixels of the network input are dropped; 0 drops only "
        "empty ones.",
        other_types=(float,),
        range=NOT_NEGATIVE,
    ),
    Key(
        "MODEL.ANCHOR_GENERATOR.NAME",
        "DefaultAnchorGenerator",
        "Registered anchor generator; DefaultAnchorGenerator lays a grid of axis-aligned boxes over each feature map, "
        "TorchvisionAnchorGenerator rounds their corners and strides to whole pixels as torchvision's detectors do.",
        registry=ANCHOR_GENERATORS,
    ),
    Key(
        "MODEL.ANCHOR_GENERATOR.SIZES",
        [[32, 64, 128, 256, 512]],
        "Anchor sizes, the square root of their area in input pixels: one list per feature level, "
        "or a single list used at every level.",
        element_types=(int, float),
        range=POSITIVE,
        length=NOT_EMPTY,
        old_names=(
            "MODEL.RPN.ANCHOR_SIZES",
            "MODEL.RETINANET.ANCHOR_SIZES",
        ),
    ),
    Key(
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS",
        [[0.5, 1.0, 2.0]],
        "Anchor shapes as height / width: one list per feature level, or a single list used at every level.",
        range=POSITIVE,
        length=NOT_EMPTY,
        old_names=(
            "MODEL.RPN.ANCHOR_ASPECT_RATIOS",
            "MODEL.RETINANET.ANCHOR_ASPECT_RATIOS",
        ),
    ),
    Key(
        "MODEL.ANCHOR_GENERATOR.OFFSET",
        0.0,
        "Position of an anchor's centre in its cell, as a fraction of the stride in [0, 1): 0 is the corner, 0.5 the"
        " middle.",
        range=SHARE_BELOW_ONE,
    ),
    Key(
        "MODEL.RPN.HEAD_NAME",
        "StandardRPNHead",
        "Registered head that scores anchors and predicts their box deltas: StandardRPNHead has one sigmoid output "
        "per anchor for objectness, SoftmaxRPNHead a softmax over two, background and object.",
        registry=RPN_HEADS,
        old_names=("MODEL.RPN_HEAD.NAME",),
    ),
    Key(
        "MODEL.RPN.IN_FEATURES",
        ["res4"],
        "Backbone outputs that are inputs of the RPN, finest first, e.g. [p2, p3, p4, p5, p6] with an FPN.",
    ),
    Key(
        "MODEL.RPN.BOUNDARY_THRESH",
        -1,
        "In training, anchors that extend more than this many pixels outside the image are ignored, at 0 all that "
        "cross its border; -1 keeps them all. At inference all are used, and their proposals clipped.",
        range=MINUS_ONE_OR_MORE,
    ),
    Key(
        "MODEL.RPN.IOU_THRESHOLDS",
        [0.3, 0.7],
        "IoU values with the ground truth that separate the labels of anchors: background below the first, object "
        "from the last on, ignored in between. [0.3, 0.7] are Ren et al.'s; with equal "
        "bounds, e.g. [0.3, 0.3], the interval in between is empty, and no anchor is ignored.",
        range=SHARE_ABOVE_ZERO,
        length=NOT_EMPTY,
        ascends=True,
    ),
    Key(
        "MODEL.RPN.IOU_LABELS",
        [0, -1, 1],
        "Label of each interval between RPN.IOU_THRESHOLDS: 0 background, -1 ignored, 1 object.",
        range=Range(low=-1, high=1),
        length=NOT_EMPTY,
    ),
    Key("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 256, "Anchors sampled per image for the RPN losses.", range=AT_LEAST_ONE),
    Key(
        "MODEL.RPN.POSITIVE_FRACTION",
        0.5,
        "Maximum share of objects among the sampled anchors, in [0, 1]; background fills the rest.",
        range=SHARE,
    ),
    Key(
        "MODEL.RPN.BBOX_REG_LOSS_TYPE",
        "smooth_l1",
        "Registered loss of the RPN's box regression: smooth_l1 on deltas, or one on decoded boxes such as giou.",
        registry=BOX_LOSSES,
    ),
    Key(
        "MODEL.RPN.BBOX_REG_LOSS_WEIGHT",
        1.0,
        "Weight of the RPN's box regression loss, in addition to RPN.LOSS_WEIGHT.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "MODEL.RPN.BBOX_REG_WEIGHTS",
        [1.0, 1.0, 1.0, 1.0],
        "Scales of the four RPN box deltas (dx, dy, dw, dh); a larger scale gives its delta more weight in the loss.",
        range=POSITIVE,
        length=FOUR,
    ),
    Key(
        "MODEL.RPN.SMOOTH_L1_BETA",
        0.0,
        "Delta error at which smooth_l1 of the RPN turns from quadratic to linear; 0 is the plain L1 loss.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "MODEL.RPN.LOSS_WEIGHT",
        1.0,
        "Weight of both RPN losses, in addition to RPN.CLS_LOSS_WEIGHT and RPN.BBOX_REG_LOSS_WEIGHT.",
        range=NOT_NEGATIVE,
        old_names=("MODEL.PANOPTIC_FPN.RPN_LOSS_SCALE",),
    ),
    Key(
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN",
        12000,
        "Maximum number of anchors kept before suppression in training, the highest-scoring ones, per image and per "
        "feature level.",
        range=AT_LEAST_ONE,
    ),
    Key("MODEL.RPN.PRE_NMS_TOPK_TEST", 6000, "The same as RPN.PRE_NMS_TOPK_TRAIN, at inference.", range=AT_LEAST_ONE),
    Key(
        "MODEL.RPN.POST_NMS_TOPK_TRAIN",
        2000,
        "Maximum number of proposals kept after suppression in training, per image over all feature levels together.",
        range=AT_LEAST_ONE,
    ),
    Key("MODEL.RPN.POST_NMS_TOPK_TEST", 1000, "The same as RPN.POST_NMS_TOPK_TRAIN, at inference.", range=AT_LEAST_ONE),
    Key(
        "MODEL.RPN.NMS_THRESH",
        0.7,
        "A proposal is suppressed when its IoU with a higher-scoring one is above this.",
        range=SHARE,
    ),
    Key(
        "MODEL.RPN.CONV_DIMS",
        [-1],
        "Output channels of each 3 x 3 convolution of the RPN head, in order; -1 keeps the number of input channels.",
        range=Range(low=1, also=(-1,)),
        length=NOT_EMPTY,
    ),
)

NEW_KEYS = (
    Key("MODEL.RPN.MATCHER", "MaxIoUMatcher", "Registered matcher of anchors with ground truth.", registry=MATCHERS),
    Key(
        "MODEL.RPN.SAMPLER",
        "RandomSampler",
        "Registered sampler of the anchors used in a training step.",
        registry=SAMPLERS,
    ),
    Key(
        "MODEL.RPN.BOX_CODER",
        "Box2BoxTransform",
        "Registered encoding of the boxes that the RPN predicts.",
        registry=BOX_CODERS,
    ),
    Key(
        "MODEL.RPN.RANK_BY",
        "logit",
        "Ranking of the anchors: by logit, or by probability as in MMDetection, where all logits above about 17 are "
        "equal in float32 and the order of such anchors is arbitrary.",
        choices=("logit", "probability"),
    ),
    Key(
        "MODEL.RPN.ACROSS_LEVELS",
        False,
        "Select among the anchors of all levels together, as matterport's Mask R-CNN does: RPN.PRE_NMS_TOPK_* are "
        "per image instead of per level, and boxes of different levels suppress each other.",
    ),
    Key(
        "MODEL.RPN.ALLOW_LOW_QUALITY_MATCHES",
        True,
        "Also label as object the anchors with the highest IoU with each object, even below the threshold, so that "
        "each object has at least one anchor.",
    ),
    Key(
        "MODEL.RPN.CLS_LOSS_TYPE",
        "cross_entropy",
        "Loss of the RPN's objectness: cross_entropy, or focal, which down-weights easy anchors.",
        choices=("cross_entropy", "focal"),
    ),
    Key("MODEL.RPN.FOCAL_LOSS_ALPHA", 0.25, "Weight of objects in the RPN's focal loss, in [0, 1].", range=SHARE),
    Key(
        "MODEL.RPN.FOCAL_LOSS_GAMMA",
        2.0,
        "Exponent of the RPN's focal loss; 0 is weighted cross-entropy.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "MODEL.RPN.CLS_LOSS_WEIGHT",
        1.0,
        "Weight of the RPN's objectness loss, in addition to RPN.LOSS_WEIGHT.",
        range=NOT_NEGATIVE,
    ),
)
