"""Inference and training steps of our model and torchvision's, with the same weights, images and settings."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mrcnn_zoo.benchmark.inputs import build_batches, calibrate_random_weights
from mrcnn_zoo.benchmark.measure import Candidate, peak_memory_mib, time_interleaved
from mrcnn_zoo.benchmark.report import BenchmarkReport, make_ratios, make_rows
from mrcnn_zoo.benchmark.torchvision_model import build_torchvision_model, torchvision_state
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.loading import config_from_text
from mrcnn_zoo.inference.optimization import build_optimized
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.ops import rle
from mrcnn_zoo.ops.memory import keep_freed_memory
from mrcnn_zoo.structures import Sample
from mrcnn_zoo.training.compilation import build_compiled_stages

OURS, TORCHVISION = "mrcnn_zoo", "torchvision"
MEMORY_ROUNDS = 2  # of all batches; optimizer state and caches exist from the second on

LEARNING_RATE = 1e-9  # the optimizer does all its work; the weights hardly change
MOMENTUM = 0.9
MASK_THRESHOLD = 0.5
Steps = list[Callable[[], int]]  # one per batch; returns the number of instances detected or trained on
TorchvisionInput = tuple[list[Tensor], list[dict[str, Tensor]]]  # images, targets

NOTES = {
    "inference": "Ends with {masks} of the input size for the masks of all detections.",
    "train": "Forward, losses, backward and SGD with momentum, without data loading.",
}
WEIGHTS_NOTE = (
    "Both models have the same random weights, scaled to give as many candidates and detections as a trained model "
    "finds in a crowded image."
)
MEMORY_NOTE = "Peak memory: each candidate in a new process, without the memory in use before the model is built."


@dataclass(frozen=True)
class ModelPlan:
    """What to measure; picklable, because memory is measured in other processes.

    Args:
        config_text: YAML of the whole config.
        trust: modules whose code the config may name.
        task: "inference" or "train".
        is_against_torchvision: whether torchvision's model is measured, too.
        images: name of a dataset or path of a folder; empty for the first of DATASETS.TEST.
        num_batches: per round.
        batch_size: images per batch.
        repeats: measured rounds.
        mask_form: form of the predicted masks, "bitmap" (full images) or "rle".
        keeps_memory: whether the C library keeps freed memory, for all candidates.
        num_threads: of torch; 0 for its default.
        measures_memory: whether the peak memory is measured, in a few more rounds.
    """

    config_text: str
    task: str
    trust: tuple[str, ...] = ()
    is_against_torchvision: bool = False
    images: str = ""
    num_batches: int = 4
    batch_size: int = 1
    repeats: int = 5
    mask_form: str = "bitmap"
    keeps_memory: bool = True
    num_threads: int = 0
    measures_memory: bool = True


@dataclass(frozen=True)
class ModelJob:
    """One candidate that runs in a new process."""

    plan: ModelPlan
    name: str
    weights_file: str


def benchmark_models(plan: ModelPlan) -> BenchmarkReport:
    """Seconds, images per second and peak memory of inference or training steps.

    Args:
        plan: what to measure.

    Raises:
        UserError: the dataset cannot be loaded, or torchvision's model does not support a setting.
    """
    _set_up_process(plan)
    cfg = config_from_text(plan.config_text, trust=plan.trust)
    batches = build_batches(
        cfg, plan.images, num_batches=plan.num_batches, batch_size=plan.batch_size, is_training=plan.task == "train"
    )
    models = build_models(cfg, batches[0], is_against_torchvision=plan.is_against_torchvision)
    candidates = [Candidate(name, _start(name, model, batches, plan)()) for name, model in models.items()]
    timings = time_interleaved(candidates, repeats=plan.repeats)
    memory = _measure_memory(plan, models) if plan.measures_memory else {}
    rows = make_rows(timings, num_images=plan.num_batches * plan.batch_size, memory=memory)
    return BenchmarkReport(
        task=plan.task,
        settings=settings_of(plan, batches, models),
        rows=rows,
        ratios=make_ratios(timings, rows),
        notes=_notes(plan),
    )


def build_models(cfg: CfgNode, samples: list[Sample], *, is_against_torchvision: bool) -> dict[str, nn.Module]:
    """Our model with random weights that detect, and torchvision's with the same, by name.

    Args:
        cfg: of the model.
        samples: see `calibrate_random_weights`.
        is_against_torchvision: whether torchvision's model is measured, too.

    Raises:
        UserError: torchvision's model does not support a setting.
    """
    torch.manual_seed(0)
    ours = build_model(cfg)
    calibrate_random_weights(ours, samples)
    if not is_against_torchvision:
        return {OURS: ours}
    theirs = build_torchvision_model(cfg)
    theirs.load_state_dict(torchvision_state(ours.state_dict(), theirs.state_dict()), strict=False)
    return {OURS: ours, TORCHVISION: theirs}


def _start(name: str, model: nn.Module, batches: Sequence[list[Sample]], plan: ModelPlan) -> Callable[[], Steps]:
    """Convert the inputs for the model; returns a function that makes its steps."""
    if name == OURS:
        return lambda: our_steps(model, batches, task=plan.task, mask_form=plan.mask_form)
    inputs = [torchvision_inputs(batch) for batch in batches]
    return lambda: torchvision_steps(model, inputs, task=plan.task, mask_form=plan.mask_form)


def _measure_memory(plan: ModelPlan, models: dict[str, nn.Module]) -> dict[str, float]:
    memory = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models.items():
            weights_file = Path(folder) / f"{name}.pth"
            torch.save(model.state_dict(), weights_file)
            memory[name] = peak_memory_mib(prepare_memory_job, ModelJob(plan, name, str(weights_file)))
    return memory


def prepare_memory_job(job: ModelJob) -> Callable[[], None]:
    """Load the inputs; the returned work builds the model and runs its steps.

    Args:
        job: the candidate and its weights.
    """
    start = start_steps(job)

    def work() -> None:
        steps = start()
        for _ in range(MEMORY_ROUNDS):
            for step in steps:
                step()

    return work


def start_steps(job: ModelJob) -> Callable[[], Steps]:
    """Set up the process and load the inputs; the returned function builds the model and makes its steps.

    Args:
        job: the candidate and its weights.
    """
    plan = job.plan
    _set_up_process(plan)
    cfg = config_from_text(plan.config_text, trust=plan.trust)
    batches = build_batches(
        cfg, plan.images, num_batches=plan.num_batches, batch_size=plan.batch_size, is_training=plan.task == "train"
    )
    inputs = [torchvision_inputs(batch) for batch in batches] if job.name == TORCHVISION else []
    options = {"task": plan.task, "mask_form": plan.mask_form}

    def start() -> Steps:
        build = build_model if job.name == OURS else build_torchvision_model
        model = build(cfg)
        model.load_state_dict(torch.load(job.weights_file, weights_only=True, mmap=True))
        if job.name == OURS:
            if plan.task == "train":
                build_compiled_stages(cfg, model)
            else:
                model = build_optimized(cfg, model.eval(), lambda: [sample for batch in batches for sample in batch])
            return our_steps(model, batches, **options)
        return torchvision_steps(model, inputs, **options)

    return start


def _set_up_process(plan: ModelPlan) -> None:
    if plan.keeps_memory:
        keep_freed_memory()
    if plan.num_threads:
        torch.set_num_threads(plan.num_threads)


def settings_of(plan: ModelPlan, batches: Sequence[list[Sample]], models: Mapping[str, nn.Module]) -> dict[str, object]:
    """The settings in a report.

    Args:
        plan: of the measurement.
        batches: of samples.
        models: by name.
    """
    sizes = sorted({sample.image_size for batch in batches for sample in batch})
    shown = ", ".join(f"{height} x {width}" for height, width in sizes[:4]) + (", ..." if len(sizes) > 4 else "")
    settings = asdict(replace(plan, config_text=""))
    del settings["config_text"]
    parameters = sum(parameter.numel() for parameter in models[OURS].parameters())
    return settings | {"num_threads": torch.get_num_threads(), "image sizes": shown, "parameters": parameters}


def _notes(plan: ModelPlan) -> tuple[str, ...]:
    masks = "run-length encodings" if plan.mask_form == "rle" else "bitmaps"
    notes = [NOTES[plan.task].format(masks=masks), WEIGHTS_NOTE]
    return tuple([*notes, MEMORY_NOTE] if plan.measures_memory else notes)


def our_steps(model: nn.Module, batches: Sequence[list[Sample]], *, task: str, mask_form: str) -> Steps:
    """Inference or training steps of our model.

    Args:
        model: with `losses(samples)` and `predict(samples)`.
        batches: one step per batch.
        task: "inference" or "train".
        mask_form: "bitmap" or "rle".
    """
    if task == "train":
        optimizer = _training_mode(model)
        return [partial(_our_training_step, model, optimizer, batch) for batch in batches]
    model.eval()
    return [partial(_our_inference, model, batch, mask_form) for batch in batches]


def torchvision_steps(model: nn.Module, inputs: Sequence[TorchvisionInput], *, task: str, mask_form: str) -> Steps:
    """Steps of torchvision's model; arguments as for `our_steps`."""
    if task == "train":
        optimizer = _training_mode(model)
        return [partial(_torchvision_training_step, model, optimizer, *batch) for batch in inputs]
    model.eval()
    return [partial(_torchvision_inference, model, images, mask_form) for images, _ in inputs]


def torchvision_inputs(batch: list[Sample]) -> TorchvisionInput:
    """Inputs of torchvision's models: float images, and targets with full-image masks."""
    targets: list[dict[str, Tensor]] = []
    for sample in batch:
        if sample.targets is None:
            continue
        columns = {"boxes": sample.targets.boxes, "labels": sample.targets.classes + 1}
        if sample.targets.masks is not None:
            columns["masks"] = sample.targets.masks.bitmaps().to(torch.uint8)
        has_area = (columns["boxes"][:, 2:] > columns["boxes"][:, :2]).all(dim=1)  # torchvision refuses empty boxes
        targets.append({name: column[has_area] for name, column in columns.items()})
    return [sample.image.float() for sample in batch], targets


def _training_mode(model: nn.Module) -> torch.optim.Optimizer:
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.SGD(trained, lr=LEARNING_RATE, momentum=MOMENTUM)


def _our_training_step(model: Any, optimizer: torch.optim.Optimizer, batch: list[Sample]) -> int:
    optimizer.zero_grad()
    model.losses(batch).total().backward()
    optimizer.step()
    return sum(len(sample.targets) for sample in batch if sample.targets is not None)


def _torchvision_training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: list[Tensor], targets: list[dict[str, Tensor]]
) -> int:
    device = next(model.parameters()).device
    images = [image.to(device) for image in images]
    moved = [{name: column.to(device) for name, column in target.items()} for target in targets]
    optimizer.zero_grad()
    sum(model(images, moved).values()).backward()
    optimizer.step()
    return sum(len(target["boxes"]) for target in targets)


def _our_inference(model: Any, batch: list[Sample], mask_form: str) -> int:
    with torch.no_grad():
        detections = model.predict(batch)
        for table in detections:
            if table.masks is not None:
                table.masks.rles() if mask_form == "rle" else table.masks.bitmaps()
    return sum(len(table) for table in detections)


def _torchvision_inference(model: nn.Module, images: list[Tensor], mask_form: str) -> int:
    device = next(model.parameters()).device
    with torch.no_grad():
        detections = model([image.to(device) for image in images])
        for table in detections:
            if "masks" in table:
                bitmaps = table["masks"][:, 0] > MASK_THRESHOLD
                if mask_form == "rle":
                    [rle.encode(bitmap) for bitmap in bitmaps.cpu().numpy()]
    return sum(len(table["boxes"]) for table in detections)
