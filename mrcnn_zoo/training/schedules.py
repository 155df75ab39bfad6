"""Training schedules: a config becomes the list of configs that are trained one after the other."""

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.registries import TRAINING_SCHEDULES


@TRAINING_SCHEDULES.register("joint")
def joint(cfg: CfgNode) -> list[CfgNode]:
    """All parts of the model are trained together: one stage."""
    return [cfg]
