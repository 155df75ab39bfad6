"""SOLVER.STAGES as users write it, and its mistakes."""

from pathlib import Path

import pytest

from mrcnn_zoo.config import config_from_text, load_config
from mrcnn_zoo.config.explain import explain
from mrcnn_zoo.config.stage_list import InheritedPart, read_stage_list, unused_stage_keys
from mrcnn_zoo.errors import UserError

TWO = """
SOLVER:
  TRAINING_SCHEDULE: stages
  STAGES:
  - NAME: heads
    TRAIN: [heads]
    OVERRIDES: {SOLVER.MAX_ITER: 10, MODEL: {RPN: {NMS_THRESH: 0.5}}}
  - {NAME: all, FROM: heads}
"""


def config_of(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "stages.yaml"
    path.write_text(text)
    return path


def test_list_is_read_from_yaml_and_from_the_command_line(tmp_path: Path) -> None:
    in_file = load_config(config_of(tmp_path, TWO)).SOLVER.STAGES
    typed = load_config(None, ["SOLVER.STAGES=[{NAME: heads, TRAIN: [heads]}, {NAME: all, FROM: heads}]"]).SOLVER.STAGES
    assert [stage.name for stage in read_stage_list(in_file)] == ["heads", "all"]
    first, second = read_stage_list(typed)
    assert (first.train, first.starts_from) == (("heads",), "")
    assert (second.train, second.starts_from) == (None, "heads")


def test_parts_come_from_stages_under_their_own_or_another_name() -> None:
    sources = {"backbone": "one", "proposal_generator.rpn": "two:proposal_generator", "proposals": "one"}
    *_, last = read_stage_list([{"NAME": "one"}, {"NAME": "two"}, {"NAME": "three", "TRAIN": [], "FROM": sources}])
    assert last.inherited == (
        InheritedPart("backbone", "one", "backbone"),
        InheritedPart("proposal_generator.rpn", "two", "proposal_generator"),
    )
    assert (last.proposals, last.starts_from, last.train) == ("one", "", ("none",))


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("{NAME: two, FORM: one}", r"STAGES\[1\] has no field 'FORM'. Did you mean 'FROM'"),
        ("two", r"must be a mapping with NAME|takes a list of mappings"),
        ("{TRAIN: heads}", r"STAGES\[1\].NAME must be the name of the stage"),
        ("{NAME: one}", r"STAGES\[1\].NAME = 'one' is that of SOLVER.STAGES\[0\]"),
        ("{NAME: two, TRAIN: 3}", r"STAGES\[1\].TRAIN must be a part .* not 3"),
        ("{NAME: two, TRAIN: [none, heads]}", r"STAGES\[1\].TRAIN = .*'none' means"),
        ("{NAME: two, FROM: onee}", r"STAGES\[1\].FROM names the stage 'onee'.*before it are one.*Did you mean 'one'"),
        ("{NAME: two, FROM: {rpn: ones}}", r"STAGES\[1\].FROM.rpn names the stage 'ones'.*Did you mean 'one'"),
        ("{NAME: two, FROM: [one]}", r"STAGES\[1\].FROM must be the name of an earlier stage, or a mapping"),
        ("{NAME: two, FROM: {rpn: 1}}", r"STAGES\[1\].FROM.rpn must be 'stage' or 'stage:part', not 1"),
        ("{NAME: two, FROM: {5+: one}}", r"STAGES\[1\].FROM.5\+ = 'one': stages of a network cannot be taken"),
        ("{NAME: two, FROM: {proposals: 'one:rpn'}}", r"FROM.proposals = 'one:rpn' must be the name of a stage alone"),
        ("{NAME: two, FROM: {rpn: 'one:'}}", r"STAGES\[1\].FROM.rpn must be 'stage' or 'stage:part', not 'one:'"),
        ("{NAME: two, FROM: one, OVERRIDES: {MODEL: {WEIGHTS: x}}}", r"STAGES\[1\]: FROM = 'one' replaces all weights"),
        ("{NAME: two, OVERRIDES: [1]}", r"STAGES\[1\].OVERRIDES must be a mapping of config keys"),
        ("{NAME: two, OVERRIDES: {SOLVER.BASE_LRR: 1}}", r"\[1\].OVERRIDES: .*BASE_LRR.*Did you mean 'SOLVER.BASE_LR'"),
        ("{NAME: two, OVERRIDES: {SOLVER: {BASE_LR: x}}}", r"\[1\].OVERRIDES: SOLVER.BASE_LR takes a number, not 'x'"),
        ("{NAME: two, OVERRIDES: {SOLVER.MAX_ITER: 0}}", r"\[1\].OVERRIDES: SOLVER.MAX_ITER = 0 must be at least 1"),
        ("{NAME: two, OVERRIDES: {SOLVER.TRAIN: [rpn]}}", r"\[1\].OVERRIDES: write TRAIN of the stage"),
        ("{NAME: two, OVERRIDES: {OUTPUT_DIR: x}}", r"OUTPUT_DIR is a key of the whole run"),
    ],
)
def test_mistake_is_named_with_its_place_and_line(tmp_path: Path, second: str, message: str) -> None:
    text = f"SEED: 1\nSOLVER:\n  TRAINING_SCHEDULE: stages\n  STAGES:\n  - NAME: one\n  - {second}\n"
    with pytest.raises(UserError, match=message) as refusal:
        load_config(config_of(tmp_path, text))
    assert "stages.yaml:4: SOLVER.STAGES" in str(refusal.value)


def test_schedule_stages_without_a_list_is_refused() -> None:
    with pytest.raises(UserError, match=r"trains the stages of SOLVER\.STAGES, which is empty"):
        load_config(None, ["SOLVER.TRAINING_SCHEDULE=stages"])


@pytest.mark.parametrize(
    ("overrides", "unused"),
    [
        (["SOLVER.STAGES=[{NAME: one}]"], ["SOLVER.STAGES"]),
        (["SOLVER.UNFREEZE=[all]", "SOLVER.STAGE_SHARES=[1]"], ["SOLVER.UNFREEZE", "SOLVER.STAGE_SHARES"]),
        (["SOLVER.TRAINING_SCHEDULE=rpn_only", "SOLVER.STAGE_SHARES=[1]"], []),
        (["SOLVER.TRAINING_SCHEDULE=joint", "SOLVER.STAGE_SHARES=[1]"], []),  # equally close: a comparison
        ([], []),
    ],
)
def test_key_that_the_schedule_does_not_read_is_unused(overrides: list[str], unused: list[str]) -> None:
    assert unused_stage_keys(load_config(None, overrides)) == unused


def test_none_beside_other_parts_is_refused() -> None:
    with pytest.raises(UserError, match=r"SOLVER.TRAIN = \['none', 'heads'\]: 'none' means that nothing is trained"):
        load_config(None, ["SOLVER.TRAIN=[none,heads]"])


def test_explanation_has_the_fields() -> None:
    text = explain("SOLVER.STAGES")
    assert all(name in text for name in ("NAME", "TRAIN", "FROM", "OVERRIDES", "list of mappings"))


def test_stage_and_part_are_no_code_and_overrides_of_a_downloaded_config_are() -> None:
    stages = "SOLVER:\n  STAGES: [{NAME: one}, {NAME: two, FROM: {backbone: 'one:backbone'}, OVERRIDES: {%s}}]\n"
    assert config_from_text(stages % "SEED: 1").SOLVER.STAGES[1]["OVERRIDES"] == {"SEED": 1}
    with pytest.raises(UserError, match="names code that would be imported and run"):
        config_from_text(stages % "HOOKS: ['my_lab:hook']")
