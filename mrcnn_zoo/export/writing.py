"""Writes a detector as a program, with the config and class names that `Predictor` needs."""

import io
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._sympy.value_ranges import ValueRanges

from mrcnn_zoo.choices import ONNX
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.export.programs import EXTRA_FILE, FORMAT_VERSION, INPUTS, INSTALL, METADATA, OUTPUTS, quiet
from mrcnn_zoo.export.static_detector import StaticRCNN
from mrcnn_zoo.export.static_retinanet import StaticRetinaNet
from mrcnn_zoo.modeling.detectors.generalized_rcnn import GeneralizedRCNN
from mrcnn_zoo.modeling.detectors.retinanet import RetinaNet
from mrcnn_zoo.modeling.poolers import FunctionPooling
from mrcnn_zoo.modeling.poolers.pooling_operations import roi_align_to_last_pixel
from mrcnn_zoo.modeling.proposal_generators.rpn import RPN
from mrcnn_zoo.modeling.roi_heads import RegionHeads
from mrcnn_zoo.modeling.roi_heads.mask_head import PooledMaskHead
from mrcnn_zoo.modeling.suppression.greedy import ClassAgnosticSuppression, GreedySuppression
from mrcnn_zoo.ops import nms, roi_pooling
from mrcnn_zoo.output_files import write_atomically
from mrcnn_zoo.structures import ImageSize
from mrcnn_zoo.structures.samples import round_up

OPSET = 18  # of ONNX: the first with RoIAlign and reductions as they are used here
POOLINGS = (roi_pooling.roi_align, roi_align_to_last_pixel, roi_pooling.roi_pool)
ADVICE = "`mrcnn-zoo export` knows GeneralizedRCNN with an RPN, greedy suppression and masks, and RetinaNet."

logger = logging.getLogger(__name__)


def check_exportable(model: nn.Module) -> None:
    """Refuse models with parts that have no counterpart of fixed shape.

    Args:
        model: any detector.

    Raises:
        UserError: naming the part and its config key.
    """
    if isinstance(model, RetinaNet):
        _check_suppression(model.suppression, "MODEL.RETINANET.SUPPRESSION")
        _check_limit(model.selection.max_detections)
        return
    if not isinstance(model, GeneralizedRCNN):
        raise _refusal("MODEL.META_ARCHITECTURE", model)
    if type(model.proposal_generator) is not RPN:
        raise _refusal("MODEL.PROPOSAL_GENERATOR.NAME", model.proposal_generator)
    heads = model.roi_heads
    if not isinstance(heads, RegionHeads) or heads.last_predictor.selection is None:
        raise _refusal("MODEL.ROI_HEADS.NAME", heads)
    _check_suppression(model.suppression, "MODEL.ROI_HEADS.SUPPRESSION")
    _check_limit(heads.last_predictor.selection.max_detections)
    for name, branch in zip(heads.branch_names, heads.branches, strict=True):
        if name != "mask_head":
            key = "MODEL.KEYPOINT_ON" if name == "keypoint_head" else "MODEL.ROI_HEADS.BRANCHES"
            raise _refusal(key, branch)
        if not isinstance(branch, PooledMaskHead):
            raise _refusal("MODEL.ROI_MASK_HEAD.NAME", branch)
    for module in heads.modules():
        if isinstance(module, FunctionPooling) and module.function.func not in POOLINGS:
            raise _refusal("POOLER_TYPE", module)


def _check_suppression(suppression: nn.Module, key: str) -> None:
    inner = suppression.suppression if isinstance(suppression, ClassAgnosticSuppression) else suppression
    if type(inner) is not GreedySuppression:
        raise _refusal(key, inner)


def _check_limit(max_detections: int | None) -> None:
    if not max_detections:
        raise UserError(
            "TEST.DETECTIONS_PER_IMAGE must be above 0: an exported model has a fixed number of detections."
        )


def _refusal(key: str, part: object) -> UserError:
    text = f"{part}" if isinstance(part, FunctionPooling) else type(part).__name__
    return UserError(f"{text} ({key}) cannot be exported. {ADVICE}")


def build_static_detector(model: nn.Module, size: ImageSize, *, to: str) -> nn.Module:
    """The module that is exported; its inputs and outputs are those of `StaticRCNN`.

    Args:
        model: that passes `check_exportable`, in evaluation mode on the CPU.
        size: (height, width) of the padded image, multiples of the backbone's divisibility.
        to: one of `PROGRAM_FORMATS`.
    """
    kept_by_nms: Any = nms.kept_by_nms
    if to == ONNX:
        from mrcnn_zoo.export.onnx_operators import kept_by_nms
    if isinstance(model, RetinaNet):
        return StaticRetinaNet(model, size, kept_by_nms=kept_by_nms).eval()
    assert isinstance(model, GeneralizedRCNN)
    return StaticRCNN(model, size, kept_by_nms=kept_by_nms).eval()


def padded_size(size: Sequence[int], model: nn.Module) -> ImageSize:
    """The smallest size that the backbone's strides divide.

    Args:
        size: (height, width).
        model: with `collate`.
    """
    multiple = model.collate.size_divisibility  # type: ignore[union-attr]
    height, width = (round_up(side, multiple) for side in size)  # type: ignore[arg-type]
    return height, width


def example_inputs(model: nn.Module, size: ImageSize) -> tuple[Tensor, Tensor]:
    """A grey image without padding, as the program takes it: (1, C, H, W) float32 and (2,) int64."""
    mean: Tensor = model.collate.pixel_mean  # type: ignore[union-attr, assignment]
    return mean.expand(-1, *size)[None].clone(), torch.tensor(size)


def write_program(model: nn.Module, path: Path, *, to: str, size: ImageSize, meta: Mapping[str, Any]) -> Path:
    """Export a detector.

    Args:
        model: a detector in evaluation mode on the CPU.
        path: of the file.
        to: one of `PROGRAM_FORMATS`.
        size: (height, width) of the padded image; see `padded_size`.
        meta: config, class_names and category_ids as plain values, and anything else to store.

    Raises:
        UserError: the model cannot be exported, or a package is missing.
    """
    check_exportable(model)
    static = build_static_detector(model, size, to=to)
    inputs = example_inputs(model, size)
    content = {"format_version": FORMAT_VERSION, "input_size": list(size), **meta}
    content |= {"inputs": list(INPUTS), "outputs": list(OUTPUTS[: 5 if _has_masks(model) else 4])}
    return (write_onnx if to == ONNX else write_graph)(static, inputs, path, content)


def _has_masks(model: nn.Module) -> bool:
    return bool(getattr(getattr(model, "roi_heads", None), "branch_names", ()))


def export_graph(static: nn.Module, inputs: tuple[Tensor, Tensor]) -> torch.export.ExportedProgram:
    """The graph of a static detector, without places in source files and without example inputs.

    Args:
        static: see `build_static_detector`.
        inputs: see `example_inputs`.

    Raises:
        UserError: an operation that torch.export does not support.
    """
    try:
        with torch.no_grad(), quiet():
            program = torch.export.export(static, inputs)
    except Exception as error:  # of any kind: the exporter has no common error
        raise UserError(f"torch.export cannot convert this model: {error}. {ADVICE}") from error
    _remove_assertions(program)
    for node in program.graph.nodes:
        for name in ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn"):
            node.meta.pop(name, None)
    program.example_inputs = None
    program._guards_code = []
    return program


def _remove_assertions(program: torch.export.ExportedProgram) -> None:
    """Remove the checks of sizes: torchvision declares that NMS keeps at least two boxes, which is not so."""
    for node in list(program.graph.nodes):
        if node.target == torch.ops.aten._assert_scalar.default:
            program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    for symbol, bounds in program.range_constraints.items():
        program.range_constraints[symbol] = ValueRanges(0, bounds.upper)


def write_graph(static: nn.Module, inputs: tuple[Tensor, Tensor], path: Path, meta: Mapping[str, Any]) -> Path:
    """Write a `.pt2` file.

    Args:
        static: see `build_static_detector`.
        inputs: see `example_inputs`.
        path: of the file.
        meta: plain values.

    Raises:
        UserError: an operation that torch.export does not support.
    """
    data = io.BytesIO()
    program = export_graph(static, inputs)
    with quiet():
        torch.export.save(program, data, extra_files={EXTRA_FILE: json.dumps(meta)})
    return write_atomically(path, lambda file: file.write(data.getbuffer()))


def write_onnx(static: nn.Module, inputs: tuple[Tensor, Tensor], path: Path, meta: Mapping[str, Any]) -> Path:
    """Write an `.onnx` file; arguments as `write_graph`, with the names of the outputs in `meta`.

    Raises:
        UserError: an operation that ONNX does not have, or a missing package.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"--to onnx needs the packages onnx and onnxscript: `{INSTALL}`.") from error
    from mrcnn_zoo.export.onnx_operators import translation_table

    try:
        with torch.no_grad(), quiet():
            program = torch.onnx.export(
                static,
                inputs,
                dynamo=True,
                input_names=INPUTS,
                output_names=meta["outputs"],
                opset_version=OPSET,
                custom_translation_table=translation_table(),
                verbose=False,
            )
    except Exception as error:  # of any kind: the exporter has no common error
        raise UserError(f"torch.onnx cannot convert this model: {error}. {ADVICE}") from error
    assert program is not None
    program.model.metadata_props[METADATA] = json.dumps(meta)
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # places in source files
    data = program.model_proto.SerializeToString()
    return write_atomically(path, lambda file: file.write(data))
