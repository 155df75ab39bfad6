"""RoI pooling operations by the names that a config gives them; each works on one level of a pyramid."""

from typing import Protocol

from torch import Tensor, nn

from mrcnn_zoo.modeling.contracts import PoolingOperation
from mrcnn_zoo.ops import roi_pooling
from mrcnn_zoo.registries import POOLING_OPERATIONS

WARP_SAMPLES = 2  # rows of the warped region in a pooled one, where the config leaves it open


class Alignment(Protocol):
    """Makes one value of the bilinear samples in a cell: `roi_align` or `roi_align_max`."""

    __name__: str

    def __call__(
        self, features: Tensor, regions: Tensor, side: int, *, scale: float, sampling_ratio: int, aligned: bool
    ) -> Tensor:
        """(N, C, H, W) features, (R, 5) regions with the row of their image -> (R, C, S, S)."""
        ...


class RoIAlign(nn.Module):
    """The mean of bilinear samples, or another alignment; see `ops.roi_pooling.roi_align` for the other arguments."""

    def __init__(
        self, side: int, *, scale: float, sampling_ratio: int, aligned: bool, align: Alignment = roi_pooling.roi_align
    ) -> None:
        super().__init__()
        self.align = align
        self.side = side
        self.scale = scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, features: Tensor, regions: Tensor) -> Tensor:
        """(N, C, H, W) features, (R, 5) regions with the row of their image -> (R, C, S, S)."""
        return self.align(
            features,
            regions,
            self.side,
            scale=self.scale,
            sampling_ratio=self.sampling_ratio,
            aligned=self.aligned,
        )

    def extra_repr(self) -> str:
        settings = f"scale={self.scale}, sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        return f"{self.align.__name__}, {self.side}, {settings}"


class RoIPool(nn.Module):
    """Greatest value of the feature cells in each pooled cell; see `ops.roi_pooling.roi_pool`."""

    def __init__(self, side: int, *, scale: float) -> None:
        super().__init__()
        self.side = side
        self.scale = scale

    def forward(self, features: Tensor, regions: Tensor) -> Tensor:
        """(N, C, H, W) features, (R, 5) regions with the row of their image -> (R, C, S, S)."""
        return roi_pooling.roi_pool(features, regions, self.side, scale=self.scale)

    def extra_repr(self) -> str:
        return f"{self.side}, scale={self.scale}"


class RoIWarp(nn.Module):
    """Greatest value in each cell of the warped region; see `ops.roi_pooling.roi_warp`."""

    def __init__(self, side: int, *, scale: float, samples: int) -> None:
        super().__init__()
        self.side = side
        self.scale = scale
        self.samples = samples

    def forward(self, features: Tensor, regions: Tensor) -> Tensor:
        """(N, C, H, W) features, (R, 5) regions with the row of their image -> (R, C, S, S)."""
        return roi_pooling.roi_warp(features, regions, self.side, scale=self.scale, samples=self.samples)

    def extra_repr(self) -> str:
        return f"{self.side}, scale={self.scale}, samples={self.samples}"


class RoundedRoIs(nn.Module):
    """Another operation, on regions rounded to feature cells as RoIPool rounds them.

    Source: He et al. 2017 (Mask R-CNN), section 4.2: what its table 2c calls RoIWarp, to show that bilinear samples
    alone do not help.

    Args:
        operation: on regions in cells.
        scale: cells of the feature map per image pixel.
    """

    def __init__(self, operation: PoolingOperation, *, scale: float) -> None:
        super().__init__()
        self.operation = operation
        self.scale = scale

    def forward(self, features: Tensor, regions: Tensor) -> Tensor:
        """(N, C, H, W) features, (R, 5) regions with the row of their image -> (R, C, S, S)."""
        return self.operation(features, roi_pooling.rounded_to_cells(regions, scale=self.scale))

    def extra_repr(self) -> str:
        return f"scale={self.scale}"


class ToLastPixel(nn.Module):
    """Another operation, on regions that end with the position of their last pixel, one before their border.

    Source: maskrcnn-benchmark, where the width of a box is x2 - x1 + 1, but RoIAlign gets x1 to x2.

    Args:
        operation: on regions in image pixels.
    """

    def __init__(self, operation: PoolingOperation) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, features: Tensor, regions: Tensor) -> Tensor:
        """(N, C, H, W) features, (R, 5) regions with the row of their image -> (R, C, S, S)."""
        return self.operation(features, regions - regions.new_tensor([0, 0, 0, 1, 1]))


class CropAndResize(nn.Module):
    """One bilinear sample a cell between the centres of the region's outermost pixels; see `ops.roi_pooling`.

    Boxes are normalised as matterport's Mask R-CNN does: 0 and 1 are the centres of the first and last pixel of the
    padded image, and a box ends with the centre of the last pixel inside.
    """

    def __init__(self, side: int, *, scale: float) -> None:
        super().__init__()
        self.side = side
        self.scale = scale

    def forward(self, features: Tensor, regions: Tensor) -> Tensor:
        """(N, C, H, W) features, (R, 5) regions with the row of their image -> (R, C, S, S)."""
        height, width = features.shape[2:]
        # x2 and y2 are the border behind the last pixel; its centre is counted one less, as the first one's is 0.
        first_to_last = regions - regions.new_tensor([0, 0, 0, 1, 1])
        normalizer = (height / self.scale - 1, width / self.scale - 1)
        return roi_pooling.crop_and_resize(features, first_to_last, self.side, normalizer=normalizer)

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


@POOLING_OPERATIONS.register("ROIAlignLastPixel")
def build_roi_align_last_pixel(side: int, scale: float, sampling_ratio: int) -> ToLastPixel:
    """`ROIAlign` as maskrcnn-benchmark calls it: up to the last pixel of a region."""
    return ToLastPixel(RoIAlign(side, scale=scale, sampling_ratio=sampling_ratio, aligned=False))


@POOLING_OPERATIONS.register("ROIPool")
def build_roi_pool(side: int, scale: float, _sampling_ratio: int) -> RoIPool:
    """RoIPool of Fast R-CNN; it takes no samples, so the sampling ratio does nothing."""
    return RoIPool(side, scale=scale)


@POOLING_OPERATIONS.register("ROIAlignMax")
def build_roi_align_max(side: int, scale: float, sampling_ratio: int) -> RoIAlign:
    """`ROIAlign` with the greatest sample instead of the mean."""
    return RoIAlign(side, scale=scale, sampling_ratio=sampling_ratio, aligned=False, align=roi_pooling.roi_align_max)


@POOLING_OPERATIONS.register("ROIAlignV2Max")
def build_roi_align_v2_max(side: int, scale: float, sampling_ratio: int) -> RoIAlign:
    """`ROIAlignV2` with the greatest sample instead of the mean."""
    return RoIAlign(side, scale=scale, sampling_ratio=sampling_ratio, aligned=True, align=roi_pooling.roi_align_max)


@POOLING_OPERATIONS.register("ROIWarp")
def build_roi_warp(side: int, scale: float, sampling_ratio: int) -> RoIWarp:
    """RoIWarp of the network cascades; a sampling ratio of 0 takes two rows for a pooled one."""
    return RoIWarp(side, scale=scale, samples=sampling_ratio or WARP_SAMPLES)


@POOLING_OPERATIONS.register("ROIWarpRounded")
def build_roi_warp_rounded(side: int, scale: float, sampling_ratio: int) -> RoundedRoIs:
    """RoIWarp as the Mask R-CNN paper describes it: rounded regions, then the mean of bilinear samples."""
    return RoundedRoIs(RoIAlign(side, scale=1.0, sampling_ratio=sampling_ratio, aligned=True), scale=scale)


@POOLING_OPERATIONS.register("ROIWarpRoundedMax")
def build_roi_warp_rounded_max(side: int, scale: float, sampling_ratio: int) -> RoundedRoIs:
    """`ROIWarpRounded` with the greatest sample."""
    operation = RoIAlign(side, scale=1.0, sampling_ratio=sampling_ratio, aligned=True, align=roi_pooling.roi_align_max)
    return RoundedRoIs(operation, scale=scale)


@POOLING_OPERATIONS.register("CropAndResize")
def build_crop_and_resize(side: int, scale: float, _sampling_ratio: int) -> CropAndResize:
    """TensorFlow's crop-and-resize as matterport uses it; one sample a cell, so the sampling ratio does nothing."""
    return CropAndResize(side, scale=scale)
