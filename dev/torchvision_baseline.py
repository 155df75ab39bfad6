"""torchvision's MaskRCNN with our model interface, so that the same code trains and evaluates both.

Selected by MODEL.META_ARCHITECTURE; backbone depth, widths, anchors and region counts are read from the same keys:

    PYTHONPATH=. mrcnn-zoo train --config-file configs/Nuclei/mask_rcnn_R_18_FPN_cpu.yaml \
        MODEL.META_ARCHITECTURE dev.torchvision_baseline:build_torchvision_mask_rcnn OUTPUT_DIR output/torchvision
"""

from collections.abc import Sequence

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.interop.torchvision.reference import RawOutput
from mrcnn_zoo.modeling import resolve_device
from mrcnn_zoo.structures import Detections, Sample, TrainingOutput
from mrcnn_zoo.structures.masks import ProbabilityMasks

LOSS_NAMES = {
    "loss_classifier": "loss_cls",
    "loss_box_reg": "loss_box_reg",
    "loss_mask": "loss_mask",
    "loss_objectness": "loss_rpn_cls",
    "loss_rpn_box_reg": "loss_rpn_loc",
}


class TorchvisionMaskRCNN(nn.Module):
    """`losses` and `predict` of a torchvision MaskRCNN.

    Args:
        model: with a `RawOutput` transform.
        device: of the model; images are copied to it.
    """

    def __init__(self, model: MaskRCNN, *, device: torch.device) -> None:
        super().__init__()
        self.model = model
        self.device = device

    def forward(self, samples: Sequence[Sample]) -> TrainingOutput | list[Detections]:
        return self.losses(samples) if self.training else self.predict(samples)

    def losses(self, samples: Sequence[Sample]) -> TrainingOutput:
        """torchvision's losses under our names."""
        was_training = self.model.training
        for part in (self.model, self.model.rpn, self.model.roi_heads):
            part.training = True  # only the flag: batch norm keeps its mode
        losses = self.model(self._images(samples), [self._targets(sample) for sample in samples])
        for part in (self.model, self.model.rpn, self.model.roi_heads):
            part.training = was_training
        return TrainingOutput({LOSS_NAMES[name]: value for name, value in losses.items()})

    @torch.no_grad()
    def predict(self, samples: Sequence[Sample]) -> list[Detections]:
        """Detections in original image coordinates; our code pastes the masks."""
        self.model.eval()
        results = self.model(self._images(samples))
        return [self._detections(result, sample) for result, sample in zip(results, samples, strict=True)]

    def _images(self, samples: Sequence[Sample]) -> list[Tensor]:
        return [sample.image.to(self.device).float() for sample in samples]

    def _targets(self, sample: Sample) -> dict[str, Tensor]:
        assert sample.targets is not None
        assert sample.targets.masks is not None
        targets = sample.targets.to(self.device)
        return {
            "boxes": targets.boxes,
            "labels": targets.classes + 1,  # 0 is torchvision's background
            "masks": targets.masks.bitmaps().to(torch.uint8),  # type: ignore[union-attr]
        }

    def _detections(self, result: dict[str, Tensor], sample: Sample) -> Detections:
        height, width = sample.image_size
        original_height, original_width = sample.original_size
        scale = torch.tensor([original_width / width, original_height / height] * 2, device=self.device)
        boxes = result["boxes"] * scale
        return Detections(
            image_size=sample.original_size,
            boxes=boxes,
            scores=result["scores"],
            classes=result["labels"] - 1,
            masks=ProbabilityMasks(result["masks"][:, 0], boxes, sample.original_size),
        )


def build_torchvision_mask_rcnn(cfg: CfgNode) -> TorchvisionMaskRCNN:
    """Build a torchvision MaskRCNN with the sizes of the config."""
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    norm = nn.BatchNorm2d if cfg.MODEL.RESNETS.NORM == "BN" else torchvision.ops.FrozenBatchNorm2d
    resnet = getattr(torchvision.models, f"resnet{cfg.MODEL.RESNETS.DEPTH}")(weights=None, norm_layer=norm)
    backbone = _resnet_fpn_extractor(resnet, trainable_layers=5)
    fpn_inputs = [resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4]
    backbone.fpn = torchvision.ops.FeaturePyramidNetwork(
        [getattr(layer[-1], "bn3", layer[-1].bn2).weight.numel() for layer in fpn_inputs],
        channels,
        extra_blocks=LastLevelMaxPool() if "p6" in cfg.MODEL.RPN.IN_FEATURES else None,
    )
    backbone.out_channels = channels
    sizes = tuple(tuple(level) for level in cfg.MODEL.ANCHOR_GENERATOR.SIZES)
    ratios = tuple(tuple(cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS[0]) for _ in sizes)
    box, rpn, heads, mask = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.RPN, cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_MASK_HEAD
    levels = [str(level) for level in range(4)]
    model = MaskRCNN(
        backbone,
        image_mean=list(cfg.MODEL.PIXEL_MEAN),
        image_std=list(cfg.MODEL.PIXEL_STD),
        rpn_anchor_generator=AnchorGenerator(sizes, ratios),
        rpn_pre_nms_top_n_train=rpn.PRE_NMS_TOPK_TRAIN,
        rpn_pre_nms_top_n_test=rpn.PRE_NMS_TOPK_TEST,
        rpn_post_nms_top_n_train=rpn.POST_NMS_TOPK_TRAIN,
        rpn_post_nms_top_n_test=rpn.POST_NMS_TOPK_TEST,
        rpn_batch_size_per_image=rpn.BATCH_SIZE_PER_IMAGE,
        box_roi_pool=MultiScaleRoIAlign(levels, box.POOLER_RESOLUTION, sampling_ratio=2),
        box_head=TwoMLPHead(channels * box.POOLER_RESOLUTION**2, box.FC_DIM),
        box_predictor=torchvision.models.detection.faster_rcnn.FastRCNNPredictor(box.FC_DIM, heads.NUM_CLASSES + 1),
        box_batch_size_per_image=heads.BATCH_SIZE_PER_IMAGE,
        box_positive_fraction=heads.POSITIVE_FRACTION,
        box_score_thresh=heads.SCORE_THRESH_TEST,
        box_nms_thresh=heads.NMS_THRESH_TEST,
        box_detections_per_img=cfg.TEST.DETECTIONS_PER_IMAGE,
        mask_roi_pool=MultiScaleRoIAlign(levels, mask.POOLER_RESOLUTION, sampling_ratio=2),
        mask_head=MaskRCNNHeads(channels, (mask.CONV_DIM,) * mask.NUM_CONV, 1),
        mask_predictor=MaskRCNNPredictor(mask.CONV_DIM, mask.CONV_DIM, heads.NUM_CLASSES + 1),
    )
    # Our mapper resizes the images, and masks are pasted only for evaluation.
    model.transform = RawOutput(model.transform)
    device = resolve_device(cfg.MODEL.DEVICE)
    return TorchvisionMaskRCNN(model.to(device), device=device)
