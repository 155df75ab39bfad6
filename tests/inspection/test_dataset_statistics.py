from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inspection.dataset_statistics import dataset_statistics, statistics_text


@dataclass(frozen=True)
class Pixels:
    """An image source that holds its pixels; None cannot be read."""

    pixels: NDArray[np.generic] | None
    name: str = "held"

    def read(self) -> NDArray[np.generic]:
        if self.pixels is None:
            raise UserError("held is broken.")
        return self.pixels


def record_of(pixels: NDArray[np.generic] | None, *instances: InstanceRecord, split: str = "") -> ImageRecord:
    return ImageRecord(1, Pixels(pixels), (40, 60), instances, split=split)


def lines_of(*records: ImageRecord, notes: tuple[str, ...] = ()) -> list[str]:
    dataset = Dataset("cells", records, ("cell", "dirt"), (1, 2), notes=notes)
    return [" ".join(line.split()) for line in statistics_text(dataset_statistics(dataset)).splitlines()]


SQUARE = InstanceRecord((0, 0, 40, 40), 0, [[0, 0, 40, 0, 40, 40, 0, 40]])
BOX = InstanceRecord((0, 0, 4, 9), 1)  # 36 square pixels
CROWD = InstanceRecord((0, 0, 40, 60), 0, {"size": [40, 60], "counts": [0, 2400]}, is_crowd=True)


def test_sides_and_images_without_objects_are_counted_without_crowds() -> None:
    lines = lines_of(
        record_of(None, SQUARE, BOX, split="train"), record_of(None, CROWD, split="train"), record_of(None, split="val")
    )
    assert {"train 2 2 1", "val 1 0 1", "all 3 2 2"} <= set(lines)
    assert "Annotated with: 1 x polygons, 1 x box alone, 1 x mask (1 crowd among them)" in lines


def test_sizes_are_square_roots_of_areas_in_intervals_of_powers_of_two() -> None:
    lines = lines_of(record_of(None, SQUARE, BOX, BOX))
    assert {"cell 1 33.3 % 1 40", "dirt 2 66.7 % 1 6"} <= set(lines)
    (sizes,) = [line for line in lines if line.startswith("Size of objects")]
    assert sizes.endswith("median 6.0; small 2 (66.7 %), medium 1 (33.3 %), large 0 (0.0 %)")
    assert f"4 to 8 2 {'#' * 40}" in lines
    assert f"32 to 64 1 {'#' * 20}" in lines
    assert "8 to 16 0" in lines  # between them; intervals before and after are left out
    assert not any(line.startswith(("below 4", "64 to 128")) for line in lines)


def test_depth_and_channels_are_those_of_the_files() -> None:
    grey, color = np.zeros((40, 60), np.uint16), np.arange(7200).reshape(40, 60, 3).astype(np.uint8)
    many = np.zeros((40, 60, 5), np.float32)
    lines = lines_of(*(record_of(pixels) for pixels in (grey, color, color, many, None)))
    expected = "2 x 8-bit RGB, 1 x 16-bit grey, 1 x float, 5 channels, 1 x not readable (held is broken.)"
    assert f"pixels of 5 images that were read: {expected}" in lines


def test_notes_of_the_reader_are_at_the_end() -> None:
    assert lines_of(record_of(None), notes=("boxes clipped: 3",))[-2:] == [
        "Left out or changed while reading:",
        "boxes clipped: 3",
    ]


def test_dataset_without_images() -> None:
    assert "Images: none" in lines_of()
