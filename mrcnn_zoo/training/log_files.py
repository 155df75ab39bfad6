"""Log files and console of a run."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from mrcnn_zoo.distributed.processes import is_main_process, rank
from mrcnn_zoo.errors import NonFiniteLossError, UserError
from mrcnn_zoo.progress import fitted, is_on_terminal
from mrcnn_zoo.training.stopping import TrainingInterrupted

CONSOLE_FORMAT = "[%(asctime)s] %(message)s"
FILE_FORMAT = "[%(asctime)s] %(levelname)s %(name)s: %(message)s"
CLOCK = "%H:%M:%S"
DATE_AND_CLOCK = "%Y-%m-%d %H:%M:%S"


class MarkWarnings(logging.Formatter):
    """Prefixes warnings and errors with their level, and fits lines to a terminal.

    Args:
        form: of a line, as logging.Formatter's.
        clock: of times, the same.
        stream: of the lines.
    """

    def __init__(self, form: str, clock: str | None = None, *, stream: TextIO | None = None) -> None:
        super().__init__(form, clock)
        self._stream = stream

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        text = text if record.levelno < logging.WARNING else f"{record.levelname}: {text}"
        return fitted(text, self._stream)


@contextmanager
def logging_from(level: int) -> Iterator[None]:
    """Log only messages of a level and above while the block builds something for a check.

    Args:
        level: e.g. logging.WARNING.
    """
    ours = logging.getLogger("mrcnn_zoo")
    former = ours.level
    ours.setLevel(level)
    try:
        yield
    finally:
        ours.setLevel(former)


class OncePerMessage(logging.Filter):
    """Lets each warning pass once, e.g. those of a dataset that is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[str, logging.LogRecord] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno < logging.WARNING or self._passed.setdefault(record.getMessage(), record) is record


class LogFile(logging.Handler):
    """A log file that keeps its messages in memory until it is opened, so that a refused run leaves no file.

    Args:
        path: of the file, which is appended to if it exists; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._waiting: list[logging.LogRecord] = []
        self._file: logging.FileHandler | None = None

    @property
    def is_open(self) -> bool:
        """Whether messages are written to the file."""
        return self._file is not None

    def open(self) -> None:
        """Write the messages so far, and later ones at once; a second call does nothing.

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
    """Log to `log.txt`, once that is opened, and to the console unless a handler does so already.

    Processes other than the first log to a file alone.

    Args:
        output_dir: of the log file.
    """
    file = LogFile(output_dir / ("log.txt" if is_main_process() else f"log_rank{rank()}.txt"))
    file.addFilter(OncePerMessage())
    handlers: list[logging.Handler] = [file]
    if is_main_process() and not _has_console():
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
        # The caller reports it on the console.
        file.handle(ours.makeRecord(ours.name, logging.ERROR, __file__, 0, "%s", (error,), _traceback_of(error)))
        raise
    finally:
        ours.setLevel(former_level)
        for handler in handlers:
            root.removeHandler(handler)
        file.close()


def log_to_files(log: logging.Logger, message: str) -> None:
    """Log a message to files alone.

    Args:
        log: of the message.
        message: a line.
    """
    _handle_by(log, message, _is_file)


def log_to_consoles(log: logging.Logger, message: str, *, terminals: bool = True) -> None:
    """Log a message to all but files.

    Args:
        log: of the message.
        message: a line.
        terminals: also to terminals, not only to pipes and files.
    """
    _handle_by(log, message, lambda handler: not _is_file(handler) and (terminals or not is_on_terminal(handler)))


def _handle_by(log: logging.Logger, message: str, accepts: Callable[[logging.Handler], bool]) -> None:
    if not log.isEnabledFor(logging.INFO):
        return
    record = log.makeRecord(log.name, logging.INFO, __file__, 0, "%s", (message,), None)
    place: logging.Logger | None = log
    while place is not None:
        for handler in place.handlers:
            if accepts(handler) and record.levelno >= handler.level:
                handler.handle(record)
        place = place.parent if place.propagate else None


def _is_file(handler: logging.Handler) -> bool:
    return isinstance(handler, LogFile | logging.FileHandler)


def _traceback_of(error: Exception) -> Any:
    is_explained_by_message = isinstance(error, (UserError, NonFiniteLossError, TrainingInterrupted))
    return None if is_explained_by_message else (type(error), error, error.__traceback__)


def _has_console() -> bool:
    return any(
        isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr)
        for handler in logging.getLogger().handlers
    )
