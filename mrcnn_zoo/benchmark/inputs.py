"""Images and weights for benchmarks: datasets, and random weights with which detectors detect."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.rules import class_count
from mrcnn_zoo.data.annotations.detection import has_annotations
from mrcnn_zoo.data.catalog import load_dataset
from mrcnn_zoo.data.classes import check_num_classes
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.loading.mapper import build_eval_mapper, build_validation_mapper
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inference.image_inputs import image_files
from mrcnn_zoo.modeling.detectors.input_output import Collation
from mrcnn_zoo.structures import Sample


def build_batches(
    cfg: CfgNode, images: str, *, num_batches: int, batch_size: int, is_training: bool
) -> list[list[Sample]]:
    """Batches of images resized for testing (INPUT.MIN_SIZE_TEST, MAX_SIZE_TEST); results are in pixels of that size.

    Args:
        cfg: configures image loading.
        images: name of a dataset or path of a folder; empty for the first of DATASETS.TEST.
        num_batches: at least 1.
        batch_size: images per batch, at least 1.
        is_training: whether only images with objects are used, with their targets.

    Raises:
        UserError: no dataset, more classes to train on than the model has, or too few images.
    """
    dataset = build_dataset(cfg, images)
    if is_training and len(dataset.class_names) > (class_count(cfg) or 0) > 0:
        check_num_classes(cfg, dataset)  # labels of other classes have no logit
    records = tuple(record for record in dataset.records if not is_training or _is_trainable(record))
    needed = num_batches * batch_size
    if len(records) < needed:
        raise UserError(
            f"{dataset.name} has {len(records)} images{' with objects' if is_training else ''}, the benchmark needs "
            f"{needed} ({num_batches} batches of {batch_size}). "
            "Use a smaller --num-batches or --batch-size, or name more images."
        )
    mapper = build_validation_mapper(cfg, dataset) if is_training else build_eval_mapper(cfg)
    samples = [_in_its_own_size(mapper(record, np.random.default_rng(0))) for record in records[:needed]]
    return [samples[start : start + batch_size] for start in range(0, needed, batch_size)]


def build_dataset(cfg: CfgNode, images: str) -> Dataset:
    """The dataset with this name, a folder with annotations, or one of images alone.

    Raises:
        UserError: no name is given and DATASETS.TEST is empty, or the dataset cannot be loaded.
    """
    if not images:
        if not cfg.DATASETS.TEST:
            raise UserError("no images to measure on: name a dataset or a folder with --images, or set DATASETS.TEST.")
        return load_dataset(cfg, cfg.DATASETS.TEST[0])
    folder = Path(images)
    if folder.is_dir() and not _has_annotations(folder):
        return Dataset(images, tuple(_unlabelled(folder)), class_names=(), category_ids=())
    return load_dataset(cfg, images)


def _has_annotations(folder: Path) -> bool:
    return has_annotations(folder) or bool(list(folder.glob("*.json")))  # the error of the loader is about those


def _unlabelled(folder: Path) -> Iterator[ImageRecord]:
    for number, path in enumerate(image_files([folder]), start=1):
        source = FileImage(str(path))
        height, width = source.read().shape[:2]
        yield ImageRecord(image_id=number, source=source, image_size=(height, width))


def _is_trainable(record: ImageRecord) -> bool:
    return any(not instance.is_crowd and instance.segmentation is not None for instance in record.instances)


def _in_its_own_size(sample: Sample) -> Sample:
    """Without rescaling of the results, so that both models produce masks of the same size."""
    return replace(sample, original_size=sample.image_size)


RESIDUAL_GAIN = 0.3  # of each block; with 1 the variance of an untrained ResNet-50 doubles 16 times


CLASS_LOGIT_SPREAD = 2.5  # standard deviation over the regions


FOREGROUND_SHARE = 0.07  # of the regions


DENSE_CANDIDATES = 300  # anchors and classes of a RetinaNet in an image, above ...


DENSE_CANDIDATE_LOGIT = -2.9  # ... a score of 0.05, its usual threshold


@torch.no_grad()
def calibrate_random_weights(model: nn.Module, samples: list[Sample]) -> None:
    """Scale the random weights of a detector so that it detects many instances of several classes.

    The features of a deep network with initial weights grow from block to block, and its classifier predicts the same
    class for every region. Here residual blocks are scaled down, and the classifier is centred and scaled on its own
    inputs: most regions are background, the rest are of various classes. The numbers of candidates and detections are
    then close to those of a trained model on a crowded image.

    Args:
        model: with Detectron2's parameter names; changed in place. Without a classifier only the backbone is changed.
        samples: the images to be measured, or similar ones.
    """
    _scale_backbone(model, samples)
    if "head.cls_score.weight" in model.state_dict():
        _spread_dense_scores(model, samples)
        return
    # In order: the regions of a cascade stage depend on the earlier stages.
    for name, classifier in model.named_modules():
        if name.startswith("roi_heads.") and name.endswith("cls_score") and isinstance(classifier, nn.Linear):
            _spread_region_scores(model, classifier, samples)


def _spread_region_scores(model: nn.Module, classifier: nn.Linear, samples: list[Sample]) -> None:
    """Centre and scale the classifier: most regions are background, the rest are of various classes."""
    seen: list[Tensor] = []
    hook = classifier.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach()))
    was_training = model.training
    model.eval()
    model.predict(samples)  # type: ignore[operator]
    model.train(was_training)
    hook.remove()
    regions = torch.cat(seen)
    centred = (regions - regions.mean(dim=0)) @ classifier.weight.T
    gain = CLASS_LOGIT_SPREAD / centred.std()
    classifier.weight *= gain
    classifier.bias.copy_(-classifier.weight @ regions.mean(dim=0))
    lead_of_best = gain * (centred[:, :-1].amax(dim=1) - centred[:, -1])
    classifier.bias[-1] += torch.quantile(lead_of_best, 1 - FOREGROUND_SHARE)


def _scale_backbone(model: nn.Module, samples: list[Sample]) -> None:
    state = model.state_dict()
    brightness = torch.stack([sample.image.float().std() for sample in samples]).mean()
    if isinstance(collation := getattr(model, "collate", None), Collation):
        brightness = brightness / collation.pixel_std.mean().cpu()
    for name, tensor in state.items():
        if name.endswith("stem.conv1.norm.weight"):
            tensor.fill_(1 / max(float(brightness), 1.0))
        last_of_block = re.fullmatch(r"(.*res\d\.\d+)\.conv(\d)\.norm\.weight", name)
        if last_of_block and f"{last_of_block[1]}.conv{int(last_of_block[2]) + 1}.weight" not in state:
            tensor.fill_(RESIDUAL_GAIN)


def _spread_dense_scores(model: nn.Module, samples: list[Sample]) -> None:
    """Scale RetinaNet's classifier: few scores pass the threshold, and these differ."""
    classifier = model.get_submodule("head.cls_score")
    seen: list[Tensor] = []
    hook = classifier.register_forward_hook(lambda _, __, output: seen.append(output.flatten()))
    model.eval()
    model.predict(samples)  # type: ignore[operator]
    hook.remove()
    logits = torch.cat(seen)
    gain = CLASS_LOGIT_SPREAD / logits.std()
    classifier.weight *= gain  # type: ignore[operator]
    rank = DENSE_CANDIDATES * len(samples)
    threshold = gain * logits.sort(descending=True).values[min(rank, len(logits) - 1)]
    # All initial biases are equal.
    classifier.bias.mul_(gain).add_(DENSE_CANDIDATE_LOGIT - threshold)  # type: ignore[operator, union-attr]
