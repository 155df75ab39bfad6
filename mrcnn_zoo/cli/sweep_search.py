"""Search the values of config keys with the best metric (Optuna); start it again to continue."""

import argparse
import math

from mrcnn_zoo.cli.options import add_config_option, add_output_options, add_overrides
from mrcnn_zoo.cli.parser import CommandParser, whole_number
from mrcnn_zoo.cli.sweep_run import add_launcher_options, in_output_folder, launcher_builder

TRIALS = 20
EXAMPLES = ("my_search.yaml --trials 50", "my_search.yaml --trials 100 --timeout 600 --jobs 2")


def add_arguments(parser: CommandParser) -> None:
    """Add the options of `sweep search`.

    Args:
        parser: of the action.
    """
    count = whole_number(minimum=1)
    add_config_option(parser, text="here of the sweep, with a SPACE")
    text = f"trials in all, those of earlier sessions included (default: {TRIALS})"
    parser.add_argument("--trials", type=count, default=TRIALS, metavar="N", help=text)
    parser.add_argument("--jobs", type=count, default=1, metavar="N", help="trials at the same time (default: 1)")
    text = "minutes after which no further trial begins; those that run end as usual (default: no limit)"
    parser.add_argument("--timeout", type=count, metavar="MINUTES", help=text)
    add_launcher_options(parser)
    add_output_options(
        parser,
        text="folder of the search (default: OUTPUT_DIR of the file, else output/sweeps/NAME)",
        overwrite="begin again: remove the study, and the folders of trials with other values",
    )
    add_overrides(parser, text="FILE.yaml of the sweep; then config keys of its BASE to change")


def main(arguments: argparse.Namespace) -> int:
    """Train trials and print their table; returns the exit status.

    Args:
        arguments: of the action.
    """
    from mrcnn_zoo.experiments.plan import refuse_other_sweep
    from mrcnn_zoo.experiments.progress_table import SweepDisplay
    from mrcnn_zoo.experiments.scheduler import SweepLock
    from mrcnn_zoo.experiments.search import BEST_CONFIG, Search, SearchLimits, check_search, objective_of, trial_table
    from mrcnn_zoo.experiments.search_space import read_space
    from mrcnn_zoo.experiments.search_study import STUDY_FILE, SearchStudy
    from mrcnn_zoo.experiments.sweep_file import read_sweep

    sweep = read_sweep(arguments.config_file)
    check_search(sweep)
    space = read_space(sweep.file)
    sweep = in_output_folder(sweep, arguments)
    folder = sweep.output_dir
    build_launcher = launcher_builder(sweep, arguments)
    refuse_other_sweep(sweep)
    seconds = 60.0 * arguments.timeout if arguments.timeout else math.inf
    with SweepLock(folder):
        if arguments.overwrite:
            (folder / STUDY_FILE).unlink(missing_ok=True)
        search = Search(
            sweep,
            SearchStudy(folder, space=space, objective=objective_of(sweep), seed=sweep.seeds[0], jobs=arguments.jobs),
            build_launcher(),
            SearchLimits(arguments.trials, jobs=arguments.jobs, seconds=seconds),
            overrides=arguments.overrides,
            overwrite=arguments.overwrite,
        )
        search.check()
        with SweepDisplay(folder) as display:
            status = search.run(watch=display.show)
    print(trial_table(search.study))
    best = search.study.best()
    if best is not None:
        print(f"* trial {best.number} is the best; its config: mrcnn-zoo train --config-file {folder / BEST_CONFIG}")
    return status
