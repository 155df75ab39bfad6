"""MODEL.OPTIMIZE int8: the convolutions of backbone and head of its maps in 8-bit integers, on x86 processors.

Weights are rounded per channel, activations per map to 256 steps over the range they have on some images. A stage is
exported with its norms folded, quantized by torchao, and compiled by inductor for all image sizes at once.
"""

import importlib.util
import logging
import operator
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.inference.dense_stages import (
    StageRunner,
    example_inputs,
    export_stage,
    key_of,
    quiet_torch,
    run_stages,
    stages_of,
    write_package,
)
from mrcnn_zoo.inference.fused_layers import fuse_layers
from mrcnn_zoo.model_zoo.download import cache_folder
from mrcnn_zoo.structures import Sample

INSTALL = 'pip install "mrcnn_zoo[int8]"'
FORMAT = 1  # of the kept packages
INT8_OPERATORS = ("qconv", "qlinear")  # parts of the names of oneDNN's operators in generated code
TESTED = "torch 2.14 with torchao 0.18"

logger = logging.getLogger(__name__)


def quantize_stages(model: Any, samples: Callable[[], Sequence[Sample]]) -> None:
    """Compute the stages of a detector in 8-bit integers; compiled once, and kept for the next process.

    Args:
        model: in evaluation mode, on the CPU, with its weights.
        samples: called once, for the images whose activations give the ranges.

    Raises:
        UserError: no x86 processor, no torchao, a torch that does not fit it, or a stage that cannot be converted.
    """
    check_processor()
    check_library()
    stages, images = stages_of(model), samples()
    key = key_of(stages, FORMAT, _versions(), *(sample.image for sample in images))
    folder = cache_folder() / "int8" / key
    packages = {name: folder / f"{name}.pt2" for name in stages}
    if not all(package.is_file() for package in packages.values()):
        logger.info(
            "MODEL.OPTIMIZE int8: calibrated on %s, then compiled, which takes minutes; kept in %s for the next start "
            "with the same weights and the same images (MODEL.INT8.CALIBRATION)",
            counted(len(images), "image"),
            folder,
        )
        folder.mkdir(parents=True, exist_ok=True)
        with torch.no_grad():
            calibrated = calibrate(model, stages, images, build_quantizer())
            for name, (graph, example) in calibrated.items():
                with _refusing(name):
                    program = export_stage(graph, example, model.collate.size_divisibility)
                    write_package(program, packages[name], partial(refuse_float_code, name))
    model.requires_grad_(False)
    for name, stage in stages.items():
        stage.forward = StageRunner(packages[name])  # type: ignore[method-assign]


def check_processor() -> None:
    """Refuse processors that torchao's x86 quantizer is not for.

    Raises:
        UserError: no x86 processor.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        raise UserError(
            f"MODEL.OPTIMIZE int8 is for x86 processors, and this one is {platform.machine()}: use fused or compiled."
        )


def check_library() -> None:
    """Refuse an environment without torchao.

    Raises:
        UserError: torchao is not installed.
    """
    if importlib.util.find_spec("torchao") is None:
        raise UserError(f"MODEL.OPTIMIZE int8 needs the package torchao: `{INSTALL}`.")


def build_quantizer() -> Any:
    """torchao's quantizer of convolutions for oneDNN.

    Raises:
        UserError: this torch and this torchao do not have it.
    """
    try:
        with quiet_torch():
            from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"MODEL.OPTIMIZE int8: {_versions()} do not work together ({error}). {TESTED} do: `{INSTALL}`."
        ) from error
    quantizer = x86.X86InductorQuantizer()
    has_wide_sums = torch.cpu._is_vnni_supported()  # without, sums of two products are limited to 16 bits
    return quantizer.set_global(x86.get_default_x86_inductor_quantization_config(reduce_range=not has_wide_sums))


def calibrate(
    model: Any, stages: Mapping[str, nn.Module], samples: Sequence[Sample], quantizer: Any
) -> dict[str, tuple[Any, Any]]:
    """The stages as graphs with rounded weights and the ranges of their activations, and an example of their input.

    Args:
        model: a detector; its stages record ranges meanwhile.
        stages: of the detector by name.
        samples: at least one image.
        quantizer: of torchao.

    Raises:
        UserError: a stage that cannot be converted.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    examples, graphs = example_inputs(model, stages), {}
    try:
        for name, stage in stages.items():
            with _refusing(name):
                graph = _ready_for_torchao(_exported(stage, examples[name], model.collate.size_divisibility))
                graphs[name] = prepare_pt2e(graph, quantizer)
            stage.forward = graphs[name].forward  # type: ignore[method-assign]
        for sample in samples:
            run_stages(model, model.collate([sample]).pixels)
    finally:
        for stage in stages.values():
            vars(stage).pop("forward", None)
    with _refusing("the calibrated stages"):
        return {name: (convert_pt2e(graph), examples[name]) for name, graph in graphs.items()}


def _exported(stage: nn.Module, example: Any, divisibility: int) -> Any:
    """The stage as a graph of functions for all sizes, with norms folded and no operation in place."""
    folded = deepcopy(stage)
    fuse_layers(folded, uses_kernels=False)
    program = export_stage(folded, example, divisibility).run_decompositions({})
    return program.module(check_guards=False)  # whose limits are stricter than the operators': no map of one cell


def _ready_for_torchao(graph: Any) -> Any:
    """The graph with the kind of its layer and weights of its own for each call; torchao would skip it otherwise."""
    aten = torch.ops.aten
    kinds = {
        aten.conv2d.default: nn.Conv2d,
        aten.linear.default: nn.Linear,
        aten.add.Tensor: operator.add,
        aten.relu.default: nn.ReLU,
    }
    for node in list(graph.graph.nodes):
        if node.target in kinds:
            node.meta["source_fn_stack"] = [(node.name, kinds[node.target])]
        if node.target in (aten.conv2d.default, aten.linear.default) and len(node.args[1].users) > 1:
            name = f"weight_of_{node.name}"
            graph.register_buffer(name, graph.get_parameter(node.args[1].target).detach().clone())
            with graph.graph.inserting_before(node):
                node.update_arg(1, graph.graph.get_attr(name))
        if node.target == aten._assert_tensor_metadata.default:
            graph.graph.erase_node(node)
    graph.recompile()
    return graph


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Errors of torch and torchao about a stage as one for users."""
    try:
        with quiet_torch():
            yield
    except UserError:
        raise
    except Exception as error:  # of any class
        lines = str(error).strip().splitlines() or [""]
        raise UserError(
            f"MODEL.OPTIMIZE int8: {_versions()} cannot convert {name} of this model ({type(error).__name__}: "
            f"{lines[0]}). Use fused or compiled; {TESTED} convert ResNets with a pyramid."
        ) from error


def _versions() -> str:
    return f"torch {torch.__version__} and torchao {version('torchao')}"


def refuse_float_code(name: str, code: str) -> None:
    """Refuse generated code without 8-bit operators, which torch may make without a word.

    Args:
        name: of the stage.
        code: C++.

    Raises:
        UserError: no operator of INT8_OPERATORS is in it.
    """
    if not any(operator_name in code for operator_name in INT8_OPERATORS):
        raise UserError(
            f"MODEL.OPTIMIZE int8: the code that {_versions()} make of {name} has no 8-bit operator, and would be no "
            f"faster. {TESTED} make one: install these, or use fused or compiled."
        )
