"""What a batch whose loss is not a number leaves behind: a message, and a file to replay it from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mrcnn_zoo.structures import Sample, TrainingOutput

MAX_NAMES = 8  # of files or parameters in a message


class NonFiniteLossError(RuntimeError):
    """A loss or a gradient became infinite or not a number; every process raises the same message."""


@dataclass(frozen=True)
class Finding:
    """What one process found wrong in a step."""

    rank: int
    what: str
    files: Sequence[str]
    saved_to: str


def find_nonfinite_losses(outputs: Sequence[TrainingOutput]) -> dict[str, float]:
    """The losses that are infinite or not a number in any of the batches, with their values."""
    found = {}
    for output in outputs:
        # Finite losses may still overflow together.
        for name, loss in {"total_loss": output.total(), **output.losses}.items():
            if not torch.isfinite(loss):
                found[name] = float(loss)
    return {name: value for name, value in found.items() if name != "total_loss" or len(found) == 1}


def describe_samples(samples: Sequence[Sample]) -> list[str]:
    """The image files, or what stands for them."""
    return [sample.file_name or f"image {sample.image_id}" for sample in samples]


def save_batches(path: Path, batches: Sequence[Sequence[Sample]], facts: Mapping[str, Any]) -> None:
    """Write the batches of one step of one process, and what is needed to repeat it, for `replay_batch`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"batches": [list(samples) for samples in batches], **facts}, path)


def nonfinite_message(iteration: int, findings: Sequence[Finding]) -> str:
    """One message about what all processes found."""
    lines = [f"training stopped: the loss is not finite in iteration {iteration}."]
    for finding in findings:
        who = f"  process {finding.rank}: " if len(findings) > 1 or finding.rank else "  "
        lines.append(f"{who}{finding.what}; images: {shortened(finding.files)}")
        lines.append(f"  saved to {finding.saved_to}; repeat it with mrcnn_zoo.training.replay_batch(that path).")
    lines.append(
        "The weights are as before that step. Likely causes: a learning rate that is too high (lower SOLVER.BASE_LR, "
        "lengthen SOLVER.WARMUP_ITERS, set SOLVER.CLIP_GRADIENTS.ENABLED True), or wrong annotations in these images."
    )
    return "\n".join(lines)


def shortened(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
