"""What surrounds a run: its environment, its random seeds, and its log files."""

import hashlib
import json
import logging
import os
import platform
import random
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
import yaml

import mrcnn_zoo
from mrcnn_zoo.distributed.processes import rank
from mrcnn_zoo.errors import NonFiniteLossError, UserError
from mrcnn_zoo.progress import fitted, is_on_terminal
from mrcnn_zoo.training.stopping import TrainingInterrupted

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "pycocotools", "hotcoco", "faster-coco-eval")

logger = logging.getLogger(__name__)


def record_environment(folder: Path) -> None:
    """Write `environment.json`, and log the versions."""
    environment = describe_environment()
    (folder / "environment.json").write_text(json.dumps(environment, indent=2) + "\n", encoding="utf-8")
    logger.info("%s", " ".join(f"{name} {version}" for name, version in environment["versions"].items()))


def describe_environment() -> dict[str, Any]:
    """Versions, devices and git state, as plain values."""
    return {"versions": installed_versions(), "devices": _devices(), "git": git_state(), "command": list(sys.argv)}


def installed_versions() -> dict[str, str]:
    """Of Python, of this package, and of what its numbers depend on; what is not installed is left out."""
    versions = {"python": platform.python_version(), "mrcnn_zoo": mrcnn_zoo.__version__}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions | ({"cuda": torch.version.cuda} if torch.version.cuda else {})


def git_state(folder: Path | None = None) -> dict[str, Any]:
    """Commit, branch and whether files are changed, of the checkout that holds this package; {} outside of one."""
    folder = folder or Path(mrcnn_zoo.__file__).parent
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return {}
    changed = _git(folder, "status", "--porcelain", "--", ".")
    return {
        "commit": commit,
        "branch": _git(folder, "rev-parse", "--abbrev-ref", "HEAD"),
        "is_changed": bool(changed),
    }


def _devices() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):  # no git on this machine
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def changed_keys(former: str, present: str) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ between two dumped configs, with both values.

    Args:
        former: YAML.
        present: YAML.
    """
    before, after = (dict(_leaves(yaml.safe_load(text))) for text in (former, present))
    names = sorted(before.keys() | after.keys())
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


SEED_BITS = 31  # fits every library's seed and a YAML integer


def choose_seed(configured: int) -> int:
    """The configured seed, or a fresh random one when it is negative."""
    return configured if configured >= 0 else secrets.randbits(SEED_BITS)


def derived_seed(seed: int, *purpose: int | str) -> int:
    """A seed in [0, 2**63) for one purpose, e.g. `derived_seed(seed, "step", iteration, rank)`."""
    text = ":".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's global generators, those of the accelerators included."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_step(seed: int, iteration: int, rank: int) -> None:
    """Seed one training step, so that a resumed run draws what the uninterrupted one drew, whatever ran in between."""
    seed_everything(derived_seed(seed, "step", iteration, rank))


def generator_states() -> dict[str, Any]:
    """The states of all global generators, of types that `torch.load(weights_only=True)` accepts."""
    version, internal, gauss_next = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(internal), gauss_next],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore_generator_states(states: dict[str, Any]) -> None:
    """Put all global generators back, that of the current GPU where there was and is one."""
    version, internal, gauss_next = states["python"]
    random.setstate((version, tuple(internal), gauss_next))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


@contextmanager
def generators_aside(seed: int) -> Iterator[None]:
    """Seed the generators for the block alone; afterwards they are as they were."""
    states = generator_states()
    seed_everything(seed)
    try:
        yield
    finally:
        restore_generator_states(states)


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
