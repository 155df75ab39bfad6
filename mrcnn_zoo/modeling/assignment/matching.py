"""Matching of boxes with ground truth, and sampling of the matched boxes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.contracts import Matcher, Matches, Sampler, SamplesBatches
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.ops.rows import constant, rows_where
from mrcnn_zoo.ops.transfer import free_memory
from mrcnn_zoo.registries import MATCHERS, SAMPLERS

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1

# Overlaps computed at once. 50 objects and the 268,569 anchors of a large image need 54 MB per temporary tensor.
MAX_PAIRS = 2_000_000
BYTES_PER_PAIR = 16  # four float32 temporary tensors
SHARE_OF_FREE_MEMORY = 0.1  # on a CUDA device, where each further block costs the launch of its kernels
UNUSABLE_COST = 1e30  # of a pair whose cost is not finite


class MaxIoUMatcher:
    """Labels each box by its highest IoU with any ground truth.

    Source: Ren et al. 2015 (Faster R-CNN), sec. 3.1.2.

    Args:
        thresholds: rising IoU bounds; label i applies from thresholds[i - 1], inclusive, up to thresholds[i].
        labels: one more than thresholds, each POSITIVE, NEGATIVE or IGNORED.
        allow_low_quality: boxes with the highest IoU of all with some ground truth are positive, too, so that every
            object has at least one. Such a box is matched with the ground truth of its own highest IoU.

    Raises:
        UserError: thresholds that do not rise, or a wrong number of labels.
    """

    def __init__(self, thresholds: Sequence[float], labels: Sequence[int], *, allow_low_quality: bool) -> None:
        if list(thresholds) != sorted(thresholds) or any(not 0 < bound <= 1 for bound in thresholds):
            raise UserError(f"IOU_THRESHOLDS = {list(thresholds)} should rise and lie above 0 and up to 1.")
        if len(labels) != len(thresholds) + 1 or not set(labels) <= {POSITIVE, NEGATIVE, IGNORED}:
            raise UserError(
                f"IOU_LABELS = {list(labels)} should be {len(thresholds) + 1} labels of 1 (object), 0 (background) or "
                f"-1 (ignored), one more than IOU_THRESHOLDS = {list(thresholds)}."
            )
        self.thresholds = tuple(thresholds)
        self.labels = tuple(labels)
        self.allow_low_quality = allow_low_quality

    @torch.no_grad()
    def match(self, boxes: Tensor, ground_truth: Tensor) -> Matches:
        """Match boxes with ground truth; without ground truth all boxes get labels[0].

        Args:
            boxes: (R, 4) pixels.
            ground_truth: (G, 4) pixels.
        """
        best_iou = boxes.new_zeros(len(boxes))
        rows = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
        is_best_of_an_object = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
        block = max(1, _max_pairs(boxes.device) // max(1, len(boxes)))
        for first in range(0, len(ground_truth) if len(boxes) else 0, block):
            overlaps = box_ops.iou(ground_truth[first : first + block], boxes)
            values, indices = overlaps.max(dim=0)
            # Strictly better only: of equal overlaps the first ground truth counts, as within a block.
            is_better = values > best_iou
            rows = torch.where(is_better, indices + first, rows)
            best_iou = torch.where(is_better, values, best_iou)
            if self.allow_low_quality:
                best_of_each = overlaps.amax(dim=1, keepdim=True)
                # Ground truth that nothing overlaps has an IoU of 0 with every box; none of them is positive.
                is_best_of_an_object |= ((overlaps == best_of_each) & (best_of_each > 0)).any(dim=0)
        return Matches(rows, torch.where(is_best_of_an_object, POSITIVE, self._label(best_iou)).to(torch.int8))

    def _label(self, best_iou: Tensor) -> Tensor:
        bounds = constant(self.thresholds, dtype=best_iou.dtype, device=best_iou.device)
        labels = constant(self.labels, dtype=torch.int8, device=best_iou.device)
        return labels[torch.bucketize(best_iou, bounds, right=True)]


def _max_pairs(device: torch.device) -> int:
    return max(MAX_PAIRS, int(free_memory(device) * SHARE_OF_FREE_MEMORY / BYTES_PER_PAIR))


@MATCHERS.register("MaxIoUMatcher")
def build_max_iou_matcher(
    thresholds: Sequence[float], labels: Sequence[int], *, allow_low_quality: bool
) -> MaxIoUMatcher:
    """The matcher of Faster R-CNN.

    Args:
        thresholds: see `MaxIoUMatcher`, as the others.
        labels: one more than thresholds.
        allow_low_quality: whether each object has at least one positive box.
    """
    return MaxIoUMatcher(thresholds, labels, allow_low_quality=allow_low_quality)


class RandomSampler:
    """A random subset of fixed size: positives up to their share, then negatives.

    Draws from torch's generator of the labels' device, and only if there are more boxes than needed.

    Source: Girshick 2015 (Fast R-CNN), sec. 2.3.

    Args:
        count: boxes per image, fewer if there are not enough.
        positive_fraction: upper bound of the share of positives, in [0, 1].
    """

    def __init__(self, count: int, *, positive_fraction: float) -> None:
        self.count = count
        self.positive_fraction = positive_fraction

    def sample(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the sampled positives and of the sampled negatives.

        Args:
            labels: (R,) as in `Matches`.

        Returns:
            (P,) and (M,) int64.
        """
        return self.sample_batch([labels])[0]

    def sample_batch(self, labels: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """`sample` for each image; the random numbers are drawn image by image.

        Args:
            labels: (R_i,) of each image.
        """
        rows = rows_where([image_labels == kind for image_labels in labels for kind in (POSITIVE, NEGATIVE)])
        samples = []
        for all_positives, all_negatives in zip(rows[::2], rows[1::2], strict=True):
            positives = _subset(all_positives, int(self.count * self.positive_fraction))
            samples.append((positives, _subset(all_negatives, self.count - len(positives))))
        return samples


def match_and_sample(
    matcher: Matcher, sampler: Sampler, boxes: Sequence[Tensor], ground_truth: Sequence[Tensor]
) -> list[tuple[Matches, Tensor, Tensor]]:
    """Match the boxes of each image and sample the matched ones.

    Images are matched one by one, to hold the overlaps of one in memory, and sampled together where the sampler has
    `sample_batch`.

    Args:
        matcher: assigns ground truth and a label to each box.
        sampler: samples positives and negatives.
        boxes: (R_i, 4) of each image, pixels.
        ground_truth: (G_i, 4) of each image, pixels.

    Returns:
        For each image the matches of all boxes, (P,) int64 rows of the sampled positives, (M,) of the negatives.
    """
    matches = [matcher.match(*image) for image in zip(boxes, ground_truth, strict=True)]
    labels = [image.labels for image in matches]
    if isinstance(sampler, SamplesBatches):
        samples = sampler.sample_batch(labels)
    else:
        samples = [sampler.sample(image_labels) for image_labels in labels]
    return [(image, *sample) for image, sample in zip(matches, samples, strict=True)]


@torch.no_grad()
def match_one_to_one(costs: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The one-to-one matching of least total cost in each image; all objects are matched if there are enough boxes.

    Each of the G objects of an image has an optimal match among its G cheapest boxes, since the others take at most
    G - 1 of them. Therefore only these costs are copied to the host, once for all images.

    Source: Erhan et al. 2014 (Scalable Object Detection using Deep Neural Networks), sec. 3.2, eq. 4; solved by scipy.

    Args:
        costs: (G, R) of each image: of matching each object with each box. Those not finite are avoided.

    Returns:
        For each image (M,) int64 rows of objects, ascending, and (M,) rows of their boxes, with M = min(G, R).
    """
    sizes = [(len(cost), min(cost.shape)) for cost in costs]
    cheapest = [cost.float().topk(count, dim=1, largest=False) for cost, (_, count) in zip(costs, sizes, strict=True)]
    # In one tensor of float32, exact up to 16 million boxes.
    numbers = [number.flatten().float() for values, boxes in cheapest for number in (values, boxes)]
    device = costs[0].device if costs else torch.device("cpu")
    parts = torch.cat(numbers).cpu().split([*map(len, numbers)]) if numbers else ()
    found = []
    for values, boxes, size in zip(parts[::2], parts[1::2], sizes, strict=True):
        objects, matched = _solve_assignment(values.numpy().reshape(size), boxes.numpy().astype(np.int64).reshape(size))
        found.append((torch.from_numpy(objects).to(device), torch.from_numpy(matched).to(device)))
    return found


def _solve_assignment(costs: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of objects and boxes; `costs` and `boxes` are (G, R'), the cheapest boxes of each object."""
    from scipy.optimize import linear_sum_assignment

    columns, places = np.unique(boxes, return_inverse=True)
    table = np.full((len(boxes), len(columns)), np.inf)
    usable = np.nan_to_num(costs, nan=UNUSABLE_COST, posinf=UNUSABLE_COST, neginf=-UNUSABLE_COST)
    np.put_along_axis(table, places.reshape(boxes.shape), usable, axis=1)
    objects, matched = linear_sum_assignment(table)
    return objects, columns[matched]


def matched_classes(matches: Matches, classes: Tensor, num_classes: int) -> Tensor:
    """The class that each matched box is trained as.

    Args:
        matches: of R boxes.
        classes: (G,) int64 classes of the ground truth.
        num_classes: K.

    Returns:
        (R,) int64: the class of the ground truth for positives, K (background) for negatives, -1 for ignored boxes.
    """
    labels = torch.where(matches.labels == IGNORED, IGNORED, num_classes)
    if len(classes) == 0:
        return labels
    return torch.where(matches.labels == POSITIVE, classes[matches.rows], labels)


def _subset(rows: Tensor, count: int) -> Tensor:
    if len(rows) <= count:
        return rows
    return rows[torch.randperm(len(rows), device=rows.device)[:count]]


@SAMPLERS.register("RandomSampler")
def build_random_sampler(count: int, *, positive_fraction: float) -> RandomSampler:
    """Uniform sampling.

    Args:
        count: boxes per image.
        positive_fraction: upper bound of the share of positives, in [0, 1].
    """
    return RandomSampler(count, positive_fraction=positive_fraction)
