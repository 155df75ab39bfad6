"""Our model and torchvision's at the same work: the same weights, images, sizes and settings."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from mrcnn_zoo.benchmark.data import build_batches
from mrcnn_zoo.benchmark.measure import (
    Contestant,
    Steps,
    our_steps,
    peak_memory_mib,
    time_in_turns,
    torchvision_inputs,
    torchvision_steps,
)
from mrcnn_zoo.benchmark.report import BenchmarkReport, make_ratios, make_rows
from mrcnn_zoo.benchmark.torchvision_model import bring_to_life, build_torchvision_model, torchvision_state
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.loading import config_from_text
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.ops.memory import keep_freed_memory
from mrcnn_zoo.structures import Sample

OURS, TORCHVISION = "mrcnn_zoo", "torchvision"
MEMORY_ROUNDS = 2  # of all batches; the peak is there from the second on, when optimizer state and caches exist

NOTES = {
    "inference": "Until the masks are {masks} of the size that the images have here, for all detections.",
    "train": "Forward, losses, backward and SGD with momentum; loading the data is not in it.",
}
WEIGHTS_NOTE = (
    "The weights are random, and the same on both sides. Backbone and classifier are scaled to give as many candidates "
    "and detections as a trained model finds in a crowded image."
)
MEMORY_NOTE = (
    "Peak memory: each contestant alone in a process of its own, without the memory in use before it was built."
)


@dataclass(frozen=True)
class ModelPlan:
    """What to measure; picklable, so that another process can do the same.

    Args:
        config_text: YAML of the whole config.
        trust: modules whose code the config names.
        task: "inference" or "train".
        is_against_torchvision: measure torchvision's model too.
        images: a dataset's name or a folder; empty takes the first of DATASETS.TEST.
        num_batches: of a round.
        batch_size: images in a batch.
        repeats: rounds that count.
        mask_form: what inference ends with, "bitmap" (full images) or "rle".
        keeps_memory: let the C library keep freed memory, for all contestants.
        num_threads: of torch; 0 leaves its default.
        measures_memory: also measure the peak memory, which takes a few more rounds.
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
class MemoryJob:
    """One contestant, to be built in a process of its own."""

    plan: ModelPlan
    name: str
    weights_file: str


def benchmark_models(plan: ModelPlan) -> BenchmarkReport:
    """Seconds, images a second and peak memory of inference or of training steps.

    Raises:
        UserError: a dataset that cannot be loaded, or a setting that torchvision's model does not have.
    """
    _set_up_process(plan)
    cfg = config_from_text(plan.config_text, trust=plan.trust)
    batches = build_batches(
        cfg, plan.images, num_batches=plan.num_batches, batch_size=plan.batch_size, is_training=plan.task == "train"
    )
    models = _build_models(cfg, batches[0], is_against_torchvision=plan.is_against_torchvision)
    contestants = [Contestant(name, _start(name, model, batches, plan)()) for name, model in models.items()]
    timings = time_in_turns(contestants, repeats=plan.repeats)
    memory = _measure_memory(plan, models) if plan.measures_memory else {}
    rows = make_rows(timings, num_images=plan.num_batches * plan.batch_size, memory=memory)
    return BenchmarkReport(
        task=plan.task,
        settings=_settings(plan, batches),
        rows=rows,
        ratios=make_ratios(timings, rows),
        notes=_notes(plan),
    )


def _build_models(cfg: CfgNode, samples: list[Sample], *, is_against_torchvision: bool) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    ours = build_model(cfg)
    bring_to_life(ours, samples)
    if not is_against_torchvision:
        return {OURS: ours}
    theirs = build_torchvision_model(cfg)
    theirs.load_state_dict(torchvision_state(ours.state_dict(), theirs.state_dict()), strict=False)
    return {OURS: ours, TORCHVISION: theirs}


def _start(name: str, model: nn.Module, batches: Sequence[list[Sample]], plan: ModelPlan) -> Callable[[], Steps]:
    """Bring the inputs into the form a model takes; what is returned makes the steps."""
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
            memory[name] = peak_memory_mib(prepare_memory_job, MemoryJob(plan, name, str(weights_file)))
    return memory


def prepare_memory_job(job: MemoryJob) -> Callable[[], None]:
    """Load what the measured work starts from; the work itself builds the model and runs its steps."""
    plan = job.plan
    _set_up_process(plan)
    cfg = config_from_text(plan.config_text, trust=plan.trust)
    batches = build_batches(
        cfg, plan.images, num_batches=plan.num_batches, batch_size=plan.batch_size, is_training=plan.task == "train"
    )
    inputs = [torchvision_inputs(batch) for batch in batches] if job.name == TORCHVISION else []

    def work() -> None:
        build = build_model if job.name == OURS else build_torchvision_model
        model = build(cfg)
        model.load_state_dict(torch.load(job.weights_file, weights_only=True, mmap=True))
        options = {"task": plan.task, "mask_form": plan.mask_form}
        steps = (
            our_steps(model, batches, **options) if job.name == OURS else torchvision_steps(model, inputs, **options)
        )
        for _ in range(MEMORY_ROUNDS):
            for step in steps:
                step()

    return work


def _set_up_process(plan: ModelPlan) -> None:
    if plan.keeps_memory:
        keep_freed_memory()
    if plan.num_threads:
        torch.set_num_threads(plan.num_threads)


def _settings(plan: ModelPlan, batches: Sequence[list[Sample]]) -> dict[str, object]:
    sizes = sorted({sample.image_size for batch in batches for sample in batch})
    shown = ", ".join(f"{height} x {width}" for height, width in sizes[:4]) + (", ..." if len(sizes) > 4 else "")
    settings = asdict(replace(plan, config_text=""))
    del settings["config_text"]
    return settings | {"num_threads": torch.get_num_threads(), "image sizes": shown}


def _notes(plan: ModelPlan) -> tuple[str, ...]:
    masks = "run-length encodings" if plan.mask_form == "rle" else "bitmaps"
    notes = [NOTES[plan.task].format(masks=masks), WEIGHTS_NOTE]
    return tuple([*notes, MEMORY_NOTE] if plan.measures_memory else notes)
