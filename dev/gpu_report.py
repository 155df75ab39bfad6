"""What a part of dev/gpu_checks.py found, and the report that is written of all parts."""

import json
import platform
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate

PASSED, FAILED, TIMED_OUT = "passed", "failed", "ran out of time"
TRACEBACK_LINES = 25  # from its end


@dataclass
class PartResult:
    """Measurements and failures of one part, written to a file one by one, so that a part that is killed keeps them.

    Args:
        name: of the part.
        path: JSON file; empty for a result that is not kept.
    """

    name: str
    path: str = ""
    status: str = PASSED
    seconds: float = 0.0
    rows: list[tuple[str, float | str, float | str]] = field(default_factory=list)  # what, value, limit or ""
    profiles: dict[str, dict[str, Any]] = field(default_factory=dict)  # see gpu_speed.profile_steps
    failures: list[str] = field(default_factory=list)

    def add(self, what: str, value: float | str, limit: float | str = "") -> None:
        """One line of the table."""
        print(f"{self.name}: {what}: {_shown(value)}", flush=True)
        self.rows.append((what, value, limit))
        self.save()

    def fail(self, message: str) -> None:
        """The part has failed; what it measured stays."""
        print(f"{self.name}: FAILED: {message}", flush=True)
        self.failures.append(message)
        self.status = FAILED
        self.save()

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """An exception inside is a failure of this piece of work alone; what comes after goes on."""
        try:
            yield
        except Exception:
            self.fail(f"{what}:\n{last_lines(traceback.format_exc())}")

    def save(self) -> None:
        """Write the JSON file, if there is one."""
        if self.path:
            Path(self.path).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, name: str, path: Path) -> "PartResult":
        """What a part wrote; empty where it wrote nothing."""
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else cls(name)


def last_lines(text: str, count: int = TRACEBACK_LINES) -> str:
    """The end of a long output."""
    lines = text.rstrip().splitlines()
    return "\n".join((["..."] if len(lines) > count else []) + lines[-count:])


def machine() -> dict[str, Any]:
    """The device and the versions that the figures depend on."""
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
    on_cpu = "" if machine["on_gpu"] else "\n\nAt tiny sizes on the CPU, to check the checks: the speeds mean nothing."
    blocks = [
        "# GPU checks",
        ", ".join(f"{name} {value}" for name, value in machine.items() if name != "on_gpu") + on_cpu,
    ]
    rows: list[tuple[str, ...]] = []
    for result in results:
        rows.append((f"**{result.name}**", f"{result.status} in {result.seconds:.0f} s", "", ""))
        rows += [("", what, _shown(value), _shown(limit)) for what, value, limit in result.rows]
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
    idle = "no GPU" if found["idle_share"] is None else f"the GPU idle {found['idle_share']:.0%} of it"
    table = tabulate(rows, headers=("operation", "calls", "ms", "share"), tablefmt="pipe", disable_numparse=True)
    return f"## Where the time goes: {what} ({found['seconds']:.2f} s, {idle})\n\n{table}"


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
