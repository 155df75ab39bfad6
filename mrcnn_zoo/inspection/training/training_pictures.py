"""What training makes of an image, as pictures and tables: anchors, their labels, sampled regions and mask targets."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from mrcnn_zoo.choices import ANCHORS, LABELS, MASK_TARGETS, ROIS
from mrcnn_zoo.inspection.canvas import Picture
from mrcnn_zoo.inspection.draw import sample_picture
from mrcnn_zoo.inspection.training.anchor_pictures import default_pixel, draw_anchor_labels, draw_anchors
from mrcnn_zoo.inspection.training.assigned_anchors import anchor_tables, assign_anchors, find_anchored_stage
from mrcnn_zoo.inspection.training.region_pictures import draw_mask_targets, draw_regions
from mrcnn_zoo.inspection.training.sampled_regions import (
    find_labeling_heads,
    mask_target_table,
    mask_targets_of,
    region_table,
    sample_regions,
)
from mrcnn_zoo.structures import Sample

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Illustrator:
    """Draws what a detector is trained on in one image.

    Args:
        model: in evaluation mode.
        class_names: by class index.
        channel_order: of the images, INPUT.FORMAT.
        pixel: x, y in the resized image of the drawn anchors; None for the centre of the largest object.
    """

    model: nn.Module
    class_names: Sequence[str]
    channel_order: str = "BGR"
    pixel: tuple[float, float] | None = None

    def draw(self, sample: Sample, kinds: Sequence[str]) -> Iterator[tuple[str, Picture | None, str]]:
        """The pictures of an image, with tables of their numbers.

        Args:
            sample: an image with targets.
            kinds: keys of `KINDS`.

        Yields:
            The kind, its picture (None where there is nothing to draw) and a text, which may be empty.

        Raises:
            UserError: a pixel outside the image, or a kind that the detector does not have.
        """
        picture = sample_picture(sample, channel_order=self.channel_order)
        for kind in kinds:
            yield kind, *KINDS[kind](self, sample, picture)

    def anchors(self, sample: Sample, picture: Picture) -> tuple[Picture | None, str]:
        """The anchors at a pixel."""
        pixel = self.pixel or default_pixel(sample.targets, sample.image_size)
        return draw_anchors(picture, assign_anchors(self.model, sample), pixel), ""

    def labels(self, sample: Sample, picture: Picture) -> tuple[Picture | None, str]:
        """The labels of all anchors."""
        anchors = assign_anchors(self.model, sample, purpose="labels")
        return draw_anchor_labels(picture, anchors), anchor_tables(anchors, self.class_names)

    def rois(self, sample: Sample, picture: Picture) -> tuple[Picture | None, str]:
        """The sampled regions."""
        sampled = sample_regions(self.model, sample)
        return draw_regions(picture, sampled), region_table(sampled, self.class_names)

    def mask_targets(self, sample: Sample, picture: Picture) -> tuple[Picture | None, str]:
        """The mask targets of the sampled foreground regions."""
        targets = mask_targets_of(self.model, sample)
        assert sample.targets is not None
        names = [self.class_names[index] for index in sample.targets.classes.tolist()]
        return draw_mask_targets(picture, targets, names), mask_target_table(targets)


KINDS: dict[str, Callable[[Illustrator, Sample, Picture], tuple[Picture | None, str]]] = {
    ANCHORS: Illustrator.anchors,
    LABELS: Illustrator.labels,
    ROIS: Illustrator.rois,
    MASK_TARGETS: Illustrator.mask_targets,
}
OF_REGIONS = (ROIS, MASK_TARGETS)  # kinds that depend on the proposals


def check_kinds(model: nn.Module, kinds: Sequence[str], *, is_trained: bool) -> None:
    """Refuse kinds that a detector does not have; log where proposals are those of initial weights.

    Args:
        model: a detector.
        kinds: keys of `KINDS`.
        is_trained: whether its weights are loaded from a file.

    Raises:
        UserError: naming the kind and the part that is missing.
    """
    for kind in kinds:
        if kind in OF_REGIONS:
            find_labeling_heads(model, purpose=kind)
        else:
            find_anchored_stage(model, purpose=kind)
    of_regions = [kind for kind in kinds if kind in OF_REGIONS]
    generator = getattr(model, "proposal_generator", None)
    if of_regions and not is_trained and isinstance(generator, nn.Module):
        logger.warning(
            "%s: without --weights the proposals are those of a %s with initial weights, so most foreground regions "
            "are ground-truth boxes or there are few; --weights FILE draws those of a trained model",
            " and ".join(of_regions),
            type(generator).__name__,
        )
