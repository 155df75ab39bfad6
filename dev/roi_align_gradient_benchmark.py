"""CPU time of RoIAlign's backward: torchvision's kernel and ours interleaved, on feature maps of typical sizes.

python dev/roi_align_gradient_benchmark.py
"""

import time
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor

from mrcnn_zoo.ops.roi_align import SeparableRoIAlign

ROUNDS = 5
CASES = (  # (map shape, regions, side, sampling ratio, scale, smallest and largest side of a region in pixels)
    ((4, 64, 64, 64), 256, 7, 2, 1 / 4, (8, 60)),
    ((4, 64, 32, 32), 128, 7, 2, 1 / 4, (20, 60)),
    ((2, 256, 200, 304), 512, 7, 0, 1 / 4, (16, 110)),
    ((2, 256, 50, 76), 512, 7, 0, 1 / 16, (220, 450)),
    ((2, 256, 200, 304), 128, 14, 0, 1 / 4, (16, 110)),
)


def random_regions(shape: tuple[int, ...], count: int, scale: float, sides: tuple[int, int]) -> Tensor:
    """(count, 5) regions inside the image."""
    size = torch.tensor([shape[3], shape[2]]) / scale
    extents = torch.rand(count, 2) * (sides[1] - sides[0]) + sides[0]
    centres = torch.rand(count, 2) * size
    corners = ((centres - extents / 2).clamp(min=0), torch.minimum(centres + extents / 2, size))
    return torch.cat((torch.randint(shape[0], (count, 1)).float(), *corners), dim=1)


def backward_seconds(pool: Callable[..., Tensor], features: Tensor, *arguments: object) -> float:
    """Duration of one backward pass."""
    pooled = pool(features, *arguments)
    gradient = torch.ones_like(pooled)
    started = time.perf_counter()
    torch.autograd.grad(pooled, features, gradient)
    return time.perf_counter() - started


def main() -> None:
    torch.manual_seed(0)
    for shape, count, side, sampling_ratio, scale, sides in CASES:
        features = torch.randn(shape, requires_grad=True)
        arguments = (random_regions(shape, count, scale, sides), side, scale, sampling_ratio, True)
        pools = (torchvision.ops.roi_align, SeparableRoIAlign.apply)
        rounds = [[backward_seconds(pool, features, *arguments) for pool in pools] for _ in range(ROUNDS)]
        theirs, ours = torch.tensor(rounds).median(dim=0).values.tolist()
        print(
            f"map {shape}, {count} regions, side {side}, sampling {sampling_ratio}: "
            f"torchvision {1000 * theirs:.0f} ms, ours {1000 * ours:.0f} ms, ratio {ours / theirs:.2f}"
        )


if __name__ == "__main__":
    main()
