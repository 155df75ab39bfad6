"""What each kind of component must do, whatever its name in the YAML file.

A component predicts with `forward` (tensors to tensors), learns with `losses` (adds ground truth) and answers with
`predict` (typed instances). Shape letters: N images, R regions, C channels, K classes, H W height and width, S M sides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from mrcnn_zoo.structures import (
    Batch,
    Detections,
    FeatureSpec,
    ImageSize,
    LabeledRegions,
    Proposals,
    Sample,
    Targets,
    TrainingOutput,
)

Features = Mapping[str, Tensor]  # name of the level -> (N, C, H, W)


# --- dense stage: fixed shapes once the padded image size is fixed ----------------------------------------------------
class Backbone(Protocol):
    """Makes feature maps of pixels."""

    @property
    def output_specs(self) -> Mapping[str, FeatureSpec]:
        """Channels and stride of each map that `forward` returns, in its order."""
        ...

    @property
    def size_divisibility(self) -> int:
        """Height and width of the pixels must be multiples of this."""
        ...

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) normalised pixels -> one map a name."""
        ...


class AnchorGenerator(Protocol):
    """Lays reference boxes over feature maps."""

    @property
    def anchors_per_cell(self) -> list[int]:
        """How many boxes stand on one cell of each level."""
        ...

    def __call__(self, features: list[Tensor]) -> list[Tensor]:
        """The anchors of each level: (H * W * A, 4) pixels, in the order of rows, columns, anchors of a cell."""
        ...


class RPNHead(Protocol):
    """Scores anchors and moves them; the same layers on every level."""

    def __call__(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """For each level (N, A, H, W) objectness logits and (N, 4 A, H, W) deltas, A anchors a cell."""
        ...


# --- proposals --------------------------------------------------------------------------------------------------------
class ProposalGenerator(Protocol):
    """Finds boxes that may hold an object."""

    @property
    def needs_targets(self) -> bool:
        """Whether also `predict` needs a batch with targets, as only an oracle does."""
        ...

    def losses(self, features: Features, batch: Batch) -> tuple[list[Proposals], TrainingOutput]:
        """The proposals to train the next stage on, without gradient, and what supervises this stage."""
        ...

    def predict(self, features: Features, batch: Batch) -> list[Proposals]:
        """The proposals of each image, best first."""
        ...


# --- assignment -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Matches:
    """For each box its ground truth, and what the box is to be trained as."""

    rows: Tensor  # (R,) int64 rows of the ground truth, 0 where there is none
    labels: Tensor  # (R,) int8: 1 positive, 0 negative, -1 ignored


class Matcher(Protocol):
    """Decides which ground truth a box belongs to, if any."""

    def match(self, boxes: Tensor, ground_truth: Tensor) -> Matches:
        """(R, 4) boxes, (G, 4) ground truth, both in pixels; R or G may be 0."""
        ...


class BoxCoder(Protocol):
    """Turns boxes into what a network regresses, and back."""

    def encode(self, source: Tensor, target: Tensor) -> Tensor:
        """(..., 4) boxes to start from, (..., 4) boxes to reach, pixels -> (..., 4) deltas."""
        ...

    def decode(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """(..., 4) deltas, (..., 4) boxes to start from -> (..., 4) boxes."""
        ...


class Sampler(Protocol):
    """Decides which labelled boxes take part in a step."""

    def sample(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(R,) labels as in `Matches` -> rows of positives (P,) and of negatives (M,), int64."""
        ...


@runtime_checkable
class SamplesBatches(Protocol):
    """A sampler that lets the host wait for the device once per batch, and not once per image."""

    def sample_batch(self, labels: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """What `Sampler.sample` returns, for the labels of each image."""
        ...


# --- regions ----------------------------------------------------------------------------------------------------------
class PoolingOperation(Protocol):
    """Cuts a map of fixed size out of one feature map for every region; the pyramid pooler has one a level."""

    def __call__(self, features: Tensor, regions: Tensor) -> Tensor:
        """(N, C, H, W) features, (R, 5) regions of pixels with the row of their image -> (R, C, S, S)."""
        ...


class BoxHead(Protocol):
    """Makes one vector or map of each pooled region."""

    @property
    def output_spec(self) -> FeatureSpec:
        """What `forward` returns for each region."""
        ...

    def __call__(self, pooled: Tensor) -> Tensor:
        """(R, C, S, S) -> (R, D), or a map again."""
        ...


class RegionClassification(Protocol):
    """What the K + 1 class logits of a region mean, and how they are trained."""

    def loss(self, logits: Tensor, classes: Tensor) -> Tensor:
        """(R, K + 1), (R,) int64 with K background and -1 ignored -> scalar, summed over regions."""
        ...

    def scores(self, logits: Tensor) -> Tensor:
        """(R, K + 1) -> (R, K) in [0, 1]."""
        ...


class RegionHead(Protocol):
    """What a mask or a keypoint head is besides its layers.

    Either a pooled head, whose methods take pooled maps, as `MaskHead` and `KeypointHead` below, or a
    `roi_heads.branch.RegionBranch`, whose methods take feature maps.
    """

    def losses(self, pooled: Tensor, foreground: list[LabeledRegions]) -> TrainingOutput:
        """What supervises it, on regions that all have an object."""
        ...

    def predict(self, pooled: Tensor, detections: list[Detections]) -> list[Detections]:
        """The detections with what it adds."""
        ...


class NamedBranch(Protocol):
    """A `roi_heads.branch.RegionBranch` that a config lists in MODEL.ROI_HEADS.BRANCHES."""

    @property
    def name(self) -> str:
        """Its place below `roi_heads`, in state dicts, too."""
        ...

    def losses(self, features: Features, regions: list[LabeledRegions]) -> tuple[list[LabeledRegions], TrainingOutput]:
        """The regions for the next branch, and what supervises this one, on regions that all have an object."""
        ...

    def predict(self, features: Features, detections: list[Detections]) -> list[Detections]:
        """The detections with what it adds or corrects."""
        ...


class MaskHead(Protocol):
    """Draws a mask of each pooled region."""

    def __call__(self, pooled: Tensor) -> Tensor:
        """(R, C, S, S) -> (R, K, M, M) logits; K is 1 when masks do not depend on the class.

        One map more, the last, is the background's where the mask loss has the classes compete.
        """
        ...

    def losses(self, pooled: Tensor, foreground: list[LabeledRegions]) -> TrainingOutput:
        """What supervises the masks: (sum of R_i, C, S, S) and the R_i regions with an object of each image."""
        ...

    def predict(self, pooled: Tensor, detections: list[Detections]) -> list[Detections]:
        """The detections with masks: (sum of R_i, C, S, S) and the R_i detections of each image."""
        ...


class PointHead(Protocol):
    """Decides single points of regions, for PointRend."""

    def __call__(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(R, C, P) features of the points, (R, K, P) coarse logits there -> (R, K, P) logits.

        K of the result is 1 when masks do not depend on the class.
        """
        ...


class KeypointHead(Protocol):
    """Finds the keypoints of the object in each pooled region."""

    def __call__(self, pooled: Tensor) -> Tensor:
        """(R, C, S, S) -> (R, J, M, M) logits, one heatmap a keypoint."""
        ...

    def losses(self, pooled: Tensor, foreground: list[LabeledRegions]) -> TrainingOutput:
        """What supervises the keypoints: (sum of R_i, C, S, S) and the R_i regions with an object of each image."""
        ...

    def predict(self, pooled: Tensor, detections: list[Detections]) -> list[Detections]:
        """The detections with keypoints: (sum of R_i, C, S, S) and the R_i detections of each image."""
        ...


@runtime_checkable
class SelectsRegions(Protocol):
    """A pooled head that trains on some of the regions only; the others are not pooled."""

    def select_regions(self, foreground: list[LabeledRegions]) -> list[LabeledRegions]:
        """The regions of each image to train on."""
        ...


@runtime_checkable
class HandsOnMasks(Protocol):
    """A mask head whose masks in training are of use to later branches."""

    def supervise(self, pooled: Tensor, foreground: list[LabeledRegions]) -> tuple[Tensor, TrainingOutput]:
        """(R, M, M) probabilities of each region's class, with gradient, and what `losses` returns."""
        ...


@runtime_checkable
class LearnsFromClassCounts(Protocol):
    """A part of a model whose loss depends on how frequent the classes are; it is told before the first step."""

    def set_class_counts(self, image_counts: Tensor) -> None:
        """(K,) numbers of training images that show each class."""
        ...


@dataclass(frozen=True)
class Candidates:
    """Boxes of a batch among which a suppression chooses, image after image."""

    boxes: Tensor  # (R, 4) pixels, finite
    scores: Tensor  # (R,)
    classes: Tensor  # (R,) int64 in [0, K)
    images: Tensor  # (R,) int64 rows of the batch, ascending
    image_sizes: Sequence[ImageSize]  # of each image of the batch
    counts: Sequence[int]  # boxes of each image, which add up to R
    num_classes: int  # K
    are_clipped: bool = True  # whether boxes end at the border of their image
    vectors: Tensor | None = None  # (R, D) of the box head, for the region that each box comes from
    features: Features | None = None  # maps of the backbone
    sources: Tensor | None = None  # (R,) int64 region or anchor of each box, counted through all images; for a recorder


class Suppression(Protocol):
    """Keeps one box of each group that shows the same object; see also `suppression.Suppression`, a module."""

    def __call__(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """(R, 4), (R,), (R,) -> rows that stay (int64, best first) and their scores."""
        ...


@runtime_checkable
class LearnsToSuppress(Protocol):
    """A suppression that is trained: a module, e.g. a `suppression.Suppression`, with these besides its `__call__`."""

    def suppress(self, candidates: Candidates) -> tuple[Tensor, Tensor]:
        """The rows that stay, image after image and best first in each, and their scores."""
        ...

    def losses(self, candidates: Candidates, targets: list[Targets]) -> TrainingOutput:
        """What supervises it; only `vectors` and `features` have gradients.

        The candidates are from the sampled regions; RetinaNet's are those of inference, without `vectors`.
        """
        ...


class RoIHeads(Protocol):
    """Makes detections of proposals."""

    def losses(self, features: Features, proposals: list[Proposals], targets: list[Targets]) -> TrainingOutput:
        """What supervises this stage, on regions it chooses from the proposals."""
        ...

    def predict(self, features: Features, proposals: list[Proposals]) -> list[Detections]:
        """The detections of each image, best first, in the coordinates of its proposals."""
        ...


@runtime_checkable
class AnswersForBoxes(Protocol):
    """Region heads that can be asked about boxes of the caller."""

    def predict_in_boxes(
        self, features: Features, boxes: list[Proposals], classes: list[Tensor] | None = None
    ) -> list[Detections]:
        """One detection for each box, in the caller's order; without classes, of the class with the highest score."""
        ...


# --- the whole --------------------------------------------------------------------------------------------------------
class Detector(Protocol):
    """A model from samples to losses or detections.

    Its `predict`, and that of proposal generators and region heads, may take `recorder` by name: a `recording.Recorder`
    or None. One that does not has no reports.

    Attributes that may be missing: `needs_targets` is True where also `predict` needs samples with targets;
    `predicts_classes` is False where detections are objects of no class in particular, as proposals are.
    """

    def losses(self, samples: list[Sample]) -> TrainingOutput:
        """What one training step adds up; every sample has targets."""
        ...

    def predict(self, samples: list[Sample]) -> list[Detections]:
        """The instances of each image in the coordinates of its original size, best first."""
        ...


@runtime_checkable
class ProposesRegions(Protocol):
    """A detector whose first stage can be asked alone."""

    def propose(self, samples: list[Sample]) -> list[Proposals]:
        """The proposals of each image in the coordinates of its original size, best first."""
        ...


@runtime_checkable
class RemembersTraining(Protocol):
    """A module with numbers that a resumed run needs and that are no weights: a state dict does not have them."""

    def training_state(self) -> dict[str, Tensor]:
        """The numbers, by name."""
        ...

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `training_state` gave."""
        ...
