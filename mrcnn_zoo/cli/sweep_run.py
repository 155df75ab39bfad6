"""Train all runs of a sweep that are not finished; start it again to continue after an interruption."""

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from tabulate import tabulate

from mrcnn_zoo.cli.options import add_config_option, add_output_options, add_overrides
from mrcnn_zoo.cli.parser import CommandParser, key_and_value, whole_number
from mrcnn_zoo.config.values import literal
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.output_files import check_output_folder

if TYPE_CHECKING:
    from mrcnn_zoo.experiments.launchers.contract import Launcher
    from mrcnn_zoo.experiments.plan import PlannedRun
    from mrcnn_zoo.experiments.sweep_file import Sweep

EXAMPLES = (
    "Sweeps/roi_layer_digits.yaml --jobs 2",
    "Sweeps/roi_layer_digits.yaml --only RoIPool --dry-run",
    "Sweeps/roi_layer_digits.yaml --output output/short SOLVER.MAX_ITER 100",
)


def add_arguments(parser: CommandParser) -> None:
    """Add the options of `sweep run`.

    Args:
        parser: of the action.
    """
    add_config_option(parser, text="here of the sweep")
    add_launcher_options(parser)
    parser.add_argument(
        "--jobs",
        type=whole_number(minimum=1),
        default=0,
        metavar="N",
        help="trainings at the same time, which share cores and GPUs (default: one per GPU, else 1)",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="train this variant, and those it starts from; may be repeated (default: all)",
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be done with each run, and why")
    add_output_options(
        parser,
        text="folder of the sweep (default: OUTPUT_DIR of the file, else output/sweeps/NAME)",
        overwrite="remove the folders of runs whose config or data have changed, and train them again",
    )
    add_overrides(parser, text="FILE.yaml of the sweep; then config keys of its BASE to change")


def add_launcher_options(parser: CommandParser) -> None:
    """Add `--launcher` and `--slurm`.

    Args:
        parser: of an action that trains.
    """
    parser.add_argument("--launcher", default="local", metavar="NAME", help="local (default) or slurm")
    text = "field of the section SLURM of the sweep, e.g. PARTITION=gpu; may be repeated"
    parser.add_argument("--slurm", action="append", default=[], type=key_and_value, metavar="NAME=VALUE", help=text)


def in_output_folder(sweep: "Sweep", arguments: argparse.Namespace) -> "Sweep":
    """The sweep with the folder of --output, or else its own OUTPUT_DIR, which is checked.

    Args:
        sweep: as read.
        arguments: of an action that trains.

    Raises:
        UserError: files cannot be written there.
    """
    from mrcnn_zoo.experiments.plan import folder_of

    option = "--output" if arguments.output else "OUTPUT_DIR"
    return replace(sweep, output_dir=check_output_folder(arguments.output or folder_of(sweep), option=option))


def launcher_builder(sweep: "Sweep", arguments: argparse.Namespace) -> "Callable[[], Launcher]":
    """A function that builds the launcher of --launcher.

    Args:
        sweep: with its folder.
        arguments: of an action that trains.

    Raises:
        UnknownNameError: with the nearest name.
        UserError: a mistake in the section SLURM, whichever launcher is used.
    """
    from mrcnn_zoo.experiments.launchers.contract import LaunchOptions
    from mrcnn_zoo.experiments.launchers.slurm_settings import read_settings
    from mrcnn_zoo.registries import LAUNCHERS

    typed = {name: literal(value) for name, _, value in (item.partition("=") for item in arguments.slurm)}
    options = LaunchOptions(sweep.output_dir, jobs=arguments.jobs, settings={**sweep.slurm, **typed})
    read_settings(options.settings)
    return partial(LAUNCHERS.get(arguments.launcher, key="--launcher"), options)


def main(arguments: argparse.Namespace) -> int:
    """Train the runs and print their table; returns the exit status.

    Args:
        arguments: of the action.
    """
    from mrcnn_zoo.experiments.plan import BEGINS, plan_sweep, refuse_changed, refuse_other_sweep, write_sweep
    from mrcnn_zoo.experiments.preflight import check_trainings
    from mrcnn_zoo.experiments.progress_table import SweepDisplay, sweep_table
    from mrcnn_zoo.experiments.records import FAILED, read_sweep_folder
    from mrcnn_zoo.experiments.runs import expand
    from mrcnn_zoo.experiments.scheduler import SweepLock, run_sweep
    from mrcnn_zoo.experiments.sweep_file import read_sweep
    from mrcnn_zoo.modeling.construction import check_device

    sweep = read_sweep(arguments.config_file)
    if sweep.space:
        raise UserError(f"{sweep.file} has a SPACE: run it with `mrcnn-zoo sweep search {sweep.file}`.")
    sweep = in_output_folder(sweep, arguments)
    build_launcher = launcher_builder(sweep, arguments)
    specs = expand(sweep, overrides=arguments.overrides)
    for device in sorted({spec.cfg.MODEL.DEVICE for spec in specs} if arguments.launcher == "local" else ()):
        check_device(device)
    refuse_other_sweep(sweep)
    planned = plan_sweep(sweep, specs, only=arguments.only, overwrite=arguments.overwrite)
    if arguments.dry_run:
        print(_plan_table(planned))
    else:
        refuse_changed(planned, overwrite=arguments.overwrite)
    check_trainings(specs, {run.spec.key for run in planned if run.action in BEGINS})
    if arguments.dry_run:
        return 0
    launcher = build_launcher()
    with SweepLock(sweep.output_dir):
        write_sweep(sweep, planned, overrides=arguments.overrides)
        with SweepDisplay(sweep.output_dir) as display:
            status = run_sweep(planned, launcher, watch=display.show)
    record = read_sweep_folder(sweep.output_dir)
    if not display.is_live:  # else it is the last picture on the terminal
        print(sweep_table(record))
    failed = [run for run in record.runs if run.status == FAILED]
    if failed:
        print(f"{counted(len(failed), 'run')} failed; the errors are in run.json, the logs in console.log, e.g. of")
        print(f"{failed[0].folder}:\n{failed[0].error}")
    return status


def _plan_table(planned: Sequence["PlannedRun"]) -> str:
    rows = [[str(run.spec.key), run.action, run.reason] for run in planned]
    table = tabulate(rows, ["run", "action", "reason"], tablefmt="github", disable_numparse=True)
    counts = Counter(run.action for run in planned)
    return f"{table}\n{counted(len(rows), 'run')}: {', '.join(f'{count} {action}' for action, count in counts.items())}"
