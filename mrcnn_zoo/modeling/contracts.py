"""Contracts of all kinds of components, as protocols.

`forward` maps tensors to tensors, `losses` adds ground truth, `predict` returns typed instances.
Shape letters: N images, R regions, C channels, K classes, J keypoints, H W height and width, S M sides.
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
    """Computes feature maps from pixels."""

    @property
    def output_specs(self) -> Mapping[str, FeatureSpec]:
        """Channels and stride of each map that `forward` returns, in its order."""

    @property
    def size_divisibility(self) -> int:
        """Height and width of the pixels must be multiples of this."""

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) normalised pixels -> maps by name."""


@runtime_checkable
class HasStages(Protocol):
    """A bottom-up network with numbered stages, which SOLVER.TRAIN selects, e.g. by `4+`."""

    def stage_of(self, name: str) -> int:
        """Number of the stage of a parameter by its name in the network; 1 for a stem."""


class AnchorGenerator(Protocol):
    """Generates the anchors of feature maps."""

    @property
    def anchors_per_cell(self) -> list[int]:
        """Number of anchors per cell of each level."""

    def __call__(self, features: list[Tensor]) -> list[Tensor]:
        """(H * W * A, 4) pixels for each level, in the order of rows, columns, anchors of a cell."""


class RPNHead(Protocol):
    """Predicts objectness and deltas of anchors; the same layers on every level."""

    def __call__(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """For each level (N, A, H, W) objectness logits and (N, 4 A, H, W) deltas, A anchors per cell."""


# --- proposals --------------------------------------------------------------------------------------------------------
class ProposalGenerator(Protocol):
    """Proposes boxes that may contain an object.

    Optional attribute: `needs_features`, False if it does not use the features; they may be empty then.
    """

    @property
    def needs_targets(self) -> bool:
        """Whether `predict` also needs a batch with targets."""

    def losses(self, features: Features, batch: Batch) -> tuple[list[Proposals], TrainingOutput]:
        """The proposals to train the next stage on, without gradient, and the losses of this stage."""

    def predict(self, features: Features, batch: Batch) -> list[Proposals]:
        """The proposals of each image, best first."""


# --- assignment -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Matches:
    """Ground truth and label of each box."""

    rows: Tensor  # (R,) int64 rows of the ground truth, 0 where there is none
    labels: Tensor  # (R,) int8: 1 positive, 0 negative, -1 ignored


class Matcher(Protocol):
    """Assigns ground truth and a label to each box."""

    def match(self, boxes: Tensor, ground_truth: Tensor) -> Matches:
        """(R, 4) boxes, (G, 4) ground truth, both in pixels; R or G may be 0."""


class BoxCoder(Protocol):
    """Converts boxes to regression targets and back."""

    def encode(self, source: Tensor, target: Tensor) -> Tensor:
        """(..., 4) reference boxes, (..., 4) targets, pixels -> (..., 4) deltas."""

    def decode(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """(..., 4) deltas, (..., 4) reference boxes -> (..., 4) boxes."""


class Sampler(Protocol):
    """Samples the boxes that contribute to the loss."""

    def sample(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(R,) labels as in `Matches` -> rows of positives (P,) and of negatives (M,), int64."""


@runtime_checkable
class SamplesBatches(Protocol):
    """A sampler for which the host waits for the device once per batch instead of once per image."""

    def sample_batch(self, labels: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """`Sampler.sample` for the labels of each image."""


# --- regions ----------------------------------------------------------------------------------------------------------
class PoolingOperation(Protocol):
    """Pools a map of fixed size for each region from one feature map; the pyramid pooler has one per level."""

    def __call__(self, features: Tensor, regions: Tensor) -> Tensor:
        """(N, C, H, W) features, (R, 5) image row and box in pixels -> (R, C, S, S)."""


class BoxHead(Protocol):
    """Computes a vector or map of each pooled region."""

    @property
    def output_spec(self) -> FeatureSpec:
        """Channels and side of the output of each region."""

    def __call__(self, pooled: Tensor) -> Tensor:
        """(R, C, S, S) -> (R, D), or a map again."""


class RegionClassification(Protocol):
    """Loss and scores of the K + 1 class logits of a region."""

    def loss(self, logits: Tensor, classes: Tensor) -> Tensor:
        """(R, K + 1), (R,) int64 with K background and -1 ignored -> scalar, summed over regions."""

    def scores(self, logits: Tensor) -> Tensor:
        """(R, K + 1) -> (R, K) in [0, 1]."""


class RegionHead(Protocol):
    """A mask or keypoint head.

    Either a pooled head, whose methods take pooled maps, as `MaskHead` and `KeypointHead` below, or a
    `roi_heads.branch.RegionBranch`, whose methods take feature maps.
    """

    def losses(self, pooled: Tensor, foreground: list[LabeledRegions]) -> TrainingOutput:
        """The losses on foreground regions."""

    def predict(self, pooled: Tensor, detections: list[Detections]) -> list[Detections]:
        """The detections with the predicted column."""


class NamedBranch(Protocol):
    """A `roi_heads.branch.RegionBranch` that a config lists in MODEL.ROI_HEADS.BRANCHES."""

    @property
    def name(self) -> str:
        """Attribute of the region heads, and so a part of state-dict names."""

    def losses(self, features: Features, regions: list[LabeledRegions]) -> tuple[list[LabeledRegions], TrainingOutput]:
        """The foreground regions for the next branch, and the losses of this one on them."""

    def predict(self, features: Features, detections: list[Detections]) -> list[Detections]:
        """The detections with the added or corrected columns."""


class MaskHead(Protocol):
    """Predicts the mask of each pooled region."""

    def __call__(self, pooled: Tensor) -> Tensor:
        """(R, C, S, S) -> (R, K, M, M) logits; K is 1 for class-agnostic masks.

        A mask loss with a softmax over classes needs one more map, the last, for the background.
        """

    def losses(self, pooled: Tensor, foreground: list[LabeledRegions]) -> TrainingOutput:
        """The losses of (sum of R_i, C, S, S) maps of the R_i foreground regions of each image."""

    def predict(self, pooled: Tensor, detections: list[Detections]) -> list[Detections]:
        """The detections with masks, from (sum of R_i, C, S, S) maps of the R_i detections of each image."""


class PointHead(Protocol):
    """Classifies single points of regions, for PointRend."""

    def __call__(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(R, C, P) features and (R, K, P) coarse logits of points -> (R, K, P) logits, or (R, 1, P)."""


class KeypointHead(Protocol):
    """Predicts the keypoints of the object in each pooled region."""

    def __call__(self, pooled: Tensor) -> Tensor:
        """(R, C, S, S) -> (R, J, M, M) logits, one heatmap per keypoint."""

    def losses(self, pooled: Tensor, foreground: list[LabeledRegions]) -> TrainingOutput:
        """The losses of (sum of R_i, C, S, S) maps of the R_i foreground regions of each image."""

    def predict(self, pooled: Tensor, detections: list[Detections]) -> list[Detections]:
        """The detections with keypoints, from (sum of R_i, C, S, S) maps of the R_i detections of each image."""


@runtime_checkable
class SelectsRegions(Protocol):
    """A pooled head that is trained on a part of the foreground regions; the others are not pooled."""

    def select_regions(self, foreground: list[LabeledRegions]) -> list[LabeledRegions]:
        """The regions of each image to train on."""


@runtime_checkable
class ProvidesMasks(Protocol):
    """A mask head whose training masks are used by later branches."""

    def supervise(self, pooled: Tensor, foreground: list[LabeledRegions]) -> tuple[Tensor, TrainingOutput]:
        """(R, M, M) probabilities of each region's class, with gradient, and the losses."""


@runtime_checkable
class LearnsFromClassCounts(Protocol):
    """A module whose loss depends on the class frequencies, which are set before the first step."""

    def set_class_counts(self, image_counts: Tensor) -> None:
        """(K,) number of training images with each class."""


@dataclass(frozen=True)
class Candidates:
    """Boxes of a batch before suppression, image after image."""

    boxes: Tensor  # (R, 4) pixels, finite
    scores: Tensor  # (R,)
    classes: Tensor  # (R,) int64 in [0, K)
    images: Tensor  # (R,) int64 rows of the batch, ascending
    image_sizes: Sequence[ImageSize]  # of each image of the batch
    counts: Sequence[int]  # boxes of each image, which add up to R
    num_classes: int  # K
    are_clipped: bool = True  # whether boxes are clipped to their image
    vectors: Tensor | None = None  # (R, D) of the box head, for the region of each box
    features: Features | None = None  # maps of the backbone
    sources: Tensor | None = None  # (R,) int64 region or anchor of each box, counted through all images; for a recorder


class Suppression(Protocol):
    """Removes duplicate boxes of an object; see also `suppression.Suppression`, a module."""

    def __call__(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """(R, 4), (R,), (R,) -> int64 rows of the kept boxes, best first, and their scores."""


@runtime_checkable
class LearnsToSuppress(Protocol):
    """A suppression with losses: a module, e.g. a `suppression.Suppression`."""

    def suppress(self, candidates: Candidates) -> tuple[Tensor, Tensor]:
        """Rows of the kept boxes, image after image and best first in each, and their scores."""

    def losses(self, candidates: Candidates, targets: list[Targets]) -> TrainingOutput:
        """The losses; only `vectors` and `features` have gradients.

        Candidates come from the sampled regions; RetinaNet's are those of inference, without `vectors`. With
        SOLVER.TRAIN [suppression] all are those of inference, and nothing has a gradient.
        """


class RoIHeads(Protocol):
    """Detects objects in proposals."""

    def losses(self, features: Features, proposals: list[Proposals], targets: list[Targets]) -> TrainingOutput:
        """The losses on regions sampled from the proposals."""

    def predict(self, features: Features, proposals: list[Proposals]) -> list[Detections]:
        """The detections of each image, best first, in the pixels of its proposals."""


@runtime_checkable
class PredictsInBoxes(Protocol):
    """Region heads that predict in given boxes."""

    def predict_in_boxes(
        self, features: Features, boxes: list[Proposals], classes: list[Tensor] | None = None
    ) -> list[Detections]:
        """One detection per box, in the given order; without classes, of the class with the highest score."""


# --- the whole --------------------------------------------------------------------------------------------------------
class Detector(Protocol):
    """A whole model: samples to losses or detections.

    `predict` of detectors, proposal generators and region heads may take `recorder` by name, a `recording.Recorder` or
    None; without this argument there are no reports.

    Optional attributes: `needs_targets`, True if `predict` also needs samples with targets; `predicts_classes`, False
    if detections are class-agnostic, as proposals are.
    """

    def losses(self, samples: list[Sample]) -> TrainingOutput:
        """The losses of a training step; every sample has targets."""

    def predict(self, samples: list[Sample]) -> list[Detections]:
        """The instances of each image in pixels of its original size, best first."""


@runtime_checkable
class ProposesRegions(Protocol):
    """A detector that can run its first stage alone."""

    def propose(self, samples: list[Sample]) -> list[Proposals]:
        """The proposals of each image in pixels of its original size, best first."""


@runtime_checkable
class HasTrainingState(Protocol):
    """A module with state that a resumed run needs and a state dict does not have."""

    def training_state(self) -> dict[str, Tensor]:
        """The state by name."""

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `training_state` returned."""
