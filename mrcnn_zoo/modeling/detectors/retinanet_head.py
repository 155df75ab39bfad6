"""The two branches of RetinaNet, shared by all levels of the pyramid."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.layers import build_norm

WEIGHT_STD = 0.01  # Lin et al. 2017 (Focal Loss), sec. 4.1
KEY = "MODEL.RETINANET.NORM"
NORMS_WITH_STATISTICS = ("BN", "SyncBN")  # levels differ too much to share theirs


class NormOfEachLevel(nn.ModuleList):
    """Batch norms with statistics for each level of the pyramid, and one scale and shift for all of them.

    Args:
        norms: a batch norm for each level; their own scales and shifts become constants.
        num_channels: C.
    """

    def __init__(self, norms: Sequence[nn.Module], *, num_channels: int) -> None:
        super().__init__(norms)
        for norm in self:
            del norm.weight, norm.bias
            norm.register_buffer("weight", torch.ones(num_channels), persistent=False)
            norm.register_buffer("bias", torch.zeros(num_channels), persistent=False)
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def forward(self, features: Tensor, level: int) -> Tensor:
        """(N, C, H, W) of that level -> the same shape."""
        return self[level](features) * self.weight[:, None, None] + self.bias[:, None, None]


class Branch(nn.ModuleList):
    """3 x 3 convolutions, each with a norm, if any, and a ReLU; the layers are numbered as in Detectron2's weights.

    Args:
        channels: C, kept throughout.
        num_convs: how many convolutions.
        build_norm: channels -> norm after each convolution, or None.
    """

    def __init__(self, channels: int, *, num_convs: int, build_norm: Callable[[int], nn.Module | None]) -> None:
        super().__init__()
        for _ in range(num_convs):
            self.append(_conv(channels, channels))
            norm = build_norm(channels)
            if norm is not None:
                self.append(norm)
            self.append(nn.ReLU(inplace=True))

    def forward(self, features: Tensor, level: int) -> Tensor:
        """(N, C, H, W) of that level -> the same shape."""
        for layer in self:
            features = layer(features, level) if isinstance(layer, NormOfEachLevel) else layer(features)
        return features


class RetinaNetHead(nn.Module):
    """Class logits and box deltas of every anchor, from two branches that share nothing but their input.

    Source: Lin et al. 2017 (Focal Loss), sec. 4, figure 3.

    Args:
        channels: C of every level.
        num_anchors: A, anchors a cell.
        num_classes: K; each class has a yes or no of its own.
        num_convs: 3 x 3 convolutions of each branch before the predicting one.
        build_norm: channels -> norm after each of these convolutions, or None.
        prior: probability of an object that the untrained head predicts everywhere.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_anchors: int,
        num_classes: int,
        num_convs: int,
        build_norm: Callable[[int], nn.Module | None],
        prior: float,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.cls_subnet = Branch(channels, num_convs=num_convs, build_norm=build_norm)
        self.bbox_subnet = Branch(channels, num_convs=num_convs, build_norm=build_norm)
        self.cls_score = _conv(channels, num_anchors * num_classes)
        self.bbox_pred = _conv(channels, num_anchors * 4)
        # Without it the loss of the background, thousands of times an object's, would drown all else at the start.
        nn.init.constant_(self.cls_score.bias, -math.log((1 - prior) / prior))  # type: ignore[arg-type]

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """For each level (N, C, H, W): logits (N, A K, H, W) and deltas (N, 4 A, H, W), anchor by anchor."""
        logits = [self.cls_score(self.cls_subnet(maps, level)) for level, maps in enumerate(features)]
        deltas = [self.bbox_pred(self.bbox_subnet(maps, level)) for level, maps in enumerate(features)]
        return logits, deltas


def _conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    nn.init.normal_(conv.weight, std=WEIGHT_STD)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def build_retinanet_head(cfg: CfgNode, channels: int, *, num_anchors: int, num_levels: int) -> RetinaNetHead:
    """The head that `MODEL.RETINANET` describes."""
    settings = cfg.MODEL.RETINANET
    return RetinaNetHead(
        channels,
        num_anchors=num_anchors,
        num_classes=settings.NUM_CLASSES,
        num_convs=settings.NUM_CONVS,
        build_norm=partial(_build_norm, settings.NORM, num_levels),
        prior=settings.PRIOR_PROB,
    )


def _build_norm(name: str, num_levels: int, channels: int) -> nn.Module | None:
    if name not in NORMS_WITH_STATISTICS:
        return build_norm(name, channels, key=KEY)
    norms = [build_norm(name, channels, key=KEY) for _ in range(num_levels)]
    return NormOfEachLevel([norm for norm in norms if norm is not None], num_channels=channels)
