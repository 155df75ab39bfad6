"""Defaults of the model as a whole, its backbone and its feature pyramid."""

from mrcnn_zoo.config.keys import (
    AT_LEAST_ONE,
    FOUR,
    NOT_EMPTY,
    NOT_NEGATIVE,
    POSITIVE,
    UNLIMITED,
    Key,
    Range,
)
from mrcnn_zoo.registries import BACKBONES, DETECTORS, NORMS

DETECTRON2_KEYS = (
    Key(
        "MODEL.LOAD_PROPOSALS",
        False,
        "Load proposals from the files in DATASETS.PROPOSAL_FILES_* with the images, for PrecomputedProposals.",
    ),
    Key("MODEL.MASK_ON", False, "Predict a mask for every detection."),
    Key("MODEL.KEYPOINT_ON", False, "Predict keypoints for every detection."),
    Key(
        "MODEL.DEVICE",
        "auto",
        "Torch device of the model: auto is the GPU where there is one, else the CPU; or cuda, cuda:1, cpu, ... "
        "Without a GPU, cuda falls back to the CPU, and a message is logged.",
    ),
    Key(
        "MODEL.META_ARCHITECTURE",
        "GeneralizedRCNN",
        "Registered detector: the model as a whole, built from the components that the other keys select.",
        registry=DETECTORS,
    ),
    Key(
        "MODEL.WEIGHTS",
        "",
        "Path or URL of the weights to start from or to evaluate; empty for random weights.",
        old_names=("MODEL.WEIGHT",),
    ),
    Key(
        "MODEL.PIXEL_MEAN",
        [103.53, 116.28, 123.675],
        "Mean of each channel, in the order of INPUT.FORMAT and in pixel values of 0 to 255; subtracted from the "
        "image. The model has as many input channels as there are values: 1, 3, 4, 16, ...",
        range=UNLIMITED,
        length=NOT_EMPTY,
    ),
    Key(
        "MODEL.PIXEL_STD",
        [1.0, 1.0, 1.0],
        "Standard deviation that each channel is divided by, in the order of INPUT.FORMAT; 1 where it is folded into"
        " the weights.",
        range=POSITIVE,
        length=NOT_EMPTY,
    ),
    Key(
        "MODEL.BACKBONE.NAME",
        "build_resnet_backbone",
        "Registered backbone: build_{resnet, vgg, plain_cnn, timm}_backbone or build_{...}_fpn_backbone, "
        "build_retinanet_resnet_fpn_backbone, build_timm_simple_fpn_backbone.",
        registry=BACKBONES,
    ),
    Key(
        "MODEL.BACKBONE.FREEZE_AT",
        2,
        "Number of first stages that are frozen: 0 none; of a ResNet 1 is the stem, 2 the stem and res2; of a VGG 2 "
        "is conv1 and conv2; of a timm network n is all that the map c{n} depends on.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "MODEL.FPN.IN_FEATURES",
        [],
        "Backbone outputs that the pyramid is built on, e.g. [res2, res3, res4, res5] of a ResNet, [conv3, conv4, "
        "conv5, pool5] of a VGG, [c2, c3, c4, c5] of a timm network, or [c4] for build_timm_simple_fpn_backbone.",
        element_types=(str,),
    ),
    Key("MODEL.FPN.OUT_CHANNELS", 256, "Channels of every pyramid level.", range=AT_LEAST_ONE),
    Key(
        "MODEL.FPN.NORM",
        "",
        "Registered norm after the pyramid's convolutions, e.g. GN; empty for none.",
        registry=NORMS,
    ),
    Key(
        "MODEL.FPN.FUSE_TYPE",
        "sum",
        "Fusion of a level with the next coarser one: sum, or avg for the mean.",
        choices=("sum", "avg"),
    ),
    Key("MODEL.RESNETS.DEPTH", 50, "Number of layers of the ResNet.", choices=(18, 34, 50, 101, 152)),
    Key(
        "MODEL.RESNETS.OUT_FEATURES",
        ["res4"],
        "Stages returned by the backbone, among stem, res2, res3, res4 and res5.",
    ),
    Key(
        "MODEL.RESNETS.NUM_GROUPS",
        1,
        "Groups of the 3 x 3 convolutions: 1 is ResNet, 32 the usual ResNeXt.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.RESNETS.NORM",
        "FrozenBN",
        "Registered norm after each convolution of the ResNet, e.g. FrozenBN, BN, SyncBN or GN.",
        registry=NORMS,
    ),
    Key(
        "MODEL.RESNETS.WIDTH_PER_GROUP",
        64,
        "Channels of a group in the 3 x 3 convolutions of res2; doubled from stage to stage.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.RESNETS.STRIDE_IN_1X1",
        True,
        "Whether a stage's first bottleneck halves the size in its 1 x 1 convolution, as the original (MSRA) "
        "weights do, or in its 3 x 3 one, as torchvision's do.",
    ),
    Key(
        "MODEL.RESNETS.RES5_DILATION",
        1,
        "Dilation of res5: 1, or 2 to keep stride 16 there (DC5).",
        range=Range(low=1, high=2),
    ),
    Key(
        "MODEL.RESNETS.RES2_OUT_CHANNELS",
        256,
        "Output channels of res2, doubled from stage to stage; 64 at depth 18 and 34.",
        range=AT_LEAST_ONE,
    ),
    Key("MODEL.RESNETS.STEM_OUT_CHANNELS", 64, "Output channels of the first convolution.", range=AT_LEAST_ONE),
    Key(
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE",
        [False, False, False, False],
        "Whether res2, res3, res4 and res5 have deformable 3 x 3 convolutions.",
        length=FOUR,
    ),
    Key(
        "MODEL.RESNETS.DEFORM_MODULATED",
        False,
        "Deformable convolutions also learn a weight for each sampling point (version 2).",
    ),
    Key(
        "MODEL.RESNETS.DEFORM_NUM_GROUPS",
        1,
        "Number of channel groups of a deformable convolution, each with its own offsets.",
        range=AT_LEAST_ONE,
    ),
)

NEW_KEYS = (
    Key(
        "MODEL.OPTIMIZE",
        "none",
        "How the layers of a model are optimised: none; fused (norms, activations and additions in the "
        "convolutions); compiled (torch.compile); int8 (compiled with 8-bit integers, on x86 processors). Training "
        "takes none or compiled; its evaluations run with none.",
        choices=("none", "fused", "compiled", "int8"),
    ),
    Key(
        "MODEL.INT8.CALIBRATION",
        [],
        "Images on which MODEL.OPTIMIZE int8 measures the ranges of activations: datasets, folders, files or patterns; "
        "empty for the images given to predict, else those of DATASETS.TEST.",
        element_types=(str,),
    ),
    Key(
        "MODEL.INT8.NUM_IMAGES",
        16,
        "How many images of MODEL.INT8.CALIBRATION are taken, as far apart as there are.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.DTYPE",
        "float32",
        "Floating-point type of the layers at inference; boxes and scores stay in float32. float16 needs a GPU. "
        "Training in mixed precision is SOLVER.AMP.",
        choices=("float32", "bfloat16", "float16"),
    ),
    Key(
        "MODEL.RESNETS.STEM_POOL",
        "centred",
        "Window of the stem's 3 x 3 max-pooling: centred on every second cell, or following, every second cell and "
        "the two after it, as TensorFlow and Keras pad it.",
        choices=("centred", "following"),
    ),
    Key(
        "MODEL.FPN.TOP_BLOCK",
        "",
        "Levels on top of the pyramid: maxpool for P6, p6p7 for P6 and P7 by convolutions, or none; empty takes p6p7"
        " for build_retinanet_resnet_fpn_backbone and maxpool for the others.",
        choices=("", "maxpool", "p6p7", "none"),
    ),
    Key(
        "MODEL.FPN.TOP_BLOCK_IN_FEATURE",
        "",
        "Input map of p6p7: the last of MODEL.FPN.IN_FEATURES (also when empty), or the last level, e.g. p5.",
    ),
    Key(
        "MODEL.VGG.DEPTH",
        16,
        "Number of layers of the VGG with weights, fc6 to fc8 included.",
        choices=(11, 13, 16, 19),
    ),
    Key(
        "MODEL.VGG.OUT_FEATURES",
        ["conv5"],
        "Stages returned by the backbone, among conv1 (stride 1) to conv5 (stride 16) and pool5 (stride 32).",
    ),
    Key(
        "MODEL.VGG.NORM",
        "",
        "Registered norm after each convolution of the VGG, e.g. BN; empty for none.",
        registry=NORMS,
    ),
    Key(
        "MODEL.VGG.CONV1_OUT_CHANNELS",
        64,
        "Channels of conv1; conv2 has twice, conv3 4 times, conv4 and conv5 8 times as many.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.PLAIN_CNN.CHANNELS",
        [32, 64, 128, 128],
        "Channels of each stage: conv1 at stride 1, conv2 at 2, ...",
        range=AT_LEAST_ONE,
        length=NOT_EMPTY,
    ),
    Key("MODEL.PLAIN_CNN.CONVS_PER_STAGE", 1, "3 x 3 convolutions of each stage.", range=AT_LEAST_ONE),
    Key("MODEL.PLAIN_CNN.NORM", "BN", "Registered norm after each convolution; empty for none.", registry=NORMS),
    Key(
        "MODEL.PLAIN_CNN.OUT_FEATURES",
        ["conv4"],
        "Stages returned by the backbone; of n stages also pool{n}, at half the resolution of the last.",
    ),
    Key(
        "MODEL.TIMM.NAME",
        "",
        "Name of a network of the timm library, e.g. convnext_tiny, swin_tiny_patch4_window7_224.",
    ),
    Key(
        "MODEL.TIMM.PRETRAINED",
        False,
        "Start from timm's pretrained weights when MODEL.WEIGHTS is empty; a log message names the pixel statistics "
        "that they expect.",
    ),
    Key(
        "MODEL.TIMM.OUT_FEATURES",
        [],
        "Maps that the backbone returns, named after the logarithm of their stride: c2 at stride 4 to c5 at stride "
        "32; a plain ViT has c4 only. Empty returns all that the network has.",
        element_types=(str,),
    ),
    Key(
        "MODEL.TIMM.OUT_NORM",
        "",
        "Registered norm on each map of the timm network, e.g. LN; empty for none.",
        registry=NORMS,
    ),
)
