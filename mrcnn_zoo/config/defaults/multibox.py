"""Defaults of MultiBox, a network for proposals that is trained by one-to-one matching."""

from mrcnn_zoo.config.keys import AT_LEAST_ONE, NOT_EMPTY, NOT_NEGATIVE, SHARE, Key, Range

DETECTRON2_KEYS = ()

NEW_KEYS = (
    Key(
        "MODEL.MULTIBOX.IN_FEATURES",
        ["res4"],
        "Backbone outputs on which MultiBox predicts, each with layers of its own. The priors of a map are those of "
        "MODEL.ANCHOR_GENERATOR (sizes and aspect ratios per map; OFFSET 0.5 centres them in their cells).",
        length=NOT_EMPTY,
    ),
    Key(
        "MODEL.MULTIBOX.CONV_DIMS",
        [-1],
        "Output channels of each 3 x 3 convolution before the predictions of a map, in order; -1 keeps the number of "
        "input channels, an empty list predicts from the map itself.",
        range=Range(low=1, also=(-1,)),
    ),
    Key(
        "MODEL.MULTIBOX.INITIAL_CONFIDENCE",
        0.01,
        "Confidence that the untrained network predicts everywhere, in (0, 1); best about the number of objects over "
        "that of priors: with many priors, a larger one makes the first gradients large.",
        range=Range(low=0, high=1, low_open=True, high_open=True),
    ),
    Key(
        "MODEL.MULTIBOX.MATCHING",
        "priors",
        "The cost that the one-to-one matching of predictions with objects minimises: priors (the squared distance of "
        "their priors from the objects, the same in each step) or predictions (the loss itself, of predicted boxes and "
        "confidences).",
        choices=("priors", "predictions"),
    ),
    Key(
        "MODEL.MULTIBOX.ALPHA",
        0.3,
        "Weight of the squared distances of the matched boxes, in image sides, beside the confidence loss; also in the "
        "matching by predictions. 0.3 is the paper's. Squared distances are small numbers: 100 to 1000 gives tighter "
        "boxes in short training.",
        range=NOT_NEGATIVE,
    ),
    Key("MODEL.MULTIBOX.LOSS_WEIGHT", 1.0, "Weight of both losses of MultiBox.", range=NOT_NEGATIVE),
    Key(
        "MODEL.MULTIBOX.NMS_THRESH",
        0.9,
        "A proposal is suppressed when its IoU with a more confident one of any map is above this; 1 keeps all. One "
        "prediction per object is trained, so there are few duplicates; the paper's 0.5 costs recall at high IoU.",
        range=SHARE,
    ),
    Key(
        "MODEL.MULTIBOX.PRE_NMS_TOPK",
        2000,
        "Maximum number of predictions per image that are decoded and compared by the suppression, the most confident "
        "of all maps together.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.MULTIBOX.POST_NMS_TOPK_TRAIN",
        1000,
        "Maximum number of proposals per image in training, where region heads are trained on them.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.MULTIBOX.POST_NMS_TOPK_TEST",
        1000,
        "Maximum number of proposals per image at inference.",
        range=AT_LEAST_ONE,
    ),
)
