"""Random weights with which a detector detects, so that its whole inference can be measured without training it."""

import re

import torch
from torch import Tensor, nn

from mrcnn_zoo.modeling.detectors.collation import Collation
from mrcnn_zoo.structures import Sample

RESIDUAL_GAIN = 0.3  # what a block adds; at 1 the features of an untrained ResNet-50 double in variance 16 times
CLASS_LOGIT_SPREAD = 2.5  # standard deviation over the regions
FOREGROUND_SHARE = 0.07  # of the regions, a class beats the background
DENSE_CANDIDATES = 300  # anchors and classes of a RetinaNet in an image, above ...
DENSE_CANDIDATE_LOGIT = -2.9  # ... a score of 0.05, its usual threshold


@torch.no_grad()
def bring_to_life(model: nn.Module, samples: list[Sample]) -> None:
    """Change the fresh weights of a detector so that on these samples it finds many, differing instances.

    The features of a deep network with fresh weights explode, and its classifier then says the same of every region: it
    finds nothing, or one class everywhere. A score threshold of 0 makes every region a candidate for every class, which
    is more work than any real image. Here the backbone keeps its scale, and the classifier is centred and spread on
    what it sees: most regions are background, the rest are of various classes. Numbers of candidates and of detections
    are then close to those of a trained model on a crowded image.

    Args:
        model: with Detectron2's parameter names; changed in place. Of one that only proposes, the backbone is.
        samples: what it is going to be measured on, or some like it.
    """
    _scale_backbone(model, samples)
    if "head.cls_score.weight" in model.state_dict():
        _spread_dense_scores(model, samples)
        return
    # One after another: the regions of a stage of a cascade depend on the stages before. Proposals have no classes.
    for name, classifier in model.named_modules():
        if name.startswith("roi_heads.") and name.endswith("cls_score") and isinstance(classifier, nn.Linear):
            _spread_region_scores(model, classifier, samples)


def _spread_region_scores(model: nn.Module, classifier: nn.Linear, samples: list[Sample]) -> None:
    """Most regions are background, the rest of various classes."""
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
    """Of all scores of a RetinaNet, few pass the threshold, and these differ."""
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
    # All biases are equal in fresh weights.
    classifier.bias.mul_(gain).add_(DENSE_CANDIDATE_LOGIT - threshold)  # type: ignore[operator, union-attr]
