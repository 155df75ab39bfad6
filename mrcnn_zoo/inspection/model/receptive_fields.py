"""The theoretical receptive field of each feature map: the pixels that can change the value of a cell.

The backbone runs once on fake tensors, which have shapes only. For each operation on a map, the first and last pixel
row that each row of cells depends on is computed from the kernel, stride, padding and dilation of that operation.

Source: Araujo et al. 2019 (Computing Receptive Fields of Convolutional Neural Networks), which derives the same for
chains of layers; here the rows are followed one by one, so that the additions and resizings of a pyramid are exact.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torchvision  # noqa: F401, registers its operations
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, UnsupportedFakeTensorException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from mrcnn_zoo.inference.image_detector import inference
from mrcnn_zoo.structures.samples import round_up

FIRST_HEIGHT, LAST_HEIGHT = 1024, 16384  # pixels of the image whose middle row of cells is followed
NARROW = 64  # width of this image, rounded up to a multiple of the largest stride
ATEN = torch.ops.aten

logger = logging.getLogger(__name__)


class UnknownOperationError(Exception):
    """An operation that mixes rows in a way that is not known here."""


@dataclass(frozen=True)
class Rows:
    """The pixel rows that each row of cells of a map depends on."""

    axis: int  # of the rows in the tensor
    first: NDArray[np.int64]  # (H,)
    last: NDArray[np.int64]  # (H,) included

    def window(self, kernel: int, stride: int, padding: int, dilation: int, count: int) -> "Rows":
        """The rows of `count` windows of `kernel` cells; cells of the padding depend on nothing.

        Args:
            kernel: cells.
            stride: cells from window to window.
            padding: cells before the first row.
            dilation: cells from tap to tap.
            count: of the windows.
        """
        taps = np.arange(count)[:, None] * stride - padding + np.arange(kernel) * dilation
        is_inside = (taps >= 0) & (taps < len(self.first))
        taps = taps.clip(0, len(self.first) - 1)
        nothing = np.iinfo(np.int64)
        first = np.where(is_inside, self.first[taps], nothing.max).min(axis=1)
        return Rows(self.axis, first, np.where(is_inside, self.last[taps], nothing.min).max(axis=1))

    def take(self, cells: NDArray[np.int64]) -> "Rows":
        """The rows of some cells."""
        return Rows(self.axis, self.first[cells], self.last[cells])

    def united(self, other: "Rows") -> "Rows":
        """For each row of cells the span of both; a single row is repeated."""
        return Rows(self.axis, np.minimum(self.first, other.first), np.maximum(self.last, other.last))


def receptive_fields(backbone: nn.Module, channels: int) -> dict[str, int]:
    """Side of the receptive field of a cell in the middle of a large image, in pixels, for each map of a backbone.

    Deformable convolutions count with offsets of 0, and the statistics of a norm do not count. Maps whose cells depend
    on whole images (squeeze and excitation) and those of backbones with operations that are not known here (attention)
    have no entry; a message names them.

    Args:
        backbone: a module with `output_specs` and `size_divisibility`; not modified.
        channels: C of its input.
    """
    specs: Mapping[str, Any] = backbone.output_specs  # type: ignore[assignment]
    divisor = max(int(backbone.size_divisibility), *(spec.stride for spec in specs.values()))  # type: ignore[arg-type]
    found: dict[str, int] = {}
    height = FIRST_HEIGHT
    while height <= LAST_HEIGHT:
        try:
            maps = _follow_rows(backbone, channels, round_up(height, divisor), round_up(NARROW, divisor))
        except (UnknownOperationError, UnsupportedFakeTensorException, NotImplementedError) as error:
            logger.info("receptive fields of %s are not known: %s", type(backbone).__name__, str(error).split("\n")[0])
            return {}
        found = {name: _largest(rows, round_up(height, divisor)) for name, rows in maps.items()}
        if all(side < height // 2 for side in found.values()):
            return found
        height *= 2
    kept = {name: side for name, side in found.items() if side < LAST_HEIGHT // 2}
    logger.info("the cells of %s depend on whole images", ", ".join(name for name in found if name not in kept))
    return kept


def _largest(rows: Rows, height: int) -> int:
    """Of the middle half of the rows, which the border does not affect if the result is below half of the height."""
    quarter = len(rows.first) // 4
    sides = (rows.last - rows.first + 1)[quarter : len(rows.first) - quarter]
    return min(int(sides.max()), height)


def _follow_rows(backbone: nn.Module, channels: int, height: int, width: int) -> dict[str, Rows]:
    follower = _RowFollower()
    with inference(backbone), FakeTensorMode(allow_non_fake_inputs=True):
        pixels = torch.empty((1, channels, height, width), device=next(backbone.parameters()).device)
        follower.rows[pixels] = Rows(2, np.arange(height), np.arange(height))
        with follower:
            maps: Mapping[str, Tensor] = backbone(pixels)
    return {name: follower.rows[features] for name, features in maps.items() if features in follower.rows}


class _RowFollower(TorchDispatchMode):
    """Keeps the rows of every tensor that depends on the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = WeakTensorKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        inputs = [tensor for tensor in _tensors(args) if tensor in self.rows]
        results = [tensor for tensor in _tensors((output,)) if tensor.dim()]
        if inputs and results:
            of_inputs = [self.rows[tensor] for tensor in inputs]
            rule = RULES.get(func.overloadpacket, _elementwise)
            rows = rule(results[0], of_inputs, inputs, args)
            for tensor in results:
                if tensor.dim() > rows.axis and tensor.shape[rows.axis] == len(rows.first):
                    self.rows[tensor] = rows
        return output


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)


# (result, rows of the inputs, the inputs, arguments of the operation) -> rows of the result
Rule = Callable[[Tensor, list[Rows], list[Tensor], tuple[Any, ...]], Rows]


def _elementwise(output: Tensor, rows: list[Rows], inputs: list[Tensor], _args: tuple[Any, ...]) -> Rows:
    """Each row of the result depends on the same row of each input, or on the only row of a broadcast one."""
    united = rows[0]
    for other in rows[1:]:
        united = united.united(other)
    lengths = {len(united.first), *(tensor.shape[of.axis] for tensor, of in zip(inputs, rows, strict=True))}
    same_rank = all(tensor.dim() == output.dim() for tensor in inputs)
    if len({of.axis for of in rows}) > 1 or not same_rank or output.shape[united.axis] != max(lengths):
        raise UnknownOperationError(f"an operation makes {tuple(output.shape)} of {[tuple(t.shape) for t in inputs]}")
    return united


def _pair(value: Any) -> int:
    """The value of the vertical axis."""
    return int(value[0]) if isinstance(value, list | tuple) else int(value)


def _convolution(output: Tensor, rows: list[Rows], _inputs: list[Tensor], args: tuple[Any, ...]) -> Rows:
    _, weight, _, stride, padding, dilation, is_transposed = args[:7]
    if is_transposed:
        raise UnknownOperationError("a transposed convolution")
    return rows[0].window(weight.shape[2], _pair(stride), _pair(padding), _pair(dilation), output.shape[2])


def _pooling(output: Tensor, rows: list[Rows], _inputs: list[Tensor], args: tuple[Any, ...]) -> Rows:
    kernel = _pair(args[1])
    stride = _pair(args[2]) if len(args) > 2 and args[2] else kernel
    padding = _pair(args[3]) if len(args) > 3 else 0
    # The fifth argument of max-pooling is the dilation, that of average pooling a flag.
    dilation = _pair(args[4]) if len(args) > 4 and not isinstance(args[4], bool) else 1
    return rows[0].window(kernel, stride, padding, dilation, output.shape[2])


def _deformable(output: Tensor, rows: list[Rows], _inputs: list[Tensor], args: tuple[Any, ...]) -> Rows:
    weight, stride, padding, dilation = args[1], args[5], args[7], args[9]
    window = rows[0].window(weight.shape[2], int(stride), int(padding), int(dilation), output.shape[2])
    for of_offsets in rows[1:]:
        window = window.united(of_offsets)
    return window


def _nearest(output: Tensor, rows: list[Rows], inputs: list[Tensor], _args: tuple[Any, ...]) -> Rows:
    before, after = inputs[0].shape[2], output.shape[2]
    return rows[0].take(np.arange(after) * before // after)


def _padding(output: Tensor, rows: list[Rows], _inputs: list[Tensor], args: tuple[Any, ...]) -> Rows:
    top = args[1][2] if len(args[1]) > 2 else 0
    return rows[0].window(1, 1, top, 1, output.shape[rows[0].axis])


def _slicing(output: Tensor, rows: list[Rows], _inputs: list[Tensor], args: tuple[Any, ...]) -> Rows:
    axis, start, step = (args[1:2] or (0,))[0], (args[2:3] or (0,))[0] or 0, (args[4:5] or (1,))[0]
    if axis % output.dim() != rows[0].axis:
        return rows[0]
    return rows[0].take(start + np.arange(output.shape[rows[0].axis]) * step)


def _permutation(_output: Tensor, rows: list[Rows], _inputs: list[Tensor], args: tuple[Any, ...]) -> Rows:
    order = [axis % len(args[1]) for axis in args[1]]
    return Rows(order.index(rows[0].axis), rows[0].first, rows[0].last)


def _reduction(output: Tensor, rows: list[Rows], _inputs: list[Tensor], _args: tuple[Any, ...]) -> Rows:
    """A mean over rows depends on all of them; a mean over other axes is elementwise."""
    of, axis = rows[0], rows[0].axis
    if output.dim() <= axis or output.shape[axis] not in (1, len(of.first)):
        raise UnknownOperationError("a mean that drops the rows")
    if output.shape[axis] == len(of.first):
        return of
    return Rows(axis, of.first.min(keepdims=True), of.last.max(keepdims=True))


RULES: dict[Any, Rule] = {
    ATEN.convolution: _convolution,
    ATEN.max_pool2d_with_indices: _pooling,
    ATEN.max_pool2d: _pooling,
    ATEN.avg_pool2d: _pooling,
    torch.ops.torchvision.deform_conv2d: _deformable,
    ATEN.upsample_nearest2d: _nearest,
    ATEN.constant_pad_nd: _padding,
    ATEN.slice: _slicing,
    ATEN.permute: _permutation,
    ATEN.mean: _reduction,
}
