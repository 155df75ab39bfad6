"""Parameters, FLOPs, activations, output shapes and time of a model by module, and dead or exploding layers."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mrcnn_zoo.cli.options import (
    add_config_option,
    add_output_options,
    add_overrides,
    add_trust_option,
    add_weights_option,
    given_weights,
    load_command_config,
    logging_lines,
    open_given_model,
    prepare_device,
    require_config,
)
from mrcnn_zoo.cli.parser import CommandParser, read_arguments, whole_number
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.inspection.figures import picture_of
from mrcnn_zoo.output_files import check_output_folder, refuse_to_replace, write_json, write_text

if TYPE_CHECKING:
    from torch import nn

    from mrcnn_zoo.inspection.model.analysis import ModelAnalysis
    from mrcnn_zoo.inspection.model.weight_findings import Finding
    from mrcnn_zoo.structures import Proposals, Sample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILES = ("model_analysis.json", "model_analysis.csv", "weights.png")
SCORE_KEYS = ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "MODEL.RETINANET.SCORE_THRESH_TEST")
LAST_LAYERS = ("objectness_logits", "anchor_deltas", "cls_score", "bbox_pred")
ASPECT = 4 / 3  # width over height of the image of noise


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table and the findings, and write the files of --output; returns the exit status.

    Args:
        argv: the arguments; None takes those of the process.
    """
    parser = build_parser()
    arguments = read_arguments(parser, argv)

    from mrcnn_zoo.inspection.model.analysis import analysis_table, analyze_model
    from mrcnn_zoo.inspection.model.weight_findings import (
        find_in_outputs,
        find_in_weights,
        findings_text,
        weight_figure,
    )

    if arguments.weights is None:
        require_config(parser, arguments)
    with logging_lines(sys.stderr):
        folder = _folder(arguments)
        model, cfg, initial = _load(arguments)
        sample = _sample(cfg, model, arguments)
        findings = find_in_weights(model, initial)
        plot = weight_figure(model, initial, findings, depth=arguments.depth) if folder is not None else None
        if arguments.weights is None:
            _clear_last_layers(model)
        analysis = analyze_model(model, sample, repeats=arguments.repeats)
        examined = "the weights"
        if arguments.image is not None:
            findings += find_in_outputs(analysis.outputs)
            examined += f" and in the outputs of {arguments.image}"
        print(_summary(analysis, sample, arguments))
        print(analysis_table(analysis, depth=arguments.depth))
        print(findings_text(findings, examined=examined))
        if folder is not None and plot is not None:
            for path in _write(folder, analysis, findings, plot):
                print(path)
    return 0


def _folder(arguments: argparse.Namespace) -> Path | None:
    if arguments.output is None:
        return None
    folder = check_output_folder(arguments.output, option="--output")
    if not arguments.overwrite:
        refuse_to_replace((folder / name for name in FILES if (folder / name).exists()), option="--output")
    return folder


def _load(arguments: argparse.Namespace) -> "tuple[nn.Module, CfgNode, nn.Module | None]":
    """The model, its config, and the same model with initial weights where the first has others."""
    import torch

    from mrcnn_zoo.modeling import build_model

    if arguments.weights is not None:
        model, cfg, _ = open_given_model(arguments, given_weights(arguments))
        return model, cfg, build_model(cfg)
    cfg = load_command_config(arguments, [part for key in SCORE_KEYS for part in (key, 0.0)])
    prepare_device(cfg)
    torch.manual_seed(max(cfg.SEED, 0))
    return build_model(cfg).eval(), cfg, None


def _clear_last_layers(model: "nn.Module") -> None:
    """Make the anchors the proposals: boxes of initial weights are arbitrary, and may leave no region for the heads."""
    for name, parameter in model.named_parameters():
        if name.endswith(".weight") and name.split(".")[-2] in LAST_LAYERS:
            parameter.detach().zero_()


def _sample(cfg: CfgNode, model: "nn.Module", arguments: argparse.Namespace) -> "Sample":
    """The image of --image, or noise of the size of test images; with random proposals where the model reads some."""
    import torch

    from mrcnn_zoo.data import ImageRecord, build_eval_mapper
    from mrcnn_zoo.data.images.reading import FileImage
    from mrcnn_zoo.modeling.proposal_generators.precomputed import PrecomputedProposals
    from mrcnn_zoo.structures import Sample

    mapper = build_eval_mapper(cfg)
    if arguments.image is not None:
        source = FileImage(arguments.image)
        height, width = mapper.reader.open(source).shape[:2]
        sample = mapper(ImageRecord(1, source, (height, width)), np.random.default_rng(0))
    else:
        height = cfg.INPUT.MIN_SIZE_TEST or 512
        size = (height, min(round(height * ASPECT), cfg.INPUT.MAX_SIZE_TEST))
        generator = torch.Generator().manual_seed(0)
        noise = torch.randint(0, 256, (len(cfg.MODEL.PIXEL_MEAN), *size), generator=generator, dtype=torch.uint8)
        sample = Sample(noise, 1, original_size=size)
    if isinstance(getattr(model, "proposal_generator", None), PrecomputedProposals):
        sample.proposals = _random_proposals(sample, cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST)
    return sample


def _random_proposals(sample: "Sample", count: int) -> "Proposals":
    import torch

    from mrcnn_zoo.structures import Proposals

    generator = torch.Generator().manual_seed(0)
    height, width = sample.image_size
    corners = torch.rand((count, 2, 2), generator=generator) * torch.tensor([width, height])
    boxes = torch.cat((corners.amin(dim=1), corners.amax(dim=1) + 1), dim=1)
    return Proposals(sample.image_size, boxes, torch.zeros(count))


def _summary(analysis: "ModelAnalysis", sample: "Sample", arguments: argparse.Namespace) -> str:
    from mrcnn_zoo.inspection.model.analysis import uncounted_note

    model = analysis.row("")
    height, width = sample.image_size
    given = arguments.image or "noise of the test size (INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST, at most 4:3)"
    lines = [
        f"{model.kind}: {model.parameters:,} parameters, {model.trainable:,} trainable, "
        f"{model.parameters - model.trainable:,} frozen",
        f"input: {width} x {height} pixels, {given}",
        f"{model.flops / 1e9:.2f} GFLOPs (a multiply-add counts as one), {model.seconds * 1e3:.0f} ms on this machine "
        f"(median of {arguments.repeats})",
    ]
    if arguments.weights is None:
        lines.append(
            "weights: initial; with last layers of 0 and a score threshold of 0 the proposals are the anchors, and the "
            "heads get as many regions as with trained weights"
        )
    note = uncounted_note(analysis)
    return "\n".join([*lines, *([note] if note else [])])


def _write(folder: Path, analysis: "ModelAnalysis", findings: "Sequence[Finding]", figure: "Figure") -> list[Path]:
    from mrcnn_zoo.inspection.model.analysis import rows_as_csv, rows_as_dicts
    from mrcnn_zoo.inspection.pictures import save_picture

    content = {
        "modules": rows_as_dicts(analysis),
        "uncounted": dict(analysis.uncounted),
        "findings": [vars(item) for item in findings],
    }
    as_json, as_csv, picture = (folder / name for name in FILES)
    write_json(as_json, content, indent=1)
    write_text(as_csv, rows_as_csv(analysis))
    save_picture(picture_of(figure), picture)
    return [as_json, as_csv, picture]


def build_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog="mrcnn-zoo analyze-model",
        description=__doc__,
        examples=(
            "--config-file COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
            "--weights zoo://Quickstart/mask_rcnn_R_18_FPN_digits --depth 3 --output analysis",
            "--weights output/model_best.pth --image photo.jpg",
        ),
    )
    add_config_option(parser, text="default: the one in the weights")
    add_weights_option(parser, text="(default: initial weights)")
    add_trust_option(parser)
    parser.add_argument("--image", metavar="FILE", help="input (default: noise of the test size)")
    parser.add_argument(
        "--depth", type=whole_number(minimum=0), default=2, help="levels of modules in the table (default: 2)"
    )
    parser.add_argument(
        "--repeats", type=whole_number(minimum=1), default=3, help="timed runs; the median counts (default: 3)"
    )
    add_output_options(
        parser, text=f"folder of {', '.join(FILES)} (default: none are written)", overwrite="replace these files"
    )
    add_overrides(parser)
    return parser
