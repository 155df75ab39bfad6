"""Mistakes that show only when a training starts are found for all variants before the first one."""

from pathlib import Path

import pytest

from mrcnn_zoo.cli.main import USAGE_ERROR, run_command
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.experiments.preflight import check_trainings
from mrcnn_zoo.experiments.records import update_run_file
from mrcnn_zoo.experiments.runs import RunSpec, expand
from mrcnn_zoo.experiments.sweep_file import read_sweep
from support.small_models import TINY_YAML

MISTAKES = {
    "hook": ("{HOOKS: [DrawCurve]}", "Did you mean 'DrawCurves'?"),
    "head": ("{MODEL.ROI_MASK_HEAD.NAME: MaskHead}", "MODEL.ROI_MASK_HEAD.NAME = 'MaskHead' is not one of"),
    "schedule": ("{SOLVER.TRAINING_SCHEDULE: join}", "Did you mean 'joint'?"),
    "stage": (
        "{SOLVER.TRAINING_SCHEDULE: stages, SOLVER.STAGES: [{NAME: a}, {NAME: b, OVERRIDES: {SOLVER.OPTIMIZER: X}}]}",
        "stage 'b': SOLVER.OPTIMIZER = 'X'",
    ),
    "weights": ("{MODEL.WEIGHTS: nowhere.pth}", "checkpoint nowhere.pth does not exist"),
    "zoo": ("{MODEL.WEIGHTS: 'zoo://nothing'}", "the model zoo has no 'zoo://nothing'"),
    "part": ("{FROM: {backbon: good}}", "'backbon' matches no weight of the model. Did you mean 'backbone'?"),
    "base_weights": ("{FROM: {backbone: good}, MODEL.WEIGHTS: none.pth}", "checkpoint none.pth does not exist"),
}


def specs_of(folder: Path, variants: str) -> list[RunSpec]:
    path = folder / "s.yaml"
    path.write_text(f"BASE: {TINY_YAML}\nOUTPUT_DIR: {folder / 'out'}\nSEEDS: [0, 1]\nVARIANTS: {variants}\n")
    return expand(read_sweep(path))


def test_mistakes_of_all_variants_are_in_one_message(tmp_path: Path) -> None:
    variants = ", ".join(f"{name}: {text}" for name, (text, _) in MISTAKES.items())
    good = "good: {}, parts: {FROM: {backbone: good, roi_heads: good}}, all: {FROM: good}"
    specs = specs_of(tmp_path, f"{{{good}, {variants}}}")
    with pytest.raises(UserError) as caught:
        check_trainings(specs, {spec.key for spec in specs})
    first, *lines = str(caught.value).splitlines()
    assert first == f"{len(MISTAKES)} variants cannot be trained:"
    assert [line.split(":")[0].strip() for line in lines] == list(MISTAKES)
    for line, (_, message) in zip(lines, MISTAKES.values(), strict=True):
        assert message in line


def test_files_of_datasets_must_exist(tmp_path: Path) -> None:
    definition = "{FORMAT: coco, IMAGES: pictures, ANNOTATIONS: a.json}"
    specs = specs_of(tmp_path, f"{{a: {{DATASETS.DEFINITIONS: {{cells: {definition}}}, DATASETS.TRAIN: [cells]}}}}")
    with pytest.raises(UserError, match=r"a: dataset 'cells': the file or folder IMAGES is missing, searched .*res"):
        check_trainings(specs, {spec.key for spec in specs})


def test_a_finished_source_must_have_its_weights(tmp_path: Path) -> None:
    specs = specs_of(tmp_path, "{a: {}, b: {FROM: a}}")
    source = next(spec for spec in specs if str(spec.key) == "a/seed_1")
    update_run_file(source.folder, {"status": "finished"})
    trained = {spec.key for spec in specs} - {source.key}
    with pytest.raises(UserError, match=r"b: it starts FROM a/seed_1, .*seed_1/model_final.pth is missing"):
        check_trainings(specs, trained)
    (source.folder / "model_final.pth").touch()
    check_trainings(specs, trained)


def test_runs_that_are_not_trained_are_not_checked(tmp_path: Path) -> None:
    specs = specs_of(tmp_path, "{good: {}, bad: {HOOKS: [nothing]}}")
    check_trainings(specs, {spec.key for spec in specs if spec.key.variant == "good"})
    with pytest.raises(UserError, match="1 variant cannot be trained:\n  bad: "):
        check_trainings(specs, {spec.key for spec in specs})


def test_a_mistake_in_the_base_is_reported_once(tmp_path: Path) -> None:
    specs = specs_of(tmp_path, "{a: {}, b: {SOLVER.BASE_LR: 0.5}}")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(f"_BASE_: {TINY_YAML}\nMODEL: {{WEIGHTS: nowhere.pth}}\n")
    (tmp_path / "s.yaml").write_text((tmp_path / "s.yaml").read_text().replace(str(TINY_YAML), str(wrong)))
    specs = expand(read_sweep(tmp_path / "s.yaml"))
    with pytest.raises(UserError, match=r"2 variants cannot be trained:\n  a, b: checkpoint nowhere.pth [^\n]*\Z"):
        check_trainings(specs, {spec.key for spec in specs})


@pytest.mark.parametrize("option", [["--dry-run"], []])
def test_a_sweep_with_a_mistake_trains_nothing(
    option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    specs_of(tmp_path, "{good: {}, bad: {WRITERS: [jason]}}")
    assert run_command("sweep", ["run", str(tmp_path / "s.yaml"), *option]) == USAGE_ERROR
    assert "bad: 'jason' is not one of the registered METRIC_WRITERS" in capsys.readouterr().err.replace(
        "WRITERS = ", ""
    )
    assert not (tmp_path / "out").exists()


def test_a_mistake_in_the_section_slurm_is_found_by_any_launcher(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    specs_of(tmp_path, "{good: {}}")
    with (tmp_path / "s.yaml").open("a") as file:
        file.write("SLURM: {TIM: 60}\n")
    assert run_command("sweep", ["run", str(tmp_path / "s.yaml"), "--dry-run"]) == USAGE_ERROR
    assert "SLURM has no field 'TIM'. Did you mean 'TIME'?" in capsys.readouterr().err
