"""Defaults of the data keys."""

from mrcnn_zoo.config.keys import (
    AT_LEAST_ONE,
    MINUS_ONE_OR_MORE,
    NOT_EMPTY,
    NOT_NEGATIVE,
    PAIR,
    POSITIVE,
    SHARE,
    SHARE_ABOVE_ZERO,
    SHARE_BELOW_ONE,
    UNLIMITED,
    Key,
    Range,
)
from mrcnn_zoo.registries import AUGMENTATIONS, DATA_SAMPLERS, DATASET_FORMATS

DETECTRON2_KEYS = (
    Key(
        "INPUT.MIN_SIZE_TRAIN",
        [800],
        "Lengths in pixels that the shorter side of a training image is scaled to; 0 leaves images as they are.",
        range=NOT_NEGATIVE,
        length=NOT_EMPTY,
    ),
    Key(
        "INPUT.MIN_SIZE_TRAIN_SAMPLING",
        "choice",
        "Sampling of a length from INPUT.MIN_SIZE_TRAIN: choice of one, or range between its two.",
        choices=("choice", "range"),
    ),
    Key(
        "INPUT.MAX_SIZE_TRAIN",
        1333,
        "Upper bound in pixels of the longer side of a scaled training image; it wins over the shorter side's length.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "INPUT.MIN_SIZE_TEST",
        800,
        "Length in pixels that the shorter side of a test image is scaled to; 0 leaves images as they are.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "INPUT.MAX_SIZE_TEST",
        1333,
        "Upper bound in pixels of the longer side of a scaled test image.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "INPUT.RANDOM_FLIP",
        "horizontal",
        "Direction in which a training image is mirrored with probability 0.5: horizontal, vertical or none.",
        choices=("horizontal", "vertical", "none"),
    ),
    Key("INPUT.CROP.ENABLED", False, "Crop a random window of each training image before it is scaled."),
    Key(
        "INPUT.CROP.TYPE",
        "relative_range",
        "Unit of INPUT.CROP.SIZE: relative (fractions of the image), relative_range (fractions sampled between it "
        "and 1), absolute (pixels) or absolute_range (pixels sampled between its two numbers).",
        choices=("relative", "relative_range", "absolute", "absolute_range"),
    ),
    Key(
        "INPUT.CROP.SIZE",
        [0.9, 0.9],
        "Height and width of the window, as fractions of the image or in pixels according to INPUT.CROP.TYPE.",
        element_types=(int, float),
        range=POSITIVE,
        length=PAIR,
    ),
    Key(
        "INPUT.FORMAT",
        "BGR",
        "Channel order of the model's input: BGR, RGB, or L for one grey channel. With one value in MODEL.PIXEL_MEAN"
        " it is always L; other numbers of channels than 1 and 3 stay in the order of the file.",
        choices=("BGR", "RGB", "L"),
    ),
    Key(
        "INPUT.MASK_FORMAT",
        "polygon",
        "Mask form of Detectron2's loader, polygon or bitmask. Both are accepted and make no difference: an instance "
        "keeps the form that its dataset gives it.",
        choices=("polygon", "bitmask"),
    ),
    Key("DATASETS.TRAIN", [], "Names of the training datasets, which are concatenated.", element_types=(str,)),
    Key(
        "DATASETS.PROPOSAL_FILES_TRAIN",
        [],
        "Files with precomputed proposals, .pkl as Detectron2's or .npz, one per dataset of DATASETS.TRAIN.",
        element_types=(str,),
    ),
    Key(
        "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN",
        2000,
        "Number of precomputed proposals used per training image, the highest-scoring ones.",
        range=AT_LEAST_ONE,
    ),
    Key("DATASETS.TEST", [], "Names of the test datasets, each evaluated separately.", element_types=(str,)),
    Key(
        "DATASETS.PROPOSAL_FILES_TEST",
        [],
        "Files with precomputed proposals, .pkl as Detectron2's or .npz, one per dataset of DATASETS.TEST.",
        element_types=(str,),
    ),
    Key(
        "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST",
        1000,
        "Number of precomputed proposals used per test image, the highest-scoring ones.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "DATALOADER.NUM_WORKERS",
        4,
        "Worker processes that load images, per training process; 0 loads in the training process itself.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "DATALOADER.ASPECT_RATIO_GROUPING",
        True,
        "Batch wide and tall images separately, which saves padding.",
    ),
    Key(
        "DATALOADER.SAMPLER_TRAIN",
        "TrainingSampler",
        "Registered sampler that orders the training images, e.g. TrainingSampler for an endless shuffle, or "
        "ClassBalancedTrainingSampler for as many images of each class and of none.",
        registry=DATA_SAMPLERS,
    ),
    Key(
        "DATALOADER.REPEAT_THRESHOLD",
        0.0,
        "Share of images below which a class counts as rare; RepeatFactorTrainingSampler repeats the images of "
        "such classes.",
        range=SHARE,
    ),
    Key(
        "DATALOADER.REPEAT_SQRT",
        True,
        "Repeat by the square root of REPEAT_THRESHOLD / share of images instead of by the ratio itself.",
    ),
    Key("DATALOADER.FILTER_EMPTY_ANNOTATIONS", True, "Skip training images without objects."),
)

NEW_KEYS = (
    Key(
        "INPUT.AUGMENTATIONS",
        [],
        "Registered augmentations besides crop, resize and flip, in their order and before the resize: "
        "RandomRotate90, RandomVerticalFlip, RandomBrightness, RandomContrast, RandomSaturation.",
        element_types=(str,),
        registry=AUGMENTATIONS,
    ),
    Key(
        "INPUT.BRIGHTNESS",
        [0.8, 1.2],
        "Minimum and maximum factor of RandomBrightness.",
        range=NOT_NEGATIVE,
        length=PAIR,
        ascends=True,
    ),
    Key(
        "INPUT.CONTRAST",
        [0.8, 1.2],
        "Minimum and maximum factor of RandomContrast.",
        range=NOT_NEGATIVE,
        length=PAIR,
        ascends=True,
    ),
    Key(
        "INPUT.SATURATION",
        [0.8, 1.2],
        "Minimum and maximum factor of RandomSaturation.",
        range=NOT_NEGATIVE,
        length=PAIR,
        ascends=True,
    ),
    Key(
        "INPUT.SIXTEEN_BIT",
        "stretch",
        "Conversion of images deeper than 8 bits: stretch each from its darkest to its brightest pixels, scale all by "
        "one range (INPUT.VALUE_RANGE), divide full-range 16 bits by 257, or keep the values as floats (PIXEL_MEAN and "
        "PIXEL_STD must have their range).",
        choices=("stretch", "range", "divide", "keep"),
    ),
    Key(
        "INPUT.PAGES",
        "channels",
        "What the pages of a TIFF are: channels of one image; or images of their own in predict and in the formats "
        "labels and masks, whose files have as many pages.",
        choices=("channels", "images"),
    ),
    Key(
        "INPUT.PERCENTILES",
        [0.1, 99.9],
        "Percentiles of the values that INPUT.SIXTEEN_BIT stretch, or range where it is computed, maps to 0 and 255.",
        element_types=(int, float),
        range=Range(low=0, high=100),
        length=PAIR,
        ascends=True,
    ),
    Key(
        "INPUT.VALUE_RANGE",
        [],
        "Low and high value that INPUT.SIXTEEN_BIT range maps to 0 and 255, for all channels or a pair per channel: "
        "[100, 4095]. Empty: computed from a sample of the training images and kept in the checkpoint.",
        element_types=(int, float),
        range=UNLIMITED,
    ),
    Key(
        "INPUT.MAX_IMAGE_PIXELS",
        178_956_970,
        "Maximum height times width of an image file, in pixels (the default is Pillow's limit). Larger images are "
        "refused: a small file can unpack to an image that fills the memory. 0 allows any size.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "DATALOADER.RANDOM_SUBSET_RATIO",
        1.0,
        "Share of the training images, above 0 and up to 1, in the subset that RandomSubsetTrainingSampler draws once.",
        range=SHARE_ABOVE_ZERO,
    ),
    Key(
        "DATASETS.FRACTION",
        1.0,
        "Share of the training images that is used, stratified by classes; with DATASETS.GROUP of whole groups. The "
        "images of a smaller share are among those of a larger one.",
        range=SHARE_ABOVE_ZERO,
    ),
    Key(
        "DATASETS.FRACTION_SEED",
        -1,
        "Seed of the choice of DATASETS.FRACTION; -1 takes SEED (0 where that is -1), so that runs with other seeds "
        "have other images.",
        range=MINUS_ONE_OR_MORE,
    ),
    Key(
        "DATASETS.FOLDS",
        0,
        "Number of folds of a cross-validation, stratified by classes: the images of fold DATASETS.FOLD are the test "
        "set, the others are trained on. DATASETS.TEST is then DATASETS.TRAIN or empty. 0: no folds.",
        range=Range(low=2, also=(0,)),
    ),
    Key(
        "DATASETS.FOLD",
        0,
        "Number of the fold, from 0, that is held out as the test set.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "DATASETS.GROUP",
        "",
        "Regular expression that is searched in the name of each image file, relative to the folder of the dataset; "
        "its first group names a group of images (a patient, a slide), which DATASETS.FOLDS and FRACTION do not "
        "divide. Empty: each image file for itself.",
    ),
    Key(
        "DATASETS.DEFINITIONS",
        {},
        "Custom datasets by name, each a mapping with FORMAT (coco, dsb2018, digits, shapes, ...) and that format's "
        "fields, e.g. {cells_train: {FORMAT: coco, IMAGES: data/train, ANNOTATIONS: data/train.json}}.",
        registry=DATASET_FORMATS,
    ),
    Key(
        "DATASETS.DEFAULTS.FORMAT",
        "auto",
        "Format of datasets that are named by a path, or whose definition has no FORMAT; auto: detected by content.",
    ),
    Key(
        "DATASETS.DEFAULTS.SPLIT",
        "auto",
        "Side of such datasets that is read where the name has none (path:train, path:val): train, val, test or all; "
        "auto: in DATASETS.TRAIN the train side, in TEST the val side where the files have sides, else all images.",
        choices=("auto", "train", "val", "test", "all"),
    ),
    Key(
        "DATASETS.DEFAULTS.VAL_FRACTION",
        0.2,
        "Share of the images on the val side of datasets whose files have no sides; the choice is stratified by "
        "classes and does not depend on SEED. 0: none, and an empty DATASETS.TEST stays empty.",
        range=SHARE_BELOW_ONE,
    ),
    Key(
        "DATASETS.DEFAULTS.GROUP",
        "",
        "Regular expression like DATASETS.GROUP, of groups of images that the val side of such datasets does not "
        "divide; empty: DATASETS.GROUP.",
    ),
    Key(
        "DATASETS.DEFAULTS.REGIONS",
        False,
        "In the format labels: the files are masks of classes (0 and 255, or a value per class), of which each "
        "connected region is an object. Objects that touch become one.",
    ),
    Key(
        "DATASETS.DEFAULTS.CLASSES",
        {},
        "Classes of such datasets by name, {car: [car, van], ignore: [blurry]}: merged and renamed; objects of the "
        "classes under ignore are left out; classes that are not named stay as they are.",
    ),
    Key(
        "DATASETS.KEYPOINT_FLIP_PAIRS",
        "auto",
        "Pairs of keypoint names that are swapped when the image is mirrored, e.g. [[left_eye, right_eye]]; [] swaps"
        " none. auto takes the pairs of the annotation file, or pairs names that differ by left and right; without "
        "either, images with keypoints are not mirrored.",
        other_types=(list,),
    ),
)
