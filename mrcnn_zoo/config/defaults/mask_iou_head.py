"""Defaults of the mask-IoU head of Mask Scoring R-CNN, which MODEL.ROI_HEADS.BRANCHES [MaskIoUHead] adds."""

from mrcnn_zoo.config.keys import AT_LEAST_ONE, NOT_NEGATIVE, Key

DETECTRON2_KEYS: tuple[Key, ...] = ()
NEW_KEYS = (
    Key(
        "MODEL.ROI_MASKIOU_HEAD.POOLER_TYPE",
        "ROIAlignV2",
        "Registered pooling operation of the mask-IoU head; the paper has it see what the mask head sees.",
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
        "Sampling points along each side of a pooled cell; 0 takes as many as the region is feature cells wide.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "MODEL.ROI_MASKIOU_HEAD.NUM_CONV",
        4,
        "Number of 3 x 3 convolutions of the mask-IoU head; the last one halves the side.",
        range=AT_LEAST_ONE,
    ),
    Key("MODEL.ROI_MASKIOU_HEAD.CONV_DIM", 256, "Output channels of each of these convolutions.", range=AT_LEAST_ONE),
    Key(
        "MODEL.ROI_MASKIOU_HEAD.NUM_FC",
        2,
        "Number of fully connected layers before the last one, which predicts one IoU per class.",
        range=NOT_NEGATIVE,
    ),
    Key("MODEL.ROI_MASKIOU_HEAD.FC_DIM", 1024, "Outputs of each of these layers.", range=AT_LEAST_ONE),
    Key(
        "MODEL.ROI_MASKIOU_HEAD.LOSS_WEIGHT",
        0.5,
        "Factor of the mean squared error of the predicted IoU; the authors' L2 loss is half of that error.",
        range=NOT_NEGATIVE,
    ),
)
