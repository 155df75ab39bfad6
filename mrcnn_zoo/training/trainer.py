"""The training loop: steps until the budget is spent, with hooks at fixed points, resumable bit for bit.

On GPUs up to rounding: the gradients of RoIAlign are summed in no fixed order there.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mrcnn_zoo.distributed.processes import gather_on_main_process, maximum_over_processes, rank, world_size
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.contracts import HasTrainingState
from mrcnn_zoo.structures import Sample, TrainingOutput
from mrcnn_zoo.training.averaging import WeightsAverage
from mrcnn_zoo.training.hook import Hook, Results, StepReport
from mrcnn_zoo.training.lr_schedule import LRSchedule
from mrcnn_zoo.training.reduction import share_buffers, with_averaged_gradients
from mrcnn_zoo.training.run_context import generator_states, restore_generator_states, seed_step
from mrcnn_zoo.training.step import Updater, mean_metrics
from mrcnn_zoo.training.stopping import Budget, Clock, StopSignals, Stopwatch

RESUMABLE_KEYS = (  # a checkpoint without these has weights, but cannot be resumed from
    "model",
    "optimizer",
    "scaler",
    "ema",
    "iteration",
    "elapsed_seconds",
    "sampler",
    "seed",
    "results",
    "generators",
    "hooks",
    "config",
)

SHOWN_DIFFERENCES = 3  # between a model and a checkpoint of another one

OpenBatches = Callable[[int], Iterable[list[Sample]]]  # number of the first global batch -> endless batches from there


class OutOfDeviceMemoryError(UserError):
    """The device of this process ran out of memory; those of other processes may not have."""


@dataclass(frozen=True)
class TrainingPlan:
    """Length, learning-rate schedule and seed of a training.

    Args:
        budget: length.
        schedule: of the learning rate.
        seed: of all random numbers.
        accumulate_steps: batches per optimizer step; their gradients are averaged.
    """

    budget: Budget
    schedule: LRSchedule
    seed: int
    accumulate_steps: int = 1


class Trainer:
    """Trains a model; everything that is not a step is a hook.

    Args:
        model: on its device; `model(samples)` in training mode returns a TrainingOutput.
        open_batches: opens this process's share of the global batches at the batch of a number.
        updater: optimizer, precision and clipping.
        plan: length, schedule and seed.
        hooks: called in this order, by name in checkpoints.
        average: of the weights, updated after each step.
        provenance: plain values that every checkpoint carries: config, class names, versions.
    """

    def __init__(
        self,
        model: nn.Module,
        open_batches: OpenBatches,
        *,
        updater: Updater,
        plan: TrainingPlan,
        hooks: Mapping[str, Hook],
        average: WeightsAverage | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.updater = updater
        self.plan = plan
        self.hooks = dict(hooks)
        self.average = average
        self.provenance = dict(provenance or {})
        self.iteration = 0  # finished steps
        self.elapsed = 0.0  # seconds of training, over all sessions
        self.interrupted = 0  # number of the signal that interrupts training; 0 for none
        self.stop_reason = ""
        self.results: dict[str, dict[str, float]] = {}  # of the latest evaluation
        self.score_thresholds: dict[str, Any] = {}  # of the latest evaluation: dataset, iteration, by_class
        self._open_batches = open_batches
        self._batches_drawn = 0  # global batches, the position of the data sampler

    def train(self, *, signals: StopSignals | None = None, clock: Clock = time.monotonic) -> None:
        """Run steps until the budget is spent, a hook calls `stop`, or a signal arrives.

        Args:
            signals: checked before each step.
            clock: for a time budget.
        """
        stopwatch = Stopwatch(elapsed=self.elapsed, clock=clock)
        self.model.train()
        for hook in self.hooks.values():
            hook.before_train(self)
        if self._continues(stopwatch, signals):
            batches = iter(self._open_batches(self._batches_drawn))
            wrapped = with_averaged_gradients(self.model)
            is_training = True
            while is_training:
                self._step(wrapped, batches)
                is_training = self._continues(stopwatch, signals)
        for hook in self.hooks.values():
            hook.after_train(self)

    @property
    def has_stopped_early(self) -> bool:
        """Whether a hook has ended training before its budget was spent."""
        return bool(self.stop_reason) and not self.plan.budget.is_spent(self.iteration, self.elapsed)

    def stop(self, reason: str) -> None:
        """End training after the current step; every process must call it at the same step.

        Args:
            reason: for the log.
        """
        self.stop_reason = self.stop_reason or reason

    @contextmanager
    def weights_to_evaluate(self) -> Iterator[None]:
        """Inside the block the model has the averaged weights, if any, and the same buffers on every process."""
        self.settle()
        with nullcontext() if self.average is None else self.average.applied_to(self.model):
            share_buffers(self.model)
            yield

    def settle(self) -> None:
        """Let hooks make the checks that they put off, before weights or metrics are read; on every process."""
        for hook in self.hooks.values():
            hook.settle(self)

    def announce(self, results: Results) -> None:
        """Pass the results of an evaluation of the current weights to all hooks.

        Args:
            results: metrics by task.
        """
        self.results = {task: dict(metrics) for task, metrics in results.items()}
        for hook in self.hooks.values():
            hook.after_evaluation(self, results)

    def state_dict(self) -> dict[str, Any]:
        """All that an exact resume needs. A collective; the result is complete on process 0."""
        self.settle()
        position = self.plan.budget.position(self.iteration, self.elapsed)
        return {
            "model": self.model.state_dict(),
            "remembered": {name: module.training_state() for name, module in _with_training_state(self.model)},
            "optimizer": self.updater.optimizer.state_dict(),
            "scheduler": {"position": position, "learning_rates": self._learning_rates()},
            "scaler": self.updater.precision.state_dict(),
            "ema": self.average.state_dict() if self.average is not None else {},
            "iteration": self.iteration,
            "elapsed_seconds": self.elapsed,
            "sampler": {"global_batches": self._batches_drawn},
            "seed": self.plan.seed,
            "results": self.results,
            "score_thresholds": self.score_thresholds,
            "generators": gather_on_main_process(generator_states()),
            "hooks": {name: state for name, hook in self.hooks.items() if (state := hook.state_dict())},
            **self.provenance,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state of `state_dict`; the seed of the plan must be that of the state.

        Args:
            state: of a checkpoint.

        Raises:
            UserError: the state is of another model, or lacks the training state of one of its modules.
        """
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise UserError(_another_model_message(self.model.state_dict(), state["model"])) from error
        self._load_training_states(state.get("remembered", {}))  # checkpoints of a former version lack it
        self.updater.load_optimizer_state(state["optimizer"])
        self.updater.precision.load_state_dict(state["scaler"])
        if self.average is not None and state["ema"]:
            self.average.load_state_dict(state["ema"])
        self.iteration = state["iteration"]
        self.elapsed = state["elapsed_seconds"]
        self.results = state["results"]
        self.score_thresholds = state.get("score_thresholds", {})  # checkpoints of a former version lack it
        self._batches_drawn = state["sampler"]["global_batches"]
        if rank() < len(state["generators"]):
            restore_generator_states(state["generators"][rank()])
        for name, hook in self.hooks.items():
            hook.load_state_dict(state["hooks"].get(name, {}))

    def _load_training_states(self, states: Mapping[str, Any]) -> None:
        modules = dict(_with_training_state(self.model))
        missing = [f"{name or 'the model'} ({type(modules[name]).__name__})" for name in modules if name not in states]
        if missing:
            raise UserError(
                f"the checkpoint cannot be resumed from: it lacks the training state of {', '.join(missing)} "
                "(its key `remembered`), as checkpoints of an earlier version do. Start a new run from its "
                "weights: MODEL.WEIGHTS, with another OUTPUT_DIR."
            )
        for name, module in modules.items():
            module.load_training_state(states[name])

    def _continues(self, stopwatch: Stopwatch, signals: StopSignals | None) -> bool:
        local = [stopwatch.elapsed(), float(signals.received if signals else 0)]
        # All processes stop at the same step, and have the same learning rate from the elapsed time.
        self.elapsed, signal_number = maximum_over_processes(local)
        self.interrupted = int(signal_number)
        is_over = self.plan.budget.is_spent(self.iteration, self.elapsed)
        return not (is_over or self.interrupted or self.stop_reason)

    def _step(self, model: nn.Module, source: Iterator[list[Sample]]) -> None:
        started = time.perf_counter()
        batches = [next(source) for _ in range(self.plan.accumulate_steps)]
        data_seconds = time.perf_counter() - started
        for hook in self.hooks.values():
            hook.before_step(self, batches)
        seed_step(self.plan.seed, self.iteration, rank())
        outputs = self._compute_gradients(model, batches)
        for hook in self.hooks.values():
            hook.after_backward(self, batches, outputs)
        self.plan.schedule.apply(self.updater.optimizer, self.plan.budget.position(self.iteration, self.elapsed))
        self.updater.apply_gradients()
        if self.average is not None:
            self.average.update(self.model)
        self._batches_drawn += len(batches)
        self.iteration += 1
        report = StepReport(
            iteration=self.iteration - 1,
            metrics=mean_metrics(outputs),
            learning_rate=self._learning_rates()[0],
            num_images=sum(map(len, batches)),
            seconds=time.perf_counter() - started,
            data_seconds=data_seconds,
        )
        for hook in self.hooks.values():
            hook.after_step(self, report)

    def _compute_gradients(self, model: nn.Module, batches: list[list[Sample]]) -> list[TrainingOutput]:
        try:
            return self.updater.compute_gradients(model, batches)
        except FloatingPointError as error:  # raised by the model itself
            for hook in self.hooks.values():
                hook.on_floating_point_error(self, batches, error)
            raise
        except torch.OutOfMemoryError as error:
            raise OutOfDeviceMemoryError(_out_of_memory_message(self.iteration, batches)) from error

    def _learning_rates(self) -> list[float]:
        return [float(group["lr"]) for group in self.updater.optimizer.param_groups]


def _with_training_state(model: nn.Module) -> Iterator[tuple[str, HasTrainingState]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, HasTrainingState))


def _another_model_message(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> str:
    differences = []
    for name in dict.fromkeys([*own, *saved]):
        if name not in saved:
            differences.append(f"{name} is missing in the checkpoint")
        elif name not in own:
            differences.append(f"{name} is not in the model")
        elif own[name].shape != saved[name].shape:
            differences.append(f"{name} is {_sides(saved[name])} in the checkpoint, {_sides(own[name])} in the model")
    rest = len(differences) - SHOWN_DIFFERENCES
    shown = "; ".join(differences[:SHOWN_DIFFERENCES]) + (f"; and {rest} more" if rest > 0 else "")
    return (
        f"the checkpoint is of another model than the config's: {shown}. Resume with the config that the run began "
        f"with, or start a new run from its weights: MODEL.WEIGHTS, with another OUTPUT_DIR."
    )


def _sides(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a scalar"


def _out_of_memory_message(iteration: int, batches: Sequence[list[Sample]]) -> str:
    images = [sample for samples in batches for sample in samples]
    height, width = (max(side) for side in zip(*(sample.image_size for sample in images), strict=True))
    free, total = torch.cuda.mem_get_info() if torch.cuda.is_available() else (0, 0)
    processes = f" on each of {world_size()} processes" if world_size() > 1 else ""
    return (
        f"the device ran out of memory in iteration {iteration}, with {len(batches[0])} images per pass{processes}, "
        f"the largest padded to {height} x {width} ({free / 2**30:.1f} of {total / 2**30:.1f} GiB free now). Lower "
        f"SOLVER.IMS_PER_BATCH (SOLVER.ACCUMULATE_STEPS keeps the batch of a step as large), INPUT.MIN_SIZE_TRAIN and "
        f"INPUT.MAX_SIZE_TRAIN, or MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE, or set SOLVER.AMP.ENABLED True."
    )
