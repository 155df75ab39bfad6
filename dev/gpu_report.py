"""Results of the parts of dev/gpu_checks.py, and the report on all parts."""

import json
import platform
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate

PASSED, FAILED, TIMED_OUT = "passed", "failed", "timed out"
TRACEBACK_LINES = 25  # the last ones


@dataclass
class PartResult:
    """Measurements and failures of one part; saved after each, so that those of a killed part are kept.

    Args:
        name: of the part.
        path: JSON file; empty if the result is not saved.
    """

    name: str
    path: str = ""
    status: str = PASSED
    seconds: float = 0.0
    rows: list[tuple[str, float | str, float | str]] = field(default_factory=list)  # what, value, limit or ""
    profiles: dict[str, dict[str, Any]] = field(default_factory=dict)  # see gpu_speed.profile_steps
    failures: list[str] = field(default_factory=list)

    def add(self, what: str, value: float | str, limit: float | str = "") -> None:
        """Add a row of the table."""
        print(f"{self.name}: {what}: {_formatted(value)}", flush=True)
        self.rows.append((what, value, limit))
        self.save()

    def fail(self, message: str) -> None:
        """Mark the part as failed; measurements are kept."""
        print(f"{self.name}: FAILED: {message}", flush=True)
        self.failures.append(message)
        self.status = FAILED
        self.save()

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Context that records an exception as a failure and continues after the block."""
        try:
            yield
        except Exception:
            self.fail(f"{what}:\n{last_lines(traceback.format_exc())}")

    def save(self) -> None:
        """Write the JSON file, if `path` is set."""
        if self.path:
            Path(self.path).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, name: str, path: Path) -> "PartResult":
        """The saved result of a part; an empty one without a file."""
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else cls(name)


def last_lines(text: str, count: int = TRACEBACK_LINES) -> str:
    """The last `count` lines of a text."""
    lines = text.rstrip().splitlines()
    return "\n".join((["..."] if len(lines) > count else []) + lines[-count:])


def machine() -> dict[str, Any]:
    """Device and library versions."""
    import torch
    import torchvision

    on_gpu = torch.cuda.is_available()
    return {
        "on_gpu": on_gpu,
        "device": torch.cuda.get_device_name() if on_gpu else "CPU",
        "cpu_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cuda": torch.version.cuda or "",
    }


def write_report(folder: Path, results: Sequence[PartResult], machine: dict[str, Any]) -> str:
    """Write gpu_checks.json and gpu_checks.md; returns the text of the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [{key: value for key, value in asdict(result).items() if key != "path"} for result in results]
    content = json.dumps({"machine": machine, "parts": parts}, indent=1)
    (folder / "gpu_checks.json").write_text(content + "\n", encoding="utf-8")
    text = _markdown(results, machine)
    (folder / "gpu_checks.md").write_text(text, encoding="utf-8")
    return text


def _markdown(results: Sequence[PartResult], machine: dict[str, Any]) -> str:
    on_cpu = "" if machine["on_gpu"] else "\n\nTiny sizes on the CPU, to test the script: speeds are not meaningful."
    blocks = [
        "# GPU checks",
        ", ".join(f"{name} {value}" for name, value in machine.items() if name != "on_gpu") + on_cpu,
    ]
    rows: list[tuple[str, ...]] = []
    for result in results:
        rows.append((f"**{result.name}**", f"{result.status} in {result.seconds:.0f} s", "", ""))
        rows += [("", what, _formatted(value), _formatted(limit)) for what, value, limit in result.rows]
    blocks.append(tabulate(rows, headers=("part", "what", "value", "limit"), tablefmt="pipe", disable_numparse=True))
    for result in results:
        blocks += [_profile(what, found) for what, found in result.profiles.items()]
    for result in results:
        blocks += [f"## Failure of {result.name}\n\n```\n{message}\n```" for message in result.failures]
    return "\n\n".join(blocks) + "\n"


def _profile(what: str, found: dict[str, Any]) -> str:
    rows = [
        (name, str(calls), f"{milliseconds:.1f}", f"{share:.1%}")
        for name, calls, milliseconds, share in found["operations"]
    ]
    idle = "no GPU" if found["idle_share"] is None else f"GPU idle {found['idle_share']:.0%} of the time"
    table = tabulate(rows, headers=("operation", "calls", "ms", "share"), tablefmt="pipe", disable_numparse=True)
    return f"## Profile: {what} ({found['seconds']:.2f} s, {idle})\n\n{table}"


def _formatted(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
