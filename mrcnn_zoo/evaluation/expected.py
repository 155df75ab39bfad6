"""Results held against what a config promises."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mrcnn_zoo.config.rules import problem_of_expectation
from mrcnn_zoo.errors import UserError


class UnexpectedResultsError(UserError):
    """Results outside the tolerance of TEST.EXPECTED_RESULTS."""


def verify_expected_results(
    results: Mapping[str, Any], expected: Sequence[Sequence[Any]], *, key: str = "TEST.EXPECTED_RESULTS"
) -> None:
    """Nothing when every expectation is met.

    Args:
        results: metrics by task, or those by dataset name.
        expected: rows of task, metric, value and tolerance; with several datasets the dataset's name in front.
        key: the config key they came from, for the message.

    Raises:
        UnexpectedResultsError: naming every number that is off or missing.
        UserError: a row of another shape.
    """
    problems = []
    for row in expected:
        *path, value, tolerance = _checked(row, key)
        found, where = _look_up(results, path), "/".join(path)
        if found is None:
            problems.append(f"{where} was not measured")
        elif not math.isfinite(found) or abs(found - value) > tolerance:
            problems.append(f"{where} is {found:.3f}, expected {value:g} +- {tolerance:g}")
    if problems:
        raise UnexpectedResultsError(f"The results differ from {key}: {'; '.join(problems)}.")


def _checked(row: Sequence[Any], key: str) -> Sequence[Any]:
    problem = problem_of_expectation(row)
    if problem:
        raise UserError(f"{key} has the row {row!r}; {problem}.")
    return row


def _look_up(results: Mapping[str, Any], path: Sequence[str]) -> float | None:
    value: Any = results
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, (int, float)) else None
