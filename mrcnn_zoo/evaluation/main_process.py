"""What process 0 measures and all processes learn."""

from collections.abc import Callable

from mrcnn_zoo.evaluation.tables import Results
from mrcnn_zoo.ops.processes import rank, value_of_main_process


def results_of_main_process(measure: Callable[[], Results]) -> Results:
    """What `measure` returns on process 0, on every process; the others do not call it.

    Raises:
        RuntimeError: on the others when it has failed on process 0, which raises the error itself.
    """
    results: Results = {}
    failure: Exception | None = None
    if rank() == 0:
        try:
            results = measure()
        except Exception as error:  # told to the other processes before it is raised, or they would wait for ever
            failure = error
    results, message = value_of_main_process((results, failure and str(failure)))
    if failure is not None:
        raise failure
    if message:
        raise RuntimeError(f"the evaluation failed on process 0: {message}")
    return results
