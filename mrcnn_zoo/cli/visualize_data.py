"""Draw a dataset with its annotations, training batches, or what training makes of them (--show anchors,labels,...)."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mrcnn_zoo.choices import OBJECTS, SCORES, SHOWN, SIZES, TRAINING_PICTURES
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
from mrcnn_zoo.cli.parser import CommandParser, not_negative, read_arguments, whole_number
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.inspection.figures import picture_of
from mrcnn_zoo.output_files import check_output_folder, refuse_to_replace
from mrcnn_zoo.registry import did_you_mean

if TYPE_CHECKING:
    from torch import nn

    from mrcnn_zoo.data.records import Dataset
    from mrcnn_zoo.structures import Sample


def main(argv: Sequence[str] | None = None) -> int:
    """Write pictures and print their paths; returns the exit status.

    Args:
        argv: the arguments; None takes those of the process.
    """
    parser = build_parser()
    arguments = read_arguments(parser, argv)
    if arguments.weights is None and SCORES in arguments.show:
        parser.error("--show scores: the scores are those of a trained model, give --weights FILE")
    if arguments.weights is None:
        require_config(parser, arguments)
    elif arguments.show == [OBJECTS]:
        parser.error("--weights: annotations need no model; use it with --show rois, mask-targets, ...")
    with logging_lines(sys.stderr):
        if arguments.output is not None:
            check_output_folder(arguments.output, option="--output")
        if arguments.show == [OBJECTS]:
            _draw_objects(load_command_config(arguments), arguments)
        else:
            _draw_training(arguments)
    return 0


def _folder(arguments: argparse.Namespace, cfg: CfgNode) -> Path:
    if arguments.output is not None:
        return check_output_folder(arguments.output, option="--output")
    return check_output_folder(cfg.OUTPUT_DIR, option="OUTPUT_DIR") / "pictures" / arguments.source


def _draw_objects(cfg: CfgNode, arguments: argparse.Namespace) -> None:
    draw = _draw_batches if arguments.source == "dataloader" else _draw_images
    for path in draw(cfg, _folder(arguments, cfg), arguments):
        print(path)


def _draw_images(cfg: CfgNode, folder: Path, arguments: argparse.Namespace) -> list[Path]:
    from mrcnn_zoo import data
    from mrcnn_zoo.data.paths import folder_name
    from mrcnn_zoo.inspection.pictures import save_dataset_images, spread

    _require_names([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    loaded = data.load_train_and_test(cfg)
    held_out = "_held_out" if cfg.DATASETS.FOLDS else ""
    datasets = {folder / folder_name(dataset.name): dataset for dataset in loaded.train}
    for dataset in loaded.test:
        is_part = dataset.name in cfg.DATASETS.TRAIN
        datasets.setdefault(folder / f"{folder_name(dataset.name)}{held_out if is_part else ''}", dataset)
    for place, dataset in datasets.items():
        records = spread(dataset.records, arguments.num)
        _refuse_foreign((place / f"{record.image_id}.png" for record in records), arguments)
    drawn = [save_dataset_images(dataset, place, num_images=arguments.num) for place, dataset in datasets.items()]
    return [path for paths in drawn for path in paths]


def _draw_batches(cfg: CfgNode, folder: Path, arguments: argparse.Namespace) -> list[Path]:
    from mrcnn_zoo import data
    from mrcnn_zoo.data.classes import unite_classes
    from mrcnn_zoo.inspection.pictures import save_training_batches

    _refuse_foreign((folder / f"train_batch_{number}.png" for number in range(arguments.num)), arguments)
    _require_names(cfg.DATASETS.TRAIN)
    datasets = unite_classes(data.load_train(cfg))
    loader = data.build_train_loader(cfg, datasets, seed=max(cfg.SEED, 0))
    return save_training_batches(
        loader,
        folder,
        datasets[0].class_names,
        channel_order=cfg.INPUT.FORMAT,
        num_batches=arguments.num,
        skeleton=datasets[0].keypoint_skeleton,
    )


def _draw_training(arguments: argparse.Namespace) -> None:
    """Draw what training makes of the images, and print the tables beside the paths."""
    from mrcnn_zoo.inspection.pictures import save_picture
    from mrcnn_zoo.inspection.training.score_histograms import collect_scores, score_figure, score_table
    from mrcnn_zoo.inspection.training.training_pictures import Illustrator, check_kinds

    model, cfg, datasets = _load(arguments)
    folder = _folder(arguments, cfg)
    kinds = [kind for kind in arguments.show if kind in TRAINING_PICTURES]
    check_kinds(model, kinds, is_trained=arguments.weights is not None)
    if OBJECTS in arguments.show:
        _draw_objects(cfg, arguments)
    if SIZES in arguments.show:
        _draw_sizes(cfg, model, datasets, folder, arguments)
    load = _batch_samples if arguments.source == "dataloader" else _image_samples
    if SCORES in arguments.show:
        _refuse_foreign([folder / f"{SCORES}.png"], arguments)
        groups = collect_scores(model, (sample for _, sample in load(cfg, datasets, arguments.num)))
        title = f"scores on {', '.join(dataset.name for dataset in datasets)}"
        print(f"{title}:\n{score_table(groups)}")
        print(save_picture(picture_of(score_figure(groups, title=title)), folder / f"{SCORES}.png"))
    pixel = None if arguments.pixel is None else (float(arguments.pixel[0]), float(arguments.pixel[1]))
    illustrator = Illustrator(model, datasets[0].class_names, cfg.INPUT.FORMAT, pixel)
    for place, sample in load(cfg, datasets, arguments.num) if kinds else ():
        _refuse_foreign((folder / f"{place}_{kind}.png" for kind in kinds), arguments)
        for kind, picture, text in illustrator.draw(sample, kinds):
            print(f"{place} ({sample.file_name}), {kind}:\n{text}\n" if text else "", end="")
            if picture is not None:
                print(save_picture(picture, folder / f"{place}_{kind}.png"))


def _load(arguments: argparse.Namespace) -> "tuple[nn.Module, CfgNode, list[Dataset]]":
    """The model, with initial weights unless --weights is given, and the training data in its classes."""
    from mrcnn_zoo import data
    from mrcnn_zoo.data.classes import in_classes_of_checkpoint, unite_classes
    from mrcnn_zoo.modeling import build_model

    if arguments.weights is not None:
        model, cfg, trained = open_given_model(arguments, given_weights(arguments))
        _require_names(cfg.DATASETS.TRAIN)
        datasets = in_classes_of_checkpoint(
            unite_classes(data.load_train(cfg)), trained.class_names, trained.category_ids, source=trained.file.source
        )
    else:
        cfg = load_command_config(arguments)
        _require_names(cfg.DATASETS.TRAIN)
        prepare_device(cfg)
        datasets = unite_classes(data.load_train(cfg))
        cfg = data.fit_num_classes(cfg, len(datasets[0].class_names), owner=datasets[0].name)
        data.check_num_classes(cfg, datasets[0])
        cfg = data.fit_value_range(cfg, datasets[0].records)
        model = build_model(cfg).eval()
    return model, cfg, datasets


def _image_samples(cfg: CfgNode, datasets: "Sequence[Dataset]", count: int) -> "Iterator[tuple[str, Sample]]":
    """Images at equal distances in each dataset, resized as in evaluation, with their targets."""
    from mrcnn_zoo import data
    from mrcnn_zoo.data.loading.proposals import build_proposal_mapper
    from mrcnn_zoo.data.loading.selection import select_for_training
    from mrcnn_zoo.data.paths import folder_name
    from mrcnn_zoo.inspection.pictures import spread

    for dataset in datasets:
        chosen = select_for_training(cfg, dataset)
        records = spread(chosen.records, count)
        proposals = build_proposal_mapper(cfg, [dataset], records, is_training=True)
        mapper = data.build_validation_mapper(cfg, chosen, proposals)
        for record in records:
            yield f"{folder_name(dataset.name)}/{record.image_id}", mapper(record, np.random.default_rng(0))


def _batch_samples(cfg: CfgNode, datasets: "Sequence[Dataset]", count: int) -> "Iterator[tuple[str, Sample]]":
    """The augmented images of the first training batches."""
    from mrcnn_zoo import data

    loader = data.build_train_loader(cfg, datasets, seed=max(cfg.SEED, 0))
    for number, samples in zip(range(count), loader, strict=False):
        for sample in samples:
            yield f"train_batch_{number}_{sample.image_id}", sample


def _draw_sizes(
    cfg: CfgNode, model: "nn.Module", datasets: "Sequence[Dataset]", folder: Path, arguments: argparse.Namespace
) -> None:
    from mrcnn_zoo.data.paths import folder_name
    from mrcnn_zoo.data.transforms import build_eval_augmentations, build_train_augmentations
    from mrcnn_zoo.inspection.pictures import save_picture
    from mrcnn_zoo.inspection.training.object_sizes import level_scales, object_sizes, size_figure, size_table

    augmented = arguments.source == "dataloader"
    augmentations = build_train_augmentations(cfg) if augmented else build_eval_augmentations(cfg)
    levels = level_scales(model, len(cfg.MODEL.PIXEL_MEAN))
    for dataset in datasets:
        path = folder / f"{folder_name(dataset.name)}_sizes.png"
        _refuse_foreign([path], arguments)
        sizes = object_sizes(dataset, augmentations, seed=max(cfg.SEED, 0))
        title = f"{counted(len(sizes), 'object')} of {dataset.name}, {'augmented' if augmented else 'resized'}"
        print(f"{title}:\n{size_table(sizes, levels)}")
        print(save_picture(picture_of(size_figure(sizes, levels, title=title)), path))


def _refuse_foreign(pictures: Iterable[Path], arguments: argparse.Namespace) -> None:
    """Refuse to replace pictures that no earlier run has written; `--overwrite` allows it."""
    from mrcnn_zoo.inspection.pictures import is_own_picture

    if not arguments.overwrite:
        refuse_to_replace((path for path in pictures if path.exists() and not is_own_picture(path)), option="--output")


def _require_names(names: Sequence[str]) -> None:
    if not names:
        raise UserError("the config names no dataset to draw: set DATASETS.TRAIN, e.g. DATASETS.TRAIN digits_train")


def _shown(text: str) -> list[str]:
    """The type of --show."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names or [text]:
        if name not in SHOWN:
            hint = did_you_mean(name, SHOWN)
            message = f"takes a list of {', '.join(SHOWN)}, not {name!r}" + (f".{hint}" if hint else "")
            raise argparse.ArgumentTypeError(message)
    return names


def build_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog="mrcnn-zoo visualize-data",
        description=__doc__,
        examples=(
            "--config-file Quickstart/mask_rcnn_R_18_FPN_digits.yaml",
            "--config-file my.yaml --source dataloader --num 2 --output pictures",
            "--config-file my.yaml DATASETS.TRAIN digits_train DATASETS.TEST ''",
            "--config-file my.yaml --show anchors,labels,sizes --num 2",
            "--weights output/model_best.pth --show rois,mask-targets --source dataloader --num 1",
            "--weights output/model_best.pth --show scores --num 50 DATASETS.TRAIN [digits_val]",
        ),
    )
    add_config_option(parser, text="selects the datasets")
    parser.add_argument(
        "--source",
        choices=("dataset", "dataloader"),
        default="dataset",
        help="dataset: image files of DATASETS.TRAIN (of objects: and TEST); dataloader: augmented training batches",
    )
    parser.add_argument(
        "--show",
        type=_shown,
        default=[OBJECTS],
        metavar="A,B,...",
        help="objects: annotations (default); anchors: those of each level at a pixel; labels: positive, negative, "
        "neutral and crossing anchors and the objects they belong to; rois: sampled regions of the box head; "
        "mask-targets: beside the truth; sizes: of objects, anchors, strides and receptive fields; scores: of positive "
        "and negative anchors and regions, with --weights",
    )
    parser.add_argument(
        "--pixel",
        nargs=2,
        type=not_negative,
        metavar=("X", "Y"),
        help="of --show anchors, in the resized image (default: centre of the largest object)",
    )
    add_weights_option(
        parser, text="whose proposals --show rois and mask-targets draw (default: initial weights), or whose scores"
    )
    add_trust_option(parser)
    parser.add_argument(
        "--num", type=whole_number(minimum=1), default=8, help="images per dataset, or batches (default: 8)"
    )
    add_output_options(
        parser,
        text="folder of the pictures (default: OUTPUT_DIR/pictures/<source>)",
        overwrite="also replace pictures in it that this program has not written",
    )
    add_overrides(parser)
    return parser
