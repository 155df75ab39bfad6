"""Options of the `data` commands, reading of their source, and writing of their result with a report."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mrcnn_zoo.choices import ANNOTATION_FORMAT_NAMES, CLASSES_EXAMPLE
from mrcnn_zoo.cli.options import add_config_option, add_overrides, load_command_config
from mrcnn_zoo.cli.parser import CommandParser, key_and_value, not_negative
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.safe_yaml import read_yaml_value
from mrcnn_zoo.config.values import typed_list
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.output_files import check_output_folder
from mrcnn_zoo.registries import ANNOTATION_FORMATS

if TYPE_CHECKING:
    from mrcnn_zoo.data.annotations.contract import AnnotationFormat
    from mrcnn_zoo.data.records import Dataset

SOURCE = (
    "folder or file with annotations, built-in name or entry of DATASETS.DEFINITIONS, as in DATASETS.TRAIN; with "
    ":train, :val or :test one side of it"
)
DEFAULT_FORMAT = "coco"


def add_source_and_target(parser: CommandParser) -> None:
    """Add SRC and DST.

    Args:
        parser: of an action.
    """
    parser.add_argument("source", metavar="SRC", help=SOURCE)
    parser.add_argument("target", metavar="DST", help="folder to write, new or empty")


def add_source_options(parser: CommandParser, *, takes_keys: bool = True) -> None:
    """Add `--from`, `--classes`, `--config-file` and config keys.

    Args:
        parser: of an action.
        takes_keys: as positional arguments, too; else only as `--set`, for actions with a list of sources.
    """
    text = f"format of the source, where it could be several: {', '.join(ANNOTATION_FORMAT_NAMES)}"
    parser.add_argument("--from", dest="source_format", metavar="FORMAT", help=text)
    text = f"merge, rename and leave out classes: '{CLASSES_EXAMPLE}'; a list keeps the named ones alone: '[car, bus]'"
    parser.add_argument("--classes", metavar="YAML", help=text)
    add_config_option(parser, text="with DATASETS.DEFINITIONS, or keys of generated scenes")
    if takes_keys:
        add_overrides(parser)
    else:
        parser.add_argument(
            "--set", action="append", default=[], type=key_and_value, metavar="KEY=VALUE", help="config key"
        )
        parser.set_defaults(overrides=[])


def add_target_options(parser: CommandParser) -> None:
    """Add `--to`, `--tolerance`, `--no-images` and `--overwrite`.

    Args:
        parser: of an action.
    """
    names = ", ".join(ANNOTATION_FORMAT_NAMES)
    text = f"format to write: {names} (default: that of the source; {DEFAULT_FORMAT} where it has none of them)"
    parser.add_argument("--to", dest="target_format", metavar="FORMAT", help=text)
    text = "pixels by which polygons made of masks may differ from them, to have fewer points (default: 0)"
    parser.add_argument("--tolerance", type=not_negative, default=0.0, metavar="PIXELS", help=text)
    text = "do not copy image files; the annotations refer to the originals"
    parser.add_argument("--no-images", action="store_true", help=text)
    text = "replace an earlier output of this command in the folder, unless files were added or changed"
    parser.add_argument("--overwrite", action="store_true", help=text)


def load_data_config(arguments: argparse.Namespace) -> CfgNode:
    """The config of a `data` command: masks are read, and `--from` is the format of paths.

    Args:
        arguments: with the options of `add_source_options`.

    Raises:
        UserError: a mistake in the config or an unknown format.
    """
    implied: list[object] = ["MODEL.MASK_ON", True]
    if arguments.source_format:
        ANNOTATION_FORMATS.get(arguments.source_format, key="--from")
        implied += ["DATASETS.DEFAULTS.FORMAT", arguments.source_format]
    return load_command_config(arguments, implied)


def read_source(arguments: argparse.Namespace, cfg: CfgNode, name: str) -> "Dataset":
    """The whole dataset of a name, with the sides of its files, in the classes of `--classes`.

    Args:
        arguments: with the options of `add_source_options`.
        cfg: see `load_data_config`.
        name: anything that DATASETS.TRAIN takes.

    Raises:
        UserError: see `load_dataset`.
    """
    from mrcnn_zoo.data.catalog import load_dataset

    return in_classes(arguments, load_dataset(cfg, name))


def in_classes(arguments: argparse.Namespace, dataset: "Dataset") -> "Dataset":
    """A dataset in the classes of `--classes`.

    Args:
        arguments: with the options of `add_source_options`.
        dataset: in the classes of its files.

    Raises:
        UserError: see `with_classes`.
    """
    from mrcnn_zoo.data.class_mapping import with_classes

    if not arguments.classes:
        return dataset
    try:
        classes = read_yaml_value(arguments.classes)
    except UserError as error:
        raise UserError(f"--classes {arguments.classes!r} is not YAML such as {CLASSES_EXAMPLE}.") from error
    return with_classes(dataset, classes, name=dataset.name)


def target_of(arguments: argparse.Namespace, folder: str, *, sources: Sequence[str] = (), option: str = "DST") -> Path:
    """The folder to write, checked before work begins.

    Args:
        arguments: with the options of `add_target_options`.
        folder: as typed.
        sources: names of the datasets that are read, as typed.
        option: its name, for messages.

    Raises:
        UserError: it cannot be written, is in use or below a source, or an unknown format.
    """
    from mrcnn_zoo.data.annotations.folders import check_dataset_folder

    path = check_output_folder(folder, option=option)
    check_dataset_folder(path, may_overwrite=arguments.overwrite)
    for name in sources:
        place = Path(name.rpartition(":")[0] or name).expanduser()
        if place.is_dir() and path.resolve() != place.resolve() and path.resolve().is_relative_to(place.resolve()):
            raise UserError(
                f"{option} {path} is below the dataset {place}, of which the written files would be a part. Name a "
                "folder beside it."
            )
    if arguments.target_format:
        ANNOTATION_FORMATS.get(arguments.target_format, key="--to")
    return path


def write_target(arguments: argparse.Namespace, dataset: "Dataset", folder: Path, *, facts: Sequence[str] = ()) -> None:
    """Write a dataset and print what is in the folder, what was lost, and how to train on it.

    Args:
        arguments: with the options of `add_target_options`.
        dataset: whose records name their sides.
        folder: see `target_of`.
        facts: lines on what was done.

    Raises:
        UserError: see `write_dataset`.
    """
    from mrcnn_zoo.data.annotations.folders import write_dataset
    from mrcnn_zoo.data.derived import sides_of

    name = arguments.target_format or dataset.format_name
    kind: AnnotationFormat = ANNOTATION_FORMATS.get(name if name in ANNOTATION_FORMATS else DEFAULT_FORMAT)()
    parts = sides_of(dataset)
    lost = write_dataset(
        parts,
        folder,
        kind,
        tolerance=arguments.tolerance,
        copies_images=not arguments.no_images,
        may_overwrite=arguments.overwrite,
    )
    sides = ", ".join(f"{side} {len(part):,}" for side, part in parts.items() if side)
    verb = "is" if len(dataset) == 1 else "are"
    print(f"{dataset.summary()}{f' ({sides})' if sides else ''} {verb} in {folder}: {kind.title}.")
    for fact in (*facts, *_renamed(dataset)):
        print(f"  {fact}")
    if lost:
        print("Lost in this format:", *lost, sep="\n  ")
    print(f"To use {'it' if len(dataset) == 1 else 'them'}: DATASETS.TRAIN {typed_list([str(folder)])}")


def _renamed(dataset: "Dataset") -> list[str]:
    """A line on image files that got another name, because several had it."""
    from mrcnn_zoo.data.annotations.writing import distinct_stems
    from mrcnn_zoo.data.images.reading import FileImage

    stems = distinct_stems(dataset.records)
    changed = [
        (record.source.path, stem)
        for record, stem in zip(dataset.records, stems, strict=True)
        if isinstance(record.source, FileImage) and stem != Path(record.source.path).stem
    ]
    if not changed:
        return []
    path, stem = changed[0]
    return [f"{counted(len(changed), 'image')} with the name of another one got a name of their own: {path} is {stem}"]
