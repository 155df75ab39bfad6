"""Defaults of the anchors and of the region proposal network."""

from mrcnn_zoo.config.keys import Key

DETECTRON2_KEYS = (
    Key(
        "MODEL.PROPOSAL_GENERATOR.NAME",
        "RPN",
        "Registered proposal generator, e.g. RPN; what suggests the regions that the heads then classify.",
    ),
    Key(
        "MODEL.PROPOSAL_GENERATOR.MIN_SIZE",
        0,
        "Proposals with a side shorter than this many pixels of the network input are dropped; 0 drops only "
        "empty ones.",
    ),
    Key(
        "MODEL.ANCHOR_GENERATOR.NAME",
        "DefaultAnchorGenerator",
        "Registered anchor generator; DefaultAnchorGenerator lays a grid of axis-aligned boxes over each feature map.",
    ),
    Key(
        "MODEL.ANCHOR_GENERATOR.SIZES",
        [[32, 64, 128, 256, 512]],
        "Anchor sizes, the square root of their area in input pixels: one list per feature level, "
        "or a single list used at every level.",
        element_types=(int, float),
    ),
    Key(
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS",
        [[0.5, 1.0, 2.0]],
        "Anchor shapes as height / width: one list per feature level, or a single list used at every level.",
    ),
    Key(
        "MODEL.ANCHOR_GENERATOR.ANGLES",
        [[-90, 0, 90]],
        "Angles in degrees of rotated anchors; only a rotated anchor generator has use for them.",
        is_built=False,
        element_types=(int, float),
    ),
    Key(
        "MODEL.ANCHOR_GENERATOR.OFFSET",
        0.0,
        "Where in its cell an anchor is centred, as a fraction of the stride in [0, 1): 0 is the corner, 0.5 the "
        "middle.",
    ),
    Key("MODEL.RPN.HEAD_NAME", "StandardRPNHead", "Registered head that scores anchors and predicts their box deltas."),
    Key(
        "MODEL.RPN.IN_FEATURES",
        ["res4"],
        "Backbone outputs the RPN looks at, finest first, e.g. [p2, p3, p4, p5, p6] with an FPN.",
    ),
    Key(
        "MODEL.RPN.BOUNDARY_THRESH",
        -1,
        "In training, anchors that reach more than this many pixels outside the image are ignored; -1 keeps them all.",
    ),
    Key(
        "MODEL.RPN.IOU_THRESHOLDS",
        [0.3, 0.7],
        "IoU values with the ground truth at which an anchor changes label: background below the first, "
        "object from the last on, ignored in between.",
    ),
    Key(
        "MODEL.RPN.IOU_LABELS",
        [0, -1, 1],
        "Labels of the intervals that RPN.IOU_THRESHOLDS cuts: 0 background, -1 ignored, 1 object.",
    ),
    Key("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 256, "Anchors sampled per image for the RPN losses."),
    Key(
        "MODEL.RPN.POSITIVE_FRACTION",
        0.5,
        "Largest share of objects among the sampled anchors, in [0, 1]; background fills the rest.",
    ),
    Key(
        "MODEL.RPN.BBOX_REG_LOSS_TYPE",
        "smooth_l1",
        "Registered loss of the RPN's box regression: smooth_l1 on deltas, or one on decoded boxes such as giou.",
    ),
    Key("MODEL.RPN.BBOX_REG_LOSS_WEIGHT", 1.0, "Factor of the RPN's box regression loss, besides RPN.LOSS_WEIGHT."),
    Key(
        "MODEL.RPN.BBOX_REG_WEIGHTS",
        [1.0, 1.0, 1.0, 1.0],
        "Scales of the four RPN box deltas (dx, dy, dw, dh); a larger one makes its delta count more.",
    ),
    Key(
        "MODEL.RPN.SMOOTH_L1_BETA",
        0.0,
        "Delta error at which smooth_l1 of the RPN turns from quadratic to linear; 0 is the plain L1 loss.",
    ),
    Key("MODEL.RPN.LOSS_WEIGHT", 1.0, "Factor of both RPN losses."),
    Key(
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN",
        12000,
        "Best scored anchors kept before suppression in training, per image and per feature level.",
    ),
    Key("MODEL.RPN.PRE_NMS_TOPK_TEST", 6000, "The same as RPN.PRE_NMS_TOPK_TRAIN, at inference."),
    Key(
        "MODEL.RPN.POST_NMS_TOPK_TRAIN",
        2000,
        "Proposals kept after suppression in training, per image over all feature levels together.",
    ),
    Key("MODEL.RPN.POST_NMS_TOPK_TEST", 1000, "The same as RPN.POST_NMS_TOPK_TRAIN, at inference."),
    Key("MODEL.RPN.NMS_THRESH", 0.7, "A proposal is suppressed when its IoU with a better one is above this."),
    Key(
        "MODEL.RPN.CONV_DIMS",
        [-1],
        "Output channels of each 3 x 3 convolution of the RPN head, in order; -1 keeps the number of input channels.",
    ),
)

NEW_KEYS = ()
