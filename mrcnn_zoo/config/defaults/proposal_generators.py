"""Defaults of the proposal generators other than the region proposal network."""

from mrcnn_zoo.config.keys import (
    AT_LEAST_ONE,
    NOT_EMPTY,
    NOT_NEGATIVE,
    PAIR,
    POSITIVE,
    SHARE,
    SHARE_ABOVE_ZERO,
    Key,
    Range,
)

DETECTRON2_KEYS: tuple[Key, ...] = ()
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
    Key(
        "MODEL.PROPOSAL_GENERATOR.JITTER",
        0.0,
        "Noise of the boxes of GroundTruthProposals: standard deviation of their centre in box sides and of the "
        "logarithm of their sides; 0 takes the boxes as they are.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "MODEL.SLIDING_WINDOW.SIZES",
        [32, 64, 128, 256, 512],
        "Sizes of the windows of SlidingWindow, the square root of their area in input pixels.",
        element_types=(int, float),
        range=POSITIVE,
        length=NOT_EMPTY,
    ),
    Key(
        "MODEL.SLIDING_WINDOW.ASPECT_RATIOS",
        [0.5, 1.0, 2.0],
        "Shapes of the windows of SlidingWindow as height / width; every size is combined with every shape.",
        element_types=(int, float),
        range=POSITIVE,
        length=NOT_EMPTY,
    ),
    Key(
        "MODEL.SLIDING_WINDOW.STRIDE",
        0.5,
        "Largest step between windows of SlidingWindow as a fraction of the window's sides, above 0 and up to 1.",
        range=SHARE_ABOVE_ZERO,
    ),
    Key(
        "MODEL.SELECTIVE_SEARCH.MODE",
        "fast",
        "Diversity of SelectiveSearch: fast (2 colour spaces, 3 initial segmentations, 2 similarities) or quality (5, "
        "5, 4), with several times as many boxes and as much time.",
        choices=("fast", "quality"),
    ),
    Key(
        "MODEL.SELECTIVE_SEARCH.BASE_K",
        150,
        "Scale of the first initial segmentation of SelectiveSearch; larger values give larger regions.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.SELECTIVE_SEARCH.INCREMENT_K",
        150,
        "Increment of the scale from one initial segmentation of SelectiveSearch to the next.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.SELECTIVE_SEARCH.SIGMA",
        0.8,
        "Standard deviation in pixels of the smoothing before the initial segmentation of SelectiveSearch.",
        range=POSITIVE,
    ),
    Key(
        "MODEL.SELECTIVE_SEARCH.MIN_REGION_AREA",
        100,
        "Smallest initial region of SelectiveSearch in pixels of the image that it runs on; smaller ones are merged "
        "into a neighbour.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.SELECTIVE_SEARCH.LONGEST_SIDE",
        [0, 500],
        "Range of the longest side in pixels of images that SelectiveSearch runs on: smaller and larger network "
        "inputs are resized to its nearer end. A second value of 0 is no limit; time grows faster than the area.",
        range=NOT_NEGATIVE,
        length=PAIR,
    ),
    Key(
        "MODEL.SELECTIVE_SEARCH.MIN_BOX_AREA",
        0.0,
        "Smallest area of a box of SelectiveSearch in square pixels of the network input. 0 is half the area of the "
        "smallest object of the datasets that are read, as a smaller box has an IoU below 0.5 with every object; 64 "
        "without datasets.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "MODEL.SELECTIVE_SEARCH.MAX_BOXES",
        2000,
        "Largest number of boxes of SelectiveSearch per image.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.EDGE_BOXES.MODEL",
        "",
        "File of the random forest of structured edges for EdgeBoxes, OpenCV's model.yml.gz; empty uses thinned "
        "gradients.",
    ),
    Key(
        "MODEL.EDGE_BOXES.SIGMA",
        2.0,
        "Standard deviation in pixels of the smoothing before the gradient edges of EdgeBoxes; 0 does not smooth.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "MODEL.EDGE_BOXES.LONGEST_SIDE",
        [500, 1000],
        "Range of the longest side in pixels of images that EdgeBoxes runs on, see SELECTIVE_SEARCH.LONGEST_SIDE. "
        "Windows below about 25 pixels are not refined, so small images are enlarged.",
        range=NOT_NEGATIVE,
        length=PAIR,
    ),
    Key(
        "MODEL.EDGE_BOXES.ALPHA",
        0.65,
        "IoU of neighbouring windows in the search of EdgeBoxes: larger values make more windows.",
        range=Range(low=0, high=1, low_open=True, high_open=True),
    ),
    Key(
        "MODEL.EDGE_BOXES.BETA",
        0.75,
        "IoU above which EdgeBoxes removes the window with the lower score.",
        range=SHARE_ABOVE_ZERO,
    ),
    Key(
        "MODEL.EDGE_BOXES.ETA",
        1.0,
        "Factor of EDGE_BOXES.BETA after each window, while it is above 0.5: below 1, the first windows are close to "
        "each other and later ones further apart.",
        range=SHARE_ABOVE_ZERO,
    ),
    Key("MODEL.EDGE_BOXES.MIN_SCORE", 0.01, "Smallest score of a window of EdgeBoxes.", range=NOT_NEGATIVE),
    Key(
        "MODEL.EDGE_BOXES.MAX_ASPECT_RATIO",
        3.0,
        "Largest ratio of the sides of the initial windows of EdgeBoxes.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "MODEL.EDGE_BOXES.MIN_BOX_AREA",
        0.0,
        "Area of the smallest windows of EdgeBoxes in square pixels of the network input; 0 as in "
        "SELECTIVE_SEARCH.MIN_BOX_AREA. OpenCV's own 1000 drops objects below about 30 x 30 pixels, such as digits.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "MODEL.EDGE_BOXES.MAX_BOXES",
        1000,
        "Largest number of windows of EdgeBoxes per image.",
        range=AT_LEAST_ONE,
    ),
)
