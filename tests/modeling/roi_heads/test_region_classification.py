"""What class logits mean: by hand, and by the names of the config."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.roi_heads.region_classification import (
    FederatedClassification,
    FocalClassification,
    SigmoidClassification,
    SoftmaxClassification,
    build_region_classification,
)

HEAD = "MODEL.ROI_BOX_HEAD"


def federated(*, least_classes: int, power: float = 0.5, counts: tuple[int, ...] = (0, 1, 4, 100)) -> Any:
    made = FederatedClassification(4, least_classes=least_classes, frequency_power=power)
    made.set_class_counts(torch.tensor(counts))
    return made


def test_focal_classification_agrees_with_torchvision() -> None:
    logits = torch.randn((5, 4), generator=torch.Generator().manual_seed(0)).requires_grad_()
    classes = torch.tensor([0, 3, 1, -1, 2])  # 3 is background
    targets = torch.zeros(4, 3)
    targets[0, 0] = targets[2, 1] = targets[3, 2] = 1
    expected = sigmoid_focal_loss(logits[[0, 1, 2, 4], :3], targets, alpha=0.3, gamma=1.5, reduction="sum")
    ours = FocalClassification(alpha=0.3, gamma=1.5).loss(logits, classes)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (ours, expected)]
    torch.testing.assert_close(*gradients)


def test_federated_loss_without_sampling_uses_the_classes_in_the_batch() -> None:
    loss = federated(least_classes=1).loss(torch.zeros(3, 5), torch.tensor([2, 2, 4]))
    assert loss.item() == pytest.approx(3 * math.log(2))  # three regions, class 2 alone


def test_federated_loss_of_all_classes_equals_the_sigmoid_loss() -> None:
    logits = torch.randn((4, 5), generator=torch.Generator().manual_seed(0))
    classes = torch.tensor([0, 2, 4, -1])
    ours = federated(least_classes=50, counts=(1, 1, 1, 1)).loss(logits, classes)
    assert ours.item() == pytest.approx(SigmoidClassification().loss(logits, classes).item(), rel=1e-5)


def test_federated_loss_samples_by_frequency_and_never_absent_classes() -> None:
    torch.manual_seed(0)
    made = federated(least_classes=2)
    drawn = Counter(tuple(made.sample_classes(torch.tensor([1, 4])).nonzero().flatten().tolist()) for _ in range(2000))
    # Class 1 is present; of the others class 2 has the weight 2 and class 3 the weight 10; class 0 has none.
    assert set(drawn) == {(1, 2), (1, 3)}
    assert drawn[1, 2] / 2000 == pytest.approx(2 / 12, abs=0.03)
    assert set(map(int, federated(least_classes=4).sample_classes(torch.tensor([4])).nonzero())) == {1, 2, 3}


def test_federated_loss_keeps_all_classes_of_the_batch() -> None:
    sampled = federated(least_classes=2).sample_classes(torch.tensor([0, 1, 2, 4, -1]))
    assert sampled.tolist() == [True, True, True, False]


def test_federated_loss_needs_class_counts() -> None:
    made = FederatedClassification(4, least_classes=2, frequency_power=0.5)
    with pytest.raises(UserError, match="set_class_counts"):
        made.loss(torch.zeros(1, 5), torch.tensor([0]))
    with pytest.raises(ValueError, match="4 classes"):
        made.set_class_counts(torch.ones(5))


def test_federated_counts_are_not_in_the_checkpoint() -> None:
    assert federated(least_classes=2).state_dict() == {}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ((), SoftmaxClassification),
        ((f"{HEAD}.CLS_LOSS_TYPE", "sigmoid"), SigmoidClassification),
        ((f"{HEAD}.USE_SIGMOID_CE", True), SigmoidClassification),
        ((f"{HEAD}.USE_SIGMOID_CE", True, f"{HEAD}.CLS_LOSS_TYPE", "sigmoid"), SigmoidClassification),
        ((f"{HEAD}.USE_SIGMOID_CE", True, f"{HEAD}.USE_FED_LOSS", True), FederatedClassification),
    ],
)
def test_detectron2_switches_select_the_classification(
    settings: tuple[Any, ...], expected: type, small_cfg: Callable[..., CfgNode]
) -> None:
    assert type(build_region_classification(small_cfg(*settings))) is expected


def test_unknown_classification_gets_the_nearest_name(small_cfg: Callable[..., CfgNode]) -> None:
    with pytest.raises(UserError, match="Did you mean 'sigmoid'"):
        build_region_classification(small_cfg(f"{HEAD}.CLS_LOSS_TYPE", "sigmoyd"))
