"""Recorded models of Detectron2, built from their configs and weights, and their images with ground truth."""

from dataclasses import dataclass, replace

from torch import Tensor, nn

from mrcnn_zoo.config import load_config
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.structures import BoxedBitmaps, Sample, Targets
from support.references import RecordedCase

NUM_IMAGES = 2


@dataclass
class FixedPoints:
    """Point sampler that returns the same points for every region."""

    points: Tensor  # (P, 2) in the unit square

    def sample(self, logits: Tensor) -> Tensor:
        return self.points.expand(len(logits), -1, -1)


def build_recorded(case: RecordedCase) -> nn.Module:
    """A new model with the recorded weights, in training mode."""
    model = build_model(load_config(case.config))
    model.load_state_dict(case.weights)
    if "points" in case.arrays:
        head = model.roi_heads.mask_head
        head.refinement = replace(head.refinement, sampler=FixedPoints(case.tensor("points")))
    return model


def recorded_samples(case: RecordedCase) -> list[Sample]:
    """The images with their targets; `original_size` is the size of Detectron2's recorded results."""
    return [_sample(case, number) for number in range(NUM_IMAGES)]


def _sample(case: RecordedCase, number: int) -> Sample:
    image = case.tensor(f"image{number}").permute(2, 0, 1)
    height, width = image.shape[1:]
    targets = Targets(
        (height, width),
        case.tensor(f"gt{number}_boxes"),
        case.tensor(f"gt{number}_classes"),
        masks=BoxedBitmaps.from_full(case.bitmaps(f"gt{number}_masks", width)),
        keypoints=case.tensor(f"gt{number}_keypoints"),
    )
    out_height, out_width = case.arrays["out_size"][number].tolist()
    return Sample(image=image, image_id=number, original_size=(out_height, out_width), targets=targets)
