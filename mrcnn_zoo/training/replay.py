"""Repeats a training step that went wrong, from the file that it left."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mrcnn_zoo.config import config_from_text
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.structures import BoxedBitmaps, Proposals, Sample, Targets, TrainingOutput
from mrcnn_zoo.training.run_context import derived_seed, generators_aside

# What a saved batch may hold besides plain values and tensors.
SAVED_CLASSES = (Sample, Targets, Proposals, BoxedBitmaps)


def replay_batch(
    path: str | Path, *, model: nn.Module | None = None, trust: Iterable[str] = ()
) -> list[TrainingOutput]:
    """The losses of a step that `<output>/nonfinite/` keeps, computed again: same weights, samples and random numbers.

    Args:
        path: of the file.
        model: to compute them with, its weights replaced; by default the one of the saved config, on the device that
            the config names.
        trust: modules whose code the saved config may name, e.g. ("my_lab",).

    Returns:
        One output for each batch of the step, with gradients, so that `backward()` shows where they come from.

    Raises:
        UserError: not such a file.
    """
    step = load_step(path)
    if model is None:
        model = build_model(config_from_text(step["config"], source=f"the config in {path}", trust=trust))
    model.load_state_dict(step["model"])
    model.train()
    with generators_aside(derived_seed(step["seed"], "step", step["iteration"], step["rank"])):
        return [model(samples) for samples in step["batches"]]


def load_step(path: str | Path) -> dict[str, Any]:
    """What the file of a bad step holds: batches, losses, iteration, rank, seed, config and model."""
    try:
        with torch.serialization.safe_globals(list(SAVED_CLASSES)):
            step = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except Exception as error:  # of any kind, on bytes that torch has not written
        raise UserError(f"{path} is not a saved training step: {str(error).splitlines()[0]}") from error
    if not isinstance(step, dict) or "batches" not in step:
        raise UserError(f"{path} holds no training step; give a file of the folder `nonfinite` of a run.")
    return step
