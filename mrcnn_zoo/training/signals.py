"""SIGTERM and Ctrl-C: noted, so that the current step can end and a checkpoint be written."""

import logging
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from typing_extensions import Self

logger = logging.getLogger(__name__)

NOTICED = (signal.SIGINT, signal.SIGTERM)


class TrainingInterrupted(RuntimeError):  # noqa: N818 - not an error: it was asked for
    """Training was told to stop, and has saved itself.

    Args:
        message: how to go on.
        signal_number: the signal that asked for it.
    """

    def __init__(self, message: str, *, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number

    @property
    def exit_status(self) -> int:
        """As a shell reports a process that the signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signal_number


class StopSignals:
    """While entered, the first SIGTERM or Ctrl-C is only noted; a second Ctrl-C stops at once.

    Outside the main thread, where Python allows no handlers, nothing is noticed.
    """

    def __init__(self) -> None:
        self.received = 0  # the signal's number, 0 for none
        self._owner = 0
        self._former: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._owner = os.getpid()
            self._former = {number: signal.signal(number, self._notice) for number in NOTICED}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    def _notice(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if os.getpid() != self._owner:
            # A data-loading process forked from this one: a terminal's Ctrl-C and a scheduler's SIGTERM reach it too,
            # and the last step still needs it. It goes when its parent lets it go, or at the second signal.
            signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
        elif not self.received:
            self.received = number
            signal.signal(signal.SIGINT, signal.default_int_handler)
            name = signal.Signals(number).name
            logger.warning("%s: finishing the current step, then saving. Ctrl-C stops at once, unsaved.", name)
