"""Folders of sweeps written by hand: results, curves and errors of runs that were never trained."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

VARIANTS = ("base", "wide_128", "deep_50", "never ran")
SWEEP = """
NAME: roi_layer
BASE: Quickstart/mask_rcnn_R_18_FPN_digits.yaml
TITLE: RoI layers & 50 % of the_cost
NOTE: Written by hand.
VARIANTS:
  base: {}
  wide_128: {MODEL.FPN.OUT_CHANNELS: 128, NOTE: a wider pyramid}
  deep_50: {MODEL.RESNETS.DEPTH: 50}
  never ran: {MODEL.RESNETS.DEPTH: 34}
REFERENCE: base
COLUMNS: [segm/AP, bbox/AP]
PAPER:
  SOURCE: "He et al. 2017 (Mask R-CNN), Table 2"
  ROWS:
    base: {segm/AP: 30.3}
    wide_128: {segm/AP: 31.0}
    deep_50: {segm/AP: 29.1}
"""
VALUES: Mapping[str, Mapping[str, Sequence[float]]] = {
    "base": {"segm": (30.0, 31.0, 32.0), "bbox": (40.0, 41.0, 42.0)},
    "wide_128": {"segm": (36.0, 36.5, 37.0), "bbox": (40.5, 41.5, 42.25)},
    "deep_50": {"segm": (30.5, 31.75), "bbox": (41.5, 39.0)},  # seed 2 has failed
}
ERROR = "RuntimeError: 100% of GPU_0 <in use>"


def write_sweep(folder: Path, text: str, *, seeds: Sequence[int] = (0, 1, 2)) -> Path:
    """Write the file of a sweep.

    Args:
        folder: of the sweep.
        text: YAML without SEEDS.
        seeds: of every variant.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.yaml").write_text(f"{text}\nSEEDS: {list(seeds)}\n", encoding="utf-8")
    return folder


def write_run(
    folder: Path, results: Mapping[str, Any] | None, *, status: str = "finished", error: str = "", num_images: int = 100
) -> None:
    """Write the state, the results and the curves of a run.

    Args:
        folder: of the run.
        results: metrics by task; None for none.
        status: of run.json.
        error: of a failed run.
        num_images: that it was trained on.
    """
    inference = folder / "inference"
    inference.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"status": status, "error": error}), encoding="utf-8")
    counts = {"train": {"digits_train": {"images": num_images}}}
    (folder / "datasets.json").write_text(json.dumps(counts), encoding="utf-8")
    lines: list[dict[str, Any]] = [{"iteration": i, "total_loss": 3.0 / (1 + i)} for i in range(0, 100, 20)]
    if results is not None:
        (inference / "results.json").write_text(json.dumps(results), encoding="utf-8")
        value = results["segm"]["AP"]
        lines += [{"iteration": 49, "segm/AP": value / 2}, {"iteration": 99, "segm/AP": value}]
    (folder / "metrics.json").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")


def write_example(folder: Path, *, seeds: Sequence[int] = (0, 1, 2)) -> Path:
    """A sweep with finished, failed and waiting runs.

    Args:
        folder: of the sweep.
        seeds: at most those of VALUES.
    """
    write_sweep(folder, SWEEP, seeds=seeds)
    for variant, tasks in VALUES.items():
        for seed in seeds:
            place = folder / variant / f"seed_{seed}"
            if seed < len(tasks["segm"]):
                write_run(place, {task: {"AP": values[seed]} for task, values in tasks.items()})
            else:
                write_run(place, None, status="failed", error=ERROR)
    return folder
