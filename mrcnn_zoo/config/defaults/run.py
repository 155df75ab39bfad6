"""Defaults of the run keys."""

from mrcnn_zoo.config.keys import AT_LEAST_ONE, NOT_NEGATIVE, SHARE, UNLIMITED, Key
from mrcnn_zoo.registries import HOOKS, METRIC_WRITERS

DETECTRON2_KEYS = (
    Key(
        "VERSION",
        2,
        "Version of the key names; 2 is the only one, and the old names of version 1 are read as the new ones.",
        choices=(2,),
    ),
    Key("OUTPUT_DIR", "./output", "Folder for everything a run writes; relative to where the command is started."),
    Key(
        "SEED",
        -1,
        "Random seed of a run; a negative value draws one, which is logged and kept in the checkpoints.",
        range=UNLIMITED,
    ),
    Key(
        "CUDNN_BENCHMARK",
        False,
        "Let cuDNN benchmark its algorithms for each input size; faster only when images have few sizes.",
    ),
    Key(
        "FLOAT32_PRECISION",
        "",
        "Precision of float32 matrix products and convolutions on the GPU: highest, high (TF32) or medium; empty "
        "leaves torch's settings, which are float32 for products and TF32 for convolutions.",
        choices=("", "highest", "high", "medium"),
    ),
    Key("VIS_PERIOD", 0, "Iterations between two pictures of a training batch; 0 for none.", range=NOT_NEGATIVE),
)

NEW_KEYS = (
    Key(
        "DETERMINISTIC",
        False,
        "Let torch use algorithms whose results do not depend on the order of threads, on a GPU RoIAlign's gradient "
        "and convolutions among others: slower, but two runs with a SEED are equal. An operation without such an "
        "algorithm is warned of. CUDNN_BENCHMARK then has no effect.",
    ),
    Key(
        "WRITERS",
        ["console", "json", "csv"],
        "Registered metric writers: console, json (metrics.json), csv (results.csv), tensorboard, wandb; without the "
        "package of one of the last two the run continues without it.",
        registry=METRIC_WRITERS,
    ),
    Key(
        "CUSTOM",
        {},
        "Custom settings under any names, for builders that are named as package.module:function; nothing else reads"
        " them.",
    ),
    Key("LOG_PERIOD", 20, "Iterations between two lines of metrics.", range=AT_LEAST_ONE),
    Key(
        "HOOKS",
        [],
        'Custom hooks, called after the built-in ones, e.g. ["my_lab.hooks:build_my_hook"].',
        element_types=(str,),
        registry=HOOKS,
    ),
    Key("WANDB.PROJECT", "mrcnn_zoo", "W&B project."),
    Key("WANDB.ENTITY", "", "W&B user or team; empty takes the account's default."),
    Key("WANDB.NAME", "", "W&B run name; empty takes the output folder's name."),
    Key("WANDB.GROUP", "", "Group of W&B runs, e.g. the seeds of one experiment; a sweep sets its name."),
    Key("WANDB.JOB_TYPE", "", "W&B job type, e.g. train or debug; a sweep sets `sweep`."),
    Key("WANDB.NOTES", "", "Text beside the W&B run: what is tried and why."),
    Key("WANDB.TAGS", [], "Tags of the W&B run.", element_types=(str,)),
    Key(
        "WANDB.MODE",
        "",
        "W&B mode; empty follows the variable WANDB_MODE.",
        choices=("", "online", "offline", "disabled"),
    ),
    Key(
        "WANDB.LOG_CHECKPOINT",
        True,
        "Upload the best and the final checkpoint, with their metrics, as versions of an artifact.",
    ),
    Key(
        "WANDB.FINISH_TIMEOUT",
        600,
        "Seconds that the end of a run waits for W&B's uploads; the rest can be sent by `wandb sync`. 0 waits for all.",
        range=NOT_NEGATIVE,
    ),
    Key("VIS.NUM_IMAGES", 8, "Validation images drawn with their predictions at each evaluation.", range=NOT_NEGATIVE),
    Key("VIS.NUM_BATCHES", 1, "Training batches drawn at the start of training.", range=NOT_NEGATIVE),
    Key("VIS.SCORE_THRESH", 0.5, "Predictions below this score are not drawn.", range=SHARE),
    Key("VIS.PLOTS", True, "Plots of losses, results and the evaluation when a run or an evaluation ends."),
    Key("VIS.REPORT", True, "Write report.html, a page about the run, when it ends; see docs/run-report.md."),
)
