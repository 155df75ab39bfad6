"""Keys of Detectron2's unsupported parts: its YAML files load, and a value with an effect is refused."""

from typing import Any

from mrcnn_zoo.config.keys import (
    AT_LEAST_ONE,
    NOT_NEGATIVE,
    SHARE,
    SHARE_ABOVE_ZERO,
    UNLIMITED,
    Key,
    Range,
    Unsupported,
)

ALWAYS = Unsupported()
PANOPTIC = Unsupported("MODEL.META_ARCHITECTURE", ("PanopticFPN",))
SEMANTIC = Unsupported("MODEL.META_ARCHITECTURE", ("PanopticFPN", "SemanticSegmentor"))
SEMANTIC_ALONE = Unsupported("MODEL.META_ARCHITECTURE", ("SemanticSegmentor",))
ROTATED = Unsupported("MODEL.ANCHOR_GENERATOR.NAME", ("RotatedAnchorGenerator",))
IMPLICIT = Unsupported("MODEL.ROI_MASK_HEAD.NAME", ("ImplicitPointRendMaskHead",))

PFPN = "MODEL.PANOPTIC_FPN"


def _key(part: Unsupported, name: str, default: Any, meaning: str, allowed: Range | None = None, old: str = "") -> Key:
    return Key(name, default, meaning, range=allowed, old_names=(old,) if old else (), unsupported=part)


DETECTRON2_KEYS = (
    _key(SEMANTIC, "MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHead", "Head that labels every pixel."),
    _key(SEMANTIC, "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["p2", "p3", "p4", "p5"], "Inputs of the semantic head."),
    _key(SEMANTIC, "MODEL.SEM_SEG_HEAD.IGNORE_VALUE", 255, "Pixel label without a loss.", UNLIMITED),
    _key(SEMANTIC, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 54, "Pixel classes of the semantic head.", AT_LEAST_ONE),
    _key(SEMANTIC, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 128, "Channels of the semantic head.", AT_LEAST_ONE),
    _key(SEMANTIC, "MODEL.SEM_SEG_HEAD.COMMON_STRIDE", 4, "Stride of the sum of the feature levels.", AT_LEAST_ONE),
    _key(SEMANTIC, "MODEL.SEM_SEG_HEAD.NORM", "GN", "Norm after the semantic head's convolutions."),
    _key(
        SEMANTIC,
        "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT",
        1.0,
        "Factor of the semantic loss.",
        NOT_NEGATIVE,
        old=f"{PFPN}.SEMANTIC_LOSS_SCALE",
    ),
    _key(
        PANOPTIC,
        f"{PFPN}.INSTANCE_LOSS_WEIGHT",
        1.0,
        "Factor of the box and mask losses in a panoptic model.",
        NOT_NEGATIVE,
        old=f"{PFPN}.INSTANCE_LOSS_SCALE",
    ),
    _key(
        PANOPTIC,
        f"{PFPN}.COMBINE.ENABLED",
        True,
        "Merge instances and stuff into one panoptic map at inference.",
        old=f"{PFPN}.COMBINE_ON",
    ),
    _key(
        PANOPTIC,
        f"{PFPN}.COMBINE.OVERLAP_THRESH",
        0.5,
        "Largest share of an instance's pixels that others may have taken.",
        SHARE,
        old=f"{PFPN}.COMBINE_OVERLAP_THRESHOLD",
    ),
    _key(
        PANOPTIC,
        f"{PFPN}.COMBINE.STUFF_AREA_LIMIT",
        4096,
        "Fewest pixels of a stuff region.",
        NOT_NEGATIVE,
        old=f"{PFPN}.COMBINE_STUFF_AREA_LIMIT",
    ),
    _key(
        PANOPTIC,
        f"{PFPN}.COMBINE.INSTANCES_CONFIDENCE_THRESH",
        0.5,
        "Lowest score of an instance in the panoptic map.",
        SHARE,
        old=f"{PFPN}.COMBINE_INSTANCES_CONFIDENCE_THRESHOLD",
    ),
    Key(
        "MODEL.ANCHOR_GENERATOR.ANGLES",
        [[-90, 0, 90]],
        "Angles in degrees of rotated anchors.",
        element_types=(int, float),
        range=UNLIMITED,
        unsupported=ROTATED,
    ),
    _key(ALWAYS, "GLOBAL.HACK", 1.0, "A number that Detectron2 keeps free for experiments.", UNLIMITED),
)
NEW_KEYS = ()

POINTREND_KEYS = (
    _key(
        SEMANTIC_ALONE,
        "MODEL.POINT_HEAD.COARSE_SEM_SEG_HEAD_NAME",
        "SemSegFPNHead",
        "Coarse head of PointRend for semantic segmentation.",
    ),
    _key(
        SEMANTIC_ALONE,
        "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA",
        1.0,
        "Largest share of one class in a crop for semantic segmentation.",
        SHARE_ABOVE_ZERO,
    ),
    _key(SEMANTIC_ALONE, "INPUT.COLOR_AUG_SSD", False, "Colour augmentation of SSD for semantic segmentation."),
    _key(IMPLICIT, "MODEL.IMPLICIT_POINTREND.IMAGE_FEATURE_ENABLED", True, "Image features in Implicit PointRend."),
    _key(IMPLICIT, "MODEL.IMPLICIT_POINTREND.POS_ENC_ENABLED", True, "Encoded positions in Implicit PointRend."),
    _key(
        IMPLICIT,
        "MODEL.IMPLICIT_POINTREND.PARAMS_L2_REGULARIZER",
        1e-5,
        "Weight of the L2 norm of Implicit PointRend's predicted parameters.",
        NOT_NEGATIVE,
    ),
)
