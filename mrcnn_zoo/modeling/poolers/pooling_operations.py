"""RoI pooling operations by the names that a config gives them; each works on one level of a pyramid."""

from torch import Tensor, nn

from mrcnn_zoo.ops import roi
from mrcnn_zoo.registries import POOLING_OPERATIONS


class RoIAlign(nn.Module):
    """Mean of bilinear samples; see `ops.roi.roi_align` for the arguments."""

    def __init__(self, side: int, *, scale: float, sampling_ratio: int, aligned: bool) -> None:
        super().__init__()
        self.side = side
        self.scale = scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, features: Tensor, regions: Tensor) -> Tensor:
        """(N, C, H, W) features, (R, 5) regions with the row of their image -> (R, C, S, S)."""
        return roi.roi_align(
            features,
            regions,
            self.side,
            scale=self.scale,
            sampling_ratio=self.sampling_ratio,
            aligned=self.aligned,
        )

    def extra_repr(self) -> str:
        return f"{self.side}, scale={self.scale}, sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"


class RoIPool(nn.Module):
    """Greatest value of the feature cells in each pooled cell; see `ops.roi.roi_pool`."""

    def __init__(self, side: int, *, scale: float) -> None:
        super().__init__()
        self.side = side
        self.scale = scale

    def forward(self, features: Tensor, regions: Tensor) -> Tensor:
        """(N, C, H, W) features, (R, 5) regions with the row of their image -> (R, C, S, S)."""
        return roi.roi_pool(features, regions, self.side, scale=self.scale)

    def extra_repr(self) -> str:
        return f"{self.side}, scale={self.scale}"


@POOLING_OPERATIONS.register("ROIAlign")
def build_roi_align(side: int, scale: float, sampling_ratio: int) -> RoIAlign:
    """RoIAlign as first published in code: half a cell off."""
    return RoIAlign(side, scale=scale, sampling_ratio=sampling_ratio, aligned=False)


@POOLING_OPERATIONS.register("ROIAlignV2")
def build_roi_align_v2(side: int, scale: float, sampling_ratio: int) -> RoIAlign:
    """RoIAlign with the right half-cell shift."""
    return RoIAlign(side, scale=scale, sampling_ratio=sampling_ratio, aligned=True)


@POOLING_OPERATIONS.register("ROIPool")
def build_roi_pool(side: int, scale: float, _sampling_ratio: int) -> RoIPool:
    """RoIPool of Fast R-CNN; it takes no samples, so the sampling ratio does nothing."""
    return RoIPool(side, scale=scale)
