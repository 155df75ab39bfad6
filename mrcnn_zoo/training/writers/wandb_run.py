"""Starts, continues and ends the W&B run of a training."""

import logging
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.training.writers.contract import RunPlace

RUN_ID_FILE = "wandb_run_id.txt"
INIT_TIMEOUT = 60.0  # seconds that the start waits for the server
LOGIN_TIMEOUT = 60.0  # seconds that a prompt on a terminal waits for an answer
FAILED = 1  # exit code
REFUSED_KEY = re.compile(r"user is not logged in|unauthorized|\b401\b", re.IGNORECASE)  # of errors with a key given
SIGNAL_EXIT = 128  # plus the number of the signal, as shells count

logger = logging.getLogger(__name__)


def has_wandb(place: RunPlace) -> bool:
    """Whether the package is installed; a warning is logged where it is not.

    Args:
        place: of the run.
    """
    try:
        import wandb  # noqa: F401
    except ImportError:
        if place.begins_session:
            logger.warning(
                "WRITERS names wandb, which is not installed; the run continues without it. Install it with "
                "`pip install wandb`, or take it out of WRITERS."
            )
        return False
    return True


def build_wandb_run(cfg: CfgNode, place: RunPlace) -> Any:
    """The W&B run of a training, or of all its stages; a resumed training continues it.

    Without account or network the run is recorded offline.

    Args:
        cfg: WANDB, and the config that the run is shown with.
        place: of the run.

    Returns:
        The run, or None where W&B does not start at all; the reason is logged.

    Raises:
        UserError: W&B refuses the API key.
    """
    stage, config = place.stage, yaml.safe_load(cfg.dump())
    folder = stage.run_dir if stage else place.output_dir
    run = _continued_run(cfg, place, folder, config=None if stage else config)
    if run is None:
        return None
    (folder / RUN_ID_FILE).write_text(run.id, encoding="utf-8")
    if stage:
        run.config.update({stage.name: config}, allow_val_change=True)
    return run


def end_run(run: Any, *, failed: bool, signal_number: int) -> None:
    """End a W&B run as finished, failed, or preempted, which W&B shows for a run that is to be resumed.

    Args:
        run: of `build_wandb_run`.
        failed: an exception ended the training.
        signal_number: that interrupted it; 0 for none.
    """
    if signal_number:
        run.mark_preempting()  # with an exit code other than 0
    run.finish(exit_code=FAILED if failed else SIGNAL_EXIT + signal_number if signal_number else 0)


def sync_command(run: Any) -> str:
    """The command that sends a run that is recorded offline; empty for others.

    Args:
        run: of `build_wandb_run`. A resumed one has a folder for each session, in the order of their times.
    """
    if run.settings.mode != "offline":
        return ""
    parent = Path(run.settings.sync_dir).parent
    folders = sorted(str(path) for path in parent.glob(f"offline-run-*-{run.id}"))
    return shlex.join(["wandb", "sync", *folders]) if folders else ""


def _continued_run(cfg: CfgNode, place: RunPlace, folder: Path, *, config: Mapping[str, Any] | None) -> Any:
    import wandb

    id_file, stage = folder / RUN_ID_FILE, place.stage
    is_resumed = (place.start_iteration > 0 or (stage is not None and stage.number > 1)) and id_file.exists()
    run_id = id_file.read_text(encoding="utf-8").strip() if is_resumed else None
    if run_id is not None and wandb.run is not None and wandb.run.id == run_id:
        return wandb.run  # an earlier stage has left it open
    settings = {
        **_settings_of(cfg),
        "name": cfg.WANDB.NAME or folder.resolve().name,
        "dir": str(folder),
        "config": config,
        "id": run_id,
        "resume": "allow" if is_resumed else None,
    }
    try:
        return wandb.init(**settings)
    except (wandb.Error, OSError) as error:  # no account, no network, no answer to a prompt, or a wrong key
        if not (isinstance(error, wandb.errors.AuthenticationError) or REFUSED_KEY.search(str(error))):
            return _offline_run({**settings, "mode": "offline"}, reason=_first_line(error))
        raise UserError(
            f"W&B refuses the API key: {_first_line(error)}. Correct WANDB_API_KEY or log in again with "
            "`wandb login --relogin`; WANDB.MODE offline needs no key."
        ) from error


def _offline_run(settings: Mapping[str, Any], *, reason: str) -> Any:
    import wandb

    try:
        run = wandb.init(**settings)
    except (wandb.Error, OSError) as error:
        logger.warning(
            "W&B did not start: %s; nor offline: %s. The run continues without it; take wandb out of WRITERS to be rid "
            "of this warning.",
            reason,
            _first_line(error),
        )
        return None
    logger.warning(
        "W&B is not reached: %s. The run is recorded offline, and the command that sends it is logged at its end. Log "
        "in with `wandb login` or check the network; WANDB.MODE offline avoids this warning.",
        reason,
    )
    return run


def _settings_of(cfg: CfgNode) -> dict[str, Any]:
    """Arguments of `wandb.init`; None leaves a setting to W&B's environment variables."""
    import wandb

    wanted: dict[str, Any] = {
        "init_timeout": INIT_TIMEOUT,
        "login_timeout": LOGIN_TIMEOUT,
        "finish_timeout": float(cfg.WANDB.FINISH_TIMEOUT),
    }
    known = getattr(wandb.Settings, "model_fields", wanted)  # earlier versions have no finish_timeout
    return {
        "project": cfg.WANDB.PROJECT,
        "entity": cfg.WANDB.ENTITY or None,
        "group": cfg.WANDB.GROUP or None,
        "job_type": cfg.WANDB.JOB_TYPE or None,
        "notes": cfg.WANDB.NOTES or None,
        "tags": list(cfg.WANDB.TAGS) or None,
        "mode": cfg.WANDB.MODE or None,
        "settings": wandb.Settings(**{name: value for name, value in wanted.items() if name in known}),
    }


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
