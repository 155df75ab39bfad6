"""Speed, memory and profile of Mask R-CNN R50-FPN, compared with torchvision's; used by gpu_checks.py."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from generated_samples import generated_samples
from gpu_report import PartResult
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from mrcnn_zoo.benchmark.inputs import calibrate_random_weights
from mrcnn_zoo.benchmark.measure import Candidate, time_interleaved
from mrcnn_zoo.benchmark.models import our_steps, torchvision_inputs, torchvision_steps
from mrcnn_zoo.benchmark.torchvision_model import build_torchvision_model, torchvision_state
from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.structures import Sample

CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
OURS, TORCHVISION = "mrcnn_zoo", "torchvision"
PRECISIONS = {"bfloat16": torch.bfloat16, "TF32": None}  # dtype of the autocast region
LEARNING_RATE = 1e-9  # full optimizer step, negligible change of the weights
GOAL_OF_TRAINING = 62.0  # images per second, of Detectron2 on eight V100
GOAL_OF_INFERENCE = 100.0  # images per second
WARMUP = 2  # rounds, in which cuDNN selects algorithms
TOP_OPERATIONS = 15
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Size:
    """Workload of a measurement."""

    image_size: tuple[int, int]
    batch_size: int  # of training
    inference_batches: tuple[int, int]  # sizes
    repeats: int
    overrides: tuple[Any, ...] = ()


FULL = Size((800, 1333), batch_size=16, inference_batches=(1, 8), repeats=5)
TINY = Size(
    (96, 128),
    batch_size=2,
    inference_batches=(1, 2),
    repeats=2,
    overrides=(
        *("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.FPN.OUT_CHANNELS", 32),
        *("MODEL.ROI_BOX_HEAD.FC_DIM", 32, "MODEL.ROI_MASK_HEAD.CONV_DIM", 16, "MODEL.ROI_MASK_HEAD.NUM_CONV", 1),
        *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 100, "MODEL.RPN.POST_NMS_TOPK_TEST", 50),
        *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 64, "TEST.DETECTIONS_PER_IMAGE", 20),
    ),
)
Step = Callable[[], int]  # returns the number of instances or images


def measure_training(result: PartResult, *, device: str, size: Size) -> None:
    """Measure images per second of training steps and peak memory, of both models in each precision."""
    cfg, samples, state = _prepare(device, size, count=size.batch_size)

    def measure(name: str, precision: str, dtype: torch.dtype | None) -> None:
        step = _training_step(name, cfg, samples, state, dtype=dtype)
        seconds = _seconds(name, [step], repeats=size.repeats)
        _add_speed(result, f"training, {precision}, {name}", size.batch_size / seconds, goal=GOAL_OF_TRAINING)
        if name == OURS:
            _add_profile(result, f"training step, {precision}", [step], seconds=seconds)

    _for_each_model_and_precision(result, measure)


def measure_inference(result: PartResult, *, device: str, size: Size) -> None:
    """Measure images per second at each batch size, full-image bitmaps included, and peak memory."""
    cfg, samples, state = _prepare(device, size, count=max(size.inference_batches))

    def measure(name: str, precision: str, dtype: torch.dtype | None) -> None:
        model = _build(name, cfg, state)
        options = {"task": "inference", "mask_form": "bitmap"}
        for batch_size in size.inference_batches:
            batches = [samples[first : first + batch_size] for first in range(0, len(samples), batch_size)]
            inputs = [torchvision_inputs(batch) for batch in batches] if name == TORCHVISION else []
            steps = torchvision_steps(model, inputs, **options) if inputs else our_steps(model, batches, **options)
            what = f"inference of {batch_size}, {precision}, {name}"
            with _autocast(torch.device(device).type, dtype):
                _reset_memory()
                seconds = _seconds(name, steps, repeats=size.repeats)
                _add_speed(result, what, len(samples) / seconds, goal=GOAL_OF_INFERENCE)
                result.add(f"{what}: detections per image", sum(step() for step in steps) / len(samples))
                if name == OURS:
                    _add_profile(result, f"inference of {batch_size}, {precision}", steps, seconds=seconds)

    _for_each_model_and_precision(result, measure)


def _for_each_model_and_precision(result: PartResult, measure: Callable[[str, str, torch.dtype | None], None]) -> None:
    for precision, dtype in PRECISIONS.items():
        for name in (OURS, TORCHVISION):
            _reset_memory()
            with result.attempt(f"{name}, {precision}"):  # one may run out of memory
                measure(name, precision, dtype)
    _add_ratios(result)


def _reset_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _add_profile(result: PartResult, what: str, steps: list[Step], *, seconds: float) -> None:
    found = result.profiles[what] = profile_steps(steps, seconds=seconds)
    if found["idle_share"] is not None:
        result.add(f"{what}: share of time in which the GPU is idle", found["idle_share"])


def profile_steps(steps: list[Step], *, seconds: float) -> dict[str, Any]:
    """Operations sorted by self device time, and the share of time in which the GPU is idle.

    Args:
        steps: run once.
        seconds: of the steps without the profiler, which slows the CPU but not the kernels.

    Returns:
        {"seconds": as given, "idle_share": None on the CPU, "operations": [[name, calls, milliseconds, share], ...]}.
    """
    on_gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        for step in steps:
            step()
        if on_gpu:
            torch.cuda.synchronize()
    # Kernels have rows in addition to those of the operations that launch them.
    rows = [
        (event.key, event.count, (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e3)
        for event in profiler.key_averages()
        if event.device_type == DeviceType.CPU and not event.is_user_annotation
    ]
    rows = sorted((row for row in rows if row[2] > 0), key=lambda row: -row[2])
    if not rows:
        raise RuntimeError("the profiler recorded no operation on the device")
    total = sum(milliseconds for _, _, milliseconds in rows)
    return {
        "seconds": seconds,
        "idle_share": max(0.0, 1 - _busy_seconds(profiler) / seconds) if on_gpu else None,
        "operations": [[*row, row[2] / total] for row in rows[:TOP_OPERATIONS]],
    }


def busy_length(intervals: list[tuple[float, float]]) -> float:
    """Length of the union of (start, end) intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _busy_seconds(profiler: profile) -> float:
    kernels = [e.time_range for e in profiler.events() if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
    return busy_length([(kernel.start, kernel.end) for kernel in kernels]) / 1e6


def _prepare(device: str, size: Size, *, count: int) -> tuple[CfgNode, list[Sample], dict[str, Tensor]]:
    """Config, images, and random weights calibrated to give as many instances as trained ones."""
    settings = ("MODEL.DEVICE", device, "MODEL.WEIGHTS", "", "FLOAT32_PRECISION", "high")
    # Stride in the 3 x 3 convolutions, as in torchvision's ResNets.
    cfg = load_config(CONFIG, [*settings, "MODEL.RESNETS.STRIDE_IN_1X1", False, *size.overrides])
    samples = generated_samples(count, image_size=size.image_size, num_classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    torch.manual_seed(0)
    model = build_model(cfg)
    calibrate_random_weights(model, samples[:2])
    return cfg, samples, {name: value.cpu() for name, value in model.state_dict().items()}


def _build(name: str, cfg: CfgNode, state: dict[str, Tensor]) -> nn.Module:
    if name == OURS:
        model = build_model(cfg)
        model.load_state_dict(state)
        return model
    model = build_torchvision_model(cfg)
    model.load_state_dict(torchvision_state(state, model.state_dict()), strict=False)
    return model


def _training_step(
    name: str, cfg: CfgNode, samples: list[Sample], state: dict[str, Tensor], *, dtype: torch.dtype | None
) -> Step:
    model: Any = _build(name, cfg, state).train()
    device = next(model.parameters()).device
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=LEARNING_RATE, momentum=0.9, fused=True)
    images, targets = torchvision_inputs(samples) if name == TORCHVISION else ([], [])

    def total_loss() -> Tensor:
        if name == OURS:
            return model.losses(samples).total()
        moved = [{key: column.to(device) for key, column in target.items()} for target in targets]
        return sum(model([image.to(device) for image in images], moved).values())  # type: ignore[return-value]

    def step() -> int:
        optimizer.zero_grad(set_to_none=True)
        with _autocast(device.type, dtype):
            loss = total_loss()
        loss.backward()
        optimizer.step()
        return len(samples)

    return step


def _seconds(name: str, steps: list[Step], *, repeats: int) -> float:
    """Median duration of a round of all steps."""
    return time_interleaved([Candidate(name, steps)], repeats=repeats, warmup=WARMUP)[0].median


def _add_speed(result: PartResult, what: str, images_per_second: float, *, goal: float) -> None:
    """Add the speed, with the goal for our model at full size, and on a GPU the peak memory."""
    is_goal = f", {OURS}" in what and torch.cuda.is_available()
    result.add(f"{what}: images per second", images_per_second, f"goal: {goal:g}" if is_goal else "")
    if torch.cuda.is_available():
        result.add(f"{what}: peak memory in MiB", torch.cuda.max_memory_allocated() / MEBIBYTE)


def _add_ratios(result: PartResult) -> None:
    """Add the ratio ours / torchvision's of each quantity that both have."""
    values = {what: value for what, value, _ in result.rows}
    for what, value in values.items():
        theirs = values.get(what.replace(f", {OURS}:", f", {TORCHVISION}:"))
        if f", {OURS}:" in what and theirs:
            result.add(what.replace(f"{OURS}:", f"{OURS} / {TORCHVISION}:"), float(value) / float(theirs))


def _autocast(device_type: str, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    return nullcontext() if dtype is None else torch.autocast(device_type, dtype=dtype)
