"""Checkpoint files of a run: written completely or not at all, and read without running code."""

import pickle
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.output_files import UNFINISHED_SUFFIX, write_atomically, write_text
from mrcnn_zoo.registry import did_you_mean

LAST_CHECKPOINT_FILE = "last_checkpoint"
BEST_CHECKPOINT = "model_best"
FINAL_CHECKPOINT = "model_final.pth"
CHECKPOINT_SUFFIXES = (".pth", ".pt", ".safetensors")
PERIODIC_CHECKPOINT = re.compile(r"model_\d{7}\.pth")
PLAIN_TYPES = (bool, int, float, str, bytes, type(None), torch.Size, torch.dtype, torch.device)


class Checkpointer:
    """The checkpoints in one output folder; only one process of a run may save.

    Args:
        output_dir: created by the first save.
    """

    def __init__(self, output_dir: str | Path) -> None:
        self._folder = Path(output_dir)

    def save(self, name: str, state: Mapping[str, Any]) -> Path:
        """Write `<name>.pth`, then name it in `last_checkpoint`, which a resumed run reads.

        Args:
            name: e.g. model_0004999 or model_final.
            state: plain types and tensors, nested in dicts, lists and tuples.

        Returns:
            The file.

        Raises:
            UserError: it cannot be written; an earlier file of that name stays complete.
        """
        path = self._write(name, state)
        write_text(self._folder / LAST_CHECKPOINT_FILE, path.name)
        return path

    def save_best(self, state: Mapping[str, Any]) -> Path:
        """Write `model_best.pth` and leave `last_checkpoint`: a resumed run continues from the last, not from the best.

        Args:
            state: see `save`.
        """
        return self._write(BEST_CHECKPOINT, state)

    def best_path(self) -> Path:
        """The file of `save_best`, which may not exist."""
        return self._folder / f"{BEST_CHECKPOINT}.pth"

    def has_checkpoint(self) -> bool:
        """Whether the folder has a checkpoint to resume from."""
        return (self._folder / LAST_CHECKPOINT_FILE).exists()

    def last_path(self) -> Path:
        """The file that `last_checkpoint` names.

        Raises:
            UserError: there is no `last_checkpoint`, or the file that it names is missing.
        """
        note = self._folder / LAST_CHECKPOINT_FILE
        if not note.exists():
            raise UserError(f"nothing to resume from: there is no {LAST_CHECKPOINT_FILE} in {self._folder}.")
        path = self._folder / note.read_text(encoding="utf-8-sig").strip()
        if not path.is_file():
            raise UserError(f"{note} names {path.name}, which is not there{_checkpoints_beside(path)}")
        return path

    def prune(self, keep: int) -> None:
        """Remove old periodic checkpoints, model_<7 digits>.pth, but not the one that `last_checkpoint` names.

        Args:
            keep: how many of the newest stay; 0 keeps all.
        """
        periodic = sorted(path for path in self._folder.glob("model_*.pth") if PERIODIC_CHECKPOINT.fullmatch(path.name))
        last = self.last_path() if self.has_checkpoint() else None
        for path in periodic[:-keep] if keep > 0 else []:
            if path != last:
                path.unlink()

    def _write(self, name: str, state: Mapping[str, Any]) -> Path:
        problem = next(_unloadable(state, "state"), None)
        if problem:
            raise TypeError(f"a checkpoint holds plain types and tensors only, but {problem}")
        path = self._folder / (name if name.endswith(".pth") else f"{name}.pth")
        for leftover in self._folder.glob(f".*{UNFINISHED_SUFFIX}"):
            leftover.unlink()  # of a run that was killed while it saved
        return write_atomically(path, lambda file: torch.save(dict(state), file))


def checkpoint_in(folder: Path) -> Path:
    """The checkpoint to use in the output folder of a training: the best, or else the last.

    Args:
        folder: of the training.

    Raises:
        UserError: it has neither; the message lists the checkpoints that it has.
    """
    for name in (f"{BEST_CHECKPOINT}.pth", _named_last(folder), FINAL_CHECKPOINT):
        if name and (folder / name).is_file():
            return folder / name
    names = sorted(path.name for path in folder.iterdir() if path.suffix in CHECKPOINT_SUFFIXES)
    if len(names) == 1:
        return folder / names[0]
    below = sorted({path.parent.name for path in folder.glob(f"*/{LAST_CHECKPOINT_FILE}")})  # stages of a run
    if names:
        what = f"it holds {', '.join(names)}: name one of them"
    elif below:
        what = f"checkpoints are in its folders {', '.join(below)}: name one, e.g. {folder / below[-1]}"
    else:
        what = "no checkpoint is in it: name a file"
    raise UserError(f"weights {folder} are a folder, and {what}.")


def _named_last(folder: Path) -> str:
    note = folder / LAST_CHECKPOINT_FILE
    return Path(note.read_text(encoding="utf-8-sig").strip()).name if note.is_file() else ""


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a `.pth` file, with tensors on the CPU; no code in the file is run.

    Raises:
        UserError: the file is missing, cut short, not a checkpoint, or needs code to be read.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(missing_checkpoint(path))
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of any kind, on bytes that are not a checkpoint's
        raise UserError(_unreadable(path, error)) from error
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__}, not a checkpoint: a dict with the weights.")
    return state


def missing_checkpoint(path: Path) -> str:
    """The message about a file that does not exist, with the checkpoints beside it."""
    return f"checkpoint {path} does not exist{_checkpoints_beside(path)}"


def _unloadable(value: Any, where: str) -> Iterator[str]:
    if type(value) in (dict, OrderedDict) or (where == "state" and isinstance(value, Mapping)):
        for key, item in value.items():
            yield from _unloadable(key, f"a key of {where}")
            yield from _unloadable(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        for position, item in enumerate(value):
            yield from _unloadable(item, f"{where}[{position}]")
    elif not isinstance(value, Tensor) and type(value) not in PLAIN_TYPES:
        yield f"{where} is a {type(value).__module__}.{type(value).__name__}"


def _unreadable(path: Path, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"cannot read {path}: {error.strerror}."
    blocked = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if blocked:
        return (
            f"{path} is refused: reading it would run {blocked.group(1)}. Only tensors and plain values are read; "
            f"save the weights alone, with torch.save(model.state_dict(), ...)."
        )
    reason = re.split(r"\. |\n", str(error).strip())[0]
    if isinstance(error, pickle.UnpicklingError):
        reason = "its content is not that of torch.save"
    return (
        f"checkpoint {path} ({path.stat().st_size:,} bytes) is cut short or not a PyTorch file: "
        f"{reason or type(error).__name__}. Copy or download it again, or take an earlier one."
    )


def _checkpoints_beside(path: Path) -> str:
    if not path.parent.is_dir():
        return f": there is no folder {path.parent}."
    names = sorted(file.name for file in path.parent.glob("*.pth"))
    if not names:
        return "."
    return f".{did_you_mean(path.name, names)} In {path.parent}: {', '.join(names)}."
