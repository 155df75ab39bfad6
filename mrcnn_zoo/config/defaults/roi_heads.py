"""Defaults of the region heads: sampling, box head, cascade and suppression."""

from mrcnn_zoo.config.keys import (
    AT_LEAST_ONE,
    FOUR,
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
    BOX_CODERS,
    BOX_HEADS,
    BOX_LOSSES,
    MATCHERS,
    NORMS,
    POOLING_OPERATIONS,
    REGION_BRANCHES,
    REGION_CLASSIFICATIONS,
    ROI_HEADS,
    SAMPLERS,
    SUPPRESSIONS,
)

REGION_KEYS = (
    Key(
        "MODEL.ROI_HEADS.NAME",
        "Res5ROIHeads",
        "Registered region heads: StandardROIHeads pools for each head, Res5ROIHeads shares the backbone's last stage, "
        "CascadeROIHeads classifies and refines the boxes in several stages.",
        registry=ROI_HEADS,
    ),
    Key(
        "MODEL.ROI_HEADS.NUM_CLASSES",
        80,
        "Number of object classes, the background not counted.",
        range=AT_LEAST_ONE,
        counts_classes_of=("GeneralizedRCNN", "PanopticFPN"),
    ),
    Key(
        "MODEL.ROI_HEADS.IN_FEATURES",
        ["res4"],
        "Backbone outputs that the regions are pooled from, finest first, e.g. [p2, p3, p4, p5] with an FPN.",
    ),
    Key(
        "MODEL.ROI_HEADS.IOU_THRESHOLDS",
        [0.5],
        "IoU values with the ground truth that separate the labels of proposals: background below, object at or above.",
        range=SHARE_ABOVE_ZERO,
        length=NOT_EMPTY,
        ascends=True,
    ),
    Key(
        "MODEL.ROI_HEADS.IOU_LABELS",
        [0, 1],
        "Label of each interval between ROI_HEADS.IOU_THRESHOLDS: 0 background, -1 ignored, 1 object.",
        range=Range(low=-1, high=1),
        length=NOT_EMPTY,
    ),
    Key(
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 512, "Regions sampled per image to train the heads.", range=AT_LEAST_ONE
    ),
    Key(
        "MODEL.ROI_HEADS.POSITIVE_FRACTION",
        0.25,
        "Maximum share of objects among the sampled regions, in [0, 1]; background fills the rest.",
        range=SHARE,
    ),
    Key(
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
        0.05,
        "Detections below this score, in [0, 1], are dropped before suppression.",
        range=SHARE,
        old_names=("MODEL.ROI_HEADS.SCORE_THRESH",),
    ),
    Key(
        "MODEL.ROI_HEADS.NMS_THRESH_TEST",
        0.5,
        "A detection is suppressed when its IoU with a higher-scoring one of its class is above this; see "
        "ROI_HEADS.SUPPRESSION for other rules.",
        range=SHARE,
        old_names=("MODEL.ROI_HEADS.NMS",),
    ),
    Key(
        "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT",
        True,
        "Add the ground-truth boxes to the proposals in training, so that the heads are trained on objects from the "
        "first step.",
    ),
)

BOX_KEYS = (
    Key(
        "MODEL.ROI_BOX_HEAD.NAME",
        "",
        "Registered box head, e.g. FastRCNNConvFCHead; empty for region heads with a built-in one.",
        registry=BOX_HEADS,
    ),
    Key(
        "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE",
        "smooth_l1",
        "Registered loss of the box regression: smooth_l1 or l1 on deltas, or giou, diou or ciou on decoded boxes.",
        registry=BOX_LOSSES,
    ),
    Key(
        "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT", 1.0, "Weight of the box head's regression loss.", range=NOT_NEGATIVE
    ),
    Key(
        "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS",
        [10.0, 10.0, 5.0, 5.0],
        "Scales of the four box deltas (dx, dy, dw, dh); chosen so that the targets have a deviation near 1.",
        range=POSITIVE,
        length=FOUR,
    ),
    Key(
        "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA",
        0.0,
        "Delta error at which smooth_l1 of the box head turns from quadratic to linear; 0 is the plain L1 loss.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION",
        14,
        "Side, in cells, of the features pooled for the box head.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO",
        0,
        "Sampling points along each side of a pooled cell; 0 takes one per feature cell that the pooled cell covers,"
        " rounded up.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE",
        "ROIAlignV2",
        "Registered pooling operation of the box head: ROIAlignV2 (shifted by half a cell), ROIAlign, ROIPool, ...",
        registry=POOLING_OPERATIONS,
    ),
    Key("MODEL.ROI_BOX_HEAD.NUM_FC", 0, "Number of fully connected layers in the box head.", range=NOT_NEGATIVE),
    Key(
        "MODEL.ROI_BOX_HEAD.FC_DIM", 1024, "Outputs of each fully connected layer of the box head.", range=AT_LEAST_ONE
    ),
    Key(
        "MODEL.ROI_BOX_HEAD.NUM_CONV",
        0,
        "Number of 3 x 3 convolutions before the fully connected layers.",
        range=NOT_NEGATIVE,
    ),
    Key("MODEL.ROI_BOX_HEAD.CONV_DIM", 256, "Channels of the box head's convolutions.", range=AT_LEAST_ONE),
    Key(
        "MODEL.ROI_BOX_HEAD.NORM",
        "",
        "Registered norm after the box head's convolutions, e.g. GN; empty for none.",
        registry=NORMS,
    ),
    Key(
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG",
        False,
        "Predict one box per region instead of one per class.",
    ),
    Key(
        "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES",
        False,
        "Train the mask and keypoint heads on the boxes that the box head predicts instead of on the proposals.",
    ),
    Key(
        "MODEL.ROI_BOX_HEAD.USE_FED_LOSS",
        False,
        "Classify with the federated loss, which in each step covers only the classes of the batch and some sampled "
        "others; needs USE_SIGMOID_CE. The class frequencies are counted in the training data.",
    ),
    Key(
        "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE",
        False,
        "Classify with one sigmoid per class instead of a softmax over classes and background.",
    ),
    Key(
        "MODEL.ROI_BOX_HEAD.FED_LOSS_FREQ_WEIGHT_POWER",
        0.5,
        "Exponent of a class's image count in the federated loss's sampling of negative classes.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES",
        50,
        "Minimum number of classes in the federated loss per step and process.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS",
        [[10.0, 10.0, 5.0, 5.0], [20.0, 20.0, 10.0, 10.0], [30.0, 30.0, 15.0, 15.0]],
        "Scales of the four box deltas (dx, dy, dw, dh) per stage of the cascade.",
        range=POSITIVE,
        length=FOUR,
    ),
    Key(
        "MODEL.ROI_BOX_CASCADE_HEAD.IOUS",
        [0.5, 0.6, 0.7],
        "Minimum IoU of a region that is labelled object, per stage of the cascade; the first is that of "
        "ROI_HEADS.IOU_THRESHOLDS.",
        range=SHARE_ABOVE_ZERO,
        length=NOT_EMPTY,
    ),
)

DETECTRON2_KEYS = REGION_KEYS + BOX_KEYS
NEW_KEYS = (
    Key(
        "MODEL.ROI_HEADS.MATCHER",
        "MaxIoUMatcher",
        "Registered matcher of proposals with ground truth.",
        registry=MATCHERS,
    ),
    Key(
        "MODEL.ROI_HEADS.SAMPLER",
        "RandomSampler",
        "Registered sampler of the proposals used in a training step.",
        registry=SAMPLERS,
    ),
    Key(
        "MODEL.ROI_BOX_HEAD.DROPOUT",
        0.0,
        "Dropout probability of the outputs of each fully connected layer; 0.5 with VGG's fc6 and fc7.",
        range=SHARE_BELOW_ONE,
    ),
    Key(
        "MODEL.ROI_BOX_HEAD.BOX_CODER",
        "Box2BoxTransform",
        "Registered encoding of the boxes that the box head predicts.",
        registry=BOX_CODERS,
    ),
    Key(
        "MODEL.ROI_HEADS.SUPPRESSION",
        "greedy",
        "Registered suppression of duplicate detections: greedy (NMS) drops those that overlap a higher-scoring one "
        "of their class, greedy_class_agnostic of any class; soft_linear (from an IoU of NMS_THRESH_TEST on) and "
        "soft_gaussian lower their scores (Soft-NMS); GossipNet computes new scores by a network that is trained "
        "(SOLVER.TRAIN [suppression]).",
        registry=SUPPRESSIONS,
    ),
    Key(
        "MODEL.ROI_HEADS.BRANCHES",
        [],
        "Registered additional branches, in this order after the mask and the keypoint head: MaskIoUHead is that of "
        "Mask Scoring R-CNN and corrects the scores of masks.",
        element_types=(str,),
        registry=REGION_BRANCHES,
    ),
    Key(
        "MODEL.ROI_HEADS.MIN_SIZE_TEST",
        0.0,
        "Detections with a side of at most this many pixels of the network input are dropped before suppression; 0 "
        "drops none.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "MODEL.ROI_BOX_HEAD.CLS_LOSS_TYPE",
        "softmax",
        "Registered classification of regions: softmax over classes and background, sigmoid per class, focal "
        "(sigmoid, RetinaNet's loss), or federated. USE_SIGMOID_CE and USE_FED_LOSS are Detectron2's keys for the "
        "same; of the three the one set closest to the command line has priority.",
        registry=REGION_CLASSIFICATIONS,
    ),
    Key("MODEL.ROI_BOX_HEAD.CLS_LOSS_WEIGHT", 1.0, "Weight of the box head's classification loss.", range=NOT_NEGATIVE),
    Key(
        "MODEL.ROI_BOX_HEAD.FOCAL_LOSS_ALPHA",
        0.25,
        "Weight of the true class in the focal CLS_LOSS_TYPE, in [0, 1]; the other classes get 1 minus it.",
        range=SHARE,
    ),
    Key(
        "MODEL.ROI_BOX_HEAD.FOCAL_LOSS_GAMMA",
        2.0,
        "Exponent of the focal CLS_LOSS_TYPE, which down-weights easy examples; 0 is plain cross-entropy.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "MODEL.ROI_HEADS.CANONICAL_LEVEL",
        4,
        "Pyramid level, log2 of its stride, that a region of side ROI_HEADS.CANONICAL_BOX_SIDE is pooled from; each "
        "doubling of the side is one level up.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "MODEL.ROI_HEADS.CANONICAL_BOX_SIDE",
        224.0,
        "Side, in pixels, of the region that is pooled from ROI_HEADS.CANONICAL_LEVEL. Levels are rounded down; "
        "158.392 (224 / sqrt 2) rounds them to the nearest, as matterport's Mask R-CNN does.",
        range=POSITIVE,
    ),
    Key(
        "MODEL.ROI_HEADS.SOFT_NMS_SIGMA",
        0.5,
        "Width of soft_gaussian suppression: an overlap lowers a score by exp(-IoU ** 2 / sigma).",
        range=POSITIVE,
    ),
    Key(
        "MODEL.ROI_HEADS.SOFT_NMS_MIN_SCORE",
        0.001,
        "Soft suppression drops detections with a lowered score below this.",
        range=SHARE,
    ),
)
