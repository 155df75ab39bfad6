"""Where log messages go: the console, and a file in the output folder."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.ops.processes import rank
from mrcnn_zoo.progress import fitted, is_on_terminal
from mrcnn_zoo.training.nonfinite import NonFiniteLossError
from mrcnn_zoo.training.signals import TrainingInterrupted

CONSOLE_FORMAT = "[%(asctime)s] %(message)s"
FILE_FORMAT = "[%(asctime)s] %(levelname)s %(name)s: %(message)s"
CLOCK = "%H:%M:%S"
DATE_AND_CLOCK = "%Y-%m-%d %H:%M:%S"


class MarkWarnings(logging.Formatter):
    """Puts the level in front of warnings and errors only, and fits lines to a terminal.

    Args:
        form: of a line, as logging.Formatter's.
        clock: of times, the same.
        stream: that the lines are written to.
    """

    def __init__(self, form: str, clock: str | None = None, *, stream: TextIO | None = None) -> None:
        super().__init__(form, clock)
        self._stream = stream

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        text = text if record.levelno < logging.WARNING else f"{record.levelname}: {text}"
        return fitted(text, self._stream)


class OncePerMessage(logging.Filter):
    """Lets a warning pass once: a dataset that is read a second time is not warned of a second time."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[str, logging.LogRecord] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno < logging.WARNING or self._passed.setdefault(record.getMessage(), record) is record


class LogFile(logging.Handler):
    """A log file that keeps its messages in memory until it is opened: a run that never begins leaves no trace.

    Args:
        path: of the file, which is continued when it exists; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._waiting: list[logging.LogRecord] = []
        self._file: logging.FileHandler | None = None

    @property
    def is_open(self) -> bool:
        """Whether messages reach the file."""
        return self._file is not None

    def open(self) -> None:
        """Write what has come so far, and from now on at once; a second call does nothing.

        Raises:
            UserError: the folder or the file cannot be written.
        """
        if self._file is not None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = logging.FileHandler(self._path, encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"OUTPUT_DIR = {self._path.parent} cannot be written ({error.strerror}); choose another folder."
            ) from error
        self._file.setFormatter(logging.Formatter(FILE_FORMAT, DATE_AND_CLOCK))
        for record in self._waiting:
            self._file.emit(record)
        self._waiting.clear()

    def emit(self, record: logging.LogRecord) -> None:
        if self._file is None:
            self._waiting.append(record)
        else:
            self._file.emit(record)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


@contextmanager
def logging_to(output_dir: Path) -> Iterator[LogFile]:
    """Log to `log.txt`, once that is opened, and, if nothing does so yet, to the console.

    Processes other than the first log to a file alone.
    """
    file = LogFile(output_dir / ("log.txt" if rank() == 0 else f"log_rank{rank()}.txt"))
    file.addFilter(OncePerMessage())
    handlers: list[logging.Handler] = [file]
    if rank() == 0 and not _has_console():
        console = logging.StreamHandler(sys.stdout)
        console.setFormatter(MarkWarnings(CONSOLE_FORMAT, CLOCK, stream=sys.stdout))
        console.addFilter(OncePerMessage())
        handlers.append(console)
    root = logging.getLogger()
    ours = logging.getLogger("mrcnn_zoo")
    former_level = ours.level
    ours.setLevel(logging.INFO)
    for handler in handlers:
        root.addHandler(handler)
    try:
        yield file
    except Exception as error:
        # The console gets it from whoever catches it.
        file.handle(ours.makeRecord(ours.name, logging.ERROR, __file__, 0, "%s", (error,), _traceback_of(error)))
        raise
    finally:
        ours.setLevel(former_level)
        for handler in handlers:
            root.removeHandler(handler)
        file.close()


def log_to_files(log: logging.Logger, message: str) -> None:
    """Log a message to files alone, for what would be too much on a console."""
    _hand_to(log, message, _is_file)


def log_to_consoles(log: logging.Logger, message: str, *, terminals: bool = True) -> None:
    """Log a message to all but files.

    Args:
        log: that it comes from.
        message: a line.
        terminals: whether terminals get it too, and not only pipes and the like.
    """
    _hand_to(log, message, lambda handler: not _is_file(handler) and (terminals or not is_on_terminal(handler)))


def _hand_to(log: logging.Logger, message: str, is_wanted: Callable[[logging.Handler], bool]) -> None:
    if not log.isEnabledFor(logging.INFO):
        return
    record = log.makeRecord(log.name, logging.INFO, __file__, 0, "%s", (message,), None)
    place: logging.Logger | None = log
    while place is not None:
        for handler in place.handlers:
            if is_wanted(handler) and record.levelno >= handler.level:
                handler.handle(record)
        place = place.parent if place.propagate else None


def _is_file(handler: logging.Handler) -> bool:
    return isinstance(handler, LogFile | logging.FileHandler)


def _traceback_of(error: Exception) -> Any:
    is_told_by_message = isinstance(error, (UserError, NonFiniteLossError, TrainingInterrupted))
    return None if is_told_by_message else (type(error), error, error.__traceback__)


def _has_console() -> bool:
    return any(
        isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr)
        for handler in logging.getLogger().handlers
    )
