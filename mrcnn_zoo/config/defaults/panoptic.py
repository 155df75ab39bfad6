"""Defaults of semantic and panoptic segmentation, not built here; `config/unbuilt.py` says when the keys matter."""

from mrcnn_zoo.config.keys import AT_LEAST_ONE, NOT_NEGATIVE, SHARE, UNLIMITED, Key

DETECTRON2_KEYS = (
    Key("MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHead", "Head that labels every pixel.", is_built=False),
    Key(
        "MODEL.SEM_SEG_HEAD.IN_FEATURES",
        ["p2", "p3", "p4", "p5"],
        "Backbone outputs the semantic head looks at.",
        is_built=False,
    ),
    Key(
        "MODEL.SEM_SEG_HEAD.IGNORE_VALUE",
        255,
        "Pixel label that no loss is computed for.",
        is_built=False,
        range=UNLIMITED,
    ),
    Key(
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
        54,
        "Number of pixel classes; in panoptic models the stuff classes and one for all things together.",
        is_built=False,
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.SEM_SEG_HEAD.CONVS_DIM",
        128,
        "Channels of the semantic head's convolutions.",
        is_built=False,
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.SEM_SEG_HEAD.COMMON_STRIDE",
        4,
        "Stride, in input pixels, of the map on which the feature levels are added up.",
        is_built=False,
        range=AT_LEAST_ONE,
    ),
    Key("MODEL.SEM_SEG_HEAD.NORM", "GN", "Registered norm after the head's convolutions.", is_built=False),
    Key("MODEL.SEM_SEG_HEAD.LOSS_WEIGHT", 1.0, "Factor of the semantic loss.", is_built=False, range=NOT_NEGATIVE),
    Key(
        "MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT",
        1.0,
        "Factor of the box and mask losses in a panoptic model.",
        is_built=False,
        range=NOT_NEGATIVE,
    ),
    Key(
        "MODEL.PANOPTIC_FPN.COMBINE.ENABLED",
        True,
        "Merge instances and stuff into one panoptic map at inference.",
        is_built=False,
    ),
    Key(
        "MODEL.PANOPTIC_FPN.COMBINE.OVERLAP_THRESH",
        0.5,
        "An instance is left out when more than this share of its pixels is already taken.",
        is_built=False,
        range=SHARE,
    ),
    Key(
        "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT",
        4096,
        "Stuff regions with fewer pixels than this are left out.",
        is_built=False,
        range=NOT_NEGATIVE,
    ),
    Key(
        "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH",
        0.5,
        "Instances below this score are left out of the panoptic map.",
        is_built=False,
        range=SHARE,
    ),
)

NEW_KEYS = ()
