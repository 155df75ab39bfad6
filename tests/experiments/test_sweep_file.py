"""The YAML of a sweep: fields, variants, grids and their names, and messages about mistakes."""

from pathlib import Path

import pytest

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.experiments.runs import expand
from mrcnn_zoo.experiments.sweep_file import PaperNumber, Sweep, read_sweep

POOLER = "MODEL.ROI_BOX_HEAD.POOLER_TYPE"
SIZE = "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION"


def read(folder: Path, text: str) -> Sweep:
    (folder / "Base.yaml").write_text("MODEL: {MASK_ON: True}\n")
    path = folder / "my_sweep.yaml"
    path.write_text(f"BASE: Base.yaml\n{text}\n")
    return read_sweep(path)


def names(sweep: Sweep) -> list[str]:
    return [variant.name for variant in sweep.variants]


def values(sweep: Sweep, name: str) -> dict[str, object]:
    return {item.name: item.value for item in sweep.variant(name).overrides}


def test_a_base_alone_is_a_sweep_of_one_variant(tmp_path: Path) -> None:
    sweep = read(tmp_path, "")
    assert (sweep.name, names(sweep), sweep.seeds, sweep.reference) == ("my_sweep", ["base"], (0,), "base")
    assert sweep.output_dir == Path("output/sweeps/my_sweep")


def test_overrides_are_dotted_or_nested(tmp_path: Path) -> None:
    text = "VARIANTS:\n  a: {SOLVER.BASE_LR: 0.1, MODEL: {FPN: {NORM: GN}}}\n  b: {OVERRIDES: {LOG_PERIOD: 5}}\n  c:\n"
    sweep = read(tmp_path, text)
    assert values(sweep, "a") == {"SOLVER.BASE_LR": 0.1, "MODEL.FPN.NORM": "GN"}
    assert values(sweep, "b") == {"LOG_PERIOD": 5}
    assert values(sweep, "c") == {}


def test_all_fields_are_read(tmp_path: Path) -> None:
    text = """
NAME: other
TITLE: A title
OUTPUT_DIR: somewhere
VARIANTS: {a: {}, b: {FROM: a, FRACTION: 0.5, NOTE: half}, c: {FROM: {backbone: a, roi_heads: "b:roi_heads.box"}}}
SEEDS: [3, 1]
REFERENCE: b
COLUMNS: [segm/AP, stages/x/classification/top1]
PAPER: {SOURCE: us, ROWS: {a: {segm/AP: 36, bbox/AP: 40.5}}}
FOLDS: 5
GROUP: "patient_\\\\d+"
SPACE: {SOLVER.BASE_LR: {low: 0.1}}
"""
    sweep = read(tmp_path, text)
    assert (sweep.name, sweep.title, sweep.output_dir) == ("other", "A title", Path("somewhere"))
    assert (sweep.seeds, sweep.reference, sweep.folds, sweep.group) == ((3, 1), "b", 5, r"patient_\d+")
    assert sweep.columns == ("segm/AP", "stages/x/classification/top1")
    assert sweep.paper == (PaperNumber("a", "segm/AP", 36.0), PaperNumber("a", "bbox/AP", 40.5))
    assert sweep.paper_columns == ("segm/AP", "bbox/AP")
    assert sweep.space == {"SOLVER.BASE_LR": {"low": 0.1}}
    half, parts = sweep.variant("b"), sweep.variant("c")
    assert (half.starts_from, half.fraction, half.note) == ("a", 0.5, "half")
    assert [(part.part, part.stage, part.source) for part in parts.inherited] == [
        ("backbone", "a", "backbone"),
        ("roi_heads", "b", "roi_heads.box"),
    ]


# --- grids ------------------------------------------------------------------------------------------------------------


def test_a_grid_is_a_product_with_short_names(tmp_path: Path) -> None:
    sweep = read(tmp_path, f"GRID:\n  {POOLER}: [ROIPool, ROIAlign]\n  {SIZE}: [7, 14]")
    assert names(sweep) == ["ROIPool-P7", "ROIPool-P14", "ROIAlign-P7", "ROIAlign-P14"]
    assert values(sweep, "ROIAlign-P14") == {POOLER: "ROIAlign", SIZE: 14}


def test_points_that_exclude_names_are_left_out(tmp_path: Path) -> None:
    text = f"GRID:\n  {POOLER}: [ROIPool, ROIAlign]\n  {SIZE}: [7, 14]\nEXCLUDE: [{{{POOLER}: ROIPool, {SIZE}: 14}}]"
    assert names(read(tmp_path, text)) == ["ROIPool-P7", "ROIAlign-P7", "ROIAlign-P14"]


def test_equal_initials_get_longer_words(tmp_path: Path) -> None:
    text = "GRID:\n  SOLVER.BASE_LR: [0.1, 1.0e-3]\n  SOLVER.BIAS_LR_FACTOR: [1, 2]\n  MODEL: {MASK_ON: [True, False]}"
    assert names(read(tmp_path, text))[:2] == ["BL0.1-BLF1-MASK_ON_True", "BL0.1-BLF1-MASK_ON_False"]


def test_an_axis_may_have_named_levels_of_several_keys(tmp_path: Path) -> None:
    text = f"""
GRID:
  stride:
    C4: {{MODEL.RESNETS.OUT_FEATURES: [res4], {SIZE}: 14}}
    C5: {{MODEL.RESNETS.OUT_FEATURES: [res5]}}
  {POOLER}: [ROIPool, ROIAlign]
EXCLUDE: [{{stride: C5, {POOLER}: ROIPool}}]
"""
    sweep = read(tmp_path, text)
    assert names(sweep) == ["C4-ROIPool", "C4-ROIAlign", "C5-ROIAlign"]
    assert values(sweep, "C4-ROIPool") == {"MODEL.RESNETS.OUT_FEATURES": ["res4"], SIZE: 14, POOLER: "ROIPool"}


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("VARIANT: {a: {}}", "my_sweep.yaml:2: a sweep has no field 'VARIANT'. Did you mean 'VARIANTS'?"),
        ("SOLVER.BASE_LR: 1", "Config keys belong into VARIANTS or GRID"),
        ("VARIANTS: {a: {SOLVER.BASE_LRR: 1}}", "my_sweep.yaml:2: there is no config key SOLVER.BASE_LRR."),
        ("VARIANTS: {a: {SOLVER.BASE_LR: fast}}", "SOLVER.BASE_LR takes a number, not 'fast'"),
        ("VARIANTS: {a: {SOLVER.BASE_LR: -1}}", "variant 'a': SOLVER.BASE_LR = -1 must be"),
        ("VARIANTS: {a: {SEED: 1}}", "variant 'a' sets SEED, but SEEDS lists the seeds"),
        ("VARIANTS: {a: {FORM: b}, b: {}}", "variant 'a' has no field 'FORM'. Did you mean 'FROM'?"),
        ("VARIANTS: {a: {FROM: wide}, wider: {}}", "names 'wide', which is no variant. Did you mean 'wider'?"),
        ("VARIANTS: {a: {FROM: b}, b: {FROM: {backbone: a}}}", "start FROM each other: a -> b -> a"),
        ("VARIANTS: {a: {FROM: {proposals: b}}, b: {}}", "only weights are taken from a run"),
        ("VARIANTS: {a: {FRACTION: 2}}", "FRACTION = 2 of variant 'a' must be a share"),
        ("VARIANTS: {a/b: {}}", "the variant 'a/b' cannot be the name of a folder"),
        ("VARIANTS: {configs: {}}", "cannot be the name of a folder"),
        ("VARIANTS: {Wide: {}, wide: {}}", "two variants are named 'Wide' and 'wide'"),
        ("VARIANTS: {a: 3}", "variant 'a' must be a mapping of config keys, not 3"),
        (f"GRID: {{{POOLER}: ROIPool}}", f"GRID.{POOLER} = 'ROIPool' must be a list of values"),
        (f"GRID: {{{SIZE}: [7, 7]}}", "has a value twice"),
        (f"GRID: {{{SIZE}: [7]}}\nEXCLUDE: [{{{SIZE}: 8}}]", "= 8 is not among its values in GRID: [7]"),
        (f"GRID: {{{SIZE}: [7]}}\nEXCLUDE: [{{{SIZE}S: 7}}]", f"Did you mean {SIZE!r}?"),
        ("EXCLUDE: [{a: 1}]", "there is no GRID"),
        ("SEEDS: 3", "SEEDS = 3 must be a list"),
        ("SEEDS: [1, 1]", "SEEDS = [1, 1] has a seed twice"),
        ("SEEDS: [-1]", "must be a list of whole numbers of at least 0"),
        ("COLUMNS: [AP]", "COLUMNS: 'AP' must be a task and a metric"),
        ("REFERENCE: bose", "REFERENCE names 'bose', which is no variant. Did you mean 'base'?"),
        ("PAPER: {ROWS: {base: {segm/AP: 1}}}", "PAPER.SOURCE is missing"),
        ("PAPER: {SOURCE: x, ROWS: {other: {segm/AP: 1}}}", "PAPER.ROWS names 'other'"),
        ("PAPER: {SOURCE: x, ROWS: {base: {segm/AP: high}}}", "segm/AP = 'high' must be a number"),
        ("DATA_FRACTIONS: [0.5, 0.1]", "must be rising shares"),
        ("FOLDS: 1", "FOLDS = 1 must be a whole number of at least 2"),
        ("GROUP: x", "GROUP is for FOLDS and DATA_FRACTIONS"),
        ("FOLDS: 2\nGROUP: (", "GROUP = '(' is not a valid regular expression"),
        ("PAPER: {SOURCE: x, ROWS: [1]}", "PAPER.ROWS = [1]: PAPER.ROWS takes a mapping of metrics"),
        ("PAPER: {SOURCE: x, ROWS: {base: 1}}", "PAPER.ROWS.base = 1: PAPER.ROWS takes a mapping of metrics"),
        ("VARIANTS: {sweep.yaml: {}}", "variant 'sweep.yaml' cannot be the name of a folder"),
        ("NAME: ../x", "my_sweep.yaml:2: NAME = '../x' cannot be the name of a folder"),
        ("DATA_FRACTIONS: [0.1, 0.1000000001]", "their runs would have the same folder"),
        (
            "VARIANTS: {a: {DATASETS.FOLD: 1}}\nFOLDS: 2",
            "sets DATASETS.FOLD, and FOLDS sets it in each run",
        ),
        ("SEEDS: [4294967296]", "has a seed that is not below 4294967296"),
        ("FOLDS: 100000", "the sweep has 100000 runs (1 variants, 1 seeds, 100000 folds"),
    ],
)
def test_mistakes_name_the_place_and_the_value(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refusal:
        read(tmp_path, text)
    assert message in str(refusal.value)
    assert "my_sweep.yaml" in str(refusal.value)


def test_a_missing_base_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("BASE: Quickstart/mask_rcnn_R_18_FPN_digit.yaml\n")
    with pytest.raises(UserError, match=r"x.yaml:1: BASE: .* Did you mean 'Quickstart/mask_rcnn_R_18_FPN_digits.yaml'"):
        read_sweep(tmp_path / "x.yaml")


def test_an_invalid_config_of_the_last_variant_is_found_with_its_name(tmp_path: Path) -> None:
    sweep = read(tmp_path, "VARIANTS: {a: {}, b: {SOLVER.TRAINING_SCHEDULE: stages}}")
    with pytest.raises(UserError, match=r"my_sweep.yaml, variant 'b': .*SOLVER.STAGES, which is empty"):
        expand(sweep)
