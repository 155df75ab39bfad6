"""Defaults of Detectron2's PointRend project, which its core does not have; those of the mask head are shared."""

from mrcnn_zoo.config.keys import AT_LEAST_ONE, NOT_EMPTY, NOT_NEGATIVE, SHARE, SHARE_ABOVE_ZERO, Key, Range

MASK_KEYS = (
    Key(
        "MODEL.ROI_MASK_HEAD.IN_FEATURES",
        ["p2"],
        "Backbone outputs that PointRendMaskHead samples its coarse mask's features from; other mask heads pool from "
        "ROI_HEADS.IN_FEATURES.",
        length=NOT_EMPTY,
    ),
    Key(
        "MODEL.ROI_MASK_HEAD.NUM_FC",
        2,
        "Hidden layers of MaskRCNNMLPHead and of PointRendMaskHead's coarse mask; other mask heads have none.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "MODEL.ROI_MASK_HEAD.FC_DIM",
        1024,
        "Outputs of each hidden layer of MaskRCNNMLPHead and of PointRendMaskHead's coarse mask.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.ROI_MASK_HEAD.OUTPUT_SIDE_RESOLUTION",
        7,
        "Side, in cells, of PointRendMaskHead's coarse mask.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.ROI_MASK_HEAD.POINT_HEAD_ON",
        False,
        "Refine PointRendMaskHead's coarse mask at points, as the paper does; without, the coarse mask is the result.",
    ),
)

POINT_KEYS = (
    Key("MODEL.POINT_HEAD.NAME", "StandardPointHead", "Registered point head of PointRendMaskHead."),
    Key(
        "MODEL.POINT_HEAD.NUM_CLASSES",
        80,
        "Number of object classes; must be ROI_HEADS.NUM_CLASSES, whose value is taken where that was set closer to "
        "the command line.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.POINT_HEAD.IN_FEATURES",
        ["p2"],
        "Backbone outputs whose values at a point are the point head's fine features.",
        length=NOT_EMPTY,
    ),
    Key(
        "MODEL.POINT_HEAD.TRAIN_NUM_POINTS",
        14 * 14,
        "Points per region at which the point head is trained; N in the paper.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.POINT_HEAD.OVERSAMPLE_RATIO",
        3,
        "Random points per trained point; the most uncertain of them are trained. k in the paper.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.POINT_HEAD.IMPORTANCE_SAMPLE_RATIO",
        0.75,
        "Share of the trained points that are the most uncertain ones, in [0, 1]; the others are uniformly random. "
        "beta in the paper.",
        range=SHARE,
    ),
    Key(
        "MODEL.POINT_HEAD.SUBDIVISION_STEPS",
        5,
        "How often the side of the mask doubles at inference, from ROI_MASK_HEAD.OUTPUT_SIDE_RESOLUTION on.",
        range=Range(low=0, high=8),
    ),
    Key(
        "MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS",
        28 * 28,
        "Points per region that the point head decides at each doubling; steps that would decide all are skipped.",
        range=AT_LEAST_ONE,
    ),
    Key("MODEL.POINT_HEAD.FC_DIM", 256, "Outputs of each hidden layer of the point head.", range=AT_LEAST_ONE),
    Key("MODEL.POINT_HEAD.NUM_FC", 3, "Hidden layers of the point head.", range=NOT_NEGATIVE),
    Key(
        "MODEL.POINT_HEAD.CLS_AGNOSTIC_MASK",
        False,
        "The point head predicts one mask for a region instead of one for every class.",
    ),
    Key(
        "MODEL.POINT_HEAD.COARSE_PRED_EACH_LAYER",
        True,
        "Each layer of the point head sees the coarse mask's values, not only the first.",
    ),
    Key(
        "MODEL.POINT_HEAD.COARSE_SEM_SEG_HEAD_NAME",
        "SemSegFPNHead",
        "Coarse head of PointRend for semantic segmentation.",
        is_built=False,
    ),
    Key(
        "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA",
        1.0,
        "Crops of semantic segmentation are drawn again while one class covers more than this share of them.",
        is_built=False,
        range=SHARE_ABOVE_ZERO,
    ),
    Key("INPUT.COLOR_AUG_SSD", False, "Colour augmentation of SSD for semantic segmentation.", is_built=False),
    Key(
        "MODEL.IMPLICIT_POINTREND.IMAGE_FEATURE_ENABLED",
        True,
        "Implicit PointRend sees image features.",
        is_built=False,
    ),
    Key(
        "MODEL.IMPLICIT_POINTREND.POS_ENC_ENABLED",
        True,
        "Implicit PointRend sees encoded positions.",
        is_built=False,
    ),
    Key(
        "MODEL.IMPLICIT_POINTREND.PARAMS_L2_REGULARIZER",
        1e-5,
        "Weight of the L2 norm of Implicit PointRend's predicted parameters.",
        is_built=False,
        range=NOT_NEGATIVE,
    ),
)

PROJECT_KEYS = MASK_KEYS + POINT_KEYS
