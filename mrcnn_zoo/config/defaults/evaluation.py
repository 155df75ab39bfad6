"""Defaults of the evaluation keys."""

from mrcnn_zoo.config.keys import AT_LEAST_ONE, NOT_NEGATIVE, POSITIVE, Key, Range

DETECTRON2_KEYS = (
    Key(
        "TEST.EXPECTED_RESULTS",
        [],
        "Results that the final evaluation must reach, each as [task, metric, expected, tolerance], "
        "e.g. [[bbox, AP, 38.5, 0.2]]; a miss is reported and ends the run with an error.",
    ),
    Key(
        "TEST.EVAL_PERIOD",
        0,
        "Iterations between two evaluations in training; 0 evaluates only at the end.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "TEST.KEYPOINT_OKS_SIGMAS",
        [],
        "Deviation of each keypoint in the keypoint similarity (OKS), as a share of the object's size; empty takes "
        "COCO's for its 17, and 0.05 for others.",
        element_types=(float,),
        range=POSITIVE,
    ),
    Key(
        "TEST.DETECTIONS_PER_IMAGE",
        100,
        "Most detections kept for an image; the COCO evaluation counts as many. -1 keeps all, of which 100 count.",
        range=Range(low=1, also=(-1,)),
    ),
    Key(
        "TEST.AUG.ENABLED",
        False,
        "Merge the detections of several scales and flips of each test image.",
        is_built=False,
    ),
    Key(
        "TEST.AUG.MIN_SIZES",
        [400, 500, 600, 700, 800, 900, 1000, 1100, 1200],
        "Lengths in pixels that the shorter side of the test image is scaled to, one after the other.",
        is_built=False,
        range=AT_LEAST_ONE,
    ),
    Key(
        "TEST.AUG.MAX_SIZE",
        4000,
        "Upper bound in pixels of the longer side under TEST.AUG.",
        is_built=False,
        range=AT_LEAST_ONE,
    ),
    Key("TEST.AUG.FLIP", True, "Also detect in the mirrored image at each scale.", is_built=False),
    Key(
        "TEST.PRECISE_BN.ENABLED",
        False,
        "Estimate batch-norm statistics anew on training images before each evaluation.",
    ),
    Key("TEST.PRECISE_BN.NUM_ITER", 200, "Batches that TEST.PRECISE_BN looks at, on each process.", range=AT_LEAST_ONE),
)

NEW_KEYS = (
    Key("TEST.BATCH_SIZE", 1, "Images per forward pass at inference.", range=AT_LEAST_ONE),
    Key(
        "TEST.NUM_IMAGES", 0, "When above 0, evaluate only this many first images of each test set.", range=NOT_NEGATIVE
    ),
    Key("TEST.VAL_LOSS", True, "Also compute the validation losses at each evaluation during training."),
    Key(
        "EVAL.EVALUATOR",
        "coco",
        "Registered evaluator of the test sets: coco for AP, or for the average recall of a ProposalNetwork; "
        "box_proposals for the average recall of any model's boxes.",
    ),
    Key("EVAL.BACKEND", "pycocotools", "Who computes COCO AP: pycocotools, hotcoco or faster_coco_eval."),
)
