"""Point features, training points and point heads of PointRend."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.layers.conv import kaiming_init_, relu_
from mrcnn_zoo.modeling.contracts import Features
from mrcnn_zoo.ops.points import most_uncertain, points_on_image, sample_at, sample_own
from mrcnn_zoo.registries import POINT_HEADS
from mrcnn_zoo.structures import FeatureSpec


@dataclass(frozen=True)
class PointFeatures:
    """Samples feature maps at points of regions and concatenates their channels.

    Args:
        names: of the maps.
        strides: of the maps, pixels.
    """

    names: tuple[str, ...]
    strides: tuple[int, ...]

    def __call__(self, features: Features, rois: Tensor, points: Tensor) -> Tensor:
        """The features at the points of each region.

        Args:
            features: at least the maps in `names`, each (N, C, H, W).
            rois: (R, 5) image number and box in image pixels.
            points: (R, P, 2) in the unit square of each region.

        Returns:
            (R, sum of C, P).
        """
        images, pixels = rois[:, 0].long(), points_on_image(points, rois[:, 1:])
        values = [
            sample_at(features[name], images, pixels / stride)
            for name, stride in zip(self.names, self.strides, strict=True)
        ]
        return values[0] if len(values) == 1 else torch.cat(values, dim=1)


class PointSampler(Protocol):
    """Samples the training points of a point head."""

    def sample(self, logits: Tensor) -> Tensor:
        """(R, M, M) coarse logits of each region's class -> (R, P, 2) points in the unit square of the region."""
        ...


@dataclass(frozen=True)
class UncertainPointSampler:
    """The most uncertain of many random points, and uniformly random points.

    Source: Kirillov et al. 2020 (PointRend), section 3.1, "Training".

    Args:
        num_points: P, per region; N in the paper.
        oversampling: random points per returned point; k in the paper.
        uncertain_share: share of the most uncertain points among the returned ones, in [0, 1]; beta in the paper.
    """

    num_points: int
    oversampling: float
    uncertain_share: float

    @torch.no_grad()
    def sample(self, logits: Tensor) -> Tensor:
        """(R, M, M) -> (R, P, 2), the uncertain ones first."""
        num_uncertain = int(self.uncertain_share * self.num_points)
        # Uncertainty of the interpolated logit: cells of -1 and 1 are certain, a point halfway between them is not.
        drawn = torch.rand((len(logits), int(self.num_points * self.oversampling), 2), device=logits.device)
        rows = most_uncertain(sample_own(logits[:, None], drawn).squeeze(1), num_uncertain)
        uncertain = drawn.gather(1, rows[..., None].expand(-1, -1, 2))
        others = torch.rand((len(logits), self.num_points - num_uncertain, 2), device=logits.device)
        return torch.cat((uncertain, others), dim=1)


class StandardPointHead(nn.Module):
    """Fully connected layers applied to each point, on its fine features and coarse mask logits.

    Source: Kirillov et al. 2020 (PointRend), section 3.3 and appendix.

    Args:
        in_channels: C of the fine features.
        num_coarse_maps: maps of the coarse mask.
        num_maps: K, or 1 for class-agnostic masks.
        fc_channels: outputs of each hidden layer.
        sees_coarse_in_each_layer: whether coarse logits are an input of each layer, not only of the first.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        num_coarse_maps: int,
        num_maps: int,
        fc_channels: Sequence[int],
        sees_coarse_in_each_layer: bool = True,
    ) -> None:
        super().__init__()
        size = in_channels + num_coarse_maps
        self.fc_names = [f"fc{number}" for number in range(1, len(fc_channels) + 1)]
        # Per layer, how many of its last inputs are coarse logits; used to adapt weights to other classes.
        self.num_coarse_inputs = {
            name: num_coarse_maps if number == 0 or sees_coarse_in_each_layer else 0
            for number, name in enumerate((*self.fc_names, "predictor"))
        }
        for name, width in zip(self.fc_names, fc_channels, strict=True):
            layer = nn.Conv1d(size, width, 1)
            kaiming_init_(layer)
            self.add_module(name, layer)
            size = width + num_coarse_maps * sees_coarse_in_each_layer
        self.sees_coarse_in_each_layer = sees_coarse_in_each_layer
        self.predictor = nn.Conv1d(size, num_maps, 1)
        nn.init.normal_(self.predictor.weight, std=0.001)
        assert self.predictor.bias is not None
        nn.init.zeros_(self.predictor.bias)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(R, C, P) fine features, (R, K, P) coarse logits -> (R, K, P) logits."""
        coarse = coarse.mT.to(fine.dtype)
        values = torch.cat((fine.mT, coarse), dim=2)
        for name in self.fc_names:
            values = relu_(_at_each_point(self.get_submodule(name), values))
            if self.sees_coarse_in_each_layer:
                values = torch.cat((values, coarse), dim=2)
        return _at_each_point(self.predictor, values).mT


def _at_each_point(layer: nn.Module, values: Tensor) -> Tensor:
    # A convolution over (R, C, P) takes 1.6 times as long on the CPU as one matrix product over (R * P, C).
    assert isinstance(layer, nn.Conv1d)
    return F.linear(values, layer.weight.squeeze(2), layer.bias)


@POINT_HEADS.register("StandardPointHead")
def build_standard_point_head(cfg: CfgNode, input_spec: FeatureSpec, num_coarse_maps: int) -> StandardPointHead:
    """The point head of `MODEL.POINT_HEAD`.

    Args:
        cfg: the whole config.
        input_spec: channels of the fine features.
        num_coarse_maps: maps of the coarse mask.
    """
    head = cfg.MODEL.POINT_HEAD
    return StandardPointHead(
        input_spec.channels,
        num_coarse_maps=num_coarse_maps,
        num_maps=1 if head.CLS_AGNOSTIC_MASK else head.NUM_CLASSES,
        fc_channels=[head.FC_DIM] * head.NUM_FC,
        sees_coarse_in_each_layer=head.COARSE_PRED_EACH_LAYER,
    )
