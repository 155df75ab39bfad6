"""Parameters, FLOPs, activations, output shapes and times of a detector by module, as rows and tables."""

import csv
import io
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn

from mrcnn_zoo.inference.image_detector import inference
from mrcnn_zoo.inspection.model.module_times import OutputWatcher, around_calls, time_modules, watch_outputs
from mrcnn_zoo.structures import Detections, Sample

MODEL = "model"  # name of the whole in tables

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModuleRow:
    """The numbers of one module with all modules below it."""

    name: str  # "" for the model
    kind: str  # class
    parameters: int
    trainable: int
    flops: int  # multiply-adds count as one
    activations: int  # values in the outputs of convolutions and matrix products
    shape: str  # of the first output; empty for modules without a call of their own
    seconds: float
    rest: float  # seconds that are in none of the modules directly below

    @property
    def depth(self) -> int:
        """0 for the model, 1 for its parts."""
        return self.name.count(".") + 1 if self.name else 0


@dataclass(frozen=True)
class ModelAnalysis:
    """The rows of all modules, in the order of the model, and what was not counted."""

    rows: tuple[ModuleRow, ...]
    uncounted: Mapping[str, int]  # operations without a rule, by name, with their number
    outputs: OutputWatcher

    def row(self, name: str) -> ModuleRow:
        """The row of a module; "" for the model."""
        return next(row for row in self.rows if row.name == name)


def analyze_model(model: nn.Module, sample: Sample, *, repeats: int = 3) -> ModelAnalysis:
    """Count, watch and time one prediction.

    Args:
        model: a detector; its training mode is restored.
        sample: the image.
        repeats: number of timed runs; the one of median length counts.
    """

    def run() -> object:
        return model.predict([sample])  # type: ignore[operator]

    with inference(model):
        flops, uncounted = count_by_module(model, sample, kind="flops")
        activations, _ = count_by_module(model, sample, kind="activations")
        outputs = watch_outputs(model, run)
        seconds = time_modules(model, run, repeats=repeats)
    rows = []
    for name, module in model.named_modules():
        below = [seconds.get(f"{name}.{child}".lstrip("."), 0.0) for child, _ in module.named_children()]
        parameters = list(module.parameters())
        rows.append(
            ModuleRow(
                name=name,
                kind=type(module).__name__,
                parameters=sum(parameter.numel() for parameter in parameters),
                trainable=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
                flops=flops.get(name, 0),
                activations=activations.get(name, 0),
                shape=outputs.shapes.get(name, ""),
                seconds=seconds[name],
                rest=seconds[name] - sum(below),
            )
        )
    return ModelAnalysis(tuple(rows), uncounted, outputs)


class _Traced(nn.Module):
    """A detector as a function of an image tensor, as tracing needs it.

    Tracing drops what no output depends on, so a value of the output of each module and of each column of the
    detections is returned.
    """

    def __init__(self, model: nn.Module, sample: Sample) -> None:
        super().__init__()
        self.model = model
        self.sample = sample

    def forward(self, image: Tensor) -> list[Tensor]:
        """(C, H, W) -> a value of each output."""
        values: list[Tensor] = []
        state = torch._C._get_tracing_state()

        def keep(output: Any) -> None:
            if isinstance(output, Tensor):
                values.append(output.flatten()[:1].clone())

        def leave(_name: str, _module: nn.Module, output: Any) -> None:
            keep(output)
            state.pop_scope()

        sample = Sample(image, self.sample.image_id, self.sample.original_size, proposals=self.sample.proposals)
        # fvcore takes the name of a module from the scope, which torch sets for forward passes only.
        with around_calls(self.model, lambda name: state.push_scope(f"{MODEL}.{name}"), leave):
            tables: list[Detections] = self.model.predict([sample])  # type: ignore[operator]
        for column in (column for table in tables for column in table.columns().values()):
            keep(getattr(column, "probabilities", column))  # those of masks
        return values


def count_by_module(model: nn.Module, sample: Sample, *, kind: str) -> tuple[dict[str, int], dict[str, int]]:
    """FLOPs or activations of one prediction, counted by fvcore.

    Args:
        model: in evaluation mode, without gradients.
        sample: the image.
        kind: "flops" or "activations".

    Returns:
        The counts by module name, and the number of operations that have no rule, by their name.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations of torch.jit
        from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis

    count = FlopCountAnalysis if kind == "flops" else ActivationCountAnalysis
    analysis = count(_Traced(model, sample), (sample.image,))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    if kind == "flops":
        analysis.set_op_handle(
            **{"torchvision::roi_align": _roi_align_flops, "torchvision::deform_conv2d": _deform_flops}
        )
    analysis.set_op_handle(**dict.fromkeys(WITHOUT_ARITHMETIC))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counts = {name: int(total) for name, total in analysis.by_module().items()}
        uncounted: Counter[str] = analysis.unsupported_ops()
    prefix = f"{MODEL}."
    of_modules = {name.removeprefix(prefix): total for name, total in counts.items() if name.startswith(prefix)}
    return {"": counts[""]} | of_modules, dict(uncounted)


# Operations that move, compare or sort values: no multiplications, and no entry in the list of uncounted operations.
WITHOUT_ARITHMETIC = (
    *(
        "torchvision::nms",
        "aten::unflatten",
        "aten::meshgrid",
        "aten::topk",
        "aten::argsort",
        "aten::sort",
        "aten::where",
    ),
    *("aten::index_select", "aten::pad", "aten::isfinite", "aten::all", "aten::min", "aten::max", "aten::max_pool2d"),
    *("aten::repeat", "aten::flip", "aten::nonzero", "aten::masked_fill", "aten::clone"),
)


def _shape(value: Any) -> list[int]:
    sizes: list[int] = value.type().sizes()
    return sizes


def _roi_align_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """Four multiply-adds per bilinear sample; an adaptive number of samples (ratio 0) counts as one per cell."""
    ratio = inputs[5].toIValue() if inputs[5].node().kind() == "prim::Constant" else 0
    values = 1
    for size in _shape(outputs[0]):
        values *= size
    return 4 * values * max(int(ratio or 0), 1) ** 2


def _deform_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """Those of the convolution, and four multiply-adds per bilinear sample of each channel and tap."""
    weight, (batch, channels, height, width) = _shape(inputs[1]), _shape(outputs[0])
    taps = weight[2] * weight[3]
    sampled = batch * _shape(inputs[0])[1] * taps * height * width
    return batch * channels * weight[1] * taps * height * width + 4 * sampled


Column = tuple[str, Callable[[ModuleRow, ModuleRow], Any]]  # header, (row, row of the model) -> cell
COLUMNS: Sequence[Column] = (
    ("module", lambda row, _: row.name or MODEL),
    ("parameters", lambda row, _: f"{row.parameters:,}"),
    ("trainable", lambda row, _: f"{row.trainable:,}"),
    ("GFLOPs", lambda row, _: f"{row.flops / 1e9:.3f}"),
    ("activations", lambda row, _: f"{row.activations:,}"),
    ("ms", lambda row, _: f"{row.seconds * 1e3:.1f}"),
    ("%", lambda row, model: f"{100 * row.seconds / max(model.seconds, 1e-12):.1f}"),
    ("rest ms", lambda row, _: f"{row.rest * 1e3:.1f}"),
    ("output", lambda row, _: row.shape),
)


def analysis_table(analysis: ModelAnalysis, *, depth: int) -> str:
    """The rows down to a depth; modules without parameters, FLOPs and time are left out.

    Args:
        analysis: of a model.
        depth: 0 for the model alone, 1 for its parts, ...
    """
    model = analysis.row("")
    shown = [row for row in analysis.rows if row.depth <= depth and (row.parameters or row.flops or row.seconds)]
    cells = [[cell(row, model) for _, cell in COLUMNS] for row in shown]
    alignment = ("left", *["right"] * (len(COLUMNS) - 2), "left")
    headers = [header for header, _ in COLUMNS]
    return tabulate(cells, headers=headers, colalign=alignment, disable_numparse=True)


def uncounted_note(analysis: ModelAnalysis) -> str:
    """The operations that FLOPs leave out, in one sentence; empty if there are none.

    Args:
        analysis: of a model.
    """
    if not analysis.uncounted:
        return ""
    found = sorted(analysis.uncounted.items(), key=lambda item: -item[1])
    listed = ", ".join(f"{name.removeprefix('aten::')} {count}" for name, count in found)
    return f"FLOPs leave out operations without a rule in fvcore, with their number: {listed}"


def rows_as_dicts(analysis: ModelAnalysis) -> list[dict[str, Any]]:
    """All rows, for JSON.

    Args:
        analysis: of a model.
    """
    return [{**asdict(row), "name": row.name or MODEL} for row in analysis.rows]


def rows_as_csv(analysis: ModelAnalysis) -> str:
    """All rows, with a header.

    Args:
        analysis: of a model.
    """
    text = io.StringIO()
    rows = rows_as_dicts(analysis)
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
