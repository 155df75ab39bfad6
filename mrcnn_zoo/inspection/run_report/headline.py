"""The top of a run report: name, main results, data, machine, versions, git state, seed."""

import math
import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path

from mrcnn_zoo.errors import counted
from mrcnn_zoo.inspection.run_report.report import RunReport
from mrcnn_zoo.progress import duration

PROGRAM = "mrcnn-zoo"
SWEEP_RUN = "run"  # name of the config file of a sweep's run


def run_title(report: RunReport) -> str:
    """The name of the config, else of the folder.

    Args:
        report: of the run.
    """
    name, folder = Path(report.files.config.file).stem, report.files.folder.resolve()
    if name == SWEEP_RUN:
        return f"{folder.parent.name}/{folder.name}"  # variant and seed
    return name or folder.name


def headline(report: RunReport) -> list[str]:
    """Name, main results, and a list of what was run where.

    Args:
        report: of the run.
    """
    tiles = [f"<div><b>{escape(value)}</b><span>{escape(text)}</span></div>" for value, text in _tiles(report)]
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in _facts(report) if text)
    return [
        f"<h1>{escape(run_title(report)).replace('_', '_<wbr>')}</h1>",
        f'<div class="tiles">{"".join(tiles)}</div>',
        f'<dl class="facts">{facts}</dl>',
    ]


def _tiles(report: RunReport) -> list[tuple[str, str]]:
    tiles = []
    names = {"segm": "mask AP", "bbox": "box AP", "keypoints": "keypoint AP"}
    main = {"box_proposals": ("AR@1000", "AR at 1000 proposals"), "classification": ("top1", "top-1 accuracy")}
    for item in report.evaluations:
        suffix = f", {item.files.name}" if len(report.evaluations) > 1 else ""
        for task, metrics in item.files.results.items():
            metric, words = main.get(task, ("AP", names.get(task, "")))
            if words and not math.isnan(metrics.get(metric, math.nan)):
                tiles.append((f"{metrics[metric]:.1f}", words + suffix))
    if report.best is not None:
        stage = f" of {report.best.stage}" if report.best.stage else ""
        tiles.append(
            (
                f"{report.best.value:.1f}",
                f"best {report.best.metric}, after {report.best.iteration:,} iterations{stage}",
            )
        )
    if report.files.log.seconds:
        words = "duration, evaluations included" if report.training.iterations else "duration"
        tiles.append((duration(report.files.log.seconds), words))
    if not math.isnan(report.training.memory_mb):
        tiles.append((f"{report.training.memory_mb / 1024:.1f} GiB", "peak memory"))
    return tiles


def _facts(report: RunReport) -> list[tuple[str, str]]:
    files = report.files
    devices, git = files.environment.get("devices", {}), files.environment.get("git", {})
    versions = files.environment.get("versions", {})
    commit = git.get("commit", "")[:10]
    state = f"{commit} on {git.get('branch', '')}" + (", with uncommitted changes" if git.get("is_changed") else "")
    seed = files.log.seed if files.log.seed is not None else files.config.get("SEED", "")
    threads = counted(devices.get("torch_threads", 0), "thread")
    machine = ", ".join(devices.get("gpus", [])) or f"CPU, {threads} of {devices.get('cpu_cores')} cores"
    maximum = files.config.get("SOLVER.MAX_ITER")
    is_plain = len(files.stages) == 1 and not files.config.get("SOLVER.MAX_MINUTES", 0)
    of_all = f" of {maximum:,}" if is_plain and isinstance(maximum, int) else ""
    return [
        ("training data", _dataset_words(report, "train")),
        ("test data", _dataset_words(report, "test")),
        ("iterations", f"{report.training.iterations:,}{of_all}" if report.training.iterations else ""),
        ("seed", str(seed)),
        ("machine", f"{machine}; {devices.get('platform', '')}" if devices else ""),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("git", state if commit else ""),
        ("command", _command(files.environment.get("command", ()))),
        ("folder", str(files.folder.resolve())),
        ("end", files.log.end),
    ]


def _command(words: Sequence[str]) -> str:
    """The command as it is typed, without the folder of the program."""
    if not words:
        return ""
    program = Path(words[0]).name
    return shlex.join([PROGRAM if program == "__main__.py" else program, *words[1:]])


def _dataset_words(report: RunReport, side: str) -> str:
    parts = []
    for name, counts in report.files.datasets.get(side, {}).items():
        numbers = (
            counted(counts.get("images", 0), "image"),
            counted(counts.get("objects", 0), "object"),
            counted(counts.get("classes", 0), "class"),
        )
        parts.append(f"{name} ({', '.join(numbers)})")
    if not parts and side == "test":
        for item in report.evaluations:
            found = item.files.dataset
            parts.append(item.files.name if found is None else f"{found.name} ({found.summary()})")
    return "; ".join(parts)
