"""The one number that decides which weights are the best, and its history."""

import math
from typing import Any

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registry import did_you_mean
from mrcnn_zoo.training.hook import Results

AUTO = "auto"
AUTO_ORDER = ("segm/AP", "keypoints/AP", "bbox/AP", "box_proposals/AR@1000")


class BestMetric:
    """Follows one result over the evaluations of a run.

    Args:
        name: task and metric, e.g. "segm/AP" or "val/total_loss"; "auto" takes segm/AP where there is one, else
            keypoints/AP, else bbox/AP, else box_proposals/AR@1000. Of a loss the lowest value is the best.
    """

    def __init__(self, name: str = AUTO) -> None:
        self.name = name
        self.value = math.nan  # the best so far
        self.iteration = 0  # finished steps at that evaluation
        self.evaluations_since = 0

    def update(self, results: Results, iteration: int) -> bool:
        """Take in an evaluation after `iteration` steps; whether it is the best so far.

        Raises:
            UserError: the results do not hold the metric.
        """
        if self.name == AUTO:
            self.name = _automatic_name(results)
        value = _look_up(results, self.name)
        if self._is_better(value):
            self.value, self.iteration, self.evaluations_since = value, iteration, 0
            return True
        self.evaluations_since += 1
        return False

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # Another metric than before starts its own history.
        if state and self.name in (AUTO, state["name"]):
            vars(self).update(state)

    def _is_better(self, value: float) -> bool:
        if math.isnan(value):  # no ground truth of that kind
            return False
        if math.isnan(self.value):
            return True
        return value < self.value if "loss" in self.name else value > self.value


def _automatic_name(results: Results) -> str:
    known = _names(results)
    # With several test sets the tasks are called "<dataset>/segm"; the first dataset decides.
    for wanted in AUTO_ORDER:
        for name in known:
            if name == wanted or name.endswith(f"/{wanted}"):
                return name
    return known[0] if known else AUTO


def _look_up(results: Results, name: str) -> float:
    task, _, metric = name.rpartition("/")
    try:
        return float(results[task][metric])
    except KeyError:
        known = _names(results)
        raise UserError(
            f"SOLVER.BEST_METRIC = {name!r} is not among the results of the evaluation: {', '.join(known)}."
            f"{did_you_mean(name, known)}"
        ) from None


def _names(results: Results) -> list[str]:
    return [f"{task}/{metric}" for task, metrics in results.items() for metric in metrics]
