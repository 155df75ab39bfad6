"""RoI pooling operations by their config names; each pools from one level of a pyramid.

All builders have the same arguments: side S, the rows and columns of a pooled map; scale, the feature cells per image
pixel; and the sampling ratio, the samples along each side of a pooled cell, 0 for its width in feature cells.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from mrcnn_zoo.ops import roi_pooling
from mrcnn_zoo.ops.rows import constant
from mrcnn_zoo.registries import POOLING_OPERATIONS

WARP_SAMPLES = 2  # rows of the warped region per pooled row, for a sampling ratio of 0

Alignment = Callable[..., Tensor]  # `roi_align` or `roi_align_max`


class FunctionPooling(nn.Module):
    """A function of `ops.roi_pooling` as a module.

    Args:
        function: (N, C, H, W) features, (R, 5) regions -> (R, C, S, S), with bound settings.
        skips_empty: whether regions without width and height are pooled into 0 without reading the features.
    """

    def __init__(self, function: "partial[Tensor]", *, skips_empty: bool = False) -> None:
        super().__init__()
        self.function = function
        self.skips_empty = skips_empty

    def forward(self, features: Tensor, regions: Tensor) -> Tensor:
        """(N, C, H, W) features, (R, 5) regions: image number and box in image pixels -> (R, C, S, S)."""
        return self.function(features, regions)

    def extra_repr(self) -> str:
        settings = {name: getattr(value, "__name__", value) for name, value in self.function.keywords.items()}
        name = cast(Any, self.function.func).__name__
        return ", ".join([name, *(f"{key}={value}" for key, value in settings.items())])


def rounded_roi_align(
    features: Tensor, regions: Tensor, *, side: int, scale: float, sampling_ratio: int, align: Alignment
) -> Tensor:
    """RoIAlign of regions that are rounded to feature cells as RoIPool rounds them.

    Source: He et al. 2017 (Mask R-CNN), section 4.2, called RoIWarp in table 2c, which shows that bilinear samples
    alone do not improve RoIPool.

    Args:
        features: (N, C, H, W).
        regions: (R, 5) image number and box in image pixels.
        side: S, rows and columns of the result.
        scale: feature cells per image pixel.
        sampling_ratio: as in `roi_align`.
        align: `roi_align` or `roi_align_max`.

    Returns:
        (R, C, S, S).
    """
    cells = roi_pooling.rounded_to_cells(regions, scale=scale)
    return align(features, cells, side, scale=1.0, sampling_ratio=sampling_ratio, aligned=True)


def roi_align_to_last_pixel(
    features: Tensor, regions: Tensor, *, side: int, scale: float, sampling_ratio: int
) -> Tensor:
    """RoIAlign of regions that end at the position of their last pixel, one before their border.

    Source: maskrcnn-benchmark, where the width of a box is x2 - x1 + 1, but RoIAlign gets x1 and x2. Arguments and
    result as `rounded_roi_align`.
    """
    regions = _to_last_pixel(regions)
    return roi_pooling.roi_align(features, regions, side, scale=scale, sampling_ratio=sampling_ratio, aligned=False)


def matterport_crop_and_resize(features: Tensor, regions: Tensor, *, side: int, scale: float) -> Tensor:
    """Crop-and-resize with the normalised boxes of matterport's Mask R-CNN.

    0 and 1 are the centres of the first and last pixel of the padded image, and a box ends with the centre of its last
    pixel. Arguments and result as `rounded_roi_align`.
    """
    height, width = features.shape[2:]
    normalizer = (height / scale - 1, width / scale - 1)
    return roi_pooling.crop_and_resize(features, _to_last_pixel(regions), side, normalizer=normalizer)


def _to_last_pixel(regions: Tensor) -> Tensor:
    # x2 and y2 are the border behind the last pixel.
    return regions - constant((0.0, 0.0, 0.0, 1.0, 1.0), dtype=regions.dtype, device=regions.device)


def _roi_align(side: int, scale: float, sampling_ratio: int, *, aligned: bool, align: Alignment) -> FunctionPooling:
    # Without `aligned`, regions are at least one cell wide; with a sampling ratio of 0 an empty one has no samples.
    skips_empty = aligned and sampling_ratio == 0 and align is roi_pooling.roi_align
    function = partial(align, side=side, scale=scale, sampling_ratio=sampling_ratio, aligned=aligned)
    return FunctionPooling(function, skips_empty=skips_empty)


def _rounded_roi_align(side: int, scale: float, sampling_ratio: int, *, align: Alignment) -> FunctionPooling:
    return FunctionPooling(
        partial(rounded_roi_align, side=side, scale=scale, sampling_ratio=sampling_ratio, align=align)
    )


@POOLING_OPERATIONS.register("ROIAlign")
def build_roi_align(side: int, scale: float, sampling_ratio: int) -> FunctionPooling:
    """RoIAlign as first published in code: half a cell off."""
    return _roi_align(side, scale, sampling_ratio, aligned=False, align=roi_pooling.roi_align)


@POOLING_OPERATIONS.register("ROIAlignV2")
def build_roi_align_v2(side: int, scale: float, sampling_ratio: int) -> FunctionPooling:
    """RoIAlign with the right half-cell shift."""
    return _roi_align(side, scale, sampling_ratio, aligned=True, align=roi_pooling.roi_align)


@POOLING_OPERATIONS.register("ROIAlignLastPixel")
def build_roi_align_last_pixel(side: int, scale: float, sampling_ratio: int) -> FunctionPooling:
    """`ROIAlign` as maskrcnn-benchmark calls it: up to the last pixel of a region."""
    return FunctionPooling(partial(roi_align_to_last_pixel, side=side, scale=scale, sampling_ratio=sampling_ratio))


@POOLING_OPERATIONS.register("ROIPool")
def build_roi_pool(side: int, scale: float, _sampling_ratio: int) -> FunctionPooling:
    """RoIPool of Fast R-CNN; the sampling ratio is not used."""
    return FunctionPooling(partial(roi_pooling.roi_pool, side=side, scale=scale))


@POOLING_OPERATIONS.register("ROIAlignMax")
def build_roi_align_max(side: int, scale: float, sampling_ratio: int) -> FunctionPooling:
    """`ROIAlign` with the maximum of the samples instead of their mean."""
    return _roi_align(side, scale, sampling_ratio, aligned=False, align=roi_pooling.roi_align_max)


@POOLING_OPERATIONS.register("ROIAlignV2Max")
def build_roi_align_v2_max(side: int, scale: float, sampling_ratio: int) -> FunctionPooling:
    """`ROIAlignV2` with the maximum of the samples instead of their mean."""
    return _roi_align(side, scale, sampling_ratio, aligned=True, align=roi_pooling.roi_align_max)


@POOLING_OPERATIONS.register("ROIWarp")
def build_roi_warp(side: int, scale: float, sampling_ratio: int) -> FunctionPooling:
    """RoIWarp of the network cascades; a sampling ratio of 0 means two samples per pooled cell and axis."""
    return FunctionPooling(
        partial(roi_pooling.roi_warp, side=side, scale=scale, samples=sampling_ratio or WARP_SAMPLES)
    )


@POOLING_OPERATIONS.register("ROIWarpRounded")
def build_roi_warp_rounded(side: int, scale: float, sampling_ratio: int) -> FunctionPooling:
    """RoIWarp as the Mask R-CNN paper describes it: rounded regions, then the mean of bilinear samples."""
    return _rounded_roi_align(side, scale, sampling_ratio, align=roi_pooling.roi_align)


@POOLING_OPERATIONS.register("ROIWarpRoundedMax")
def build_roi_warp_rounded_max(side: int, scale: float, sampling_ratio: int) -> FunctionPooling:
    """`ROIWarpRounded` with the maximum of the samples."""
    return _rounded_roi_align(side, scale, sampling_ratio, align=roi_pooling.roi_align_max)


@POOLING_OPERATIONS.register("CropAndResize")
def build_crop_and_resize(side: int, scale: float, _sampling_ratio: int) -> FunctionPooling:
    """TensorFlow's crop-and-resize as matterport uses it: one sample per cell; the sampling ratio is not used."""
    return FunctionPooling(partial(matterport_crop_and_resize, side=side, scale=scale))
