"""Defaults of the branches of region heads: masks, keypoints, mask scoring and PointRend."""

from mrcnn_zoo.config.keys import AT_LEAST_ONE, NOT_EMPTY, NOT_NEGATIVE, SHARE, Key, Range
from mrcnn_zoo.registries import KEYPOINT_HEADS, MASK_HEADS, MASK_LOSSES, NORMS, POINT_HEADS, POOLING_OPERATIONS

DETECTRON2_KEYS = (
    Key("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead", "Registered mask head.", registry=MASK_HEADS),
    Key(
        "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION",
        14,
        "Side, in cells, of the features pooled for the mask head; the predicted mask has 2 ** "
        "ROI_MASK_HEAD.NUM_UPSAMPLE times that side.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO",
        0,
        "Sampling points along each side of a pooled cell; 0 takes one per feature cell that the pooled cell covers,"
        " rounded up.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "MODEL.ROI_MASK_HEAD.NUM_CONV",
        0,
        "Number of 3 x 3 convolutions before the up-sampling; 4 in the paper.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "MODEL.ROI_MASK_HEAD.CONV_DIM",
        256,
        "Channels of the mask head's convolutions and of its up-sampling.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.ROI_MASK_HEAD.NORM",
        "",
        "Registered norm after the mask head's convolutions, e.g. GN; empty for none.",
        registry=NORMS,
    ),
    Key(
        "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK",
        False,
        "Predict one mask per region instead of one per class.",
    ),
    Key(
        "MODEL.ROI_MASK_HEAD.POOLER_TYPE",
        "ROIAlignV2",
        "Registered pooling operation of the mask head: ROIAlignV2 (shifted by half a cell), ROIAlign, ROIPool, ...; "
        "empty for PointRendMaskHead, which pools nothing.",
        registry=POOLING_OPERATIONS,
    ),
    Key(
        "MODEL.ROI_KEYPOINT_HEAD.NAME",
        "KRCNNConvDeconvUpsampleHead",
        "Registered keypoint head.",
        registry=KEYPOINT_HEADS,
    ),
    Key(
        "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION",
        14,
        "Side, in cells, of the features pooled for the keypoint head.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.ROI_KEYPOINT_HEAD.POOLER_SAMPLING_RATIO",
        0,
        "Sampling points along each side of a pooled cell; 0 takes one per feature cell that the pooled cell covers,"
        " rounded up.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS",
        [512, 512, 512, 512, 512, 512, 512, 512],
        "Output channels of each 3 x 3 convolution of the keypoint head, in order.",
        range=AT_LEAST_ONE,
        length=NOT_EMPTY,
    ),
    Key(
        "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 17, "Number of keypoints per instance; 17 in COCO.", range=AT_LEAST_ONE
    ),
    Key(
        "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE",
        1,
        "Training images with fewer visible keypoints than this are skipped.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "MODEL.ROI_KEYPOINT_HEAD.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS",
        True,
        "Divide the keypoint loss by the number of visible keypoints in the batch; otherwise by a constant that the "
        "config fixes.",
    ),
    Key("MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT", 1.0, "Weight of the keypoint loss.", range=NOT_NEGATIVE),
    Key(
        "MODEL.ROI_KEYPOINT_HEAD.POOLER_TYPE",
        "ROIAlignV2",
        "Registered pooling operation of the keypoint head.",
        registry=POOLING_OPERATIONS,
    ),
)

NEW_KEYS = (
    Key(
        "MODEL.ROI_MASK_HEAD.LOSS",
        "sigmoid",
        "Registered mask loss: sigmoid (binary cross-entropy on the map of the true class), softmax (cross-entropy "
        "over the maps of all classes and the background) or dice (sigmoid, trained by the overlap of the whole "
        "mask).",
        registry=MASK_LOSSES,
    ),
    Key(
        "MODEL.ROI_MASK_HEAD.UPSAMPLE",
        "deconv",
        "Up-sampling layer of the mask head, which doubles the side: deconv (transposed 2 x 2 convolution), or "
        "bilinear (resizing, then a 3 x 3 convolution).",
        choices=("deconv", "bilinear"),
    ),
    Key(
        "MODEL.ROI_MASK_HEAD.NUM_UPSAMPLE",
        1,
        "Number of up-sampling layers: masks have ROI_MASK_HEAD.POOLER_RESOLUTION * 2 ** NUM_UPSAMPLE cells per side.",
        range=Range(low=0, high=5),
    ),
    Key("MODEL.ROI_MASK_HEAD.LOSS_WEIGHT", 1.0, "Weight of the mask loss.", range=NOT_NEGATIVE),
    Key(
        "MODEL.ROI_MASKIOU_HEAD.POOLER_TYPE",
        "ROIAlignV2",
        "Registered pooling operation of the mask-IoU head; in the paper the same as the mask head's.",
        registry=POOLING_OPERATIONS,
    ),
    Key(
        "MODEL.ROI_MASKIOU_HEAD.POOLER_RESOLUTION",
        14,
        "Side, in cells, of the features pooled for the mask-IoU head; the predicted mask is max-pooled to it.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.ROI_MASKIOU_HEAD.POOLER_SAMPLING_RATIO",
        0,
        "Sampling points along each side of a pooled cell; 0 takes one per feature cell that the pooled cell covers,"
        " rounded up.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "MODEL.ROI_MASKIOU_HEAD.NUM_CONV",
        4,
        "Number of 3 x 3 convolutions of the mask-IoU head; the last one halves the side.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.ROI_MASKIOU_HEAD.CONV_DIM",
        256,
        "Output channels of each convolution of the mask-IoU head.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.ROI_MASKIOU_HEAD.NUM_FC",
        2,
        "Number of fully connected layers of the mask-IoU head before the last one, which predicts one IoU per class.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "MODEL.ROI_MASKIOU_HEAD.FC_DIM",
        1024,
        "Outputs of each fully connected layer of the mask-IoU head.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.ROI_MASKIOU_HEAD.LOSS_WEIGHT",
        0.5,
        "Weight of the mean squared error of the predicted IoU; the authors' L2 loss is half of that error.",
        range=NOT_NEGATIVE,
    ),
)

# Of Detectron2's project PointRend; its core does not have them.
POINTREND_KEYS = (
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
        "Refine PointRendMaskHead's coarse mask at points, as in the paper; if False, the coarse mask is the result.",
    ),
    Key(
        "MODEL.POINT_HEAD.NAME",
        "StandardPointHead",
        "Registered point head of PointRendMaskHead.",
        registry=POINT_HEADS,
    ),
    Key(
        "MODEL.POINT_HEAD.NUM_CLASSES",
        80,
        "Number of object classes; must equal ROI_HEADS.NUM_CLASSES, which replaces it where that is set closer to "
        "the command line.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.POINT_HEAD.IN_FEATURES",
        ["p2"],
        "Backbone outputs sampled at each point as the point head's fine features.",
        length=NOT_EMPTY,
    ),
    Key(
        "MODEL.POINT_HEAD.TRAIN_NUM_POINTS",
        14 * 14,
        "Training points per region of the point head; N in the paper.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.POINT_HEAD.OVERSAMPLE_RATIO",
        3,
        "Random candidate points per training point, of which the most uncertain are used; k in the paper.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.POINT_HEAD.IMPORTANCE_SAMPLE_RATIO",
        0.75,
        "Share of the training points that are the most uncertain ones, in [0, 1]; the others are uniformly random. "
        "beta in the paper.",
        range=SHARE,
    ),
    Key(
        "MODEL.POINT_HEAD.SUBDIVISION_STEPS",
        5,
        "Number of times the side of the mask doubles at inference, starting at ROI_MASK_HEAD.OUTPUT_SIDE_RESOLUTION.",
        range=Range(low=0, high=8),
    ),
    Key(
        "MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS",
        28 * 28,
        "Points per region that the point head predicts at each doubling; steps that would predict all are skipped.",
        range=AT_LEAST_ONE,
    ),
    Key("MODEL.POINT_HEAD.FC_DIM", 256, "Outputs of each hidden layer of the point head.", range=AT_LEAST_ONE),
    Key("MODEL.POINT_HEAD.NUM_FC", 3, "Hidden layers of the point head.", range=NOT_NEGATIVE),
    Key(
        "MODEL.POINT_HEAD.CLS_AGNOSTIC_MASK",
        False,
        "The point head predicts one mask per region instead of one per class.",
    ),
    Key(
        "MODEL.POINT_HEAD.COARSE_PRED_EACH_LAYER",
        True,
        "Feed the coarse mask's values to every layer of the point head, not only to the first.",
    ),
)
