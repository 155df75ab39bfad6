"""Processor time of two kernels of inference on one thread: RoIAlign of channels-last maps, and packed convolutions.

python -m dev.inference_kernels
"""

import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
import torchvision
from torch import Tensor

from dev.roi_align_gradient_benchmark import random_regions
from mrcnn_zoo.ops.roi_pooling import roi_align

ROUNDS = 5
ROI_CASES = (  # (map shape, regions, side, sampling ratio, scale, smallest and largest side of a region in pixels)
    ((1, 256, 200, 336), 500, 7, 0, 1 / 4, (16, 110)),
    ((1, 256, 200, 336), 500, 7, 2, 1 / 4, (16, 110)),
    ((1, 256, 50, 84), 500, 7, 0, 1 / 16, (220, 450)),
    ((1, 256, 200, 336), 100, 14, 0, 1 / 4, (16, 110)),
    ((1, 64, 64, 64), 100, 7, 2, 1 / 4, (8, 60)),
    ((1, 64, 64, 64), 30, 14, 1, 1 / 4, (8, 60)),
)
CONVOLUTIONS = (  # (input channels, output channels, kernel size, stride, height, width)
    (256, 64, 1, 1, 100, 168),
    (1024, 256, 1, 1, 50, 84),
    (1024, 2048, 1, 2, 50, 84),
    (2048, 512, 1, 1, 25, 42),
    (512, 2048, 1, 1, 25, 42),
    (2048, 256, 1, 1, 25, 42),
    (256, 256, 3, 1, 100, 168),
    (64, 64, 3, 1, 200, 336),
)


def median_milliseconds(ways: Mapping[str, Callable[[], Tensor]]) -> str:
    """Processor time of each way, in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            started = time.process_time()
            way()
            seconds[name].append(time.process_time() - started)
    return ", ".join(f"{name} {1000 * sorted(values)[ROUNDS // 2]:.1f} ms" for name, values in seconds.items())


def random_map(*shape: int) -> Tensor:
    """In channels-last order."""
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def print_roi_align() -> None:
    """Ours beside torchvision's."""
    for shape, count, side, ratio, scale, sides in ROI_CASES:
        features, regions = random_map(*shape), random_regions(shape, count, scale, sides)
        ours = partial(roi_align, features, regions, side, scale=scale, sampling_ratio=ratio, aligned=True)
        theirs = partial(torchvision.ops.roi_align, features, regions, side, scale, ratio, True)
        difference = float((ours() - theirs()).abs().max())
        times = median_milliseconds({"ours": ours, "torchvision": theirs})
        print(f"map {shape}, {count} regions, side {side}, sampling {ratio}: {times}, difference {difference:.0e}")


def print_packed_convolutions() -> None:
    """Weights in channels-last order, packed in oneDNN's, and packed for the size of the map."""
    for channels, outputs, kernel, stride, height, width in CONVOLUTIONS:
        features, weight = random_map(1, channels, height, width), random_map(outputs, channels, kernel, kernel)
        settings = ([kernel // 2] * 2, [stride] * 2, [1, 1], 1)
        pack = torch._C._nn.mkldnn_reorder_conv2d_weight
        weights = {
            "plain": weight,
            "packed": pack(weight.to_mkldnn(), *settings),
            "packed for the size": pack(weight.to_mkldnn(), *settings, list(features.shape)),
        }
        ways = {
            name: partial(torch.ops.mkldnn._convolution_pointwise, features, way, None, *settings, "relu", [], "")
            for name, way in weights.items()
        }
        print(f"{channels} to {outputs}, {kernel} x {kernel}, {height} x {width}: {median_milliseconds(ways)}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.no_grad():
        print_roi_align()
        print_packed_convolutions()
