"""Planted faults in weights are found, each under its layer, and nothing in a fresh model."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mrcnn_zoo.config import load_config
from mrcnn_zoo.inspection.figures import picture_of
from mrcnn_zoo.inspection.model.module_times import OutputWatcher
from mrcnn_zoo.inspection.model.weight_findings import (
    find_in_outputs,
    find_in_weights,
    findings_text,
    grouped_weights,
    weight_figure,
)
from mrcnn_zoo.modeling import build_model
from support.small_models import TINY_YAML


@pytest.fixture
def build() -> Callable[[], nn.Module]:
    return lambda: build_model(load_config(TINY_YAML, []))


LAYER = "roi_heads.mask_head.mask_fcn1"
NORM = "backbone.bottom_up.res2.0.conv1.norm"

FAULTS: list[tuple[str, str, Callable[[Tensor], object], str]] = [
    (f"{LAYER}.weight", "zero filters", lambda w: w[3:5].zero_(), "2 of 32 filters have weights of 0 only"),
    ("roi_heads.mask_head.deconv.weight", "zero filters", lambda w: w[:, 1].zero_(), "1 of 32 filters"),
    (f"{LAYER}.weight", "not finite", lambda w: w[0, 0, 0].fill_(torch.nan), "3 of 9216 values of"),
    (f"{LAYER}.bias", "not finite", lambda w: w[:1].fill_(torch.inf), "1 of 32 values of"),
    (f"{LAYER}.weight", "large weights", lambda w: w.mul_(30), "root mean square"),
    (f"{LAYER}.weight", "large weights", lambda w: w[0, 0, 0, :1].fill_(50.0), "largest 50"),
    (f"{NORM}.weight", "small norm", lambda w: w[:2].fill_(1e-4), "below 0.001 in 2 of 16 channels"),
]


@pytest.mark.parametrize(("name", "kind", "damage", "text"), FAULTS)
def test_a_planted_fault_is_the_only_finding(
    name: str, kind: str, damage: Callable[[Tensor], object], text: str, build: Callable[[], nn.Module]
) -> None:
    model = build()
    with torch.no_grad():
        damage(model.get_parameter(name))
    (finding,) = find_in_weights(model, build())
    assert (finding.module, finding.kind) == (name.rpartition(".")[0], kind)
    assert text in finding.text
    assert f"1 finding in the weights\n  {kind}: {finding}" in findings_text([finding], examined="the weights")


def test_a_fresh_model_has_no_findings(build: Callable[[], nn.Module]) -> None:
    assert find_in_weights(build(), build()) == []
    assert find_in_weights(build()) == []
    assert findings_text([], examined="the weights") == "dead and exploding layers: none in the weights"


def test_layers_that_begin_with_zeros_are_noted(build: Callable[[], nn.Module]) -> None:
    model, initial = build(), build()
    for one in (model, initial):
        nn.init.zeros_(one.get_parameter(f"{LAYER}.weight"))
    (finding,) = find_in_weights(model, initial)
    assert finding.text.endswith("32 of 32 filters have weights of 0 only, 32 of them still at their initial 0")


def test_layers_with_mostly_silent_channels_are_found() -> None:
    outputs = OutputWatcher()
    outputs.watch("half", nn.ReLU(), torch.tensor([[1.0, 0]]))
    outputs.watch("third", nn.ReLU(), torch.tensor([[1.0, 1, 0]]))
    outputs.watch("broken", nn.ReLU(), torch.tensor([[torch.inf, 1]]))
    assert [(item.module, item.kind) for item in find_in_outputs(outputs)] == [
        ("broken", "not finite"),
        ("half", "silent channels"),
    ]


def test_histograms_have_all_weights(build: Callable[[], nn.Module]) -> None:
    model = build()
    groups = grouped_weights(model, depth=1)
    assert {name: len(values) for name, values in groups.items()} == {
        name: sum(parameter.numel() for parameter in part.parameters() if parameter.dim() > 1)
        for name, part in model.named_children()
        if name != "collate"
    }
    with torch.no_grad():
        model.get_parameter(f"{LAYER}.weight").mul_(30)
    initial = build()
    figure = weight_figure(model, initial, find_in_weights(model, initial), depth=1)
    counts = [sum(bar.get_height() for bar in axes.patches[:80]) for axes in figure.axes[:3]]  # type: ignore[attr-defined]
    assert counts == [len(values) for values in groups.values()]
    assert [axes.title.get_color() for axes in figure.axes[:3]] == ["black", "black", "red"]
    assert picture_of(figure).shape[2] == 3
