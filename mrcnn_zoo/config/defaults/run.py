"""Defaults of the run keys."""

from mrcnn_zoo.config.keys import Key

DETECTRON2_KEYS = (
    Key("VERSION", 2, ""),
    Key("OUTPUT_DIR", "./output", ""),
    Key("SEED", -1, ""),
    Key("CUDNN_BENCHMARK", False, ""),
    Key("FLOAT32_PRECISION", "", ""),
    Key("VIS_PERIOD", 0, ""),
    Key("GLOBAL.HACK", 1.0, ""),
)

NEW_KEYS = (
    Key(
        "WRITERS",
        ["console", "json", "csv", "tensorboard"],
        "Registered metric writers: console, json, csv, tensorboard, wandb.",
    ),
    Key("LOG_PERIOD", 20, "Iterations between two lines of metrics."),
    Key("HOOKS", [], 'Additional hooks of your own, e.g. ["my_lab.hooks:build_my_hook"].'),
    Key("WANDB.PROJECT", "mrcnn_zoo", "W&B project."),
    Key("WANDB.NAME", "", "W&B run name; empty takes the output folder's name."),
    Key("WANDB.LOG_CHECKPOINT", True, "Upload the final checkpoint as an artifact."),
    Key("VIS.NUM_IMAGES", 8, "Validation images drawn with their predictions at each evaluation."),
    Key("VIS.NUM_BATCHES", 1, "Training batches drawn at the start of training."),
    Key("VIS.SCORE_THRESH", 0.5, "Predictions below this score are not drawn."),
)
