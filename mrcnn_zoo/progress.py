"""Progress on a terminal: one line per task at the bottom, with all other output above."""

import logging
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import chain, groupby
from time import monotonic
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

MIN_WIDTH = 20  # columns of a terminal that shows a line
BAR_WIDTHS = (8, 40)  # columns, at least and at most
SECONDS_BETWEEN_REFRESHES = 0.1
DONE, TO_DO = "━", "─"  # of the bar; distinguishable without colours
GAP = "  "
# Some terminals start a new line after the last column, and Ctrl-C is echoed as ^C after the line.
SPARE_COLUMNS = 3
UNITS = ("B", "kB", "MB", "GB", "TB")
BORDER = "|"  # of tables
MORE_COLUMNS = " ..."  # after the header of a table that is cut


@dataclass
class ProgressLine:
    """The progress of one task, with additional fields.

    Args:
        label: at the start of the line; may be empty.
        total: steps, bytes or seconds; 0 when unknown.
        done: of them.
        in_words: formats bytes or seconds; None for steps.
        fields: texts by name, the most important first; those that do not fit the terminal are omitted.
    """

    label: str
    total: float = 0
    done: float = 0
    in_words: Callable[[float], str] | None = None
    fields: dict[str, str] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)  # the widest text of each field so far: fields do not jump

    def show(self, fields: Mapping[str, str]) -> None:
        """Replace the fields.

        Args:
            fields: texts by name.
        """
        self.fields = dict(fields)
        for name, text in fields.items():
            self.widths[name] = max(len(text), self.widths.get(name, 0))

    def render(self, width: int) -> "Text":
        """The line, at most `width` columns wide.

        Args:
            width: of the terminal, in columns.
        """
        from rich.text import Text

        texts = [self.fields[name].ljust(self.widths.get(name, 0)) for name in self.fields]
        head = [text for text in (self.label, self._position()) if text]
        room = width - SPARE_COLUMNS
        bar = BAR_WIDTHS[0] if self.total else 0
        while texts and len(GAP.join([*head, *texts])) + bool(bar) * (bar + len(GAP)) > room:
            texts.pop()
        free = room - len(GAP.join([*head, *texts])) - len(GAP)
        line = Text(no_wrap=True, overflow="crop", end="")
        if self.label:
            line.append(self.label + GAP, style="bold")
        if self.total and free >= BAR_WIDTHS[0]:
            length = min(free, BAR_WIDTHS[1])
            filled = min(length, round(length * self.done / self.total))
            line.append(DONE * filled, style="green").append(TO_DO * (length - filled), style="bright_black").append(
                GAP
            )
        line.append(GAP.join([self._position(), *texts]).rstrip())
        line.truncate(room, overflow="crop")
        return line

    def _position(self) -> str:
        if self.in_words is not None:
            done = self.in_words(self.done)
            return f"{done}/{self.in_words(self.total)}" if self.total else done
        return f"{self.done:>{len(str(self.total))}}/{self.total}" if self.total else f"iter {self.done}"


class Display:
    """The lines of all running tasks on one terminal.

    Drawn without a thread: loader processes that are forked meanwhile would inherit its locks.

    Args:
        console: of the terminal.
    """

    def __init__(self, console: "Console") -> None:
        from rich.live import Live

        self._console = console
        self._lines: list[ProgressLine] = []
        self._handlers: list[tuple[logging.Logger, logging.Handler, logging.Handler]] = []
        self._drawn = 0.0
        self._live = Live(
            get_renderable=self._render,
            console=console,
            auto_refresh=False,
            vertical_overflow="visible",
            redirect_stdout=_is_terminal(sys.stdout),  # a pipe is not redirected
            redirect_stderr=_is_terminal(sys.stderr),
        )

    def start(self) -> None:
        """Start drawing; from now on log messages to the terminal are printed above the lines."""
        for log in (logging.root, logging.getLogger("mrcnn_zoo")):
            for handler in list(log.handlers):
                if is_on_terminal(handler):
                    replacement = _AboveTheLines(self._console, handler)
                    _replace_handler(log, handler, replacement)
                    self._handlers.append((log, handler, replacement))
        self._live.start()

    def stop(self) -> None:
        """Stop drawing, with the last state left on the terminal, and restore the handlers of log messages."""
        self._live.stop()
        for log, handler, replacement in self._handlers:
            _replace_handler(log, replacement, handler)
        self._handlers.clear()

    def add(self, line: ProgressLine) -> None:
        """Draw one more line, above the others.

        Args:
            line: to draw.
        """
        self._lines.insert(0, line)
        self.refresh(now=True)

    def remove(self, line: ProgressLine) -> None:
        """Stop drawing a line; the last one stays on the terminal.

        Args:
            line: added before.
        """
        if len(self._lines) > 1:
            self._lines.remove(line)
        self.refresh(now=True)

    def refresh(self, *, now: bool = False) -> None:
        """Redraw, unless the last drawing was less than SECONDS_BETWEEN_REFRESHES ago.

        Args:
            now: redraw in any case.
        """
        if now or monotonic() - self._drawn >= SECONDS_BETWEEN_REFRESHES:
            self._live.refresh()
            self._drawn = monotonic()

    def _render(self) -> "Text":
        from rich.text import Text

        return Text("\n").join(line.render(self._console.width) for line in self._lines)


class _AboveTheLines(logging.Handler):
    """Prints log messages through the console that draws the lines, in the format of the handler it replaces."""

    def __init__(self, console: "Console", replaced: logging.Handler) -> None:
        super().__init__(replaced.level)
        self._console = console
        self.setFormatter(replaced.formatter)
        for condition in replaced.filters:
            self.addFilter(condition)

    def emit(self, record: logging.LogRecord) -> None:
        style = {logging.WARNING: "yellow", logging.ERROR: "red"}.get(record.levelno)
        self._console.print(
            self.format(record), style=style, markup=False, highlight=False, emoji=False, soft_wrap=True
        )


_display: ContextVar[Display | None] = ContextVar("_display", default=None)


@contextmanager
def show_progress(line: ProgressLine, *, console: "Console | None" = None) -> Iterator[Display | None]:
    """Draw a line while the block runs, together with those of the enclosing blocks.

    Args:
        line: to draw; call `refresh` of the display after changing it.
        console: of the terminal; stderr by default. Without a terminal nothing is drawn, and None is yielded.
    """
    display = _display.get()
    if display is not None:
        display.add(line)
        try:
            yield display
        finally:
            display.remove(line)
        return
    if console is None and not has_terminal(sys.stderr):
        yield None
        return
    display = Display(console or new_console(sys.stderr))
    token = _display.set(display)
    display.start()
    display.add(line)
    try:
        yield display
    finally:
        display.refresh(now=True)
        display.stop()
        _display.reset(token)


def is_on_terminal(handler: logging.Handler) -> bool:
    """Whether log messages of a handler are printed on a terminal.

    Args:
        handler: of any type.
    """
    if isinstance(handler, logging.StreamHandler):
        return _is_terminal(handler.stream)
    return isinstance(handler, _AboveTheLines)


def has_terminal(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can redraw lines and is wide enough for one.

    Args:
        stream: e.g. stderr.
    """
    # Some containers have a terminal of width 0, on which a line would be empty.
    is_dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    return not is_dumb and terminal_width(stream) >= MIN_WIDTH


def terminal_width(stream: Any) -> int:
    """Columns of the terminal of a stream; 0 without a terminal, or with an unknown width.

    Args:
        stream: open or closed.
    """
    try:
        return os.get_terminal_size(stream.fileno()).columns if _is_terminal(stream) else 0
    except (OSError, ValueError, AttributeError):
        return 0


def new_console(stream: TextIO) -> "Console":
    """A console of rich; colours depend on NO_COLOR and the terminal.

    Args:
        stream: to print to.
    """
    from rich.console import Console

    return Console(file=stream)


def fitted(text: str, stream: Any) -> str:
    """A text wrapped for the terminal of a stream: tables lose columns that do not fit, other lines break at words.

    Args:
        text: rows of tables start with `|`; consecutive rows are cut at the same column.
        stream: of the terminal; for others the text is returned as it is.
    """
    width = terminal_width(stream)
    if width < MIN_WIDTH:
        return text
    lines: list[str] = []
    for is_table, group in groupby(text.split("\n"), key=lambda line: line.startswith(BORDER)):
        if is_table:
            lines += _narrowed(list(group), width)
        else:
            lines += chain.from_iterable(_wrapped(line, width) for line in group)
    return "\n".join(lines)


def _narrowed(rows: list[str], width: int) -> list[str]:
    if max(map(len, rows)) <= width:
        return rows
    end = min(row.rfind(BORDER, 0, width - len(MORE_COLUMNS)) for row in rows) + 1
    if end <= 1:  # not even the first column fits
        return rows
    head, *others = (row[:end] for row in rows)
    return [head + MORE_COLUMNS, *others]


def _wrapped(line: str, width: int) -> list[str]:
    if len(line) <= width:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()) + len(GAP))
    # Paths and commands are not broken, even if longer than a line.
    return textwrap.wrap(
        line,
        width,
        subsequent_indent=indent,
        expand_tabs=False,
        replace_whitespace=False,
        break_long_words=False,
        break_on_hyphens=False,
    )


def duration(seconds: float) -> str:
    """A duration, e.g. "0:01:05".

    Args:
        seconds: rounded to whole ones.
    """
    return str(timedelta(seconds=round(seconds)))


def size_in_words(num_bytes: float) -> str:
    """A file size, e.g. "12.3 MB".

    Args:
        num_bytes: at least 0.
    """
    place = 0
    while num_bytes >= 1000 and place < len(UNITS) - 1:
        num_bytes, place = num_bytes / 1000, place + 1
    return f"{num_bytes:.1f} {UNITS[place]}" if place else f"{num_bytes:.0f} B"


def _replace_handler(log: logging.Logger, former: logging.Handler, present: logging.Handler) -> None:
    log.handlers = [present if handler is former else handler for handler in log.handlers]


def _is_terminal(stream: Any) -> bool:
    is_terminal = getattr(stream, "isatty", None)
    try:
        return bool(is_terminal and is_terminal())
    except ValueError:  # closed
        return False
