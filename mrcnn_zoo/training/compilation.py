"""MODEL.OPTIMIZE compiled in training: the dense stages by torch.compile, forward and backward."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.inference.dense_stages import RPN_HEAD, in_order, keep_generated_code, stages_of
from mrcnn_zoo.inference.optimization import can_compile

# The backward graph has no forward convolution, by which torch 2.14 decides that maps stay in channels-last order;
# without that it writes the strides of each map, so each image size, into the code.
SETTINGS: dict[str, Any] = {"force_layout_optimization": True}

logger = logging.getLogger(__name__)


class CompiledForTraining:
    """The `forward` of a module, compiled for all image sizes at once; evaluations run the plain one.

    It replaces the method of the instance: parameters, buffers and their names stay, so checkpoints do, too.

    Args:
        module: that is trained.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._plain: Callable[..., Any] = module.forward
        self._compiled: Callable[..., Any] = torch.compile(module.forward, dynamic=True, options=SETTINGS)

    def __call__(self, *inputs: Any) -> Any:
        """The same as the method, with gradient compiled."""
        if not self._module.training or not torch.is_grad_enabled():
            return self._plain(*inputs)
        return self._compiled(*map(in_order, inputs))  # pixels in the other order: code for maps up to their height


def build_compiled_stages(cfg: CfgNode, model: nn.Module) -> None:
    """Compile the dense stages at their first call, where MODEL.OPTIMIZE says so and there is a C++ compiler.

    Args:
        cfg: of the training.
        model: on its device, with its frozen parameters; changed in place.
    """
    device = next(model.parameters()).device
    if cfg.MODEL.OPTIMIZE != "compiled" or not can_compile(device, instead="none"):
        return
    keep_generated_code()
    stages = stages_of(model)
    if device.type == "cpu":
        stages.pop(RPN_HEAD, None)  # it is trained on a few hundred patches of 3 x 3 cells
    logger.info("MODEL.OPTIMIZE compiled: %s; the first step takes minutes", ", ".join(stages))
    for stage in stages.values():
        stage.forward = CompiledForTraining(stage)  # type: ignore[method-assign, assignment]
