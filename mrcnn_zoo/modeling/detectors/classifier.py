"""A classifier of one-object images, which pretrains the backbone of a detector."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.layers.conv import caffe2_xavier_init_
from mrcnn_zoo.losses.classification import softmax_cross_entropy
from mrcnn_zoo.modeling.backbones import build_backbone
from mrcnn_zoo.modeling.contracts import Backbone, Features
from mrcnn_zoo.modeling.detectors.input_output import Collation, losses_or_detections
from mrcnn_zoo.ops import boxes as box_ops
from mrcnn_zoo.registries import DETECTORS
from mrcnn_zoo.structures import Batch, Detections, FeatureSpec, ImageSize, LossSum, Sample, Targets, TrainingOutput


class ClassifierHead(nn.Module):
    """Dense layers and the logits of K classes and "no object", from feature maps averaged over their image.

    Args:
        specs: of the maps that are averaged and concatenated, by name.
        num_classes: K; logit K is that of "no object".
        fc_channels: outputs of each dense layer.
        dropout: share of the outputs of each dense layer that training sets to 0, in [0, 1).
    """

    def __init__(
        self, specs: Mapping[str, FeatureSpec], *, num_classes: int, fc_channels: Sequence[int], dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.strides = {name: spec.stride for name, spec in specs.items()}
        channels = sum(spec.channels for spec in specs.values())
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, width in enumerate(fc_channels, start=1):
            linear = nn.Linear(channels, width)
            caffe2_xavier_init_(linear)
            layers[f"fc{number}"] = linear
            layers[f"relu{number}"] = nn.ReLU(inplace=True)
            layers[f"dropout{number}"] = nn.Dropout(dropout)
            channels = width
        self.dense = nn.Sequential(layers)
        self.cls_score = nn.Linear(channels, num_classes + 1)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.zeros_(self.cls_score.bias)

    def forward(self, features: Features, image_sizes: Sequence[ImageSize]) -> Tensor:
        """The class logits of each image.

        Args:
            features: (N, C, H, W) of each map.
            image_sizes: (height, width) of each image in its padded batch; cells of the padding do not count.

        Returns:
            (N, K + 1) float32.
        """
        pooled = [mean_over_images(features[name], image_sizes, stride) for name, stride in self.strides.items()]
        return self.cls_score(self.dense(torch.cat(pooled, dim=1))).float()


def mean_over_images(maps: Tensor, image_sizes: Sequence[ImageSize], stride: int) -> Tensor:
    """The mean of each feature map over the cells that its image covers at least in part.

    Args:
        maps: (N, C, H, W).
        image_sizes: (height, width) of each image in pixels, without padding.
        stride: pixels per cell.

    Returns:
        (N, C).
    """
    covered = [(-(-height // stride), -(-width // stride)) for height, width in image_sizes]
    if all(rows >= maps.shape[2] and columns >= maps.shape[3] for rows, columns in covered):
        return maps.mean(dim=(2, 3))
    means = [image[:, :rows, :columns].mean(dim=(1, 2)) for image, (rows, columns) in zip(maps, covered, strict=True)]
    return torch.stack(means)


class Classifier(nn.Module):
    """Backbone, dense layers, softmax over K classes and "no object".

    Trained on images that show one object each, about as large as the image, or none. Its weights under `backbone.`
    have the names that they have in a detector, which starts from them with MODEL.WEIGHTS.

    Source: Girshick et al. 2014 (R-CNN), sec. 2.3: crops of objects and background, classified by a softmax over K + 1
    classes.

    Args:
        backbone: pixels to feature maps.
        head: feature maps to class logits.
        pixel_mean: of each input channel, pixel units.
        pixel_std: of each input channel, pixel units.
    """

    forward = losses_or_detections

    def __init__(
        self, backbone: Backbone, *, head: ClassifierHead, pixel_mean: Sequence[float], pixel_std: Sequence[float]
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = head
        self.collate = Collation(pixel_mean, pixel_std, size_divisibility=backbone.size_divisibility)

    def losses(self, samples: list[Sample]) -> TrainingOutput:
        """The cross entropy of the classes of the images.

        Args:
            samples: images with targets; the class of an image is that of its largest object, or "no object".

        Raises:
            ValueError: a sample has no targets.
        """
        batch = self.collate(samples)
        targets = batch.require_targets()
        logits = self._logits(batch)
        classes = classes_of_images(targets, num_classes=logits.shape[1] - 1)
        loss = LossSum(softmax_cross_entropy(logits, classes), len(samples))
        accuracy = (logits.detach().argmax(dim=1) == classes).float().mean()
        return TrainingOutput({"loss_cls": loss}, {"classifier/accuracy": accuracy})

    @torch.no_grad()
    def predict(self, samples: list[Sample]) -> list[Detections]:
        """The K classes of each image as detections of the size of the image, scored by their probability, best first.

        The probability of "no object" is 1 minus the sum of the scores.

        Args:
            samples: images.
        """
        batch = self.collate(samples)
        probabilities = self._logits(batch).softmax(dim=1)[:, :-1]
        scores, classes = probabilities.sort(dim=1, descending=True)
        boxes = [(0.0, 0.0, float(width), float(height)) for height, width in (s.original_size for s in samples)]
        corners = torch.tensor(boxes, device=scores.device)[:, None].expand(-1, scores.shape[1], -1)
        return [
            Detections(image_size=sample.original_size, boxes=corners[row], scores=scores[row], classes=classes[row])
            for row, sample in enumerate(samples)
        ]

    def _logits(self, batch: Batch) -> Tensor:
        return self.classifier(self.backbone(batch.pixels), batch.image_sizes)


def classes_of_images(targets: Sequence[Targets], *, num_classes: int) -> Tensor:
    """(N,) int64 class of the largest object of each image, or K for an image without objects.

    Args:
        targets: of N images.
        num_classes: K.
    """
    # One row of a tensor, not a scalar index, which would copy the index to the host.
    largest = [
        table.classes[box_ops.area(table.boxes).argmax(dim=0, keepdim=True)]
        if len(table)
        else table.classes.new_full((1,), num_classes)
        for table in targets
    ]
    return torch.cat(largest)


@DETECTORS.register("Classifier")
def build_classifier(cfg: CfgNode) -> Classifier:
    """The backbone of `MODEL` with the layers of MODEL.CLASSIFIER, on the CPU with initial weights.

    Args:
        cfg: the whole config.

    Raises:
        UserError: MODEL.CLASSIFIER.IN_FEATURES names a map that the backbone does not return.
    """
    backbone, settings = build_backbone(cfg, len(cfg.MODEL.PIXEL_MEAN)), cfg.MODEL.CLASSIFIER
    specs = backbone.output_specs
    unknown = [name for name in settings.IN_FEATURES if name not in specs]
    if unknown:
        raise UserError(
            f"MODEL.CLASSIFIER.IN_FEATURES = {list(settings.IN_FEATURES)} names {', '.join(unknown)}, but "
            f"{cfg.MODEL.BACKBONE.NAME} returns {', '.join(specs)}. Name some of these, or none for all."
        )
    head = ClassifierHead(
        {name: specs[name] for name in settings.IN_FEATURES or specs},
        num_classes=settings.NUM_CLASSES,
        fc_channels=[settings.FC_DIM] * settings.NUM_FC,
        dropout=settings.DROPOUT,
    )
    return Classifier(backbone, head=head, pixel_mean=cfg.MODEL.PIXEL_MEAN, pixel_std=cfg.MODEL.PIXEL_STD)
