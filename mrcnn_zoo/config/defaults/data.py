"""Defaults of the data keys."""

from mrcnn_zoo.config.keys import Key

DETECTRON2_KEYS = (
    Key("INPUT.MIN_SIZE_TRAIN", [800], ""),
    Key("INPUT.MIN_SIZE_TRAIN_SAMPLING", "choice", ""),
    Key("INPUT.MAX_SIZE_TRAIN", 1333, ""),
    Key("INPUT.MIN_SIZE_TEST", 800, ""),
    Key("INPUT.MAX_SIZE_TEST", 1333, ""),
    Key("INPUT.RANDOM_FLIP", "horizontal", ""),
    Key("INPUT.CROP.ENABLED", False, ""),
    Key("INPUT.CROP.TYPE", "relative_range", ""),
    Key("INPUT.CROP.SIZE", [0.9, 0.9], ""),
    Key("INPUT.FORMAT", "BGR", ""),
    Key("INPUT.MASK_FORMAT", "polygon", ""),
    Key("DATASETS.TRAIN", [], ""),
    Key("DATASETS.PROPOSAL_FILES_TRAIN", [], ""),
    Key("DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN", 2000, ""),
    Key("DATASETS.TEST", [], ""),
    Key("DATASETS.PROPOSAL_FILES_TEST", [], ""),
    Key("DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST", 1000, ""),
    Key("DATALOADER.NUM_WORKERS", 4, ""),
    Key("DATALOADER.ASPECT_RATIO_GROUPING", True, ""),
    Key("DATALOADER.SAMPLER_TRAIN", "TrainingSampler", ""),
    Key("DATALOADER.REPEAT_THRESHOLD", 0.0, ""),
    Key("DATALOADER.REPEAT_SQRT", True, ""),
    Key("DATALOADER.FILTER_EMPTY_ANNOTATIONS", True, ""),
)

NEW_KEYS = (
    Key(
        "DATASETS.DEFINITIONS",
        {},
        "Datasets of your own by name, each a mapping with FORMAT (coco, dsb2018, digits, shapes, ...) and that format's fields, e.g. {cells_train: {FORMAT: coco, IMAGES: data/train, ANNOTATIONS: data/train.json}}.",
    ),
    Key("DATASETS.SCENES.NUM_TRAIN", 2000, "Generated scenes in digits_train and shapes_train."),
    Key("DATASETS.SCENES.NUM_VAL", 200, "Generated scenes in digits_val and shapes_val."),
    Key("DATASETS.SCENES.SEED", 0, "Seed of the generated scenes; the same seed gives the same pixels."),
    Key("DATASETS.SCENES.IMAGE_SIZE", [128, 128], "Height and width of a scene in pixels."),
    Key("DATASETS.SCENES.NUM_OBJECTS", [1, 6], "Fewest and most objects in a scene."),
    Key("DATASETS.SCENES.OBJECT_SIZE", [20, 56], "Smallest and largest side of an object in pixels."),
    Key("DATASETS.SCENES.MAX_OVERLAP", 0.2, "Largest allowed IoU between the boxes of two objects of a scene."),
    Key("DATASETS.SCENES.BACKGROUND", "texture", "Background of a scene: plain, gradient or texture."),
    Key("DATASETS.SCENES.NOISE", 0.03, "Standard deviation of the pixel noise, as a fraction of the full range."),
    Key("DATASETS.SCENES.INVERT_PROBABILITY", 0.5, "Probability that the ink is darker than the background."),
    Key("DATASETS.SCENES.IS_COLOR", True, "Draw objects and background in random colours instead of greys."),
    Key(
        "DATASETS.SCENES.DIGITS_SOURCE",
        "embedded",
        "Where digits come from: embedded (1,797 real 8 x 8 digits) or a folder with the MNIST IDX files.",
    ),
)
