"""What a training shows on a terminal, in a pipe and in its log file."""

import io
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from mrcnn_zoo.config import load_config
from mrcnn_zoo.progress import ProgressLine, fitted, show_progress, size_in_words
from mrcnn_zoo.registries import METRIC_WRITERS
from mrcnn_zoo.training.log_files import LogFile
from mrcnn_zoo.training.writers import RunPlace
from mrcnn_zoo.training.writers.console import LogLineWriter, ProgressBarWriter, progress_line, short_line

SCALARS = {
    "loss_mask": 0.5,
    "total_loss": 1.25,
    "lr": 0.001,
    "images_per_second": 62.14,
    "eta_seconds": 65.4,
    "memory_mb": 3412.3,
}


def test_full_line_has_all_numbers_and_the_important_first() -> None:
    assert progress_line(19, SCALARS, max_iterations=500) == (
        "iter 20/500  eta 0:01:05  total_loss 1.25  lr 0.001  62.1 img/s  3412 MB  loss_mask 0.5"
    )


def test_short_line_has_what_matters() -> None:
    assert short_line(19, SCALARS, max_iterations=500) == (
        "iter 20/500  loss 1.250  lr 1.00e-03  62.1 img/s  eta 0:01:05"
    )
    validation = {"val/total_loss": 1.5, "val/loss_mask": 0.25}
    assert short_line(499, validation, max_iterations=500) == "iter 500/500  val/total_loss 1.5"


def test_lines_without_length_or_metrics() -> None:
    assert progress_line(19, {}) == "iter 20"
    assert short_line(19, {}) == "iter 20"


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[tuple[io.StringIO, Path]]:
    """A pipe that the root logger writes to, and a log file of a run."""
    pipe, log_file = io.StringIO(), LogFile(tmp_path / "log.txt")
    log_file.open()
    console = logging.StreamHandler(pipe)
    former_level = logging.root.level
    logging.root.setLevel(logging.INFO)
    for handler in (console, log_file):
        logging.root.addHandler(handler)
    yield pipe, tmp_path / "log.txt"
    for handler in (console, log_file):
        logging.root.removeHandler(handler)
    logging.root.setLevel(former_level)
    log_file.close()


def test_without_a_terminal_the_console_gets_short_lines_and_the_file_all_numbers(
    logs: tuple[io.StringIO, Path],
) -> None:
    pipe, log_file = logs
    writer = LogLineWriter(max_iterations=500)
    for iteration in range(20):
        writer.advance(iteration)
    writer.write(19, SCALARS)
    assert pipe.getvalue() == "iter 20/500  loss 1.250  lr 1.00e-03  62.1 img/s  eta 0:01:05\n"
    (line,) = log_file.read_text().splitlines()
    assert line.endswith(progress_line(19, SCALARS, max_iterations=500))


@pytest.mark.parametrize(
    ("is_terminal", "columns", "kind", "expected"),
    [
        (True, 80, "xterm", ProgressBarWriter),
        (True, 0, "xterm", LogLineWriter),
        (True, 80, "dumb", LogLineWriter),
        (False, 80, "xterm", LogLineWriter),
    ],
)
def test_console_is_a_bar_only_on_a_terminal_with_room(
    is_terminal: bool, columns: int, kind: str, expected: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal, raising=False)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((columns, 24)))
    monkeypatch.setenv("TERM", kind)
    assert type(METRIC_WRITERS.get("console")(load_config(), RunPlace(tmp_path))) is expected


def screen_of(width: int) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)


def drawn_on(console: Console) -> list[str]:
    """What was drawn, line by line, without control sequences."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())  # type: ignore[attr-defined]
    return re.split(r"[\r\n]+", text)


def test_bar_starts_where_the_run_resumes_and_ends_at_the_length() -> None:
    console = screen_of(100)
    writer = ProgressBarWriter(console=console, start_iteration=20, max_iterations=100)
    for iteration in range(20, 100):
        writer.advance(iteration)
    writer.write(99, SCALARS)
    writer.close()
    lines = drawn_on(console)
    assert any(" 21/100" in line for line in lines)
    assert lines[-2].endswith("100/100  eta 0:01:05  loss 1.250  lr 1.00e-03  62.1 img/s  3.3 GB")


def test_the_time_left_shrinks_with_every_iteration() -> None:
    console = screen_of(100)
    writer = ProgressBarWriter(console=console, max_iterations=100)
    writer.write(89, {"eta_seconds": 20.0, "total_loss": 1.0, "time": 2.0})
    writer.advance(94)
    writer.close()
    assert drawn_on(console)[-2].endswith(" 95/100  eta 0:00:10  loss 1.000")


def test_the_bar_of_a_time_budget_is_over_its_time() -> None:
    console = screen_of(100)
    writer = ProgressBarWriter(console=console, start_iteration=70, start_seconds=180.0, max_seconds=720.0)
    writer.advance(70)
    writer.write(99, SCALARS | {"eta_seconds": 540.0})
    writer.advance(100)
    writer.close()
    lines = drawn_on(console)
    assert any(line.endswith("0:03:00/0:12:00  iter 71") for line in lines)
    bar = lines[-2]
    assert bar.startswith("━" * 6 + "─")  # a quarter of 25 columns
    assert bar.endswith("0:03:00/0:12:00  iter 101  loss 1.250  lr 1.00e-03  62.1 img/s  3.3 GB")
    assert "eta" not in bar


@pytest.mark.parametrize(
    ("width", "shown", "hidden"),
    [
        (120, ["━", "eta", "loss", "lr", "img/s", "GB"], []),
        (80, ["━", "eta", "loss", "lr", "img/s", "GB"], []),
        (50, ["━", "eta", "loss"], ["GB"]),
        (20, ["10/100"], ["lr"]),
    ],
)
def test_line_fits_the_terminal(width: int, shown: list[str], hidden: list[str]) -> None:
    console = screen_of(width)
    writer = ProgressBarWriter(console=console, max_iterations=100)
    writer.write(9, SCALARS)
    writer.close()
    last = drawn_on(console)[-2]
    assert len(last) < width
    assert all(part in last for part in shown)
    assert not any(part in last for part in hidden)


def test_under_a_bar_pipes_get_short_lines_and_files_all_numbers(logs: tuple[io.StringIO, Path]) -> None:
    pipe, log_file = logs
    writer = ProgressBarWriter(console=screen_of(100), max_iterations=100)
    writer.write(24, {"total_loss": 1.25, "loss_mask": 0.5})
    writer.close()
    assert pipe.getvalue() == "iter 25/100  loss 1.250\n"
    assert log_file.read_text().endswith("iter 25/100  total_loss 1.25  loss_mask 0.5\n")


def test_messages_pass_above_the_bar_without_blank_lines_and_handlers_return(
    logs: tuple[io.StringIO, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal, _ = logs
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    before = list(logging.root.handlers)
    console = screen_of(100)
    writer = ProgressBarWriter(console=console, max_iterations=100)
    writer.advance(0)
    for name in ("model_0000001.pth", "model_final.pth"):
        logging.getLogger("mrcnn_zoo.test").info("saved %s", name)
    assert logging.root.handlers != before
    writer.close()
    assert logging.root.handlers == before
    assert terminal.getvalue() == ""
    lines = [line for line in drawn_on(console) if "1/100" not in line]
    assert lines == ["saved model_0000001.pth", "saved model_final.pth", ""]


def test_an_evaluation_draws_its_line_above_that_of_the_training() -> None:
    console = screen_of(100)
    writer = ProgressBarWriter(console=console, max_iterations=100)
    writer.advance(9)
    with show_progress(ProgressLine("digits_val", total=8, done=3)) as display:
        assert display is not None
        display.refresh(now=True)
    writer.advance(10)
    writer.close()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())  # type: ignore[attr-defined]
    assert re.search(r"digits_val  ━+─+  3/8\n━+─+   10/100", text)
    assert drawn_on(console)[-2].endswith(" 11/100")


def test_nothing_is_drawn_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    with show_progress(ProgressLine("digits_val", total=8)) as display:
        assert display is None


def test_bytes_are_shown_in_their_units() -> None:
    line = ProgressLine("model.pth", total=178_000_000, done=12_345_678, in_words=size_in_words)
    assert line.render(80).plain.endswith("12.3 MB/178.0 MB")
    assert ProgressLine("model.pth", done=999, in_words=size_in_words).render(80).plain == "model.pth  999 B"


# --- the width of a terminal ------------------------------------------------------------------------------------------

TABLE = "\n".join(
    ["| task   |           AP |   AP50 |", "|:-------|-------------:|-------:|", "| bbox   | 3.16 (-8.75) |  13.33 |"]
)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A stream of 32 columns."""
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(stream, "fileno", lambda: 9, raising=False)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((32, 24)))
    return stream


def test_tables_lose_the_columns_that_do_not_fit_a_terminal(terminal: io.StringIO) -> None:
    assert fitted(f"[12:00:00] te: results in %\n{TABLE}", terminal).split("\n") == [
        "[12:00:00] te: results in %",
        "| task   |           AP | ...",
        "|:-------|-------------:|",
        "| bbox   | 3.16 (-8.75) |",
    ]
    narrow = "| a | b |\n|---|---|"
    assert fitted(narrow, terminal) == narrow


def test_lines_break_at_words_and_paths_stay_whole(terminal: io.StringIO) -> None:
    path = "/a/path/that/is/longer/than/the-terminal/model_final.pth"
    assert fitted(f"saved the weights and the optimizer state: {path}\n\n  b", terminal).split("\n") == [
        "saved the weights and the",
        "  optimizer state:",
        f"  {path}",
        "",
        "  b",
    ]


def test_pipes_and_files_get_tables_and_lines_as_they_are() -> None:
    text = TABLE + "\n" + "word " * 100
    assert fitted(text, io.StringIO()) == text
    assert fitted(text, None) == text
