"""Defaults of the keys of synthetic scenes: digits and shapes."""

from mrcnn_zoo.config.keys import NOT_NEGATIVE, PAIR, SHARE, Key, Range

MOST_OF_A_SCENE = 20_000  # pixels of a side, objects; more does not fit into memory

DETECTRON2_KEYS: tuple[Key, ...] = ()

NEW_KEYS = (
    Key(
        "DATASETS.SCENES.NUM_TRAIN",
        2000,
        "Number of synthetic scenes in digits_train and in shapes_train.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "DATASETS.SCENES.NUM_VAL",
        200,
        "Number of synthetic scenes in digits_val and in shapes_val.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "DATASETS.SCENES.SEED",
        0,
        "Seed of the synthetic scenes, at least 0; equal seeds give equal pixels.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "DATASETS.SCENES.IMAGE_SIZE",
        [128, 128],
        "Height and width of a scene in pixels.",
        range=Range(low=8, high=MOST_OF_A_SCENE),
        length=PAIR,
    ),
    Key(
        "DATASETS.SCENES.NUM_OBJECTS",
        [1, 6],
        "Minimum and maximum number of objects per scene; fewer where no room is left.",
        range=Range(low=0, high=MOST_OF_A_SCENE),
        length=PAIR,
        ascends=True,
    ),
    Key(
        "DATASETS.SCENES.OBJECT_SIZE",
        [24, 56],
        "Minimum and maximum of an object's longer side in pixels, before it is rotated; at least 8.",
        range=Range(low=8, high=MOST_OF_A_SCENE),
        length=PAIR,
        ascends=True,
    ),
    Key(
        "DATASETS.SCENES.MAX_OVERLAP",
        0.1,
        "Maximum IoU between the boxes of two objects of a scene, in [0, 1].",
        range=SHARE,
    ),
    Key(
        "DATASETS.SCENES.MIN_VISIBLE",
        0.7,
        "Minimum share of an object's pixels, in [0, 1], that nearer objects leave visible; masks cover visible "
        "pixels only.",
        range=SHARE,
    ),
    Key(
        "DATASETS.SCENES.ROTATION",
        10.0,
        "Maximum rotation of an object in degrees, in either direction.",
        range=Range(low=0, high=180),
    ),
    Key(
        "DATASETS.SCENES.BACKGROUND",
        "texture",
        "Background of a scene: plain (one colour), gradient or texture.",
        choices=("plain", "gradient", "texture"),
    ),
    Key(
        "DATASETS.SCENES.NOISE",
        0.03,
        "Standard deviation of the pixel noise, as a fraction of the full range.",
        range=SHARE,
    ),
    Key(
        "DATASETS.SCENES.MIN_CONTRAST",
        0.3,
        "Minimum difference in brightness between objects and background, as a fraction of the full range, at most "
        "0.8.",
        range=Range(low=0, high=0.8),
    ),
    Key(
        "DATASETS.SCENES.INVERT_PROBABILITY",
        0.5,
        "Probability that the objects of a scene are darker than its background.",
        range=SHARE,
    ),
    Key("DATASETS.SCENES.IS_COLOR", True, "Draw objects and background in random colours instead of greys."),
    Key(
        "DATASETS.SCENES.DIGITS_SOURCE",
        "embedded",
        "Source of the digits: embedded (1,797 real 8 x 8 digits) or a folder with the MNIST IDX files, .gz or not.",
    ),
)
