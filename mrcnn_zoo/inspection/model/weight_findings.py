"""Weights of a model beside its initial ones: histograms, dead and exploding layers, silent channels."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from mrcnn_zoo.errors import counted
from mrcnn_zoo.inspection.figures import new_figure
from mrcnn_zoo.inspection.model.module_times import OutputWatcher

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NEAR_ZERO = 1e-3  # scale of a norm whose channel is nearly constant
TYPICAL_FACTOR, LARGEST_FACTOR = 10.0, 100.0  # of the initial scale: root mean square, and largest value of a layer
SILENT_SHARE = 0.5  # of the channels of a layer that are 0 everywhere
MAX_PANELS, BINS = 24, 81
FINDINGS_SHOWN = 40


@dataclass(frozen=True)
class Finding:
    """Something unusual in one layer."""

    module: str
    kind: str  # "not finite", "zero filters", "small norm", "large weights", "silent channels"
    text: str

    def __str__(self) -> str:
        """For the command line."""
        return f"{self.module}: {self.text}"


def find_in_weights(model: nn.Module, initial: nn.Module | None = None) -> list[Finding]:
    """Layers with values that are not finite, filters of zeros, norms near 0, or weights far beyond the initial ones.

    The initial scale of a layer is the root mean square of its initial weights, but at least 1 / sqrt(fan in), as
    the last layers of detectors begin with much smaller ones.

    Args:
        model: with the weights to examine.
        initial: the same model with initial weights; None if those of `model` are.
    """
    begin = dict((initial or model).named_parameters())
    findings = []
    for name, parameter in [*model.named_parameters(), *model.named_buffers()]:
        module = name.rpartition(".")[0]
        values = parameter.detach().float()
        if not values.isfinite().all():
            count = int((~values.isfinite()).sum())
            findings.append(
                Finding(module, "not finite", f"{count} of {values.numel()} values of {name} are NaN or inf")
            )
        elif _is_scale_of_norm(model.get_submodule(module), name):
            findings += _small_scales(module, values)
        elif values.dim() > 1 and name in begin:
            is_transposed = isinstance(model.get_submodule(module), nn.ConvTranspose2d)
            first = begin[name].detach().float().to(values.device)
            findings += _zero_filters(module, values, first, axis=1 if is_transposed else 0)
            findings += _large_weights(module, values, first) if initial is not None else []
    return findings


def _is_scale_of_norm(module: nn.Module, name: str) -> bool:
    """Whether a parameter or buffer is the (C,) scale of a norm, which alone has one dimension and this name."""
    weight = getattr(module, "weight", None)
    return name.endswith(".weight") and isinstance(weight, Tensor) and weight.dim() == 1


def _small_scales(module: str, scales: Tensor) -> list[Finding]:
    count = int((scales.abs() < NEAR_ZERO).sum())
    text = f"the norm's weight is below {NEAR_ZERO:g} in {count} of {len(scales)} channels, which are nearly constant"
    return [Finding(module, "small norm", text)] if count else []


def _zero_filters(module: str, values: Tensor, initial: Tensor, *, axis: int) -> list[Finding]:
    is_zero = (values.transpose(0, axis).flatten(1) == 0).all(dim=1)
    starts_at_zero = (initial.transpose(0, axis).flatten(1) == 0).all(dim=1)
    count, unchanged = int(is_zero.sum()), int((is_zero & starts_at_zero).sum())
    if not count:
        return []
    note = f", {unchanged} of them still at their initial 0" if unchanged else ""
    return [Finding(module, "zero filters", f"{count} of {len(is_zero)} filters have weights of 0 only{note}")]


def _large_weights(module: str, values: Tensor, initial: Tensor) -> list[Finding]:
    scale = max(_root_mean_square(initial), 1 / math.sqrt(values[0].numel()))
    typical, largest = _root_mean_square(values), float(values.abs().max())
    if typical <= TYPICAL_FACTOR * scale and largest <= LARGEST_FACTOR * scale:
        return []
    text = f"root mean square {typical:.3g}, largest {largest:.3g}, where the layer begins with a scale of {scale:.3g}"
    return [Finding(module, "large weights", text)]


def _root_mean_square(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def find_in_outputs(outputs: OutputWatcher) -> list[Finding]:
    """Modules whose outputs are not finite, or of which most channels are 0 everywhere in the image.

    Args:
        outputs: of a prediction.
    """
    findings = [
        Finding(name, "not finite", "the output has values that are NaN or inf") for name in sorted(outputs.not_finite)
    ]
    for name, (silent, count) in outputs.silent().items():
        if silent >= SILENT_SHARE * count:
            text = f"{silent} of {count} channels of the output are 0 everywhere in this image"
            findings.append(Finding(name, "silent channels", text))
    return findings


def findings_text(findings: Sequence[Finding], *, examined: str) -> str:
    """The findings, at most FINDINGS_SHOWN, or that there are none.

    Args:
        findings: of a model.
        examined: what was examined.
    """
    if not findings:
        return f"dead and exploding layers: none in {examined}"
    shown = [f"  {finding.kind}: {finding}" for finding in findings[:FINDINGS_SHOWN]]
    more = [f"  and {len(findings) - FINDINGS_SHOWN} more"] if len(findings) > FINDINGS_SHOWN else []
    return "\n".join([f"dead and exploding layers: {counted(len(findings), 'finding')} in {examined}", *shown, *more])


def grouped_weights(model: nn.Module, *, depth: int) -> dict[str, Tensor]:
    """The values of all weights of at least two dimensions, by the module at a depth.

    Args:
        model: a detector.
        depth: number of parts of the names.

    Returns:
        (W,) float32 on the CPU by module name.
    """
    groups: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            group = ".".join(name.split(".")[:-1][: max(1, depth)])
            groups.setdefault(group, []).append(parameter.detach().float().flatten().cpu())
    return {name: torch.cat(values) for name, values in groups.items()}


def weight_figure(model: nn.Module, initial: nn.Module | None, findings: Sequence[Finding], *, depth: int) -> "Figure":
    """A histogram of the weights of each module beside the initial ones; those with findings have red titles.

    Args:
        model: with the weights.
        initial: the same model with initial weights; None if those of `model` are.
        findings: of the model.
        depth: see `grouped_weights`; smaller where there would be more than MAX_PANELS modules.
    """
    groups = grouped_weights(model, depth=depth)
    while len(groups) > MAX_PANELS and depth > 1:
        depth -= 1
        groups = grouped_weights(model, depth=depth)
    begin: Mapping[str, Tensor] = {} if initial is None else grouped_weights(initial, depth=depth)
    columns = min(4, len(groups))
    rows = -(-len(groups) // columns)
    figure = new_figure(columns=1)
    figure.set_size_inches(3.4 * columns, 2.4 * rows + 0.4)
    figure.suptitle("weights (blue) and initial weights (black), counts on a logarithmic axis", fontsize=10)
    panels = np.atleast_1d(figure.subplots(rows, columns)).flatten()
    for axes, (name, values) in zip(panels, groups.items(), strict=False):
        kinds = sorted({item.kind for item in findings if _is_below(item.module, name)})
        finite = values[values.isfinite()]
        extent = max(float(finite.abs().max()) if len(finite) else 0.0, 1e-6)
        edges = np.linspace(-extent, extent, BINS).tolist()
        axes.hist(finite.numpy(), bins=edges, color="C0")
        if name in begin:
            axes.hist(begin[name].numpy(), bins=edges, histtype="step", color="black", linewidth=0.8)
        axes.set_yscale("log")
        title = f"{name}\nstd {float(finite.std(correction=0)) if len(finite) else math.nan:.3g}"
        title += "; " + ", ".join(kinds) if kinds else ""
        axes.set_title(title, fontsize=7, color="red" if kinds else "black")
        axes.tick_params(labelsize=6)
    for axes in panels[len(groups) :]:
        axes.axis("off")
    return figure


def _is_below(module: str, group: str) -> bool:
    return module == group or module.startswith(f"{group}.")
