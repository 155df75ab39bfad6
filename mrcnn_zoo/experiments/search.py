"""`sweep search`: trials are ordinary runs, `trial_0/seed_0` and so on, whose values an Optuna study chooses.

The study has a trial as "running" until its run has ended and its result is recorded there. After a kill at any moment
the running trials are therefore those without result: their runs are finished, or resume from their checkpoints.
"""

import json
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tabulate import tabulate

from mrcnn_zoo.config.keys import Assignment, Origin
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.experiments.identity import identities
from mrcnn_zoo.experiments.launchers.contract import Launcher
from mrcnn_zoo.experiments.plan import PlannedRun, plan_sweep, refuse_changed, write_sweep
from mrcnn_zoo.experiments.preflight import check_trainings
from mrcnn_zoo.experiments.records import (
    FAILED,
    FINISHED,
    METRICS_FILE,
    USUAL_COLUMNS,
    RunRecord,
    read_run,
    result_of,
    update_run_file,
)
from mrcnn_zoo.experiments.runs import RunKey, expand, write_base_configs, write_config
from mrcnn_zoo.experiments.scheduler import SECONDS_BETWEEN_POLLS, Watch
from mrcnn_zoo.experiments.search_study import SearchStudy, Trial
from mrcnn_zoo.experiments.sweep_file import Sweep
from mrcnn_zoo.experiments.variants import Variant
from mrcnn_zoo.training.stopping import StopSignals

PREFIX = "trial_"
BEST_CONFIG, BEST_FOLDER = "best.yaml", "best"
FAILURES_IN_A_ROW = 3  # that end a search
SHOWN = 12  # metrics in a message
DEFAULT_COLUMNS = USUAL_COLUMNS[:2]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchLimits:
    """When a search ends.

    Args:
        trials: in the study, those of earlier sessions and failed ones included.
        jobs: trials at the same time.
        seconds: after which no further trial begins; those that run end as usual.
    """

    trials: int
    jobs: int = 1
    seconds: float = math.inf


def objective_of(sweep: Sweep) -> str:
    """The metric of a search: OBJECTIVE, or the first of COLUMNS.

    Args:
        sweep: of the search.
    """
    return sweep.objective or (*sweep.columns, *DEFAULT_COLUMNS)[0]


def check_search(sweep: Sweep) -> None:
    """Refuse a sweep with more than one run per trial.

    Args:
        sweep: with a SPACE.

    Raises:
        UserError: naming the field.
    """
    if not sweep.space:
        raise UserError(
            f"{sweep.file}: SPACE is missing; name config keys, each with {{LOW: 1e-4, HIGH: 1e-2, LOG: true}} or a "
            "list of values."
        )
    several = {
        "VARIANTS or GRID": len(sweep.variants) > 1 or bool(sweep.variants[0].overrides or sweep.variants[0].sources),
        "DATA_FRACTIONS": bool(sweep.data_fractions),
        "FOLDS": bool(sweep.folds),
        "several SEEDS": len(sweep.seeds) > 1,
    }
    for name, is_given in several.items():
        if is_given:
            raise UserError(
                f"{sweep.file}: a search has one run per trial, so there are no {name} beside SPACE. Search first; "
                "then compare the values in a sweep without SPACE."
            )


def trial_variant(trial: Trial) -> Variant:
    """The variant of a trial.

    Args:
        trial: with its values.
    """
    origin = Origin(f"{PREFIX}{trial.number}")
    overrides = tuple(Assignment((name,), value, origin) for name, value in trial.values.items())
    return Variant(f"{PREFIX}{trial.number}", overrides=overrides)


@dataclass
class Search:
    """A search while it runs; `run` ends when all trials have results, or after a signal.

    Args:
        sweep: of the search, without variants.
        study: of its trials.
        launcher: that trains.
        limits: of the search.
        overrides: of the base config, as typed.
        overwrite: train runs in the folder again that are not those of the study.
    """

    sweep: Sweep
    study: SearchStudy
    launcher: Launcher
    limits: SearchLimits
    overrides: Sequence[Any] = ()
    overwrite: bool = False
    _running: dict[Path, Trial] = field(default_factory=dict)
    _stopped: set[int] = field(default_factory=set)  # trials that are being pruned
    _read_sizes: dict[Path, int] = field(default_factory=dict)  # bytes of metrics.json that have been read
    _num_interrupted: int = 0  # trainings that have ended with neither result nor error
    _failures: int = 0  # in a row

    def check(self) -> None:
        """Check the config below the trials, and that the study is of this search.

        Raises:
            UserError: naming the mistake, or what has changed.
        """
        (spec,) = expand(replace(self.sweep, variants=(Variant("base"),)), overrides=self.overrides)
        check_trainings([spec], {spec.key})
        self.study.check_settings(identities([spec])[spec.key])

    def run(self, *, watch: Watch) -> int:
        """Train trials; returns 0, 1 if trainings failed or were interrupted, 128 plus the number of a signal.

        Args:
            watch: called about five times per second with the runs that have ended.
        """
        end = time.monotonic() + self.limits.seconds
        signals = StopSignals()
        waiting = self.study.running()
        is_interrupted = False
        with signals:
            try:
                while True:
                    if signals.received and not is_interrupted:
                        is_interrupted = True
                        self.launcher.interrupt()
                    ended: dict[RunKey, RunRecord] = {}
                    if not is_interrupted:
                        self._fill(waiting, ended, may_draw=time.monotonic() < end)
                    ended |= self._record({folder: self._running.pop(folder) for folder in self.launcher.poll()})
                    watch(ended)
                    if not self._running and (is_interrupted or not ended):
                        break
                    self._prune()
                    time.sleep(SECONDS_BETWEEN_POLLS)
            except KeyboardInterrupt:  # the second Ctrl-C
                self.launcher.interrupt()
                self.launcher.kill()
        if signals.received:
            return 128 + signals.received
        return 1 if self._num_interrupted or any(trial.state == "fail" for trial in self.study.trials()) else 0

    def _fill(self, waiting: list[Trial], ended: dict[RunKey, RunRecord], *, may_draw: bool) -> None:
        """Submit trials up to the number of jobs, interrupted ones first."""
        while len(self._running) < self.limits.jobs:
            if waiting:
                trial = waiting.pop(0)
            elif may_draw and self._may_draw():
                trial = self.study.new_trial()
            else:
                return
            folder = self.sweep.output_dir / self._key(trial).path
            try:
                planned = self._planned(trial)
            except UserError as error:  # the values of the trial do not go together
                update_run_file(folder, {"key": vars(self._key(trial)), "status": FAILED, "error": str(error)})
                ended |= self._record({folder: trial})
                continue
            refuse_changed(planned, overwrite=self.overwrite)
            self._write(planned)
            self._running[folder] = trial
            self.launcher.submit([folder])

    def _may_draw(self) -> bool:
        return self._failures < FAILURES_IN_A_ROW and len(self.study.trials()) < self.limits.trials

    def _key(self, trial: Trial) -> RunKey:
        return RunKey(f"{PREFIX}{trial.number}", self.sweep.seeds[0])

    def _planned(self, trial: Trial) -> list[PlannedRun]:
        own = replace(self.sweep, variants=(trial_variant(trial),), reference="")
        return plan_sweep(own, expand(own, overrides=self.overrides), overwrite=self.overwrite)

    def _write(self, planned: Sequence[PlannedRun]) -> None:
        """Write the files of a run, and the sweep with all trials so far as its variants."""
        variants = tuple(map(trial_variant, self.study.trials()))
        columns = self.sweep.columns or tuple(dict.fromkeys((self.study.objective, *DEFAULT_COLUMNS)))
        everything = replace(self.sweep, variants=variants, reference=variants[0].name, columns=columns)
        write_sweep(everything, planned, overrides=self.overrides)

    def _record(self, trials: Mapping[Path, Trial]) -> dict[RunKey, RunRecord]:
        """Record in the study how trainings have ended."""
        ended = {}
        for folder, trial in trials.items():
            record = read_run(self._key(trial), folder)
            ended[record.key] = record
            value = result_of(record.results, self.study.objective)
            if record.status == FINISHED and not math.isnan(value):
                # The median of later trials is over these, also of a training that ended between two polls.
                self.study.report(trial.number, intermediate_values(folder, self.study.objective))
                self.study.complete(trial.number, value)
                self._write_best()
                self._failures = 0
            elif record.status in (FINISHED, FAILED):
                self.study.fail(trial.number, record.error or self._missing(record))
                self._failures += 1
                if self._failures == FAILURES_IN_A_ROW:
                    logger.error(
                        "%s have failed one after the other: no further one begins", counted(FAILURES_IN_A_ROW, "trial")
                    )
            elif trial.number in self._stopped:
                update_run_file(folder, {"pruned": True})
                self.study.prune(trial.number)
            else:
                self._num_interrupted += 1
        return ended

    def _missing(self, record: RunRecord) -> str:
        names = [f"{task}/{name}" for task, own in record.results.items() if isinstance(own, dict) for name in own]
        text = f"its metrics are {', '.join(names[:SHOWN])}" if names else "it has no evaluation"
        return f"finished without a value of {self.study.objective}; {text}"

    def _prune(self) -> None:
        """Stop the trainings whose intermediate values are below the median."""
        for folder, trial in self._running.items():
            path = folder / METRICS_FILE
            size = path.stat().st_size if path.is_file() else 0
            if trial.number in self._stopped or size == self._read_sizes.get(folder, 0):
                continue
            self._read_sizes[folder] = size
            measured = intermediate_values(folder, self.study.objective)
            if measured and self.study.should_prune(trial.number, measured):
                self._stopped.add(trial.number)
                self.launcher.stop(folder)

    def _write_best(self) -> None:
        best = self.study.best()
        assert best is not None
        folder = self.sweep.output_dir
        base = write_base_configs(self.sweep, self.overrides)[self.sweep.base]
        origin = Origin(BEST_CONFIG)
        own = [Assignment(("OUTPUT_DIR",), str(folder / BEST_FOLDER), origin)]
        own += [Assignment(("SEED",), self.sweep.seeds[0], origin)]
        own += trial_variant(best).overrides
        comment = f"The best of a search: {PREFIX}{best.number}, {self.study.objective} {best.objective:.4g}"
        write_config(folder / BEST_CONFIG, own, base=os.path.relpath(base, folder), comment=comment)


def intermediate_values(folder: Path, metric: str) -> dict[int, float]:
    """The evaluations of a training so far, by iteration.

    Args:
        folder: of the run; of a run of several stages there are none.
        metric: e.g. "segm/AP".
    """
    path = folder / METRICS_FILE
    if not path.is_file():
        return {}
    found: dict[int, float] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if f'"{metric}"' not in line:
            continue
        try:
            values = json.loads(line)
        except ValueError:  # it is being written
            continue
        if values.get(metric) is not None:
            found[int(values["iteration"])] = float(values[metric])
    return found


def trial_table(study: SearchStudy) -> str:
    """All trials with their values, the best one marked, and the importance of the keys.

    Args:
        study: of a search.
    """
    best, trials = study.best(), study.trials()
    names = [dimension.name for dimension in study.space]
    header = ["trial", "state", study.objective, *(name.rpartition(".")[2] for name in names)]
    rows = [
        [
            f"{trial.number}{' *' if best is not None and trial.number == best.number else ''}",
            trial.state,
            "-" if math.isnan(trial.objective) else f"{trial.objective:.2f}",
            *(_shown(trial.values.get(name)) for name in names),
        ]
        for trial in trials
    ]
    lines = [tabulate(rows, header, tablefmt="github", disable_numparse=True)]
    importances = study.importances()
    if importances:
        shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in importances.items())
        lines.append(f"share in the variation of {study.objective}: {shares}")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
