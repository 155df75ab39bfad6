"""Classifier: logits of whole images, and a backbone that a detector starts from."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mrcnn_zoo.checkpoint import load_weights, load_weights_file, read_weights
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.modeling.detectors.classifier import Classifier, ClassifierHead, classes_of_images, mean_over_images
from mrcnn_zoo.structures import FeatureSpec, Sample, Targets

Load = Callable[..., CfgNode]
OF_CLASSIFIER = ("MODEL.META_ARCHITECTURE", "Classifier", "MODEL.CLASSIFIER.NUM_CLASSES", 5)


def crop(class_index: int | None, *, side: int = 32, seed: int = 0) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    rows = 0 if class_index is None else 1
    boxes = torch.tensor([[0.0, 0.0, side, side]])[:rows]
    classes = torch.tensor([class_index or 0])[:rows]
    image = torch.randint(0, 256, (3, side, side), generator=generator, dtype=torch.uint8)
    return Sample(image, seed, (2 * side, 3 * side), Targets((side, side), boxes, classes))


@pytest.fixture(scope="module")
def model(small_cfg: Load) -> Classifier:
    torch.manual_seed(0)
    model = build_model(small_cfg(*OF_CLASSIFIER))
    assert isinstance(model, Classifier)
    return model.eval()


def test_loss_is_minus_the_logarithm_of_the_probability_of_the_class(model: Classifier) -> None:
    samples = [crop(3), crop(None, seed=1)]
    output = model.losses(samples)
    (of_object, of_background) = model.predict(samples)
    probability = of_object.scores[of_object.classes == 3].item()
    expected = -math.log(probability) - math.log(1 - of_background.scores.sum().item())
    assert output.sums["loss_cls"].count == 2
    assert output.sums["loss_cls"].value.item() == pytest.approx(expected, rel=1e-4)


def test_every_class_is_a_detection_of_the_size_of_the_image(model: Classifier) -> None:
    (found,) = model.predict([crop(0)])
    assert sorted(found.classes.tolist()) == [0, 1, 2, 3, 4]
    assert found.boxes.tolist() == [[0, 0, 96, 64]] * 5
    assert 0 < found.scores.sum() < 1  # the rest is "no object"


def test_class_of_an_image_is_that_of_its_largest_object() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 9, 9], [0, 0, 5, 5]])
    several = Targets((9, 9), boxes, torch.tensor([1, 2, 0]))
    assert classes_of_images([several, several[:0]], num_classes=7).tolist() == [2, 7]


def test_padding_does_not_change_the_mean_of_a_map() -> None:
    maps = torch.arange(2 * 16, dtype=torch.float32).reshape(2, 1, 4, 4)
    means = mean_over_images(maps, [(16, 16), (5, 8)], stride=4)
    # The second image covers two rows, one of them in part, and two columns: cells 16, 17, 20 and 21.
    assert means.tolist() == [[7.5], [18.5]]


def test_features_of_all_maps_are_concatenated() -> None:
    specs = {"p2": FeatureSpec(1, stride=4), "p3": FeatureSpec(2, stride=8)}
    head = ClassifierHead(specs, num_classes=2, fc_channels=())
    torch.nn.init.eye_(head.cls_score.weight)
    features = {"p3": torch.full((1, 2, 1, 1), 5.0), "p2": torch.full((1, 1, 2, 2), 3.0)}
    assert head(features, [(8, 8)]).tolist() == [[3, 5, 5]]


def test_every_weight_of_the_pyramid_is_trained(model: Classifier) -> None:
    model.zero_grad()
    model.losses([crop(1)]).total().backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    levels = [name for name in gradients if name.startswith("backbone.fpn_")]
    assert len(levels) == 16  # weight and bias of a lateral and an output convolution per level
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in map(gradients.get, levels))


def test_features_that_the_backbone_does_not_return_are_named(small_cfg: Load) -> None:
    with pytest.raises(UserError, match=r"IN_FEATURES = \['res9'\] names res9, but .* returns p2, p3, p4, p5, p6"):
        build_model(small_cfg(*OF_CLASSIFIER, "MODEL.CLASSIFIER.IN_FEATURES", ["res9"]))


@pytest.mark.parametrize("fc_dim", [64, 8192])  # of both models the backbone may be a small part
def test_detector_starts_from_the_backbone_of_a_classifier(small_cfg: Load, tmp_path: Path, fc_dim: int) -> None:
    pretrained = build_model(small_cfg(*OF_CLASSIFIER, "MODEL.CLASSIFIER.FC_DIM", fc_dim))
    torch.save({"model": pretrained.state_dict(), "class_names": list("abcde")}, tmp_path / "model_final.pth")
    detector = build_model(small_cfg("MODEL.ROI_BOX_HEAD.FC_DIM", fc_dim // 8))
    heads_before = {name: value.clone() for name, value in detector.roi_heads.state_dict().items()}  # type: ignore[union-attr]
    report = load_weights(detector, tmp_path / "model_final.pth")

    loaded = detector.backbone.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(loaded[name], value) for name, value in pretrained.backbone.state_dict().items())  # type: ignore[union-attr]
    assert all(torch.equal(value, heads_before[name]) for name, value in detector.roi_heads.state_dict().items())  # type: ignore[union-attr]
    assert {name.split(".")[0] for name in report.loaded} == {"backbone"}
    assert {name.split(".")[0] for name in report.missing} == {"proposal_generator", "roi_heads"}
    assert {name.split(".")[0] for name in report.skipped} == {"classifier"}
    assert not report.mismatched
    assert "missing in the file" in str(report)


def test_classifier_of_other_classes_starts_from_their_common_rows(small_cfg: Load, tmp_path: Path) -> None:
    pretrained = build_model(small_cfg(*OF_CLASSIFIER))
    torch.save({"model": pretrained.state_dict(), "class_names": list("abcde")}, tmp_path / "model_final.pth")
    model = build_model(small_cfg(*OF_CLASSIFIER, "MODEL.CLASSIFIER.NUM_CLASSES", 2))
    load_weights_file(model, read_weights(tmp_path / "model_final.pth"), class_names=("e", "b"))
    rows = model.classifier.cls_score.weight  # type: ignore[union-attr]
    assert torch.equal(rows, pretrained.classifier.cls_score.weight[[4, 1, 5]])  # type: ignore[union-attr,index]
