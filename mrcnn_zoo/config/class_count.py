"""How many classes a model predicts, and in which section its boxes are described: each architecture has its own."""

from mrcnn_zoo.config.node import CfgNode

# By MODEL.META_ARCHITECTURE; others predict no classes, or are the user's own.
CLASS_COUNT_KEYS = {
    "GeneralizedRCNN": "MODEL.ROI_HEADS.NUM_CLASSES",
    "PanopticFPN": "MODEL.ROI_HEADS.NUM_CLASSES",
    "RetinaNet": "MODEL.RETINANET.NUM_CLASSES",
    "FCOS": "MODEL.RETINANET.NUM_CLASSES",
}


def class_count_key(config: CfgNode) -> str:
    """The key that holds the number of classes of the model; empty where none does."""
    return CLASS_COUNT_KEYS.get(config.MODEL.META_ARCHITECTURE, "")


def class_count(config: CfgNode) -> int | None:
    """The number of classes of the model, the background not counted; None where no key tells."""
    key = class_count_key(config)
    return config.value_of(key) if key else None


def section_of_boxes(config: CfgNode) -> str:
    """The section of MODEL with the thresholds and the suppression of the detector's boxes."""
    return "RETINANET" if config.MODEL.META_ARCHITECTURE == "RetinaNet" else "ROI_HEADS"
