"""Measure time and memory of each variant of a sweep, one after the other, on a machine that does nothing else."""

import argparse
import sys

from mrcnn_zoo.cli.parser import CommandParser, whole_number

ITERATIONS = 20
EXAMPLES = ("output/sweeps/roi_layer_digits", "output/sweeps/roi_layer_digits --only base --iterations 50 --threads 1")


def add_arguments(parser: CommandParser) -> None:
    """Add the options of `sweep measure`.

    Args:
        parser: of the action.
    """
    count = whole_number(minimum=1)
    parser.add_argument("folder", metavar="DIR", help="folder of a sweep, its OUTPUT_DIR; speed.json is written there")
    text = "measure only this variant; may be repeated (default: all)"
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help=text)
    text = f"training steps and images of inference per variant, after a warm-up (default: {ITERATIONS})"
    parser.add_argument("--iterations", type=count, default=ITERATIONS, metavar="N", help=text)
    parser.add_argument("--threads", type=count, default=0, metavar="N", help="CPU threads (default: torch's default)")


def main(arguments: argparse.Namespace) -> int:
    """Measure, and print the table and the written file; returns the exit status.

    Args:
        arguments: of the action.
    """
    from mrcnn_zoo.experiments.records import read_sweep_folder
    from mrcnn_zoo.experiments.report.build import build_section
    from mrcnn_zoo.experiments.report.details import speed_table
    from mrcnn_zoo.experiments.report.text import plain_table
    from mrcnn_zoo.experiments.speed import measure_sweep
    from mrcnn_zoo.progress import fitted

    record = read_sweep_folder(arguments.folder)
    path = measure_sweep(record, only=arguments.only, iterations=arguments.iterations, num_threads=arguments.threads)
    print(fitted(plain_table(speed_table(build_section(record, []))), sys.stdout))
    print(f"written: {path}")
    return 0
