"""Synthetic boxes, images and objects."""

import torch
from torch import Tensor, nn

from mrcnn_zoo.data.records import InstanceRecord
from mrcnn_zoo.structures import BoxedBitmaps, FeatureSpec, Proposals, Sample, Targets


def random_boxes(
    count: int, *, seed: int = 0, extent: float = 80.0, sides: tuple[float, float] = (1.0, 40.0)
) -> Tensor:
    """Boxes (count, 4): top-left corners uniform in [0, extent) pixels, sides uniform in `sides`."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand((count, 2), generator=generator) * extent
    shortest, longest = sides
    return torch.cat(
        (corners, corners + shortest + torch.rand((count, 2), generator=generator) * (longest - shortest)), dim=1
    )


def scored_boxes(count: int, num_classes: int, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Overlapping boxes (count, 4) with random scores (count,) and classes (count,), as input of NMS."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand((count, 2), generator=generator) * 60
    boxes = torch.cat((corners, corners + 10 + torch.rand((count, 2), generator=generator) * 30), dim=1)
    scores = torch.rand(count, generator=generator)
    return boxes, scores, torch.randint(0, num_classes, (count,), generator=generator)


def smooth_sample(height: int = 64, width: int = 96) -> Sample:
    """A smooth image without targets; resizing changes its values little."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (1, 3, 8, 12), generator=generator).float()
    image = nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0].to(torch.uint8)
    return Sample(image, image_id=1, original_size=(height, width))


def square_record(x: float, y: float, side: float, class_index: int = 0, *, is_crowd: bool = False) -> InstanceRecord:
    """A square object with an exact polygon."""
    polygon = [x, y, x + side, y, x + side, y + side, x, y + side]
    box = (x, y, x + side, y + side)
    return InstanceRecord(box=box, class_index=class_index, segmentation=[polygon], is_crowd=is_crowd)


def filled_boxes(boxes: Tensor, image_size: tuple[int, int]) -> BoxedBitmaps:
    """Masks that fill the boxes (N, 4), rounded down to whole pixels."""
    bitmaps = torch.zeros(len(boxes), *image_size, dtype=torch.bool)
    for bitmap, (x0, y0, x1, y1) in zip(bitmaps, boxes.int().tolist(), strict=True):
        bitmap[y0:y1, x0:x1] = True
    return BoxedBitmaps.from_full(bitmaps)


class RegionScene:
    """Two objects of classes 3 and 4 with masks that fill their boxes, proposals, and FPN feature maps."""

    size = (64, 96)
    specs = {  # noqa: RUF012
        name: FeatureSpec(channels=8, stride=stride) for name, stride in (("p2", 4), ("p3", 8), ("p4", 16), ("p5", 32))
    }
    boxes = torch.tensor([[10.0, 10, 40, 50], [50, 5, 90, 60]])
    keypoint_settings = (
        *("MODEL.KEYPOINT_ON", True),
        *("MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 3),
        *("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [8, 8]),
    )

    def features(self, images: int) -> dict[str, Tensor]:
        """Random feature maps that require gradients."""
        generator = torch.Generator().manual_seed(0)
        height, width = self.size
        return {
            name: torch.randn(
                (images, spec.channels, height // spec.stride, width // spec.stride), generator=generator
            ).requires_grad_()
            for name, spec in self.specs.items()
        }

    def targets(self, count: int = 2) -> Targets:
        """The first `count` objects, with keypoints at two corners and the centre."""
        boxes = self.boxes[:count]
        start, end = boxes[:, :2], boxes[:, 2:]
        points = torch.stack((start, end, (start + end) / 2), dim=1)
        return Targets(
            self.size,
            boxes,
            torch.arange(count) + 3,
            masks=filled_boxes(boxes, self.size),
            keypoints=torch.cat((points, torch.full((count, 3, 1), 2.0)), dim=2),
        )

    def proposals(self, count: int, *, seed: int = 0) -> Proposals:
        """Random boxes inside the image."""
        generator = torch.Generator().manual_seed(seed)
        corners = torch.rand((count, 2), generator=generator) * torch.tensor([60.0, 30.0])
        sides = 5 + torch.rand((count, 2), generator=generator) * 29
        return Proposals(self.size, torch.cat((corners, corners + sides), dim=1), torch.zeros(count))
