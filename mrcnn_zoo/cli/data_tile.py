"""Cut large images into tiles and write them with their objects, also 16-bit images and those of many channels.

The tiles of an image have the same side. An object in the overlap of tiles is in each of them.
"""

import argparse
from typing import TYPE_CHECKING

from mrcnn_zoo.choices import MIN_VISIBLE, TILE_OVERLAP, TILE_SIZE
from mrcnn_zoo.cli.data_options import (
    add_source_and_target,
    add_source_options,
    add_target_options,
    load_data_config,
    read_source,
    target_of,
    write_target,
)
from mrcnn_zoo.cli.parser import CommandParser, score, whole_number
from mrcnn_zoo.errors import UserError, counted

if TYPE_CHECKING:
    from mrcnn_zoo.data.tiles import TileCounts, Tiling

EXAMPLES = (
    "data/aerial data/aerial_tiles --size 1024 --overlap 128 --min-visible 0.3",
    "data/slides data/slide_tiles --size 512 --overlap 64 --cut-objects crowd --empty drop",
    "data/scan data/scan_tiles INPUT.MAX_IMAGE_PIXELS 0",
)


def add_arguments(parser: CommandParser) -> None:
    """Add the options of `data tile`.

    Args:
        parser: of the action.
    """
    add_source_and_target(parser)
    text = f"of a tile in pixels, both sides (default: {TILE_SIZE}); a smaller image is one tile"
    parser.add_argument("--size", type=whole_number(minimum=8), default=TILE_SIZE, metavar="N", help=text)
    text = f"of neighbouring tiles in pixels (default: {TILE_OVERLAP})"
    parser.add_argument("--overlap", type=whole_number(minimum=0), default=TILE_OVERLAP, metavar="N", help=text)
    text = f"share of an object's area in a tile from which it is kept, cut (default: {MIN_VISIBLE})"
    parser.add_argument("--min-visible", type=score, default=MIN_VISIBLE, metavar="SHARE", help=text)
    text = "objects with a smaller share: left out (drop), or marked as crowds, which neither count as errors nor are "
    text += "trained on (crowd); default: drop"
    parser.add_argument("--cut-objects", choices=("drop", "crowd"), default="drop", help=text)
    text = "tiles without objects (default: keep)"
    parser.add_argument("--empty", choices=("keep", "drop"), default="keep", help=text)
    add_target_options(parser)
    add_source_options(parser)


def main(arguments: argparse.Namespace) -> int:
    """Write the tiles and print the counts; returns the exit status.

    Args:
        arguments: of the action.
    """
    from mrcnn_zoo.data.tiles import Tiling, tiled

    if arguments.overlap >= arguments.size:
        raise UserError(f"--overlap {arguments.overlap} must be below --size {arguments.size}.")
    if arguments.no_images:
        raise UserError("--no-images: tiles are new images, so they are always written; leave the option out.")
    folder = target_of(arguments, arguments.target, sources=[arguments.source])
    cfg = load_data_config(arguments)
    tiling = Tiling(
        arguments.size,
        arguments.overlap,
        arguments.min_visible,
        marks_cut=arguments.cut_objects == "crowd",
        keeps_empty=arguments.empty == "keep",
        max_pixels=cfg.INPUT.MAX_IMAGE_PIXELS,
    )
    result, counts = tiled(read_source(arguments, cfg, arguments.source), tiling)
    if not result.records:
        raise UserError("no tile has an object, and tiles without objects are left out: use --empty keep.")
    write_target(arguments, result, folder, facts=_facts(counts, tiling))
    return 0


def _facts(counts: "TileCounts", tiling: "Tiling") -> list[str]:
    share = f"{100 * tiling.min_visible:g} %"
    lines = [
        f"{counted(counts.tiles, 'tile')} of {counted(counts.images, 'image')}, {tiling.size} x {tiling.size} with an "
        f"overlap of {tiling.overlap}",
        f"objects: {counts.whole:,} whole, {counts.cut:,} cut at the border of their tile",
    ]
    lines += [f"{counted(counts.marked, 'part')} of objects below {share} marked as crowds"] * bool(counts.marked)
    lines += [f"{counted(counts.left_out, 'part')} of objects below {share} left out"] * bool(counts.left_out)
    lines += [f"{counted(counts.in_no_tile, 'object')} in no tile"] * bool(counts.in_no_tile)
    lines += [f"{counted(counts.empty_left_out, 'tile')} without objects left out"] * bool(counts.empty_left_out)
    return lines
