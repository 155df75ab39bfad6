"""The trials of a search in an Optuna study, which a SQLite file in the folder of the sweep keeps."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.experiments.comparison import LESS_IS_BETTER
from mrcnn_zoo.experiments.identity import Identity, plain
from mrcnn_zoo.experiments.search_space import Dimension

STUDY_FILE = "study.db"
STUDY = "search"
SETTINGS, ERROR, VALUES = "settings", "error", "values"
INSTALL = 'pip install "mrcnn_zoo[search]"'

Values = dict[str, Any]  # of config keys


@dataclass(frozen=True)
class Trial:
    """A trial of the study.

    Args:
        number: counted from 0.
        state: "running", "complete", "pruned" or "fail", as Optuna names them.
        values: of the config keys.
        objective: of a complete trial, and the last one before a trial was pruned; nan else.
        error: of a failed one.
    """

    number: int
    state: str
    values: Values
    objective: float = math.nan
    error: str = ""


class SearchStudy:
    """A study that is opened again after an interruption.

    The sampler of a trial is seeded with its number: a search that was killed draws what an undisturbed one draws.

    Args:
        folder: of the sweep.
        space: that is searched.
        objective: metric, e.g. "segm/AP".
        seed: of the sampler.
        jobs: trials at the same time.

    Raises:
        UserError: Optuna is missing, or the file is not a study.
    """

    def __init__(self, folder: Path, *, space: Sequence[Dimension], objective: str, seed: int, jobs: int) -> None:
        self._optuna = optuna = import_optuna()
        self.space = tuple(space)
        self.objective = objective
        self._seed = seed
        self._jobs = jobs
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / STUDY_FILE
        direction = "minimize" if LESS_IS_BETTER.search(objective) else "maximize"
        try:
            self._study: Any = optuna.create_study(
                storage=f"sqlite:///{self._path}",
                study_name=STUDY,
                pruner=optuna.pruners.MedianPruner(),
                direction=direction,
                load_if_exists=True,
            )
        except Exception as error:  # of SQLAlchemy, alembic or Optuna
            raise UserError(
                f"{self._path} cannot be opened as a study of Optuna ({error}). Remove it, or choose another folder "
                "with --output."
            ) from error

    def check_settings(self, base: Identity) -> None:
        """Record what the trials have in common, or refuse to continue a search in which it has changed.

        Args:
            base: of the config below all trials.

        Raises:
            UserError: naming what has changed.
        """
        space = plain({dimension.name: dimension.mapping() for dimension in self.space})
        settings = {"space": space, "objective": self.objective, "base": base.record()}
        former = self._study.user_attrs.get(SETTINGS)
        if former is None or (not self._study.trials and former["objective"] == self.objective):
            self._study.set_user_attr(SETTINGS, plain(settings))
            return
        changes = [f"SPACE.{name}" for name in space | former["space"] if space.get(name) != former["space"].get(name)]
        if former["objective"] != self.objective:
            changes.append(f"OBJECTIVE = {self.objective} (it was {former['objective']})")
        changes += [change for change in base.changes_from(former["base"]) if change.split(" ")[0] not in space]
        if changes:
            raise UserError(
                f"{self._path} has trials of another search: changed are {'; '.join(changes)}. Undo the change, choose "
                "another folder with --output, or begin again with --overwrite."
            )

    def new_trial(self) -> Trial:
        """Draw the values of a further trial."""
        asked = self._study.ask()
        return self._filled(asked.number, asked._trial_id)

    def running(self) -> list[Trial]:
        """The trials that have begun and have no result, also those of an earlier process."""
        running = self._optuna.trial.TrialState.RUNNING
        return [self._filled(own.number, own._trial_id) for own in self._frozen() if own.state == running]

    def _filled(self, number: int, identifier: int) -> Trial:
        """A trial with all values, which are drawn unless they were before."""
        seed = int(np.random.SeedSequence((self._seed, number)).generate_state(1)[0])
        self._study.sampler = self._optuna.samplers.TPESampler(seed=seed, constant_liar=self._jobs > 1)
        trial = self._optuna.trial.Trial(self._study, identifier)
        values = {dimension.name: dimension.suggest(trial) for dimension in self.space}
        trial.set_user_attr(VALUES, plain(values))
        return Trial(number, "running", values)

    def trials(self) -> list[Trial]:
        """All trials, by number."""
        return [self._read(frozen) for frozen in self._frozen()]

    def _read(self, frozen: Any) -> Trial:
        objective = frozen.value
        if objective is None and frozen.intermediate_values:
            objective = frozen.intermediate_values[max(frozen.intermediate_values)]
        values = frozen.user_attrs.get(VALUES, dict(frozen.params))
        error = frozen.user_attrs.get(ERROR, "")
        number = math.nan if objective is None else objective
        return Trial(frozen.number, frozen.state.name.lower(), values, number, error)

    def _frozen(self) -> list[Any]:
        frozen: list[Any] = self._study.get_trials(deepcopy=False)
        return frozen

    def report(self, number: int, measured: Mapping[int, float]) -> None:
        """Record intermediate values of a trial.

        Args:
            number: of the trial.
            measured: objective by iteration.
        """
        self._reported(number, measured)

    def should_prune(self, number: int, measured: Mapping[int, float]) -> bool:
        """Record intermediate values of a trial; returns whether its best is below the median of complete trials.

        Args:
            number: of the trial.
            measured: objective by iteration.
        """
        return bool(self._reported(number, measured).should_prune())

    def _reported(self, number: int, measured: Mapping[int, float]) -> Any:
        frozen = self._frozen()[number]
        trial = self._optuna.trial.Trial(self._study, frozen._trial_id)
        for step, value in sorted(measured.items()):
            if step not in frozen.intermediate_values:
                trial.report(value, step)
        return trial

    def complete(self, number: int, objective: float) -> None:
        """Record the result of a trial.

        Args:
            number: of the trial.
            objective: its metric.
        """
        self._study.tell(number, objective)

    def prune(self, number: int) -> None:
        """Record that a trial was stopped early.

        Args:
            number: of the trial.
        """
        self._study.tell(number, state=self._optuna.trial.TrialState.PRUNED)

    def fail(self, number: int, error: str) -> None:
        """Record that a trial has no result.

        Args:
            number: of the trial.
            error: why.
        """
        self._optuna.trial.Trial(self._study, self._frozen()[number]._trial_id).set_user_attr(ERROR, error)
        self._study.tell(number, state=self._optuna.trial.TrialState.FAIL)

    def best(self) -> Trial | None:
        """The complete trial with the best objective; None while there is none."""
        complete = [trial for trial in self.trials() if trial.state == "complete"]
        sign = -1 if LESS_IS_BETTER.search(self.objective) else 1
        return max(complete, key=lambda trial: sign * trial.objective, default=None)

    def importances(self) -> dict[str, float]:
        """The share of each key in the variation of the objective; empty for fewer than two complete trials.

        Source: Watanabe et al. 2023 (PED-ANOVA), as in Optuna.
        """
        results = [trial.objective for trial in self.trials() if trial.state == "complete"]
        if len(set(results)) < 2:
            return {}
        evaluator = self._optuna.importance.PedAnovaImportanceEvaluator()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self._optuna.exceptions.ExperimentalWarning)
            return dict(self._optuna.importance.get_param_importances(self._study, evaluator=evaluator))


def import_optuna() -> Any:
    """The package optuna, with warnings only.

    Raises:
        UserError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError(f"`sweep search` needs Optuna, which is not installed: {INSTALL}") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
