"""Compare proposals on one dataset: recall by number, IoU and object size, and time; tables, CSV and a picture."""

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrcnn_zoo.cli.options import (
    add_config_option,
    add_output_options,
    add_overrides,
    add_trust_option,
    load_command_config,
    logging_lines,
    output_folder,
    prepare_device,
)
from mrcnn_zoo.cli.parser import CONFIG_SUFFIXES, CommandParser, names_key, read_arguments, whole_number
from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.model_zoo import index
from mrcnn_zoo.output_files import check_output_folder, refuse_to_replace, write_text
from mrcnn_zoo.progress import fitted
from mrcnn_zoo.registries import PROPOSAL_GENERATORS
from mrcnn_zoo.registry import did_you_mean

if TYPE_CHECKING:
    from mrcnn_zoo.checkpoint import WeightsFile
    from mrcnn_zoo.data.records import Dataset
    from mrcnn_zoo.evaluation.proposal_comparison import ProposalSource, SourceRecall

REPORT, TABLE, PICTURE = "proposals.md", "proposals.csv", "proposals.png"
NAMED = re.compile(r"([^=:]+)=(.*)")  # not an address with "="
ORIGINAL_SIZE = ("INPUT.MIN_SIZE_TEST", 0)  # of images without --config-file, as in the literature
SYNTAX = "[NAME=]SOURCE [X.yaml] [KEY=VALUE ...]"


@dataclass(frozen=True)
class SourceArgument:
    """A value of `--proposals`.

    Args:
        name: in tables and in the picture.
        source: a registered generator, weights, or a proposal file.
        config: a YAML file, or the name of a packaged config; None for the default.
        overrides: config keys of this source alone.
    """

    name: str
    source: str
    config: str | None
    overrides: tuple[str, ...]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all sources, print the tables and the written files; returns the exit status.

    Args:
        argv: the arguments; None takes those of the process.
    """
    arguments = read_arguments(build_parser(), argv)

    from mrcnn_zoo.evaluation.proposal_comparison import measure_recall, overall_table, size_table

    sources = read_sources(arguments.proposals)
    with logging_lines(sys.stderr):
        if arguments.output is not None:
            check_output_folder(arguments.output, option="--output")
        cfg = load_command_config(arguments, _implied(arguments, arguments.config_file))
        folder = output_folder(arguments, cfg)
        if not arguments.overwrite:
            refuse_to_replace((folder / name for name in (REPORT, TABLE, PICTURE)), option="--output")
        prepare_device(cfg)
        dataset = _load_annotated(arguments, cfg)
        built = [_build_source(source, arguments, dataset) for source in sources]
        results = [measure_recall(source, dataset) for source in built]
        written = _write(results, dataset, folder)
    print(fitted(f"{overall_table(results)}\n\n{size_table(results)}\n", sys.stdout))
    print("Written:", *(f"  {path}" for path in written), sep="\n")
    return 0


def read_sources(words: Sequence[str]) -> list[SourceArgument]:
    """The values of `--proposals`.

    Args:
        words: as typed.

    Raises:
        UserError: no source in a value, a word that is no key, or a name that is given twice.
    """
    sources = [_read_source(text) for text in words]
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--proposals has {name!r} twice; name each source, e.g. first={name} second={name}.")
    return sources


def _read_source(text: str) -> SourceArgument:
    is_file = Path(text).is_file()
    try:
        first, *words = [text] if is_file else shlex.split(text) or [""]
    except ValueError as error:
        raise UserError(f"--proposals {text!r} cannot be split into words: {error}.") from error
    named = None if is_file or Path(first).exists() else NAMED.fullmatch(first)
    name, source = named.groups() if named else (first, first)
    if not source:
        raise UserError(f"--proposals {text!r} has no source; write {SYNTAX}.")
    configs = [word for word in words if word.endswith(CONFIG_SUFFIXES) and "=" not in word]
    overrides = tuple(word for word in words if word not in configs)
    if len(configs) > 1:
        raise UserError(f"--proposals {text!r} has several configs: {', '.join(configs)}; give one.")
    return SourceArgument(name, source, configs[0] if configs else None, overrides)


def _implied(arguments: argparse.Namespace, config: str | None) -> list[Any]:
    count = [] if arguments.num_images is None else ["TEST.NUM_IMAGES", arguments.num_images]
    return [*count, *(ORIGINAL_SIZE if config is None else ())]


def _load_annotated(arguments: argparse.Namespace, cfg: CfgNode) -> "Dataset":
    """The images of `--dataset` to compare on."""
    from mrcnn_zoo.data import load_dataset, load_test
    from mrcnn_zoo.evaluation.preflight import evaluated_part

    names = [arguments.dataset] if arguments.dataset else list(cfg.DATASETS.TEST)
    if len(names) != 1:
        named = f"{', '.join(names)} are several" if names else "DATASETS.TEST is empty"
        raise UserError(f"proposals are compared on one dataset, but {named}: name it with --dataset.")
    dataset = evaluated_part(load_dataset(cfg, names[0]) if arguments.dataset else load_test(cfg)[0], cfg)
    if not any(not item.is_crowd for record in dataset.records for item in record.instances):
        raise UserError(f"{dataset.name} has no annotated objects, so there is no recall to measure.")
    return dataset


def _build_source(argument: SourceArgument, arguments: argparse.Namespace, dataset: "Dataset") -> "ProposalSource":
    from mrcnn_zoo.data.proposals import is_proposal_file
    from mrcnn_zoo.evaluation.proposal_comparison import build_stored_source

    source, path = argument.source, Path(argument.source).expanduser()
    is_address, is_code = "://" in source, ":" in source and "://" not in source and not path.exists()
    if is_code or source in PROPOSAL_GENERATORS:
        return _build_generator(argument, arguments, dataset)
    if not (is_address or path.exists() or index.has_weights(source)):
        raise UserError(
            f"--proposals {source}: there is no such file or folder, and it is not a registered generator "
            f"({', '.join(PROPOSAL_GENERATORS.names())}).{did_you_mean(source, PROPOSAL_GENERATORS.names())}"
        )
    if is_address or not is_proposal_file(path):
        return _build_trained(argument, arguments, dataset)
    if argument.config or argument.overrides:
        raise UserError(f"--proposals {source}: a proposal file takes no config and no keys.")
    return build_stored_source(argument.name, dataset, path)


def _build_trained(argument: SourceArgument, arguments: argparse.Namespace, dataset: "Dataset") -> "ProposalSource":
    from mrcnn_zoo.checkpoint.sources import find_weights
    from mrcnn_zoo.evaluation.proposal_comparison import build_generator_source
    from mrcnn_zoo.inference.trained import open_trained

    weights = argument.source if "://" in argument.source else str(find_weights(argument.source))

    def check(cfg: CfgNode, _: "WeightsFile") -> None:
        prepare_device(cfg)

    model, cfg, _ = open_trained(
        weights,
        config=argument.config,
        overrides=[*arguments.overrides, *argument.overrides],
        trust=arguments.trust,
        check=check,
    )
    return build_generator_source(cfg, argument.name, dataset, model)


def _build_generator(argument: SourceArgument, arguments: argparse.Namespace, dataset: "Dataset") -> "ProposalSource":
    from mrcnn_zoo.evaluation.proposal_comparison import build_generator_source
    from mrcnn_zoo.evaluation.proposal_jobs import fit_min_box_area, needs_weights
    from mrcnn_zoo.modeling import build_model

    if argument.source == "PrecomputedProposals":
        raise UserError(f"--proposals {argument.source} has no proposals of its own: name the proposal file instead.")
    config = argument.config or arguments.config_file
    network = ["MODEL.META_ARCHITECTURE", "ProposalNetwork", "MODEL.PROPOSAL_GENERATOR.NAME", argument.source]
    overrides = [*_implied(arguments, config), *arguments.overrides, *argument.overrides, *network]
    cfg = fit_min_box_area(load_config(config, overrides), [dataset])
    model = build_model(cfg).eval()
    if needs_weights(model):
        raise UserError(
            f"--proposals {argument.source} needs features of a trained backbone, or weights of its own: name the "
            f"weights instead, e.g. {argument.name}=output/model_final.pth. (A generator of your own that does not use "
            "features has the attribute needs_features = False.)"
        )
    return build_generator_source(cfg, argument.name, dataset, model)


def _write(results: "Sequence[SourceRecall]", dataset: "Dataset", folder: Path) -> list[Path]:
    from mrcnn_zoo.evaluation.proposal_comparison import comparison_csv, comparison_report
    from mrcnn_zoo.inspection.plots import save_proposal_recall

    return [
        write_text(folder / REPORT, comparison_report(results, dataset, picture=PICTURE)),
        write_text(folder / TABLE, comparison_csv(results)),
        save_proposal_recall(results, folder / PICTURE, title=f"{dataset.name}, {len(dataset)} images"),
    ]


class _TakeSources(argparse.Action):
    """Takes values up to the first config key; the key and what follows are overrides, as after other options."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        end = next((place for place, value in enumerate(values) if _is_override(value)), len(values))
        namespace.proposals = [*namespace.proposals, *values[:end]]
        namespace.set = [*namespace.set, *values[end:]]


def _is_override(text: str) -> bool:
    return " " not in text.partition("=")[0] and names_key(text) and not Path(text).exists()


def build_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog="mrcnn-zoo compare-proposals",
        description=__doc__,
        examples=(
            "--dataset digits_val --proposals SlidingWindow rpn=zoo://Quickstart/mask_rcnn_R_18_FPN_digits",
            '--dataset digits_val --proposals "gt=GroundTruthProposals MODEL.PROPOSAL_GENERATOR.JITTER=0.1" '
            "digits_val_proposals.npz --num-images 50 --output comparison",
        ),
    )
    text = "name or path of a dataset, as in DATASETS.TRAIN (default: DATASETS.TEST of the config)"
    parser.add_argument("--dataset", metavar="NAME", help=text)
    text = (
        f"what is compared, each as {SYNTAX}, in quotes if it has several words. SOURCE: a registered generator that "
        "needs no training, weights of a model with proposals (as --weights of other commands), or a .pkl or .npz of "
        "precompute-proposals. NAME is shown in the tables; X.yaml (default of generators: --config-file, of weights: "
        "the config in them) and the keys are those of this source alone"
    )
    parser.add_argument(
        "--proposals", nargs="+", action=_TakeSources, default=[], required=True, metavar="SOURCE", help=text
    )
    add_config_option(parser, text="of the dataset and of generators; without it, generators get images in full size")
    parser.add_argument(
        "--num-images", type=whole_number(minimum=1), metavar="N", help="the first N images (default: all)"
    )
    add_trust_option(parser)
    add_output_options(
        parser,
        text=f"folder of {REPORT}, {TABLE} and {PICTURE} (default: OUTPUT_DIR of the config)",
        overwrite="replace the files of an earlier comparison",
    )
    add_overrides(parser, text="config keys of the dataset and of all sources")
    return parser
