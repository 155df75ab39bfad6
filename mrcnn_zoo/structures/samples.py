"""Samples, batches, and the shapes of feature maps."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mrcnn_zoo.ops.transfer import move_together
from mrcnn_zoo.structures.instances import ImageSize, InstanceTable, Proposals, Targets
from mrcnn_zoo.structures.masks import BoxedBitmaps
from mrcnn_zoo.structures.summary import summary

LARGEST_SEED = 2**31 - 1


@dataclass(frozen=True)
class FeatureSpec:
    """Shape of one feature map."""

    channels: int
    stride: int = 1  # image pixels per cell
    side: int = 0  # height and width of a pooled map; 0 if they depend on the image


@dataclass(frozen=True)
class BranchSpec(FeatureSpec):
    """Input of a branch of the region heads: its pooled maps, and the maps of the backbone."""

    maps: Mapping[str, FeatureSpec] = field(default_factory=dict)  # all maps of the backbone by name


@dataclass(repr=False)
class Sample:
    """One image as returned by the data mapper: resized and flipped, with original pixel values."""

    image: Tensor  # (C, H, W) uint8, or float32 for more than 8 bits; channels in the order of INPUT.FORMAT
    image_id: int | str
    original_size: ImageSize  # of the image file; predictions are in its coordinates
    targets: Targets | None = None
    proposals: Proposals | None = None
    file_name: str = ""  # for messages

    def __repr__(self) -> str:
        return summary(self)

    @property
    def image_size(self) -> ImageSize:
        """(height, width) of `image`."""
        return int(self.image.shape[-2]), int(self.image.shape[-1])


@dataclass(repr=False)
class Batch:
    """Samples that are normalised, padded at the right and bottom to one size, and on the model's device."""

    pixels: Tensor  # (N, C, H, W) float32
    image_sizes: list[ImageSize]  # before padding
    targets: list[Targets] | None
    proposals: list[Proposals] | None
    image_ids: list[int | str] = field(default_factory=list)  # of the samples

    def __repr__(self) -> str:
        return summary(self)

    @classmethod
    def collate(
        cls, samples: Sequence[Sample], *, pixel_mean: Tensor, pixel_std: Tensor, size_divisibility: int = 1
    ) -> "Batch":
        """Normalise, pad with zeros to one size, and move to the device of the mean.

        Args:
            samples: at least one.
            pixel_mean: (C, 1, 1) in pixel units.
            pixel_std: (C, 1, 1) in pixel units.
            size_divisibility: height and width become multiples of this.

        Raises:
            ValueError: an image has another number of channels than the mean.
        """
        device = pixel_mean.device
        sizes = [sample.image_size for sample in samples]
        height, width = (round_up(max(side), size_divisibility) for side in zip(*sizes, strict=True))
        pixels = torch.empty((len(samples), len(pixel_mean), height, width), device=device)
        divides = device.type != "cpu" or not bool((pixel_std == 1).all())  # elsewhere the values are not looked at
        for row, sample in enumerate(samples):
            if len(sample.image) != len(pixel_mean):
                raise ValueError(
                    f"{sample.file_name or sample.image_id}: the image has {len(sample.image)} channels where "
                    f"MODEL.PIXEL_MEAN has {len(pixel_mean)}. Give PIXEL_MEAN and PIXEL_STD one value per channel."
                )
            h, w = sample.image_size
            pixels[row, :, h:].zero_()
            pixels[row, :, :h, w:].zero_()
            image = pixels[row, :, :h, :w].copy_(sample.image.to(device, non_blocking=True)).sub_(pixel_mean)
            if divides:
                image.div_(pixel_std)
        return cls(
            pixels=pixels,
            image_sizes=sizes,
            targets=_all_or_none([sample.targets for sample in samples], device),
            proposals=_all_or_none([sample.proposals for sample in samples], device),
            image_ids=[sample.image_id for sample in samples],
        )

    def require_targets(self) -> list[Targets]:
        """The targets of all samples.

        Raises:
            ValueError: a sample has none.
        """
        if self.targets is None:
            raise ValueError("samples without targets have no losses; load them with their annotations")
        return self.targets


def seed_of(image_id: int | str) -> int:
    """A seed for the random numbers of an image, equal for equal ids in all processes; 7 and "7" are equal.

    Args:
        image_id: of a sample.
    """
    return zlib.crc32(str(image_id).encode()) & LARGEST_SEED


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `value`."""
    return -(-value // multiple) * multiple


def _all_or_none(tables: list, device: torch.device) -> list | None:
    if any(table is None for table in tables):
        return None
    return list(tables) if device.type == "cpu" else _moved_together(tables, device)


def _moved_together(tables: Sequence[InstanceTable], device: torch.device) -> list[InstanceTable]:
    """The tables on an accelerator; all their tensors of the host are one copy."""
    columns = [column for table in tables for column in table.columns().values()]
    moved = iter(move_together([part for column in columns for part in _parts_on_host(column)], device))

    def copy(column: Any) -> Any:
        parts = [next(moved) for _ in _parts_on_host(column)]
        if not parts:
            return column.to(device, non_blocking=True)
        return parts[0] if isinstance(column, Tensor) else column.with_copies(*parts)

    return [replace(table, **{name: copy(column) for name, column in table.columns().items()}) for table in tables]


def _parts_on_host(column: Any) -> list[Tensor]:
    """The tensors of a column if they are on the CPU; none of masks of another class, which move themselves."""
    parts = [column.pixels, column.windows] if isinstance(column, BoxedBitmaps) else [column]
    return [part for part in parts if isinstance(part, Tensor) and part.device.type == "cpu"]
