"""Defaults of the model as a whole, its backbone and its feature pyramid."""

from mrcnn_zoo.config.keys import Key

DETECTRON2_KEYS = (
    Key(
        "MODEL.LOAD_PROPOSALS",
        False,
        "Read proposals from the files in DATASETS.PROPOSAL_FILES_* instead of computing them.",
        is_built=False,
    ),
    Key("MODEL.MASK_ON", False, "Predict a mask for every detection."),
    Key("MODEL.KEYPOINT_ON", False, "Predict keypoints for every detection.", is_built=False),
    Key(
        "MODEL.DEVICE",
        "cuda",
        "Torch device the model runs on: cuda, cuda:1, cpu, ...; cuda falls back to cpu where there is none.",
    ),
    Key(
        "MODEL.META_ARCHITECTURE",
        "GeneralizedRCNN",
        "Registered detector: the model as a whole, built of the parts that the other keys name.",
    ),
    Key(
        "MODEL.WEIGHTS",
        "",
        "Path or URL of the weights to start from or to evaluate; empty for random weights.",
    ),
    Key(
        "MODEL.PIXEL_MEAN",
        [103.53, 116.28, 123.675],
        "Mean of each channel, in the order of INPUT.FORMAT and in pixel values of 0 to 255; subtracted from the "
        "image.",
    ),
    Key(
        "MODEL.PIXEL_STD",
        [1.0, 1.0, 1.0],
        "Deviation that each channel is divided by, in the order of INPUT.FORMAT; 1 where the weights have taken "
        "it in.",
    ),
    Key(
        "MODEL.BACKBONE.NAME",
        "build_resnet_backbone",
        "Registered backbone, e.g. build_resnet_backbone or build_resnet_fpn_backbone.",
    ),
    Key(
        "MODEL.BACKBONE.FREEZE_AT",
        2,
        "Number of first stages that are not trained: 0 none, 1 the stem, 2 the stem and res2, up to 5.",
    ),
    Key(
        "MODEL.FPN.IN_FEATURES",
        [],
        "Stages the pyramid is built on, e.g. [res2, res3, res4, res5].",
        element_types=(str,),
    ),
    Key("MODEL.FPN.OUT_CHANNELS", 256, "Channels of every level of the pyramid."),
    Key("MODEL.FPN.NORM", "", "Registered norm after the pyramid's convolutions, e.g. GN; empty for none."),
    Key(
        "MODEL.FPN.FUSE_TYPE",
        "sum",
        "How a level takes in the coarser one: sum, or avg for half of that.",
    ),
    Key("MODEL.RESNETS.DEPTH", 50, "Layers of the ResNet: 18, 34, 50, 101 or 152."),
    Key(
        "MODEL.RESNETS.OUT_FEATURES",
        ["res4"],
        "Stages whose outputs the backbone returns, among stem, res2, res3, res4 and res5.",
    ),
    Key("MODEL.RESNETS.NUM_GROUPS", 1, "Groups of the 3 x 3 convolutions: 1 is ResNet, 32 the usual ResNeXt."),
    Key(
        "MODEL.RESNETS.NORM",
        "FrozenBN",
        "Registered norm after each convolution of the ResNet, e.g. FrozenBN, BN, SyncBN or GN.",
    ),
    Key(
        "MODEL.RESNETS.WIDTH_PER_GROUP",
        64,
        "Channels of a group in the 3 x 3 convolutions of res2; doubled from stage to stage.",
    ),
    Key(
        "MODEL.RESNETS.STRIDE_IN_1X1",
        True,
        "Whether a stage's first bottleneck halves the size in its 1 x 1 convolution, as the original (MSRA) "
        "weights do, or in its 3 x 3 one, as torchvision's do.",
    ),
    Key("MODEL.RESNETS.RES5_DILATION", 1, "Dilation of res5: 1, or 2 to keep stride 16 there (DC5)."),
    Key(
        "MODEL.RESNETS.RES2_OUT_CHANNELS",
        256,
        "Output channels of res2, doubled from stage to stage; 64 at depth 18 and 34.",
    ),
    Key("MODEL.RESNETS.STEM_OUT_CHANNELS", 64, "Output channels of the first convolution."),
    Key(
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE",
        [False, False, False, False],
        "Whether res2, res3, res4 and res5 have deformable 3 x 3 convolutions.",
        is_built=False,
    ),
    Key(
        "MODEL.RESNETS.DEFORM_MODULATED",
        False,
        "Deformable convolutions also learn a weight for each sampling point (version 2).",
        is_built=False,
    ),
    Key(
        "MODEL.RESNETS.DEFORM_NUM_GROUPS",
        1,
        "Channel groups of a deformable convolution that have offsets of their own.",
        is_built=False,
    ),
)

NEW_KEYS = (
    Key("MODEL.RPN.MATCHER", "MaxIoUMatcher", "Registered rule that assigns anchors to ground truth."),
    Key("MODEL.RPN.SAMPLER", "RandomSampler", "Registered choice of the anchors that a training step uses."),
    Key("MODEL.RPN.BOX_CODER", "Box2BoxTransform", "Registered form in which the RPN predicts boxes."),
    Key("MODEL.ROI_HEADS.MATCHER", "MaxIoUMatcher", "Registered rule that assigns proposals to ground truth."),
    Key("MODEL.ROI_HEADS.SAMPLER", "RandomSampler", "Registered choice of the proposals that a training step uses."),
    Key("MODEL.ROI_BOX_HEAD.BOX_CODER", "Box2BoxTransform", "Registered form in which the box head predicts boxes."),
    Key(
        "MODEL.ROI_HEADS.SUPPRESSION",
        "greedy",
        "Registered rule that keeps one detection of an object: greedy drops those that overlap a better one of "
        "their class.",
    ),
    Key(
        "MODEL.ROI_MASK_HEAD.LOSS",
        "sigmoid",
        "Registered mask loss: sigmoid decides each pixel of the true class's map on its own.",
    ),
)
