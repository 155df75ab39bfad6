"""Sweeps with a known truth: detections of simulated models, with COCO's AP computed from them.

Each object has one detection. Its IoU and its score depend on the quality of the variant, the seed, the image, and the
interactions of images with variants and with seeds; further detections are false. AP is that of the package's code on
`ImageMatches`, so that its nonlinearity is part of the simulation.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.evaluation.backends import IOU_THRESHOLDS
from mrcnn_zoo.evaluation.bootstrap import THRESHOLD_BITS, ImageMatches
from mrcnn_zoo.evaluation.resampled_ap import draw_weights, resampled_ap
from mrcnn_zoo.experiments.comparison import MetricComparison, VariantValues, compare_variants
from mrcnn_zoo.experiments.resampled_runs import ResampledMetric

REFERENCE = "v0"
OBJECTS, FALSE = 3.0, 1.5  # per image, on average
SLOPE = 0.12  # of the IoU over quality


@dataclass(frozen=True)
class Noise:
    """Standard deviations of the effects on quality; 1 is about 10 points of AP."""

    seed: float = 0.1
    image: float = 0.8
    variant_and_image: float = 0.3
    seed_and_image: float = 0.4


@dataclass(frozen=True)
class World:
    """A distribution of sweeps.

    Args:
        shifts: quality of each variant; the first is the reference.
        num_seeds: of each variant.
        num_images: of the test set.
        noise: of the effects.
        resamples: of the images.
        num_classes: of the objects, at random.
    """

    shifts: tuple[float, ...]
    num_seeds: int = 3
    num_images: int = 50
    noise: Noise = Noise()
    resamples: int = 200
    num_classes: int = 1

    def draw(self, rng: np.random.Generator) -> MetricComparison:
        """A sweep, compared with its reference."""
        weights = np.concatenate(
            [
                np.ones((1, self.num_images), np.uint16),
                draw_weights(self.num_images, self.resamples, seed=int(rng.integers(2**32))),
            ]
        )
        aps = self.average_precisions(rng, weights)
        variants = []
        for number, of_seeds in enumerate(aps):
            values = {seed: float(ap[0]) for seed, ap in enumerate(of_seeds)}
            parts = {
                seed: ResampledMetric(ap[1:], self.num_images, "same", self.num_images)
                for seed, ap in enumerate(of_seeds)
            }
            variants.append(VariantValues(f"v{number}", self.num_seeds, values, parts))
        return compare_variants("bbox/AP", variants, reference=REFERENCE)

    def average_precisions(self, rng: np.random.Generator, weights: NDArray[np.integer]) -> NDArray[np.float64]:
        """(variants, seeds, B) AP of a sweep on B resamples."""
        objects = rng.poisson(OBJECTS, self.num_images)
        image_of_object = np.repeat(np.arange(self.num_images), objects)
        image_of_false = np.repeat(np.arange(self.num_images), rng.poisson(FALSE, self.num_images))
        noise = self.noise
        of_images = rng.normal(0, noise.image, self.num_images)
        found = np.empty((len(self.shifts), self.num_seeds, len(weights)))
        for variant, shift in enumerate(self.shifts):
            of_variant = of_images + rng.normal(0, noise.variant_and_image, self.num_images)
            for seed in range(self.num_seeds):
                quality = (
                    shift
                    + rng.normal(0, noise.seed)
                    + of_variant
                    + rng.normal(0, noise.seed_and_image, self.num_images)
                )
                matches = _detect(rng, quality, image_of_object, image_of_false, num_classes=self.num_classes)
                found[variant, seed] = resampled_ap(matches, weights)["AP"]
        return found


def _detect(
    rng: np.random.Generator,
    quality: NDArray[np.float64],
    image_of_object: NDArray[np.int64],
    image_of_false: NDArray[np.int64],
    *,
    num_classes: int,
) -> ImageMatches:
    """Matches of a model with a quality per image."""
    of_object = quality[image_of_object] + rng.normal(0, 1, len(image_of_object))
    overlap = 0.75 + SLOPE * of_object
    scores = np.concatenate([of_object + rng.normal(0, 1, len(of_object)), rng.normal(-1.0, 1.2, len(image_of_false))])
    is_true = overlap[:, None] >= np.array(IOU_THRESHOLDS)
    flags = np.concatenate([(is_true * THRESHOLD_BITS).sum(axis=1), np.zeros(len(image_of_false))]).astype(np.uint16)
    images = np.concatenate([image_of_object, image_of_false]).astype(np.int32)
    classes = (np.arange(len(images)) % num_classes).astype(np.int32)  # objects come in random order of quality
    object_classes = classes[: len(image_of_object)]
    order = np.lexsort((-scores, classes))
    of_objects = np.argsort(object_classes, kind="stable")
    num_images = len(quality)
    return ImageMatches(
        image_ids=np.arange(num_images),
        groups=np.arange(num_images).astype(str),
        class_names=tuple(f"class {number}" for number in range(num_classes)),
        areas=("all",),
        images=images[order],
        classes=classes[order],
        scores=scores[order],
        matched=flags[order][None],
        ignored=np.zeros((1, len(images)), np.uint16),
        object_images=image_of_object[of_objects].astype(np.int32),
        object_classes=object_classes[of_objects],
        is_counted=np.ones((1, len(image_of_object)), np.bool_),
    )


def mean_ap(
    shifts: tuple[float, ...], *, num_images: int, noise: Noise, draws: int, seed: int = 0
) -> NDArray[np.float64]:
    """Expected AP of variants on test sets of a size, over images and seeds.

    Args:
        shifts: quality of each variant.
        num_images: of a test set.
        noise: of the effects.
        draws: simulated test sets.
        seed: of the simulation.
    """
    rng = np.random.default_rng(seed)
    world = World(shifts, num_seeds=1, num_images=num_images, noise=noise)
    ones = np.ones((1, num_images), np.uint16)
    return np.mean([world.average_precisions(rng, ones)[:, 0, 0] for _ in range(draws)], axis=0)
