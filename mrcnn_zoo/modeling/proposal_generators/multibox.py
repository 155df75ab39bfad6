"""MultiBox: a network that predicts a set of boxes with confidences, trained by one-to-one matching with the objects.

Source: Erhan et al. 2014 (Scalable Object Detection using Deep Neural Networks), sec. 3; the convolutional priors of
Szegedy et al. 2015 (Scalable, High Quality Object Detection), sec. 3.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode, choice_of
from mrcnn_zoo.layers import Conv2d, kaiming_init_, relu_
from mrcnn_zoo.losses.classification import binary_cross_entropy
from mrcnn_zoo.modeling.anchors import build_anchor_generator, input_maps
from mrcnn_zoo.modeling.assignment import match_one_to_one
from mrcnn_zoo.modeling.contracts import AnchorGenerator, BoxCoder, Features
from mrcnn_zoo.modeling.proposal_generators.selection import ProposalSelection
from mrcnn_zoo.modeling.recording import Recorder
from mrcnn_zoo.ops.anchors import flatten_per_anchor
from mrcnn_zoo.ops.box_coding import CornerOffsetCoder
from mrcnn_zoo.ops.rows import constant, rows_of_all
from mrcnn_zoo.registries import PROPOSAL_GENERATORS
from mrcnn_zoo.structures import Batch, FeatureSpec, ImageSize, LossSum, Proposals, Targets, TrainingOutput

WEIGHT_STD = 0.01  # Ren et al. 2015 (Faster R-CNN), sec. 3.1.3

# (P,) logits, (P, 4) predicted boxes, (P, 4) priors, (G, 4) objects, alpha -> (G, P) cost; boxes in image sides
MatchingCost = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]


class MapPredictor(nn.Module):
    """Confidences and boxes on one map: 3 x 3 convolutions, then a 1 x 1 convolution for each.

    Args:
        in_channels: C of the map.
        num_priors: A, priors per cell.
        hidden_channels: C after each 3 x 3 convolution.
        initial_confidence: what the untrained layers predict everywhere, in (0, 1).
    """

    def __init__(
        self, in_channels: int, *, num_priors: int, hidden_channels: Sequence[int], initial_confidence: float
    ) -> None:
        super().__init__()
        inputs = (in_channels, *hidden_channels)
        convs = [Conv2d(a, b, 3, activation=relu_) for a, b in zip(inputs, hidden_channels, strict=False)]
        for conv in convs:
            kaiming_init_(conv)
        self.convs = nn.Sequential(*convs)
        # Otherwise the loss of the unmatched would dominate at the start: there are thousands per object.
        initial_logit = -math.log((1 - initial_confidence) / initial_confidence)
        self.confidence = _last_layer(inputs[-1], num_priors, WEIGHT_STD, initial_logit)
        # At first, each prediction is its prior, however large the values of the map.
        self.location = _last_layer(inputs[-1], 4 * num_priors, 0.0, 0.0)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) -> logits (N, A, H, W) and offsets (N, 4 A, H, W), those of a prior adjacent."""
        hidden = self.convs(features)
        return self.confidence(hidden), self.location(hidden)


def _last_layer(in_channels: int, out_channels: int, weight_std: float, bias: float) -> Conv2d:
    layer = Conv2d(in_channels, out_channels, 1)
    nn.init.normal_(layer.weight, std=weight_std)
    nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type]
    return layer


def cost_of_priors(_logits: Tensor, _boxes: Tensor, priors: Tensor, objects: Tensor, _alpha: float) -> Tensor:
    """Half the squared distance of each prior from each object: which prediction learns an object is fixed.

    Source: Erhan et al. 2014, sec. 3.2, training with priors.

    Args:
        priors: (P, 4) in image sides.
        objects: (G, 4) in image sides.

    Returns:
        (G, P).
    """
    return half_squared_distances(objects, priors)


def cost_of_predictions(logits: Tensor, boxes: Tensor, _priors: Tensor, objects: Tensor, alpha: float) -> Tensor:
    """What matching a prediction adds to the loss: alpha / 2 |l - g|^2 - log c + log(1 - c), the last two -logit.

    Source: Erhan et al. 2014, sec. 3.2, eq. 3 and 4.

    Args:
        logits: (P,) of the confidences.
        boxes: (P, 4) predicted, in image sides.
        objects: (G, 4) in image sides.
        alpha: weight of the distances.

    Returns:
        (G, P).
    """
    return alpha * half_squared_distances(objects, boxes) - logits


def half_squared_distances(objects: Tensor, boxes: Tensor) -> Tensor:
    """1/2 |l - g|^2 over the four coordinates.

    Args:
        objects: (G, 4).
        boxes: (P, 4).

    Returns:
        (G, P).
    """
    total = boxes.new_zeros(len(objects), len(boxes))
    for object_values, box_values in zip(objects.unbind(1), boxes.unbind(1), strict=True):
        total += (object_values[:, None] - box_values).square_()
    return total / 2


class MultiBoxCriterion:
    """F = alpha * F_match + F_conf of the least-cost one-to-one matching, a sum per image, averaged over the images.

    F_match is half the squared distance of each matched prediction from its object, in image sides; F_conf is
    -log c of the matched and -log(1 - c) of the other predictions.

    Source: Erhan et al. 2014, sec. 3.2, eq. 1 to 4.

    Args:
        coder: converts between boxes and offsets from priors.
        matching_cost: the cost that the matching minimises.
        alpha: weight of F_match.
        weight: of both losses.
    """

    def __init__(self, coder: BoxCoder, *, matching_cost: MatchingCost, alpha: float = 0.3, weight: float = 1) -> None:
        self.coder = coder
        self.matching_cost = matching_cost
        self.alpha = alpha
        self.weight = weight

    @torch.no_grad()
    def match(
        self, logits: Tensor, offsets: Tensor, priors: Tensor, targets: Sequence[Targets]
    ) -> list[tuple[Tensor, Tensor]]:
        """The objects and their predictions in each image.

        Args:
            logits: (N, P).
            offsets: (N, P, 4).
            priors: (P, 4) pixels, the same in all images.
            targets: of each image.

        Returns:
            For each image (M,) int64 rows of objects and (M,) of predictions; without matches for objects beyond P.
        """
        costs = []
        for image_logits, image_offsets, truth in zip(logits, offsets, targets, strict=True):
            sides = image_sides(truth.image_size, priors)
            boxes = self.coder.decode(image_offsets, priors) / sides
            objects = truth.boxes.float() / sides
            costs.append(self.matching_cost(image_logits.float(), boxes, priors / sides, objects, self.alpha))
        return match_one_to_one(costs)

    def losses(self, logits: Tensor, offsets: Tensor, priors: Tensor, targets: Sequence[Targets]) -> TrainingOutput:
        """Both losses, and the number of matched predictions and their mean confidence.

        Args:
            logits: (N, P).
            offsets: (N, P, 4).
            priors: (P, 4) pixels, the same in all images.
            targets: of each image.
        """
        matches = self.match(logits, offsets, priors, targets)
        logits = logits.float()
        rows = rows_of_all([predictions for _, predictions in matches], [len(priors)] * len(targets))
        is_matched = torch.zeros_like(logits)
        is_matched.view(-1)[rows] = 1
        differences = [logits.new_zeros(0, 4)]
        for image, (objects, predictions) in enumerate(matches):
            sides = image_sides(targets[image].image_size, priors)
            boxes = self.coder.decode(offsets[image, predictions], priors[predictions])
            differences.append((boxes - targets[image].boxes[objects]) / sides)
        # Also without any match: a term of zero, so that each parameter has a gradient in each step.
        distance = torch.cat(differences).square().sum() / 2 + 0 * offsets.float().sum()
        confidence = logits.detach().flatten()[rows].sigmoid()
        num_images = len(targets)
        return TrainingOutput(
            losses={
                "loss_multibox_conf": LossSum(self.weight * binary_cross_entropy(logits, is_matched), num_images),
                "loss_multibox_loc": LossSum(self.weight * self.alpha * distance, num_images),
            },
            metrics={
                "multibox/num_matched": torch.full((), len(rows) / num_images, device=logits.device),
                "multibox/matched_confidence": confidence.sum() / max(len(rows), 1),
            },
        )


def image_sides(image_size: ImageSize, like: Tensor) -> Tensor:
    """(4,) width, height, width, height: what coordinates are divided by.

    Args:
        image_size: (height, width), without padding.
        like: of the dtype and device of the result.
    """
    height, width = map(float, image_size)
    return constant((width, height, width, height), dtype=like.dtype, device=like.device)


class MultiBox(nn.Module):
    """Predicts a box, as offset from a prior, and a confidence for each prior, and keeps the best as proposals.

    The papers' priors are a fixed set in image coordinates, on square images of one size. Here they are on the cells
    of the maps, as those of Szegedy et al.: at one image size they are such a fixed set, and larger images have more.
    So offsets are predicted in sides of the prior, which a convolution can do without the size of the image; losses
    are computed in image sides, as in the paper. Layers are not shared between maps.

    Args:
        predictors: of each map.
        in_features: names of the maps.
        priors: makes the priors of these maps.
        criterion: matches predictions with objects and computes the losses.
        training_selection: selects the proposals that the next stage is trained on.
        test_selection: selects the proposals at inference.
    """

    needs_targets = False

    def __init__(
        self,
        predictors: Sequence[nn.Module],
        *,
        in_features: Sequence[str],
        priors: AnchorGenerator,
        criterion: MultiBoxCriterion,
        training_selection: ProposalSelection,
        test_selection: ProposalSelection,
    ) -> None:
        super().__init__()
        self.predictors = nn.ModuleList(predictors)
        self.in_features = tuple(in_features)
        self.anchor_generator = priors
        self.criterion = criterion
        self.training_selection = training_selection
        self.test_selection = test_selection

    def forward(self, features: Features) -> tuple[list[Tensor], list[Tensor]]:
        """Predictions for every prior, in the order of the priors.

        Args:
            features: maps of the backbone by name.

        Returns:
            For each map (N, P) logits and (N, P, 4) offsets.
        """
        predictions = [predictor(level) for predictor, level in zip(self.predictors, self._maps(features), strict=True)]
        return (
            [flatten_per_anchor(logits, 1).squeeze(-1) for logits, _ in predictions],
            [flatten_per_anchor(offsets, 4) for _, offsets in predictions],
        )

    def losses(self, features: Features, batch: Batch) -> tuple[list[Proposals], TrainingOutput]:
        """The proposals to train the next stage on, without gradient, and the losses.

        Args:
            features: maps of the backbone by name.
            batch: with targets.
        """
        logits, offsets = self(features)
        priors = self.anchor_generator(self._maps(features))
        output = self.criterion.losses(
            torch.cat(logits, dim=1), torch.cat(offsets, dim=1), torch.cat(priors), batch.require_targets()
        )
        return self.training_selection.select(logits, offsets, priors, batch.image_sizes), output

    def predict(self, features: Features, batch: Batch, *, recorder: Recorder | None = None) -> list[Proposals]:
        """The proposals of each image, most confident first.

        Args:
            features: maps of the backbone by name.
            batch: the images.
            recorder: gets a report of the stage "proposals".
        """
        logits, offsets = self(features)
        priors = self.anchor_generator(self._maps(features))
        return self.test_selection.select(logits, offsets, priors, batch.image_sizes, recorder=recorder)

    def _maps(self, features: Features) -> list[Tensor]:
        return [features[name] for name in self.in_features]


@PROPOSAL_GENERATORS.register("MultiBox")
def build_multibox(cfg: CfgNode, feature_specs: Mapping[str, FeatureSpec]) -> MultiBox:
    """The network of `MODEL.MULTIBOX` with the priors of `MODEL.ANCHOR_GENERATOR`.

    Args:
        cfg: the whole config.
        feature_specs: maps of the backbone by name.

    Raises:
        UserError: IN_FEATURES that the backbone does not have.
    """
    settings = cfg.MODEL.MULTIBOX
    maps = input_maps(settings.IN_FEATURES, feature_specs, section="MULTIBOX")
    priors = build_anchor_generator(cfg, [spec.stride for spec in maps.values()])
    coder = CornerOffsetCoder((1.0, 1.0, 1.0, 1.0))
    costs: dict[str, MatchingCost] = {"priors": cost_of_priors, "predictions": cost_of_predictions}
    return MultiBox(
        [
            MapPredictor(
                spec.channels,
                num_priors=count,
                hidden_channels=_hidden_channels(cfg, spec.channels),
                initial_confidence=settings.INITIAL_CONFIDENCE,
            )
            for spec, count in zip(maps.values(), priors.anchors_per_cell, strict=True)
        ],
        in_features=list(maps),
        priors=priors,
        criterion=MultiBoxCriterion(
            coder,
            matching_cost=choice_of(cfg, "MODEL.MULTIBOX.MATCHING", costs),
            alpha=settings.ALPHA,
            weight=settings.LOSS_WEIGHT,
        ),
        training_selection=_build_selection(cfg, coder, settings.POST_NMS_TOPK_TRAIN),
        test_selection=_build_selection(cfg, coder, settings.POST_NMS_TOPK_TEST),
    )


def _build_selection(cfg: CfgNode, coder: CornerOffsetCoder, post_nms_topk: int) -> ProposalSelection:
    settings = cfg.MODEL.MULTIBOX
    return ProposalSelection(
        coder,
        pre_nms_topk=settings.PRE_NMS_TOPK,
        post_nms_topk=post_nms_topk,
        iou_threshold=settings.NMS_THRESH,
        min_size=cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE,
        joins_levels=True,
    )


def _hidden_channels(cfg: CfgNode, channels: int) -> list[int]:
    """Those of `MODEL.MULTIBOX.CONV_DIMS`, where -1 keeps the number of channels."""
    hidden: list[int] = []
    for dim in cfg.MODEL.MULTIBOX.CONV_DIMS:
        hidden.append(dim if dim > 0 else (hidden[-1] if hidden else channels))
    return hidden
