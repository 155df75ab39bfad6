"""Defaults of RetinaNet."""

from mrcnn_zoo.config.keys import (
    AT_LEAST_ONE,
    FOUR,
    NOT_EMPTY,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    SHARE_ABOVE_ZERO,
    Key,
    Range,
)
from mrcnn_zoo.registries import BOX_CODERS, BOX_LOSSES, MATCHERS, NORMS, SUPPRESSIONS

DETECTRON2_KEYS = (
    Key(
        "MODEL.RETINANET.NUM_CLASSES",
        80,
        "Number of object classes, the background not counted.",
        range=AT_LEAST_ONE,
        counts_classes_of=("RetinaNet", "FCOS"),
    ),
    Key(
        "MODEL.RETINANET.IN_FEATURES",
        ["p3", "p4", "p5", "p6", "p7"],
        "Backbone outputs that are inputs of the RetinaNet head, finest first.",
    ),
    Key(
        "MODEL.RETINANET.NUM_CONVS",
        4,
        "Number of 3 x 3 convolutions in each of the two branches of the head.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "MODEL.RETINANET.IOU_THRESHOLDS",
        [0.4, 0.5],
        "IoU values with the ground truth that separate the labels of anchors.",
        range=SHARE_ABOVE_ZERO,
        length=NOT_EMPTY,
        ascends=True,
    ),
    Key(
        "MODEL.RETINANET.IOU_LABELS",
        [0, -1, 1],
        "Label of each interval between RETINANET.IOU_THRESHOLDS: 0 background, -1 ignored, 1 object.",
        range=Range(low=-1, high=1),
        length=NOT_EMPTY,
    ),
    Key(
        "MODEL.RETINANET.PRIOR_PROB",
        0.01,
        "Object probability that the untrained head predicts, in (0, 1).",
        range=Range(low=0, high=1, low_open=True, high_open=True),
    ),
    Key(
        "MODEL.RETINANET.SCORE_THRESH_TEST",
        0.05,
        "Detections below this score, in [0, 1], are dropped before suppression.",
        range=SHARE,
        old_names=("MODEL.RETINANET.INFERENCE_SCORE_THRESHOLD",),
    ),
    Key(
        "MODEL.RETINANET.TOPK_CANDIDATES_TEST",
        1000,
        "Maximum number of detections kept before suppression, per image and per feature level.",
        range=AT_LEAST_ONE,
        old_names=("MODEL.RETINANET.INFERENCE_TOPK_CANDIDATES",),
    ),
    Key(
        "MODEL.RETINANET.NMS_THRESH_TEST",
        0.5,
        "A detection is suppressed when its IoU with a higher-scoring one of its class is above this.",
        range=SHARE,
        old_names=("MODEL.RETINANET.INFERENCE_NMS_THRESHOLD",),
    ),
    Key(
        "MODEL.RETINANET.BBOX_REG_WEIGHTS",
        [1.0, 1.0, 1.0, 1.0],
        "Scales of the four box deltas (dx, dy, dw, dh).",
        range=POSITIVE,
        length=FOUR,
    ),
    Key(
        "MODEL.RETINANET.FOCAL_LOSS_GAMMA",
        2.0,
        "Exponent of the focal loss; larger values down-weight easy anchors more.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "MODEL.RETINANET.FOCAL_LOSS_ALPHA",
        0.25,
        "Weight of object anchors in the focal loss, in [0, 1]; background anchors get the rest to 1.",
        range=SHARE,
    ),
    Key(
        "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA",
        0.1,
        "Delta error at which smooth_l1 turns from quadratic to linear; 0 is the plain L1 loss.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "MODEL.RETINANET.BBOX_REG_LOSS_TYPE", "smooth_l1", "Registered loss of the box regression.", registry=BOX_LOSSES
    ),
    Key(
        "MODEL.RETINANET.NORM",
        "",
        "Registered norm after the head's convolutions; empty for none. BN and SyncBN keep separate statistics per "
        "level.",
        registry=NORMS,
    ),
)

NEW_KEYS = (
    Key(
        "MODEL.RETINANET.MATCHER",
        "MaxIoUMatcher",
        "Registered matcher of anchors with ground truth.",
        registry=MATCHERS,
    ),
    Key(
        "MODEL.RETINANET.BOX_CODER",
        "Box2BoxTransform",
        "Registered encoding of the boxes that the head predicts.",
        registry=BOX_CODERS,
    ),
    Key(
        "MODEL.RETINANET.SUPPRESSION",
        "greedy",
        "Registered suppression of duplicate detections: greedy (NMS) drops those that overlap a higher-scoring one "
        "of their class; the others are those of ROI_HEADS.SUPPRESSION, soft ones with ROI_HEADS.SOFT_NMS_*.",
        registry=SUPPRESSIONS,
    ),
    Key("MODEL.RETINANET.CLS_LOSS_WEIGHT", 1.0, "Weight of RetinaNet's classification loss.", range=NOT_NEGATIVE),
    Key("MODEL.RETINANET.BBOX_REG_LOSS_WEIGHT", 1.0, "Weight of RetinaNet's box regression loss.", range=NOT_NEGATIVE),
    Key(
        "MODEL.RETINANET.CLIP_BEFORE_NMS",
        False,
        "Clip boxes to the image before overlapping ones are suppressed, as torchvision does, instead of after it.",
    ),
)
