"""Where log messages go: the console, and a file in the output folder."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.ops.processes import rank
from mrcnn_zoo.training.nonfinite import NonFiniteLossError
from mrcnn_zoo.training.signals import TrainingInterrupted

CONSOLE_FORMAT = "[%(asctime)s] %(message)s"
FILE_FORMAT = "[%(asctime)s] %(levelname)s %(name)s: %(message)s"
CLOCK = "%H:%M:%S"
DATE_AND_CLOCK = "%Y-%m-%d %H:%M:%S"


class _MarkWarnings(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno < logging.WARNING else f"{record.levelname}: {text}"


@contextmanager
def logging_to(output_dir: Path) -> Iterator[None]:
    """Log to `log.txt` and, if nothing does so yet, to the console; processes other than the first to a file alone."""
    output_dir.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(output_dir / ("log.txt" if rank() == 0 else f"log_rank{rank()}.txt"), encoding="utf-8")
    file.setFormatter(logging.Formatter(FILE_FORMAT, DATE_AND_CLOCK))
    handlers: list[logging.Handler] = [file]
    if rank() == 0 and not _has_console():
        console = logging.StreamHandler(sys.stdout)
        console.setFormatter(_MarkWarnings(CONSOLE_FORMAT, CLOCK))
        handlers.append(console)
    root = logging.getLogger()
    ours = logging.getLogger("mrcnn_zoo")
    former_level = ours.level
    ours.setLevel(logging.INFO)
    for handler in handlers:
        root.addHandler(handler)
    try:
        yield
    except Exception as error:
        # The console gets it from whoever catches it.
        file.handle(ours.makeRecord(ours.name, logging.ERROR, __file__, 0, "%s", (error,), _traceback_of(error)))
        raise
    finally:
        ours.setLevel(former_level)
        for handler in handlers:
            root.removeHandler(handler)
        file.close()


def _traceback_of(error: Exception) -> Any:
    is_told_by_message = isinstance(error, (UserError, NonFiniteLossError, TrainingInterrupted))
    return None if is_told_by_message else (type(error), error, error.__traceback__)


def _has_console() -> bool:
    return any(
        isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr)
        for handler in logging.getLogger().handlers
    )
