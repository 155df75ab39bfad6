"""The output folder: never two trainings mixed, never one lost by mistake."""

import os
from pathlib import Path

from mrcnn_zoo.checkpoint import Checkpointer
from mrcnn_zoo.errors import UserError

CHECKPOINTS = ("model_*.pth", "last_checkpoint")


def check_output_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse to start a training in the folder of another one, or where nothing can be written.

    Raises:
        UserError: it holds a checkpoint, and the user has not said what is to become of it; or it cannot be a folder.
    """
    check_is_writable(folder)
    if resume and overwrite:
        raise UserError("--resume goes on with the training in OUTPUT_DIR, --overwrite removes it: give one of them.")
    if Checkpointer(folder).has_checkpoint() and not (resume or overwrite):
        raise UserError(
            f"OUTPUT_DIR = {folder} holds a training ({Checkpointer(folder).last_path().name}). Go on with it with "
            f"--resume, choose another OUTPUT_DIR, or remove its checkpoints and start afresh with --overwrite."
        )


def check_is_writable(folder: Path) -> None:
    """Refuse a folder that does not exist and cannot be made, or that no file can be put into.

    Raises:
        UserError: with what stands in the way.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        where = "is a file" if existing == folder else f"lies below {existing}, which is a file"
        raise UserError(f"OUTPUT_DIR = {folder} {where}; name a folder.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"OUTPUT_DIR = {folder} cannot be written: no permission in {existing}. Choose another folder.")


def clear_output_folder(folder: Path) -> None:
    """Remove the checkpoints of an earlier training; metrics are set aside by their writers, logs are continued."""
    for pattern in CHECKPOINTS:
        for path in folder.glob(pattern):
            path.unlink()
