"""Stops all processes at a non-finite loss or gradient and saves the step; `replay_batch` repeats it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode, config_from_text
from mrcnn_zoo.distributed.processes import gather_over_processes, rank, world_size
from mrcnn_zoo.errors import NonFiniteLossError, UserError
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.registries import HOOKS
from mrcnn_zoo.structures import BoxedBitmaps, Proposals, Sample, Targets, TrainingOutput
from mrcnn_zoo.training.gradients import largest_gradients
from mrcnn_zoo.training.hook import Hook, Workspace
from mrcnn_zoo.training.run_context import derived_seed, generators_aside
from mrcnn_zoo.training.trainer import Trainer

MAX_NAMES = 8  # of files or parameters in a message
# Classes that a saved batch may hold besides plain values and tensors.
SAVED_CLASSES = (Sample, Targets, Proposals, BoxedBitmaps)


@dataclass(frozen=True)
class Finding:
    """A non-finite value in the step of one process.

    Args:
        rank: of the process.
        what: losses or parameters with their values.
        files: images of the batches.
        saved_to: path of the saved step.
    """

    rank: int
    what: str
    files: Sequence[str]
    saved_to: str


def find_nonfinite_losses(outputs: Sequence[TrainingOutput]) -> dict[str, float]:
    """The losses that are infinite or NaN in any of the batches, with their values.

    Args:
        outputs: one per batch.
    """
    found = {}
    for output in outputs:
        # Finite losses may still overflow together.
        for name, loss in {"total_loss": output.total(), **output.losses}.items():
            if not torch.isfinite(loss):
                found[name] = float(loss)
    return {name: value for name, value in found.items() if name != "total_loss" or len(found) == 1}


def describe_samples(samples: Sequence[Sample]) -> list[str]:
    """The file of each image, or its id where it has none.

    Args:
        samples: of a batch.
    """
    return [sample.file_name or f"image {sample.image_id}" for sample in samples]


def save_batches(path: Path, batches: Sequence[Sequence[Sample]], facts: Mapping[str, Any]) -> None:
    """Write the batches of one step of one process, with all that `replay_batch` needs.

    Args:
        path: of the file; its folder is made.
        batches: of the step.
        facts: plain values and state dicts by name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"batches": [list(samples) for samples in batches], **facts}, path)


def nonfinite_message(iteration: int, findings: Sequence[Finding]) -> str:
    """One message about the findings of all processes.

    Args:
        iteration: of the step.
        findings: at least one.
    """
    lines = [f"training stopped: the loss is not finite in iteration {iteration}."]
    for finding in findings:
        process = f"  process {finding.rank}: " if len(findings) > 1 or finding.rank else "  "
        lines.append(f"{process}{finding.what}; images: {shortened(finding.files)}")
        lines.append(f"  saved to {finding.saved_to}; repeat it with mrcnn_zoo.training.replay_batch(that path).")
    lines.append(
        "The weights are as before that step. Likely causes: a learning rate that is too high (lower SOLVER.BASE_LR, "
        "lengthen SOLVER.WARMUP_ITERS, set SOLVER.CLIP_GRADIENTS.ENABLED True), or wrong annotations in these images."
    )
    return "\n".join(lines)


def shortened(names: Sequence[str]) -> str:
    """The first few names, and the number of the others.

    Args:
        names: of files or parameters.
    """
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


@dataclass
class CheckedStep:
    """A step whose values may not be finite.

    Args:
        iteration: of the step.
        batches: samples of the step, one list per forward pass.
        outputs: losses and metrics per batch, detached.
        flags: on the host once `copied` is over: whether the loss and the gradient are not finite, of this process and
            of any.
        copied: end of the copy to the host; None if it is over.
        largest: (P,) largest magnitude in the gradient of each parameter with one; None while the gradients exist.
    """

    iteration: int
    batches: list[list[Sample]]
    outputs: list[TrainingOutput]
    flags: Tensor
    copied: "torch.cuda.Event | None" = None
    largest: Tensor | None = None

    def read(self) -> list[bool]:
        """The four flags, after a wait for their copy."""
        if self.copied is not None:
            self.copied.synchronize()
        flags: list[bool] = self.flags.tolist()
        return flags


class StopOnNonFinite(Hook):
    """Checks losses and gradients of each step, and saves a non-finite one for `replay_batch`.

    On an accelerator with a fused optimizer, the device itself leaves the update of such a step out, and the host reads
    one step later that it did. It so waits for nothing but the step before, and the weights are the same.

    Args:
        folder: of the saved steps.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pending: CheckedStep | None = None

    def after_backward(self, trainer: Trainer, batches: list[list[Sample]], outputs: list[TrainingOutput]) -> None:
        flags = _non_finite(trainer, outputs)
        of_any = _of_any_process(flags)
        step = CheckedStep(trainer.iteration, batches, outputs, torch.cat((flags, of_any)))
        if not trainer.updater.can_skip:
            # The wait comes after the backward pass is queued: only the queueing of the optimizer's kernels shows.
            self._stop_if_bad(trainer, step)
            return
        self.settle(trainer)
        trainer.updater.skip_if(of_any.any())
        step.largest = largest_gradients(trainer.updater.parameters)
        if step.flags.is_cuda:
            on_host = torch.empty(step.flags.shape, dtype=step.flags.dtype, pin_memory=True)
            step.flags = on_host.copy_(step.flags, non_blocking=True)
            step.copied = torch.cuda.Event()
            step.copied.record()
        self._pending = step

    def settle(self, trainer: Trainer) -> None:
        step, self._pending = self._pending, None
        if step is not None:
            self._stop_if_bad(trainer, step)

    def after_train(self, trainer: Trainer) -> None:
        self.settle(trainer)

    def on_floating_point_error(self, trainer: Trainer, batches: list[list[Sample]], error: FloatingPointError) -> None:
        # No collective: the other processes are in the middle of their step. They end after this one.
        finding = self._record(trainer, trainer.iteration, batches, what=str(error), suspects=batches)
        raise NonFiniteLossError(nonfinite_message(trainer.iteration, [finding])) from error

    def _stop_if_bad(self, trainer: Trainer, step: CheckedStep) -> None:
        """Raise the message about a step, if its loss or gradient is not finite on any process."""
        loss_is_bad, gradient_is_bad, is_any_loss_bad, is_any_gradient_bad = step.read()
        if not (is_any_loss_bad or is_any_gradient_bad):
            return
        # Averaging spreads a non-finite gradient to all processes; only the one with the non-finite loss has the batch.
        finding, batches = None, step.batches
        if is_any_loss_bad and loss_is_bad:
            losses = find_nonfinite_losses(step.outputs)
            what = ", ".join(f"{name} = {value}" for name, value in losses.items())
            pairs = zip(batches, step.outputs, strict=True)
            bad = [samples for samples, output in pairs if find_nonfinite_losses([output])]
            finding = self._record(trainer, step.iteration, batches, what=what, suspects=bad)
        elif not is_any_loss_bad and gradient_is_bad:
            names = trainer.updater.names_with_nonfinite_gradient(trainer.model, largest=step.largest)
            what = f"all losses are finite, but not the gradients of {shortened(names)}"
            if not names:  # finite entries whose squares overflow
                losses = {name: float(value) for output in step.outputs for name, value in output.losses.items()}
                largest = max(losses, key=lambda name: abs(losses[name]))
                what = f"the norm of all gradients overflows; the largest loss is {largest} = {losses[largest]:.3g}"
            finding = self._record(trainer, step.iteration, batches, what=what, suspects=batches)
        findings = [found for found in gather_over_processes(finding) if found is not None]
        raise NonFiniteLossError(nonfinite_message(step.iteration, findings))

    def _record(
        self, trainer: Trainer, iteration: int, batches: list[list[Sample]], *, what: str, suspects: list[list[Sample]]
    ) -> Finding:
        path = self._folder / f"iter_{iteration:07d}_rank_{rank()}.pt"
        facts = {
            "iteration": iteration,
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


def _non_finite(trainer: Trainer, outputs: list[TrainingOutput]) -> Tensor:
    """(2,) bool: whether the loss, and whether the gradient, is infinite or not a number."""
    total = torch.stack([output.total() for output in outputs]).sum()
    # Float16 gradients overflow now and then; the loss scaler leaves such steps out.
    norm = torch.zeros_like(total) if trainer.updater.precision.scales_losses else trainer.updater.gradient_norm()
    return ~torch.isfinite(torch.stack([total, norm]))


def _of_any_process(flags: Tensor) -> Tensor:
    """Whether each flag is set on any process, on the same device; without a wait of the host where NCCL is used."""
    if world_size() == 1:
        return flags
    numbers = flags.float()
    dist.all_reduce(numbers, op=dist.ReduceOp.MAX)
    return numbers > 0


def replay_batch(
    path: str | Path, *, model: nn.Module | None = None, trust: Iterable[str] = ()
) -> list[TrainingOutput]:
    """Recompute the losses of a step saved in `<output>/nonfinite/`: same weights, samples and random numbers.

    Args:
        path: of the file.
        model: to compute them with, its weights replaced; by default that of the saved config, on its device.
        trust: modules whose code the saved config may name, e.g. ("my_lab",).

    Returns:
        One output per batch of the step, with gradients for `backward()`.

    Raises:
        UserError: the file does not exist or holds no training step.
    """
    step = load_step(path)
    if model is None:
        model = build_model(config_from_text(step["config"], source=f"the config in {path}", trust=trust))
    model.load_state_dict(step["model"])
    model.train()
    with generators_aside(derived_seed(step["seed"], "step", step["iteration"], step["rank"])):
        return [model(samples) for samples in step["batches"]]


def load_step(path: str | Path) -> dict[str, Any]:
    """Contents of the file of a saved step: batches, losses, iteration, rank, seed, config and model.

    Args:
        path: of the file.

    Raises:
        UserError: the file does not exist or holds no training step.
    """
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
