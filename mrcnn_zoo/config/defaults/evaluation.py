"""Defaults of the evaluation keys."""

from mrcnn_zoo.config.keys import AT_LEAST_ONE, NOT_EMPTY, NOT_NEGATIVE, POSITIVE, SHARE, Key, Range
from mrcnn_zoo.registries import AP_BACKENDS, EVALUATORS, METRICS

DETECTRON2_KEYS = (
    Key(
        "TEST.EXPECTED_RESULTS",
        [],
        "Expected results of the final evaluation, each as [task, metric, expected, tolerance], e.g. [[bbox, AP, "
        "38.5, 0.2]]; a result outside its tolerance is reported and ends the run with an error.",
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
        "Standard deviation of each keypoint in the object keypoint similarity (OKS), as a share of the object's "
        "size; empty takes COCO's for its 17, and 0.05 for others.",
        element_types=(float,),
        range=POSITIVE,
    ),
    Key(
        "TEST.DETECTIONS_PER_IMAGE",
        100,
        "Maximum number of detections per image, also in the COCO evaluation. -1 keeps all, of which 100 are "
        "evaluated.",
        range=Range(low=1, also=(-1,)),
        old_names=("TEST.DETECTIONS_PER_IMG",),
    ),
    Key(
        "TEST.AUG.ENABLED",
        False,
        "Test-time augmentation: predict on several sizes, flips and rotations of each test image and merge the "
        "detections: boxes by one suppression, masks and keypoints by averaging. Applies to every evaluation, also "
        "during training, and to predict; the time grows with the number of views. For the final evaluation alone, "
        "train without it and evaluate with it.",
        old_names=("TEST.AUG_ON",),
    ),
    Key(
        "TEST.AUG.MIN_SIZES",
        [400, 500, 600, 700, 800, 900, 1000, 1100, 1200],
        "Lengths in pixels that the shorter side of the test image is scaled to under TEST.AUG, instead of "
        "INPUT.MIN_SIZE_TEST; 0 keeps the image's own size.",
        range=NOT_NEGATIVE,
        length=NOT_EMPTY,
        old_names=("TEST.AUG_MIN_SIZES",),
    ),
    Key(
        "TEST.AUG.MAX_SIZE",
        4000,
        "Upper bound in pixels of the longer side under TEST.AUG; does not apply to images that keep their own size.",
        range=AT_LEAST_ONE,
        old_names=("TEST.AUG_MAX_SIZE",),
    ),
    Key(
        "TEST.AUG.FLIP",
        True,
        "Under TEST.AUG, each size also mirrored horizontally.",
        old_names=("TEST.AUG_FLIP",),
    ),
    Key(
        "TEST.PRECISE_BN.ENABLED",
        False,
        "Re-estimate batch-norm statistics on training images before each evaluation.",
    ),
    Key("TEST.PRECISE_BN.NUM_ITER", 200, "Batches used by TEST.PRECISE_BN, per process.", range=AT_LEAST_ONE),
)

NEW_KEYS = (
    Key(
        "TEST.AUG.FLIP_VERTICAL",
        False,
        "Under TEST.AUG, each size also mirrored vertically, and with TEST.AUG.FLIP both ways.",
    ),
    Key(
        "TEST.AUG.ROTATE",
        False,
        "Under TEST.AUG, each size and flip also rotated by 90, 180 and 270 degrees; for images without a preferred "
        "orientation, such as cells.",
    ),
    Key(
        "TEST.BATCH_SIZE",
        1,
        "Images per forward pass at inference; under TEST.AUG, views of one image.",
        range=AT_LEAST_ONE,
    ),
    Key(
        "TEST.NUM_IMAGES",
        0,
        "When above 0, evaluate only the first images of each test set, this many.",
        range=NOT_NEGATIVE,
    ),
    Key("TEST.VAL_LOSS", True, "Also compute the validation losses at each evaluation during training."),
    Key(
        "EVAL.EVALUATOR",
        "coco",
        "Registered evaluator of the test sets: coco for AP, for the average recall of a ProposalNetwork, or for the "
        "accuracy of a Classifier (classification); box_proposals for the average recall of any model's boxes.",
        registry=EVALUATORS,
    ),
    Key(
        "EVAL.GIVEN_BOXES",
        "",
        "Boxes that replace the detected boxes of a model with region heads, in every evaluation: ground_truth for "
        "the boxes and classes of the annotations, which gives the AP of the mask head alone, or a COCO file with "
        "boxes, as of `predict --boxes`; empty for none.",
    ),
    Key(
        "EVAL.BOOTSTRAP",
        0,
        "Resamples of the test images for 95 % intervals beside every AP, in every evaluation, e.g. 1000; of whole "
        "groups with DATASETS.GROUP. 0: none. See docs/statistics.md.",
        range=NOT_NEGATIVE,
    ),
    Key(
        "EVAL.FUNNEL",
        False,
        "Trace every object through the stages of the model, in every evaluation: how many objects each stage still "
        "has, why the others are lost, and what to change. Not with TEST.AUG or EVAL.GIVEN_BOXES. See "
        "docs/recall-funnel.md.",
    ),
    Key(
        "EVAL.METRICS",
        [],
        "Metrics of detections beside COCO AP, in every evaluation, e.g. [f1, tide]: their numbers join the results, "
        "their tables the log and results.md, their plots and CSV files inference/. See docs/evaluation.md.",
        element_types=(str,),
        registry=METRICS,
    ),
    Key(
        "EVAL.SCORE_THRESHOLD",
        0.5,
        "Minimum score of a detection in the metrics cells and confusion of EVAL.METRICS, which have no ranking.",
        range=SHARE,
    ),
    Key(
        "EVAL.IMAGE_GROUPS",
        "",
        "Groups of images for the metric `groups` of EVAL.METRICS: a regular expression on the file name, whose first "
        "group in parentheses, or else the whole match, names the group; or a JSON file {image: group} or a CSV file "
        "with the columns image and group.",
    ),
    Key(
        "EVAL.BACKEND",
        "auto",
        "Library that computes COCO AP: pycocotools, hotcoco or faster_coco_eval, which give the same numbers; auto "
        "takes hotcoco, the fastest, where it is installed.",
        registry=AP_BACKENDS,
    ),
    Key(
        "RESULTS.SIMPLIFY",
        0.0,
        "Pixels by which the polygons of masks that predict writes with --format may differ from the outlines of the "
        "masks, to have fewer points (Douglas-Peucker); polygons that would cross are simplified less. 0 keeps the "
        "masks exactly, in COCO's format as run lengths. 1 to 2 for buildings.",
        range=NOT_NEGATIVE,
    ),
)
