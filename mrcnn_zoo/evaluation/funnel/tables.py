"""Tables and the file of the recall funnel."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from mrcnn_zoo.evaluation.backends import LARGE_SIDE, MEDIUM_SIDE
from mrcnn_zoo.evaluation.funnel.advice import Lost, TracedObject
from mrcnn_zoo.evaluation.tables import table_name

# Largest area of each size in square pixels, as in COCO.
SIZES = {"small": MEDIUM_SIDE**2, "medium": LARGE_SIDE**2, "large": float("inf")}


def metric_name(stage: str) -> str:
    """The name of a stage in results, e.g. "top_k".

    Args:
        stage: e.g. "top-k".
    """
    return stage.replace(" ", "_").replace("-", "_")


def alive_counts(objects: Lost, stages: Sequence[str]) -> dict[str, int]:
    """The number of objects that are not lost at a stage or before.

    Args:
        objects: traced ones.
        stages: their stages in order.
    """
    lost = Counter(item.stage for item in objects)
    counts, left = {}, len(objects)
    for stage in stages:
        left -= lost[stage]
        counts[stage] = left
    return counts


def stage_table(objects: Lost, stages: Sequence[str]) -> str:
    """Markdown: the objects after each stage, of all sizes and of each.

    Args:
        objects: traced ones.
        stages: in order.
    """
    groups = {"all": objects} | {name: [item for item in objects if item.size == name] for name in SIZES}
    return _funnel_table(groups, stages)


def class_table(objects: Lost, stages: Sequence[str]) -> str:
    """Markdown: a row per class with its objects after each stage.

    Args:
        objects: traced ones.
        stages: in order.
    """
    by_class: dict[str, list[TracedObject]] = {}
    for item in objects:
        by_class.setdefault(item.class_name, []).append(item)
    rows = [
        [table_name(name), str(len(own)), *map(str, alive_counts(own, stages).values())]
        for name, own in by_class.items()
    ]
    rows.sort(key=lambda row: int(row[-1]) / int(row[1]))
    return _table(rows, ["class", "objects", *stages])


def _funnel_table(groups: Mapping[str, Lost], stages: Sequence[str]) -> str:
    counts = {name: alive_counts(own, stages) for name, own in groups.items()}
    rows = [["objects", *(f"{len(own):,}" for own in groups.values())]]
    for stage in stages:
        cells = [(counts[name][stage], len(own)) for name, own in groups.items()]
        rows.append([f"after {stage}", *(f"{n:,} ({100 * n / of:.1f} %)" if of else "0" for n, of in cells)])
    return _table(rows, ["", *groups])


def reason_table(objects: Lost, stages: Sequence[str]) -> str:
    """Markdown: the lost objects by stage and reason; empty if none is lost.

    Args:
        objects: traced ones.
        stages: in order.
    """
    losses = Counter((item.stage, item.reason) for item in objects if not item.is_found)
    order = sorted(losses, key=lambda loss: (stages.index(loss[0]), -losses[loss]))
    rows = [
        [stage, reason.value, f"{losses[stage, reason]:,}", f"{100 * losses[stage, reason] / len(objects):.1f} %"]
        for stage, reason in order
    ]
    return _table(rows, ["lost at", "reason", "objects", "share"], left=2) if rows else ""


def _table(rows: Sequence[Sequence[str]], headers: Sequence[str], *, left: int = 1) -> str:
    sides = ["left"] * left + ["right"] * (len(headers) - left)
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=sides)


def funnel_content(objects: Lost, stages: Sequence[str], counts: Mapping[str, int], advice: str) -> dict[str, Any]:
    """The part of one task in the file.

    Args:
        objects: traced ones.
        stages: in order.
        counts: of `alive_counts`.
        advice: of `advise`.
    """
    losses = Counter((item.stage, item.reason.value) for item in objects if not item.is_found)
    return {
        "stages": list(stages),
        "objects": len(objects),
        "after": dict(counts),
        "losses": [{"stage": stage, "reason": reason, "objects": n} for (stage, reason), n in losses.most_common()],
        "advice": advice,
        "traces": [
            {
                "image_id": item.image_id,
                "annotation_id": item.annotation_id,
                "class": item.class_name,
                "size": item.size,
                "box": [round(value, 2) for value in item.box],
                "stage": item.stage,
                "reason": item.reason.value,
                "sentence": item.sentence,
                "ious": list(item.ious),
            }
            for item in objects
        ],
    }
