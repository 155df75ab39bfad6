"""Defaults of the evaluation keys."""

from mrcnn_zoo.config.keys import Key

DETECTRON2_KEYS = (
    Key("TEST.EXPECTED_RESULTS", [], ""),
    Key("TEST.EVAL_PERIOD", 0, ""),
    Key("TEST.KEYPOINT_OKS_SIGMAS", [], ""),
    Key("TEST.DETECTIONS_PER_IMAGE", 100, ""),
    Key("TEST.AUG.ENABLED", False, ""),
    Key("TEST.AUG.MIN_SIZES", [400, 500, 600, 700, 800, 900, 1000, 1100, 1200], ""),
    Key("TEST.AUG.MAX_SIZE", 4000, ""),
    Key("TEST.AUG.FLIP", True, ""),
    Key("TEST.PRECISE_BN.ENABLED", False, ""),
    Key("TEST.PRECISE_BN.NUM_ITER", 200, ""),
)

NEW_KEYS = (
    Key("TEST.BATCH_SIZE", 1, "Images per forward pass at inference."),
    Key("TEST.NUM_IMAGES", 0, "When above 0, evaluate only this many first images of each test set."),
    Key("TEST.VAL_LOSS", True, "Also compute the validation losses at each evaluation during training."),
    Key("EVAL.BACKEND", "pycocotools", "Who computes COCO AP: pycocotools, hotcoco or faster_coco_eval."),
)
