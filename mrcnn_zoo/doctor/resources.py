"""Checks of the model beside the data: limits on the objects per image, objects below a stride, memory and time."""

from collections.abc import Iterator

import numpy as np

from mrcnn_zoo.doctor.estimate import Estimate
from mrcnn_zoo.doctor.examined import TRAIN, DoctorInput, ModelSettings
from mrcnn_zoo.doctor.finding import EXAMPLES_KEPT, Example, Finding, Severity, object_example, percent, shown_file
from mrcnn_zoo.errors import counted
from mrcnn_zoo.evaluation.limits import cut_objects_message
from mrcnn_zoo.progress import duration, size_in_words

MAX_WORKERS = 16  # that are advised
FEW_SMALL = 0.01  # share of the objects below a stride, from which it is a warning


def check_limits(examined: DoctorInput) -> Iterator[Finding]:
    """Images with more objects than TEST.DETECTIONS_PER_IMAGE, or the number of proposals, allow.

    Args:
        examined: datasets and settings.
    """
    for side in examined.sides:
        limits = examined.settings.limits[side.role]
        message = cut_objects_message(side.dataset, limits)
        if not message:
            continue
        capacity = min(limit.capacity for limit in limits)
        counts = np.bincount(side.objects.images, minlength=len(side.dataset))
        full = np.flatnonzero(counts > capacity)
        full = full[np.argsort(-counts[full], kind="stable")]
        fullest = side.dataset.records[int(full[0])]
        text, _, advice = message.replace(str(fullest.source.name), shown_file(fullest)).rpartition(". Set ")
        yield Finding(
            Severity.WARNING,
            text,
            f"Set {advice}",
            count=len(full),
            total=len(side.dataset),
            examples=tuple(
                Example(f"{counts[row]} objects", side.dataset.records[row]) for row in full[:EXAMPLES_KEPT].tolist()
            ),
        )


def check_small_objects(examined: DoctorInput) -> Iterator[Finding]:
    """Objects that are smaller than a cell of the finest feature level, at the size of the network's input.

    Args:
        examined: datasets and settings.
    """
    if examined.anchors is None:
        yield Finding(Severity.SKIPPED, "objects smaller than a stride: the model has no anchors, or cannot be built")
        return
    stride = min(examined.anchors.strides)
    for side in examined.sides:
        boxes = side.input_boxes
        sizes = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
        rows = np.flatnonzero(sizes < stride)
        if not len(rows):
            continue
        rows = rows[np.argsort(sizes[rows], kind="stable")]
        role = "TRAIN" if side.role == TRAIN else "TEST"
        yield Finding(
            Severity.WARNING if len(rows) >= FEW_SMALL * len(sizes) else Severity.NOTE,
            f"{side.name}: {counted(len(rows), 'object')} ({percent(len(rows), len(sizes))}) smaller than {stride} "
            f"pixels of the network's input, the stride of the finest level",
            f"They fill less than one cell. Enlarge the images (INPUT.MIN_SIZE_{role}, MAX_SIZE_{role}), or cut them "
            "into tiles (`mrcnn-zoo data tile SRC DST`).",
            count=len(rows),
            total=len(sizes),
            examples=tuple(
                object_example(record, [item], f"{sizes[row]:.1f} pixels")
                for row in rows[:EXAMPLES_KEPT].tolist()
                for record, item in [side.item(row)]
            ),
        )


def check_resources(examined: DoctorInput) -> Iterator[Finding]:
    """Parameters, memory of a training step, duration of the training, and whether loading keeps up.

    Args:
        examined: datasets and settings.
    """
    estimate = examined.estimate
    if estimate is None:
        yield Finding(Severity.SKIPPED, f"memory and time: {examined.not_estimated}")
        return
    settings = examined.settings
    yield Finding(
        Severity.NOTE,
        memory_text(estimate),
        f"Activations {estimate.measured} at {estimate.input_size[1]} x {estimate.input_size[0]} pixels; temporary "
        "memory is not counted, and may be nearly as much again.",
    )
    yield Finding(Severity.NOTE, time_text(estimate, settings), f"Time {estimate.measured}, without evaluations.")
    needed = estimate.loading_seconds * settings.batch_size / max(1, settings.num_workers)
    processes = (
        counted(settings.num_workers, "process", "processes") if settings.num_workers else "the training process"
    )
    text = f"loading a batch in {processes} takes {needed:.2g} s, a training step {estimate.step.seconds:.2g} s"
    if needed <= estimate.step.seconds:
        yield Finding(Severity.FINE, text)
        return
    workers = int(np.ceil(estimate.loading_seconds * settings.batch_size / max(estimate.step.seconds, 1e-6))) + 1
    yield Finding(
        Severity.WARNING,
        text,
        "The training waits for its images. Load them in more processes, or write smaller image files:",
        paste=f"DATALOADER: {{NUM_WORKERS: {min(workers, MAX_WORKERS)}}}",
    )


def memory_text(estimate: Estimate) -> str:
    """Parameters and memory in one line.

    Args:
        estimate: of a training step.
    """
    frozen = estimate.parameters - estimate.trained
    parts = f"{estimate.parameters / 1e6:.1f} million parameters" + (
        f", {frozen / 1e6:.1f} million of them frozen" if frozen else ""
    )
    total = estimate.kept_bytes + estimate.step.activation_bytes
    return (
        f"{parts}; about {size_in_words(total)} for a training step of {counted(estimate.step.images, 'image')}: "
        f"{size_in_words(estimate.kept_bytes)} weights, gradients and optimizer, "
        f"{size_in_words(estimate.step.activation_bytes)} activations"
    )


def time_text(estimate: Estimate, settings: ModelSettings) -> str:
    """Time per iteration and of the training.

    Args:
        estimate: of a training step.
        settings: with the length of the training.
    """
    seconds = estimate.step.seconds
    start = f"{seconds:.2g} s per iteration of {counted(estimate.step.images, 'image')} on {estimate.device}"
    if settings.minutes > 0:
        return (
            f"{start}: about {settings.minutes * 60 / max(seconds, 1e-6):,.0f} iterations in {settings.minutes:g} min"
        )
    return f"{start}: about {duration(seconds * settings.iterations)} for {settings.iterations:,} iterations"
