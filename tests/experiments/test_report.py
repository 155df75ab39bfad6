"""Reports on sweeps in each format, of folders written by hand."""

import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.experiments.comparison import compare
from mrcnn_zoo.experiments.records import read_sweep_folder
from mrcnn_zoo.experiments.report.build import MAX_POINTS, build_report, build_section, mean_curve, read_section
from mrcnn_zoo.experiments.report.model import OPPOSITE, SAME, UNDECIDED, Report
from mrcnn_zoo.experiments.report.page import html_text
from mrcnn_zoo.experiments.report.plots import accuracy_pairs, section_plots
from mrcnn_zoo.experiments.report.tables import why_not_compared
from mrcnn_zoo.experiments.report.text import latex, latex_text, markdown_text
from mrcnn_zoo.experiments.report.writing import write_report
from support.sweep_folders import ERROR, SWEEP, write_example, write_run, write_sweep

DATE = "2026-11-27 12:00"
VOID = {"meta", "img", "br", "hr", "link"}


def report_on(*folders: Path) -> Report:
    records = [read_sweep_folder(folder) for folder in folders]
    return build_report([build_section(record, compare(record, resamples=0)) for record in records], date=DATE)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_example(tmp_path_factory.mktemp("sweeps") / "roi_layer")


@pytest.fixture(scope="module")
def report(example: Path) -> Report:
    return report_on(example)


@pytest.fixture(scope="module")
def written(report: Report, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("report")
    paths = write_report(report, folder, formats=["markdown", "csv", "latex", "html"])
    return {path.name: path.read_text(encoding="utf-8") for path in paths} | {"folder": str(folder)}


# --- HTML -------------------------------------------------------------------------------------------------------------
class Page(HTMLParser):
    """Checks the nesting, and collects the tables and the addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open) and "sup" not in self.open:
            self.tables[-1][-1][-1] += data


def test_page_is_well_formed_and_needs_nothing_else(written: dict[str, str]) -> None:
    page = Page(written["report.html"])
    assert {"table", "img", "style"} <= page.tags
    assert not {"script", "link", "iframe", "object"} & page.tags
    assert all(address.startswith(("data:image/svg+xml;base64,", "#")) for address in page.addresses)
    assert "url(" not in written["report.html"]
    assert "@import" not in written["report.html"]


def test_tables_have_the_numbers_of_the_comparison(written: dict[str, str], report: Report, example: Path) -> None:
    comparison = compare(read_sweep_folder(example), resamples=0)[0]
    page = Page(written["report.html"])
    table = next(table for table in page.tables if table[0][2:4] == ["mean [95 %]", "difference [95 %]"])
    for cells, row in zip(table[1:], comparison.rows, strict=True):
        if row.mean is None:
            assert cells == [row.variant, "0 of 3", *["-"] * 5]
            continue
        expected = [row.mean.value, row.mean.low, row.mean.high]
        assert numbers(cells[2]) == pytest.approx(expected, abs=0.0051)
        if row.difference is not None:
            expected = [row.difference.value, row.difference.low, row.difference.high]
            assert numbers(cells[3]) == pytest.approx(expected, abs=0.0051)
            assert cells[5] == row.verdict
    assert [cells[5] for cells in table[1:]] == ["reference", "better", "not distinguishable", "-"]
    assert table[2][2] == "36.50 [35.26, 37.74]"  # 36.5 +- 4.303 * 0.5 / sqrt(3)
    assert f'<td class="name" data-label="variant"><span>{report.sections[0].variants[1]}' in written["report.html"]


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"[-+]?\d+\.\d+", text)]


def test_every_dash_has_a_footnote(report: Report) -> None:
    text = markdown_text(report, {})
    assert not re.search(r"\|\s+-\s+\|", text)
    empty = [line for line in text.splitlines() if re.search(r"\|\s+\|", line)]
    assert empty
    assert all(line.startswith("| base ") for line in empty)  # differences of the reference to itself
    assert "3 of 3 seeds not finished" in text


# --- CSV --------------------------------------------------------------------------------------------------------------
def test_csv_reads_back(written: dict[str, str], example: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(written["report.csv"])))
    assert [(row["variant"], row["metric"]) for row in rows[:2]] == [("base", "segm/AP"), ("wide_128", "segm/AP")]
    assert len(rows) == 8
    by_hand = compare(read_sweep_folder(example), resamples=0)[0].row("wide_128")
    assert by_hand.difference is not None
    assert float(rows[1]["difference"]) == by_hand.difference.value == 5.5
    assert float(rows[1]["p_holm"]) == by_hand.adjusted_p
    assert (rows[1]["paper"], float(rows[1]["paper_difference"])) == ("31.0", pytest.approx(0.7))
    assert rows[1]["changes"] == "MODEL.FPN.OUT_CHANNELS: 128; a wider pyramid"
    assert rows[3]["mean"] == ""
    assert "3 of 3 seeds not finished" in rows[3]["missing"]
    runs = list(csv.DictReader(io.StringIO(written["runs.csv"])))
    assert [run["segm/AP"] for run in runs if run["variant"] == "deep_50"] == ["30.5", "31.75", ""]
    assert [run["status"] for run in runs[-4:]] == ["failed", "waiting", "waiting", "waiting"]
    assert runs[8]["error"] == ERROR


# --- LaTeX ------------------------------------------------------------------------------------------------------------
def test_latex_escapes_special_characters() -> None:
    assert latex("50 % of a_b & {c} #1 $2 ~x^y \\z") == (
        r"50 \% of a\_b \& \{c\} \#1 \$2 \textasciitilde{}x\textasciicircum{}y \textbackslash{}z"
    )
    assert latex("-1.5 [-2, a-1]") == "$-$1.5 [$-$2, a-1]"


def test_report_begins_with_what_is_better_and_by_how_much(report: Report) -> None:
    first = report.sections[0].remarks[0]
    assert first.startswith("segm/AP, compared with base (31.00): wide_128 +5.50 [")
    assert "(better); not distinguishable: deep_50." in first
    page = html_text(report, {})
    assert page.index(first.partition(":")[0]) < page.index("<table>")
    assert "<details><summary>bbox/AP</summary>" in page
    assert "<h3>segm/AP</h3>" in page


def test_latex_tables_have_as_many_cells_as_columns(written: dict[str, str]) -> None:
    text = written["report.tex"]
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") > 3
    tables = re.findall(r"\\begin\{tabular\}\{@\{\}([lr]+)(p\{[^}]*\})?@\{\}\}(.*?)\\end\{tabular\}", text, re.DOTALL)
    assert len(tables) == text.count(r"\begin{tabular}")
    for letters, paragraph, body in tables:
        assert body.count(r"\toprule") == body.count(r"\midrule") == body.count(r"\bottomrule") == 1
        lines = [line for line in body.splitlines() if line.strip().endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {len(letters) + bool(paragraph) - 1}
    uncommented = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert not re.search(r"(?<!\\)[%#_$](?!-\$|\s|$)", uncommented.replace("$-$", ""))
    depth = 0
    for character in re.sub(r"\\[{}]", "", uncommented):
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    assert depth == 0


# --- Markdown and content ---------------------------------------------------------------------------------------------
def test_markdown_shows_plots_errors_and_changes(written: dict[str, str]) -> None:
    text = written["report.md"]
    links = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert len(links) == 4  # values of two metrics, the loss, mask AP while training
    for link in links:
        assert (Path(written["folder"]) / link).read_bytes().startswith(b"\x89PNG")
    assert "RuntimeError: 100% of GPU_0 &lt;in use>" in text
    assert "MODEL.FPN.OUT_CHANNELS: 128; a wider pyramid" in text
    assert "12 runs: 8 finished, 1 failed, 3 waiting." in text
    assert "mrcnn-zoo sweep measure" in text


def test_published_orderings(report: Report) -> None:
    section = report.sections[0]
    rows = {row.variant: row for row in section.comparisons[0].rows}
    assert section.agreement(rows["wide_128"], "segm/AP") == SAME  # +5.5, published +0.7
    assert section.agreement(rows["deep_50"], "segm/AP") == UNDECIDED
    assert section.agreement(rows["base"], "segm/AP") == section.agreement(rows["never ran"], "segm/AP") == ""
    turned = {("base", "segm/AP"): 31.0, ("wide_128", "segm/AP"): 30.0}
    other = type(section)(**{**vars(section), "published": turned})
    assert other.agreement(rows["wide_128"], "segm/AP") == OPPOSITE
    assert f"1 {SAME}, 1 {UNDECIDED}" in " ".join(section.remarks)


def test_sweep_without_a_run(tmp_path: Path) -> None:
    report = report_on(write_sweep(tmp_path / "new", SWEEP))
    assert section_plots(report.sections[0]) == []
    write_report(report, tmp_path / "out", formats=["markdown", "csv", "latex", "html"])
    assert "12 runs: 12 waiting." in (tmp_path / "out" / "report.md").read_text()
    Page((tmp_path / "out" / "report.html").read_text())


def test_sweep_of_one_seed_has_no_test(tmp_path: Path) -> None:
    text = markdown_text(report_on(write_example(tmp_path / "one", seeds=(0,))), {})
    row = next(line for line in text.splitlines() if line.startswith("| wide_128") and "+6.00" in line)
    assert "36.00<sup>" in row  # without an interval, and the footnote states why
    assert "not distinguishable" in row
    assert "one seed: no interval; one seed of the reference" in text


def test_a_reference_without_value_is_the_reason_for_missing_differences(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "s", SWEEP, seeds=[0])
    write_run(folder / "wide_128" / "seed_0", {"segm": {"AP": 30.0}})
    section = read_section(read_sweep_folder(folder))
    row = section.comparisons[0].row("wide_128")
    assert row.notes  # of its mean
    assert why_not_compared(row, section) == "the reference has no value of this metric"


def test_several_sweeps_of_the_same_name(tmp_path: Path, example: Path) -> None:
    other = write_example(tmp_path / "copy" / "roi_layer", seeds=(0, 1))
    report = report_on(example, other)
    assert len({section.name for section in report.sections}) == 2
    assert len({section.title for section in report.sections}) == 2
    combined = markdown_text(report, {}).split("\n## ")[1]
    assert combined.startswith("All sweeps")
    assert combined.count("wide_128") == 2
    assert str(other) in combined
    assert latex_text(report).count(r"\caption{All sweeps.}") == 1
    twice = report_on(example, example)
    assert len({section.name for section in twice.sections}) == 2


def test_unknown_format_is_refused(report: Report, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--format htm is not one of markdown, csv, latex, html. Did you mean 'html'"):
        write_report(report, tmp_path, formats=["htm"])


# --- curves -----------------------------------------------------------------------------------------------------------
def test_curve_is_mean_and_range_over_runs() -> None:
    curve = mean_curve("base", [([0, 10], [4.0, 2.0]), ([0, 10, 20], [2.0, 1.0, 0.5])])
    assert curve.iterations == (0, 10, 20)
    assert curve.mean == (3.0, 1.5, 0.5)
    assert (curve.low, curve.high) == ((2.0, 1.0, 0.5), (4.0, 2.0, 0.5))
    assert mean_curve("base", []).iterations == ()


def test_long_curve_is_averaged_over_spans() -> None:
    iterations = [float(iteration) for iteration in range(1000)]
    curve = mean_curve("base", [(iterations, iterations)])
    assert len(curve.iterations) == MAX_POINTS
    assert curve.mean[0] == curve.iterations[0] == 4.5  # mean of 0 to 9


def test_accuracy_against_ap_is_drawn(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "founding", SWEEP.replace("bbox/AP]", "stages/first/classification/top1]"))
    for seed in (0, 1):
        results = {"segm": {"AP": 30.0 + seed}, "stages": {"first": {"classification": {"top1": 90.0 + seed}}}}
        write_run(folder / "base" / f"seed_{seed}", results)
    record = read_sweep_folder(folder)
    section = build_section(record, compare(record, resamples=0))
    assert accuracy_pairs(section, "stages/first/classification/top1", "segm/AP") == {"base": [(90, 30), (91, 31)]}
    plot = section_plots(section)[-1]
    assert plot.name == "roi_layer-accuracy-stages_first_classification_top1_segm_AP"
    assert plot.svg().startswith("<?xml")


def test_learning_curves_are_in_text_and_plot(tmp_path: Path) -> None:
    text = SWEEP.split("PAPER")[0] + "DATA_FRACTIONS: [0.1, 0.2, 0.5, 1.0]"
    folder = write_sweep(tmp_path / "fractions", text, seeds=(0,))
    for fraction, value in ((0.1, 20.0), (0.2, 28.0), (0.5, 37.0), (1.0, 43.0)):
        place = "seed_0" if fraction == 1 else f"fraction_{fraction}/seed_0"
        write_run(folder / "base" / place, {"segm": {"AP": value}}, num_images=int(1000 * fraction))
    section = read_section(read_sweep_folder(folder))
    written = markdown_text(build_report([section], date=DATE), {})
    assert "Twice the images (2,000 instead of 1,000) are expected to give" in written
    assert re.search(r"\| base +\| +1 \| +43.00<sup>", written)  # the largest share is compared
    assert re.search(r"\| base +\| +4 \| +43.00 \(reference\)", written)  # of four runs
    assert "seed 0, 20% of the images" in written
    plot = next(plot for plot in section_plots(section) if "-images-" in plot.name)
    assert plot.svg().count("<use") > 4
    (folder / "base" / "seed_0" / "datasets.json").unlink()
    remarks = read_section(read_sweep_folder(folder)).remarks
    assert "No learning curves: " in remarks[-1]
    assert "datasets.json" in remarks[-1]


def test_single_variant_is_not_compared(tmp_path: Path) -> None:
    text = "BASE: Quickstart/mask_rcnn_R_18_FPN_digits.yaml\nVARIANTS: {base: {}}\nCOLUMNS: [segm/AP, bbox/AP]"
    folder = write_sweep(tmp_path / "single", text, seeds=(0, 1))
    for seed in (0, 1):
        write_run(folder / "base" / f"seed_{seed}", {"segm": {"AP": 40.0 + seed}, "bbox": {"AP": 50.0 + seed}})
    written = markdown_text(report_on(folder), {})
    assert "40.50" in written
    for word in ("(reference)", "Difference:", "p (Holm)", "verdict"):
        assert word not in written


def test_cross_validation_has_a_table_of_folds(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "folds", SWEEP.split("PAPER")[0] + "FOLDS: 2", seeds=(0, 1))
    for seed, first, second in ((0, 30.0, 40.0), (1, 32.0, 44.0)):
        for fold, value in enumerate((first, second)):
            write_run(folder / "base" / f"fold_{fold}" / f"seed_{seed}", {"segm": {"AP": value}})
    text = markdown_text(build_report([read_section(read_sweep_folder(folder))], date=DATE), {})
    assert re.search(r"\| base +\| +31.00 \| +42.00 \|", text)  # means over the seeds
    assert re.search(r"\| base +\| +2 \| 36.50 ", text)  # mean of 35 and 38
    assert "no interval over folds" in text
    assert "no seed is finished in all folds" in text
    assert "seed 1, fold 1" in text
