"""Environment, random seeds and log files of a run."""

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
    """Write `environment.json`, and log the versions.

    Args:
        folder: of the file.
    """
    environment = describe_environment()
    (folder / "environment.json").write_text(json.dumps(environment, indent=2) + "\n", encoding="utf-8")
    logger.info("%s", " ".join(f"{name} {version}" for name, version in environment["versions"].items()))


def describe_environment() -> dict[str, Any]:
    """Versions, devices and git state, as plain values."""
    return {"versions": installed_versions(), "devices": _devices(), "git": git_state(), "command": list(sys.argv)}


def installed_versions() -> dict[str, str]:
    """Versions of Python, this package and the packages that numbers depend on, if installed."""
    versions = {"python": platform.python_version(), "mrcnn_zoo": mrcnn_zoo.__version__}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions | ({"cuda": torch.version.cuda} if torch.version.cuda else {})


def git_state(folder: Path | None = None) -> dict[str, Any]:
    """Commit, branch and `is_changed` of a git checkout; {} outside of one.

    Args:
        folder: in the checkout; by default that of this package.
    """
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
    """Dotted keys with different values in two dumped configs, with both values.

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


SEED_BITS = 31  # valid as a seed in every library and as an integer in YAML


def choose_seed(configured: int) -> int:
    """The configured seed, or a fresh random one where it is negative.

    Args:
        configured: SEED.
    """
    return configured if configured >= 0 else secrets.randbits(SEED_BITS)


def derived_seed(seed: int, *purpose: int | str) -> int:
    """A seed in [0, 2**63) for one purpose, e.g. `derived_seed(seed, "step", iteration, rank)`.

    Args:
        seed: of the run.
        *purpose: names and numbers.
    """
    text = ":".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and PyTorch, including those of accelerators.

    Args:
        seed: at least 0.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_step(seed: int, iteration: int, rank: int) -> None:
    """Seed one training step, so that a resumed run draws the same numbers as an uninterrupted one.

    Args:
        seed: of the run.
        iteration: of the step.
        rank: of the process.
    """
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
    """Restore all global generators, that of the current GPU where the state has one.

    Args:
        states: from `generator_states`.
    """
    version, internal, gauss_next = states["python"]
    random.setstate((version, tuple(internal), gauss_next))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


@contextmanager
def generators_aside(seed: int) -> Iterator[None]:
    """Seed the generators inside the block; their states are restored afterwards.

    Args:
        seed: at least 0.
    """
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
