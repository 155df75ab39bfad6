"""Checks of classes: category ids, classes without objects, balance, and the number of classes of the model."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.classes import listed
from mrcnn_zoo.doctor.examined import TRAIN, VAL, DoctorInput, Side
from mrcnn_zoo.doctor.finding import Finding, Severity
from mrcnn_zoo.errors import counted

FEW_OBJECTS = 10  # of a class, below which little can be learned
UNBALANCED, VERY_UNBALANCED = 20, 100  # times as many objects of the most frequent class as of the rarest
NAMES_SHOWN = 8
SAMPLER = "DATALOADER: {SAMPLER_TRAIN: RepeatFactorTrainingSampler}"


def check_categories(examined: DoctorInput) -> Iterator[Finding]:
    """Gaps between category ids, classes without objects, and classes of one side only.

    Args:
        examined: datasets and settings.
    """
    gaps: dict[tuple[int, ...], list[Side]] = {}
    for side in examined.sides:
        ids = sorted(side.dataset.category_ids)
        if ids and ids != list(range(ids[0], ids[0] + len(ids))):
            gaps.setdefault(tuple(ids), []).append(side)
    for present, sides in gaps.items():
        missing = sorted(set(range(present[0], present[-1] + 1)) - set(present))
        yield Finding(
            Severity.NOTE,
            f"{', '.join(side.name for side in sides)}: category ids from {present[0]} to {present[-1]} with gaps: "
            f"{listed([str(number) for number in missing], count=NAMES_SHOWN)} missing",
            "They are no problem if these categories were left out on purpose: class indices have no gaps, and result "
            "files have the ids of the annotation file.",
            count=len(missing),
        )
    yield from _unused(examined)


def _unused(examined: DoctorInput) -> Iterator[Finding]:
    sides = examined.sides
    counts = {side.role: _by_name([other for other in sides if other.role == side.role]) for side in sides}
    trained, tested = counts.get(TRAIN), counts.get(VAL)
    if trained is not None:
        unused = [name for name, count in trained.items() if not count]
        hidden = [name for name in unused if (tested or {}).get(name)]
        nowhere = [name for name in unused if name not in hidden]
        if nowhere:
            yield _finding(
                Severity.WARNING,
                f"{counted(len(nowhere), 'class')} without training objects",
                nowhere,
                "The model gets outputs that are never right. Leave the classes out of the file, or by "
                "DATASETS.DEFAULTS.CLASSES.",
                total=len(trained),
            )
        if hidden:
            yield _finding(
                Severity.WARNING,
                f"{counted(len(hidden), 'class')} with objects in the validation data, and none in the training data",
                hidden,
                "Their AP will be 0, and lowers the mean. Make a split that is stratified by class "
                "(`mrcnn-zoo data split SRC DST`), or leave these classes out by DATASETS.DEFAULTS.CLASSES.",
                total=len(trained),
            )
    if trained is not None and tested is not None:
        unmeasured = [name for name, count in trained.items() if count and not tested.get(name)]
        if unmeasured:
            yield _finding(
                Severity.NOTE,
                f"{counted(len(unmeasured), 'class')} without validation objects",
                unmeasured,
                "Whether they are learned is not measured.",
                total=len(trained),
            )


def _finding(severity: Severity, title: str, names: list[str], advice: str, *, total: int) -> Finding:
    return Finding(
        severity,
        f"{title}: {listed(names, count=NAMES_SHOWN)}",
        advice,
        count=len(names),
        total=total,
    )


def _by_name(sides: list[Side]) -> dict[str, int]:
    """Number of objects by class name, over all sides."""
    counts: dict[str, int] = {}
    for side in sides:
        for name, count in zip(side.dataset.class_names, class_counts(side).tolist(), strict=True):
            counts[name] = counts.get(name, 0) + count
    return counts


def class_counts(side: Side) -> NDArray[np.int64]:
    """(K,) number of objects of each class, without crowds.

    Args:
        side: a dataset.
    """
    return np.bincount(side.objects.classes, minlength=len(side.dataset.class_names))


def check_balance(examined: DoctorInput) -> Iterator[Finding]:
    """Classes with few objects, and unequal numbers of objects.

    Args:
        examined: datasets and settings.
    """
    counts = {name: count for name, count in _by_name(examined.of_role(TRAIN)).items() if count}
    if not counts:
        return
    few = sorted((name for name in counts if counts[name] < FEW_OBJECTS), key=counts.__getitem__)
    if few:
        yield Finding(
            Severity.WARNING,
            f"{counted(len(few), 'class')} with fewer than {FEW_OBJECTS} training objects: "
            f"{listed([f'{name} ({counts[name]})' for name in few], count=NAMES_SHOWN)}",
            "Annotate more objects, join classes by DATASETS.DEFAULTS.CLASSES, or show their images more often.",
            count=len(few),
            total=len(counts),
            paste=SAMPLER if len(counts) > 1 else "",
        )
    most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    ratio = counts[most] / counts[least]
    if ratio >= UNBALANCED and not few:
        yield Finding(
            Severity.WARNING if ratio >= VERY_UNBALANCED else Severity.NOTE,
            f"the most frequent class has {ratio:.0f} times as many training objects as the rarest: {most} "
            f"{counts[most]:,}, {least} {counts[least]:,}",
            "The AP of rare classes is usually lower. Images of rare classes can be shown more often:",
            paste=SAMPLER,
        )


def check_class_number(examined: DoctorInput) -> Iterator[Finding]:
    """MODEL.ROI_HEADS.NUM_CLASSES, or its like, that the data do not have.

    Args:
        examined: datasets and settings.
    """
    if examined.class_check:
        yield Finding(Severity.ERROR, examined.class_check)
