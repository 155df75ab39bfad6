"""The recall funnel of an evaluation in a run report: how many objects each stage of the detector leaves."""

from collections.abc import Mapping
from html import escape
from typing import Any

from mrcnn_zoo.inspection.html_page import Cell, Table, html_table
from mrcnn_zoo.inspection.run_report.report import EvaluationReport

HOW = (
    "At which stage objects are lost is not measured here; an evaluation with EVAL.FUNNEL True does it: "
    "mrcnn-zoo evaluate --weights {folder} EVAL.FUNNEL True"
)
FENCE = "```"  # around YAML in Markdown
ALL = "annotated objects"


def funnel_blocks(report: EvaluationReport) -> list[str]:
    """The objects left after each stage as bars, the reasons of the losses, and the advice, for each task.

    Args:
        report: of an evaluation; without its funnel there is a line on how to measure it.
    """
    tasks = report.funnel.get("tasks", {})
    if not tasks:
        text = HOW.format(folder=report.files.output_dir)
        return [f'<p class="caption">{escape(text)}</p>'] if "bbox" in report.files.results else []
    iou = report.funnel.get("iou", 0.5)
    blocks = []
    for task, content in tasks.items():
        blocks.append(f"<h3>Recall funnel ({escape(task)}, IoU {iou:g})</h3>{_bars(content)}")
        losses = _loss_table(content)
        blocks += [html_table(losses, level=4)] if losses.rows else []
        lines = [line for line in str(content.get("advice", "")).splitlines() if not line.startswith(FENCE)]
        blocks += [f'<pre class="advice">{escape(chr(10).join(lines))}</pre>'] if lines else []
    return blocks


def _bars(content: Mapping[str, Any]) -> str:
    total = int(content["objects"])
    rows = [(ALL, total), *((stage, int(content["after"][stage])) for stage in content["stages"])]
    lines = []
    before = total
    for name, count in rows:
        share = count / total if total else 0.0
        lost = f", {before - count:,} lost" if before > count else ""
        lines.append(
            f'<div><span>{escape(name)}</span><span class="track"><i style="width: {100 * share:.1f}%"></i></span>'
            f"<span>{count:,} ({share:.1%}{lost})</span></div>"
        )
        before = count
    return f'<div class="bars">{"".join(lines)}</div>'


def _loss_table(content: Mapping[str, Any]) -> Table:
    total = max(1, int(content["objects"]))
    rows = tuple(
        (
            Cell(str(loss["stage"])),
            Cell(str(loss["reason"])),
            Cell(f"{loss['objects']:,}"),
            Cell(f"{loss['objects'] / total:.1%}"),
        )
        for loss in content.get("losses", ())
    )
    return Table("Why objects are lost", ("stage", "reason", "objects", "share"), rows, names=2, is_compact=True)
