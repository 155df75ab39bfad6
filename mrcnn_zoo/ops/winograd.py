"""3 x 3 convolutions of large maps on the CPU with a quarter of the multiplications.

A tile of 4 x 4 results needs 144 multiplications per pair of channels, and 36 once its window of 6 x 6 values and the
weights are transformed: one product of matrices per position of the window. The gradients of input and weights are
computed in the same way. Transforms and products are made for some 100 tiles at a time, so that they stay in the cache.

Source: Lavin and Gray 2016 (Fast Algorithms for Convolutional Neural Networks), sec. 4, F(4 x 4, 3 x 3). The points are
those of Barabasz et al. 2020 (Error Analysis and Improving the Accuracy of Winograd Convolution), with a third of the
error of 0, 1, -1, 2, -2: in float32 about three times the rounding error of the plain sum.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

KERNEL = 3
TILE = 4  # rows and columns of results
WINDOW = TILE + KERNEL - 1
POINTS = tuple(map(Fraction, ("0", "1", "-1", "1/2", "-2")))  # and infinity

BLOCK = 96  # tiles that are transformed at a time
BLOCK_OF_GRADIENT = 200  # for the gradient of the weights, whose products sum over the tiles of a block
# Below these the transforms take as long as they save; dev/BENCHMARKS.md has the measurements.
LEAST_CHANNELS = 128
LEAST_CELLS = 7000  # N * H * W
LEAST_SIDE = 28  # smaller maps are no whole number of tiles, e.g. 14 x 14 takes 16 x 16


def is_faster(
    features: Tensor, weight: Tensor, *, stride: Sequence[int] = (1,), dilation: Sequence[int] = (1,), groups: int = 1
) -> bool:
    """Whether `convolve` computes the convolution, and takes less time for it than torch.

    Programs that are compiled, traced or exported have torch's operator, as have tensors without values.

    Args:
        features: (N, C, H, W).
        weight: (D, C, k, k).
        stride: of the convolution.
        dilation: of the convolution.
        groups: of the convolution.
    """
    if max(*stride, *dilation, groups) > 1:
        return False
    if features.device.type != "cpu" or features.dtype != torch.float32 or weight.dtype != torch.float32:
        return False
    if type(features) is not Tensor:  # e.g. FakeTensor
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.is_autocast_enabled("cpu"):
        return False
    images, _, height, width = features.shape
    if min(height, width) < LEAST_SIDE or images * height * width < LEAST_CELLS:
        return False
    return weight.shape[2:] == (KERNEL, KERNEL) and min(weight.shape[:2]) >= LEAST_CHANNELS


def convolve(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The convolution with stride 1 and a padding of 1.

    Args:
        features: (N, C, H, W) float32 on the CPU; maps in channels-last order are not copied.
        weight: (D, C, 3, 3).
        bias: (D,) or None.

    Returns:
        (N, D, H, W) in channels-last order.
    """
    return WinogradConvolution.apply(features, weight, bias)


def transformed(weight: Tensor) -> Tensor:
    """The weights of `convolve_with_transformed`, four times their size.

    Args:
        weight: (D, C, 3, 3).

    Returns:
        (36, C, D).
    """
    outputs, channels = weight.shape[:2]
    matrix = _matrices().weights
    by_tap = weight.permute(2, 3, 1, 0).reshape(KERNEL**2, channels * outputs)
    return (torch.kron(matrix, matrix) @ by_tap).view(WINDOW**2, channels, outputs)


def convolve_with_transformed(features: Tensor, weights: Tensor, bias: Tensor | None = None) -> Tensor:
    """`convolve` for constant weights; no gradient is computed.

    Args:
        features: (N, C, H, W) float32 on the CPU.
        weights: (36, C, D), see `transformed`.
        bias: (D,) or None.

    Returns:
        (N, D, H, W) in channels-last order.
    """
    with torch.no_grad():
        return _convolve(_as_rows(features), weights, bias)


class WinogradConvolution(torch.autograd.Function):
    """`convolve`; it saves the input and the weights, as torch's convolution does."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(features, weight)
        return _convolve(_as_rows(features), transformed(weight), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        features, weight = ctx.saved_tensors
        rows = _as_rows(gradient)
        of_features = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_features = _convolve(rows, transformed(weight.flip(2, 3).transpose(0, 1)), None)
        if ctx.needs_input_grad[1]:
            of_weight = _weight_gradient(_as_rows(features), rows).contiguous(memory_format=torch.channels_last)
        if ctx.needs_input_grad[2]:
            of_bias = rows.sum(dim=(0, 1, 2))
        return of_features, of_weight, of_bias


@dataclass(frozen=True)
class Block:
    """Tiles of some images, or of some rows of one image."""

    images: slice
    first_row: int  # of the tiles, counted in tiles
    rows: int  # of tiles
    columns: int

    @property
    def num_tiles(self) -> int:
        return (self.images.stop - self.images.start) * self.rows * self.columns


class Workspace:
    """Memory for the tensors of a block, the same for all blocks of a map; tensors of one name overwrite each other.

    The fewer names, the more stays in the cache: products take the memory of the windows, results that of the values.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def get(self, name: str, *shape: int) -> Tensor:
        """A float32 tensor with the values of its last use.

        Args:
            name: of the buffer.
            shape: of the tensor.
        """
        size = prod(shape)
        if name not in self._buffers or self._buffers[name].numel() < size:
            self._buffers[name] = torch.empty(size)
        return self._buffers[name][:size].view(shape)


def _convolve(rows: Tensor, weights: Tensor, bias: Tensor | None) -> Tensor:
    """(N, H, W, C), (36, C, D) -> (N, D, H, W) in channels-last order, no view: activations work on it in place."""
    to_results = torch.kron(_matrices().results, _matrices().results)
    channels, outputs = weights.shape[1:]
    num_images, height, width = rows.shape[:3]
    result = torch.empty((num_images, outputs, height, width), memory_format=torch.channels_last)
    result_rows = result.permute(0, 2, 3, 1)
    space = Workspace()
    for block in _blocks(rows.shape, BLOCK):
        values = _transformed_windows(rows, block, space)
        products = space.get("windows", WINDOW**2, block.num_tiles, outputs)
        torch.bmm(values.view(WINDOW**2, -1, channels), weights, out=products)
        tiles = space.get("values", TILE**2, block.num_tiles * outputs)
        torch.mm(to_results, products.flatten(1), out=tiles)
        _write_tiles(tiles, result_rows, block, bias)
    return result


def _weight_gradient(rows: Tensor, gradient: Tensor) -> Tensor:
    """(N, H, W, C), (N, H, W, D) -> (D, C, 3, 3)."""
    matrices = _matrices()
    from_results = torch.kron(matrices.results, matrices.results).T.contiguous()
    channels, outputs = rows.shape[3], gradient.shape[3]
    total = rows.new_zeros((WINDOW**2, channels, outputs))
    space = Workspace()
    for block in _blocks(rows.shape, BLOCK_OF_GRADIENT):
        values = _transformed_windows(rows, block, space)
        tiles = _cut(gradient, block, space, name="tiles", margin=0)
        products = space.get("windows", WINDOW**2, block.num_tiles * outputs)
        torch.mm(from_results, tiles, out=products)
        total.baddbmm_(values.view(WINDOW**2, -1, channels).transpose(1, 2), products.view(WINDOW**2, -1, outputs))
    to_kernel = torch.kron(matrices.weights, matrices.weights).T.contiguous()
    return (to_kernel @ total.flatten(1)).view(KERNEL, KERNEL, channels, outputs).permute(3, 2, 0, 1)


def _transformed_windows(rows: Tensor, block: Block, space: Workspace) -> Tensor:
    """(N, H, W, C) -> (36, tiles * C)."""
    matrix = _matrices().values
    windows = _cut(rows, block, space, name="windows", margin=KERNEL // 2)
    return torch.mm(torch.kron(matrix, matrix), windows, out=space.get("values", *windows.shape))


def _cut(rows: Tensor, block: Block, space: Workspace, *, name: str, margin: int) -> Tensor:
    """The tiles of a block with a margin, 0 outside the map, by position in the tile.

    Args:
        rows: (N, H, W, C).
        block: of tiles.
        space: for the result.
        name: of the result in the workspace.
        margin: cells on each side.

    Returns:
        (side * side, tiles * C), where side is that of a tile with its margins.
    """
    height, width, channels = rows.shape[1:]
    count = block.images.stop - block.images.start
    padded = space.get("padded", count, block.rows * TILE + 2 * margin, block.columns * TILE + 2 * margin, channels)
    first = block.first_row * TILE - margin
    start, stop = max(first, 0), min(first + padded.shape[1], height)
    inside = padded[:, start - first : stop - first]
    padded[:, : start - first].zero_()
    padded[:, stop - first :].zero_()
    inside[:, :, :margin].zero_()
    inside[:, :, margin + width :].zero_()
    inside[:, :, margin : margin + width].copy_(rows[block.images, start:stop])
    side = TILE + 2 * margin
    of_image, of_row, of_cell, _ = padded.stride()
    windows = padded.as_strided(
        (side, side, count, block.rows, block.columns, channels),
        (of_row, of_cell, of_image, TILE * of_row, TILE * of_cell, 1),
    )
    return space.get(name, *windows.shape).copy_(windows).view(side**2, -1)


def _write_tiles(tiles: Tensor, result: Tensor, block: Block, bias: Tensor | None) -> None:
    """(16, tiles * D) into (N, H, W, D)."""
    height, width, outputs = result.shape[1:]
    count = block.images.stop - block.images.start
    first = block.first_row * TILE
    stop = min(first + block.rows * TILE, height)
    by_place = tiles.view(TILE, TILE, count, block.rows, block.columns, outputs).permute(2, 3, 0, 4, 1, 5)
    target = result[block.images, first:stop]
    if stop - first == block.rows * TILE and width == block.columns * TILE:
        target = target.view(by_place.shape)
    else:
        by_place = by_place.reshape(count, block.rows * TILE, block.columns * TILE, outputs)[:, : stop - first, :width]
    if bias is None:
        target.copy_(by_place)
    else:
        torch.add(by_place, bias, out=target)


def _blocks(shape: torch.Size, tiles: int) -> Iterator[Block]:
    """At most this many tiles each, or one row: whole images, or rows of tiles of one image."""
    num_images, height, width = shape[:3]
    rows, columns = -(-height // TILE), -(-width // TILE)
    images_at_once = max(1, tiles // (rows * columns))
    rows_at_once = min(rows, max(1, tiles // columns))
    for image in range(0, num_images, images_at_once):
        images = slice(image, min(image + images_at_once, num_images))
        for row in range(0, rows, rows_at_once):
            yield Block(images, row, min(rows_at_once, rows - row), columns)


def _as_rows(maps: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H, W, C), whose channels are adjacent."""
    return maps.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)


@dataclass(frozen=True)
class Matrices:
    """The transforms along one axis."""

    values: Tensor  # (6, 6) of a window
    weights: Tensor  # (6, 3)
    results: Tensor  # (4, 6)


@cache
def _matrices() -> Matrices:
    """Toom and Cook's interpolation: a convolution is a product of polynomials, known by its values at the points."""
    others = [[point for point in POINTS if point != own] for own in POINTS]
    scales = [
        prod((own - point for point in rest), start=Fraction(1)) for own, rest in zip(POINTS, others, strict=True)
    ]
    values = [[*_coefficients(rest), Fraction(0)] for rest in others] + [_coefficients(POINTS)]
    weights = [[own**power / scale for power in range(KERNEL)] for own, scale in zip(POINTS, scales, strict=True)]
    results = [[own**power for power in range(TILE)] for own in POINTS]
    return Matrices(
        values=_tensor(values),
        weights=_tensor([*weights, _at_infinity(KERNEL)]),
        results=_tensor([*results, _at_infinity(TILE)]).T.contiguous(),
    )


def _coefficients(roots: Any) -> list[Fraction]:
    """Of the polynomial with these roots, the constant first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted, scaled = [Fraction(0), *coefficients], [root * value for value in [*coefficients, Fraction(0)]]
        coefficients = [a - b for a, b in zip(shifted, scaled, strict=True)]
    return coefficients


def _at_infinity(length: int) -> list[Fraction]:
    return [Fraction(0)] * (length - 1) + [Fraction(1)]


def _tensor(rows: list[list[Fraction]]) -> Tensor:
    return torch.tensor([[float(value) for value in row] for row in rows])
