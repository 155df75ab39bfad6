"""A diagnosis as text for the terminal, and as JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from mrcnn_zoo.doctor.checks import Diagnosis
from mrcnn_zoo.doctor.examined import DoctorInput
from mrcnn_zoo.doctor.finding import Example, Finding, Severity
from mrcnn_zoo.errors import counted

HEADINGS = {Severity.FINE: "Checked and fine", Severity.SKIPPED: "Not checked"}
EXAMPLES_SHOWN = 3


def text_report(diagnosis: Diagnosis, examined: DoctorInput, *, config: str, seconds: float) -> str:
    """The report for a terminal: datasets, findings by severity, what is fine, and the counts.

    Args:
        diagnosis: the findings.
        examined: the datasets.
        config: name of the config.
        seconds: that it took.
    """
    lines = [f"{config}", *(f"  {line}" for line in dataset_lines(examined)), ""]
    for severity in (Severity.ERROR, Severity.WARNING, Severity.NOTE):
        for finding in diagnosis.of(severity):
            lines += [*_finding_lines(finding), ""]
    for severity, heading in HEADINGS.items():
        found = diagnosis.of(severity)
        if found:
            lines += [f"{heading}:", *(f"  {finding.title}" for finding in found), ""]
    return "\n".join([*lines, f"{summary_line(diagnosis)} ({seconds:.0f} s)"])


def dataset_lines(examined: DoctorInput) -> list[str]:
    """One line per dataset: role, name, counts, and the number of images read.

    Args:
        examined: the datasets.
    """
    return [
        f"{side.role:<5} {side.name}: {side.dataset.summary()}"
        + (f"; {len(side.rows):,} images read" if len(side.rows) < len(side.dataset) else "")
        for side in examined.sides
    ]


def summary_line(diagnosis: Diagnosis) -> str:
    """The number of findings by severity.

    Args:
        diagnosis: the findings.
    """
    names = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "note"}
    return ", ".join(counted(len(diagnosis.of(severity)), name) for severity, name in names.items())


def _finding_lines(finding: Finding) -> Iterator[str]:
    yield f"{finding.severity.name}: {finding.title}"
    for example in finding.examples[:EXAMPLES_SHOWN]:
        yield f"    {example}"
    if finding.count > EXAMPLES_SHOWN < len(finding.examples):
        yield f"    and {finding.count - EXAMPLES_SHOWN:,} more"
    if finding.advice:
        yield f"  {finding.advice}"
    for line in finding.paste.splitlines():
        yield f"      {line}"


def json_report(diagnosis: Diagnosis, examined: DoctorInput, *, config: str) -> dict[str, Any]:
    """The report as JSON values.

    Args:
        diagnosis: the findings.
        examined: the datasets.
        config: name of the config.
    """
    return {
        "config": config,
        "datasets": [
            {
                "role": side.role,
                "name": side.name,
                "images": len(side.dataset),
                "images_read": len(side.rows),
                "objects": len(side.objects),
                "classes": list(side.dataset.class_names),
            }
            for side in examined.sides
        ],
        "findings": [_finding_values(finding) for finding in diagnosis.findings],
        "estimate": None if examined.estimate is None else asdict(examined.estimate),
    }


def _finding_values(finding: Finding) -> dict[str, Any]:
    return {
        "check": finding.check,
        "severity": finding.severity.name.lower(),
        "title": finding.title,
        "count": finding.count,
        "total": finding.total,
        "advice": finding.advice,
        "paste": finding.paste,
        "examples": [_example_values(example) for example in finding.examples],
    }


def _example_values(example: Example) -> dict[str, Any]:
    records: Sequence[Any] = [record for record in (example.record, example.other) if record is not None]
    return {
        "images": [record.source.name for record in records],
        "image_ids": [record.image_id for record in records],
        "annotation_ids": list(example.annotation_ids),
        "text": example.text,
    }
