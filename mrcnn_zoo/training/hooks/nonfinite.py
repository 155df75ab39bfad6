"""Stops all processes at a non-finite loss, and saves the batch to replay it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.distributed.processes import gather_over_processes, maximum_over_processes, rank
from mrcnn_zoo.errors import NonFiniteLossError
from mrcnn_zoo.registries import HOOKS
from mrcnn_zoo.structures import Sample, TrainingOutput
from mrcnn_zoo.training.hook import Hook, Workspace
from mrcnn_zoo.training.trainer import Trainer

MAX_NAMES = 8  # of files or parameters in a message


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


class StopOnNonFinite(Hook):
    """Looks at losses and gradients of each step, and saves a bad one for replay.

    Args:
        folder: where the batches of a bad step go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def after_backward(self, trainer: Trainer, batches: list[list[Sample]], outputs: list[TrainingOutput]) -> None:
        # The one wait for the device in a step. It comes when the backward pass has been handed over, so that only the
        # hand-over of the optimizer's work is not hidden.
        loss_is_bad, gradient_is_bad = _non_finite(trainer, outputs).tolist()
        is_any_loss_bad, is_any_gradient_bad = maximum_over_processes([float(loss_is_bad), float(gradient_is_bad)])
        if not (is_any_loss_bad or is_any_gradient_bad):
            return
        # Averaging spreads one process's bad gradient to all: where a loss is bad, only that process has the batch.
        finding = None
        if is_any_loss_bad and loss_is_bad:
            losses = find_nonfinite_losses(outputs)
            what = ", ".join(f"{name} = {value}" for name, value in losses.items())
            bad = [samples for samples, output in zip(batches, outputs, strict=True) if find_nonfinite_losses([output])]
            finding = self._record(trainer, batches, what, bad)
        elif not is_any_loss_bad and gradient_is_bad:
            names = trainer.updater.names_with_nonfinite_gradient(trainer.model)
            what = f"all losses are finite, but not the gradients of {shortened(names)}"
            finding = self._record(trainer, batches, what, batches)
        findings = [found for found in gather_over_processes(finding) if found is not None]
        raise NonFiniteLossError(nonfinite_message(trainer.iteration, findings))

    def on_floating_point_error(self, trainer: Trainer, batches: list[list[Sample]], error: FloatingPointError) -> None:
        # The other processes are in the middle of their step and cannot be asked; they end when this one has.
        finding = self._record(trainer, batches, str(error), batches)
        raise NonFiniteLossError(nonfinite_message(trainer.iteration, [finding])) from error

    def _record(
        self, trainer: Trainer, batches: list[list[Sample]], what: str, suspects: list[list[Sample]]
    ) -> Finding:
        path = self._folder / f"iter_{trainer.iteration:07d}_rank_{rank()}.pt"
        facts = {
            "iteration": trainer.iteration,
            "rank": rank(),
            "seed": trainer.plan.seed,
            "what": what,
            "model": trainer.model.state_dict(),
            **trainer.provenance,
        }
        save_batches(path, batches, facts)
        files = describe_samples([sample for samples in suspects for sample in samples])
        return Finding(rank=rank(), what=what, files=files, saved_to=str(path))


@HOOKS.register("StopOnNonFinite")
def build_stop_on_nonfinite(cfg: CfgNode, workspace: Workspace) -> StopOnNonFinite:  # noqa: ARG001
    return StopOnNonFinite(workspace.output_dir / "nonfinite")


def _non_finite(trainer: Trainer, outputs: list[TrainingOutput]) -> torch.Tensor:
    """(2,) bool: whether the loss, and whether the gradient, is infinite or not a number."""
    total = torch.stack([output.total() for output in outputs]).sum()
    # Float16 gradients overflow now and then; the loss scaler leaves such steps out.
    norm = torch.zeros_like(total) if trainer.updater.precision.scales_losses else trainer.updater.gradient_norm()
    return ~torch.isfinite(torch.stack([total, norm]))
