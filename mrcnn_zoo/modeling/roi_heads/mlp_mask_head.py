"""The fully connected mask head: every cell of the mask sees all of the region."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.layers.conv import add_linear_layers, relu_
from mrcnn_zoo.modeling.roi_heads.mask_head import MaskCriterion, build_mask_criterion
from mrcnn_zoo.registries import MASK_HEADS
from mrcnn_zoo.structures import Detections, FeatureSpec, LabeledRegions, TrainingOutput


class MaskRCNNMLPHead(nn.Module):
    """Fully connected layers, and one map a class from the last of them.

    Source: He et al. 2017 (Mask R-CNN), table 2e, "MLP": two hidden layers of 1024, then 80 maps of 28 x 28.

    Args:
        input_spec: channels and side of the pooled maps.
        num_maps: K, or 1 for one mask whatever the class.
        fc_channels: outputs of each hidden layer.
        mask_side: M, rows and columns of a map.
        criterion: trains the maps and turns them into masks.
    """

    def __init__(
        self,
        input_spec: FeatureSpec,
        *,
        num_maps: int,
        fc_channels: Sequence[int],
        mask_side: int,
        criterion: MaskCriterion,
    ) -> None:
        super().__init__()
        size = input_spec.channels * input_spec.side**2
        self.fc_names, size = add_linear_layers(self, size, fc_channels)
        self.num_maps = num_maps
        self.mask_side = mask_side
        self.predictor = nn.Linear(size, criterion.count_maps(num_maps) * mask_side**2)
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)
        self.criterion = criterion

    def forward(self, pooled: Tensor) -> Tensor:
        """All maps: (R, C, S, S) -> (R, K, M, M) logits, or K + 1 maps where the criterion has the classes compete."""
        vectors = pooled.flatten(1)
        for name in self.fc_names:
            vectors = relu_(self.get_submodule(name)(vectors))
        return self.predictor(vectors).unflatten(1, (-1, self.mask_side, self.mask_side))

    def class_logits(self, pooled: Tensor, classes: Tensor) -> Tensor:
        """Each region's map of one class: (R, C, S, S), (R,) int64 in [0, K) -> (R, M, M) logits, float32."""
        # One product with all weights is less work than a copy of a class's weights for every region.
        regions = torch.arange(len(pooled), device=pooled.device)
        return self(pooled)[regions, classes.clamp(max=self.num_maps - 1)].float()

    def losses(self, pooled: Tensor, foreground: list[LabeledRegions]) -> TrainingOutput:
        """`loss_mask` and the share of right pixels; see `MaskCriterion.supervise`."""
        return self.supervise(pooled, foreground)[1]

    def supervise(self, pooled: Tensor, foreground: list[LabeledRegions]) -> tuple[Tensor, TrainingOutput]:
        """The masks with a gradient, (sum of R_i, M, M) in [0, 1], and the losses."""
        return self.criterion.supervise(self, pooled, foreground)

    def predict(self, pooled: Tensor, detections: list[Detections]) -> list[Detections]:
        """The detections with masks: (sum of R_i, C, S, S) and R_i detections of each image."""
        return self.criterion.predict(self, pooled, detections)


@MASK_HEADS.register("MaskRCNNMLPHead")
def build_mask_rcnn_mlp_head(cfg: CfgNode, input_spec: FeatureSpec) -> MaskRCNNMLPHead:
    """The fully connected head of `MODEL.ROI_MASK_HEAD`; its masks are as large as those of the convolutional one."""
    head = cfg.MODEL.ROI_MASK_HEAD
    return MaskRCNNMLPHead(
        input_spec,
        num_maps=1 if head.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        fc_channels=[head.FC_DIM] * head.NUM_FC,
        mask_side=input_spec.side * 2**head.NUM_UPSAMPLE,
        criterion=build_mask_criterion(cfg),
    )
