"""The output folder: never two trainings mixed, never one lost by mistake."""

from pathlib import Path

from mrcnn_zoo.checkpoint import Checkpointer
from mrcnn_zoo.errors import UserError

CHECKPOINTS = ("model_*.pth", "last_checkpoint")


def check_training_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse to start a training in the folder of another one.

    Raises:
        UserError: it holds a checkpoint, and the user has not said what is to become of it.
    """
    if resume and overwrite:
        raise UserError("--resume goes on with the training in OUTPUT_DIR, --overwrite removes it: give one of them.")
    if Checkpointer(folder).has_checkpoint() and not (resume or overwrite):
        raise UserError(
            f"OUTPUT_DIR = {folder} holds a training ({Checkpointer(folder).last_path().name}). Go on with it with "
            f"--resume, choose another OUTPUT_DIR, or remove its checkpoints and start afresh with --overwrite."
        )


def clear_output_folder(folder: Path) -> None:
    """Remove the checkpoints of an earlier training; metrics are set aside by their writers, logs are continued."""
    for pattern in CHECKPOINTS:
        for path in folder.glob(pattern):
            path.unlink()
