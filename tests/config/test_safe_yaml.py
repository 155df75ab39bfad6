"""The YAML reader: values with their lines, and nothing that builds an object."""

from pathlib import Path

import pytest

from mrcnn_zoo.config.safe_yaml import read_yaml, read_yaml_value
from mrcnn_zoo.errors import UserError


def values(text: str) -> dict[str, object]:
    return {assignment.name: assignment.value for assignment in read_yaml(text, "x.yaml")}


def test_empty_text_sets_nothing() -> None:
    assert read_yaml("", "x.yaml") == []
    assert read_yaml("# only a comment\n", "x.yaml") == []


def test_sections_become_paths_with_lines() -> None:
    assignments = read_yaml("A: 1\nB:\n  C: [1, x]\n  D:\n    E: null\n", "x.yaml")
    assert [(found.path, found.value, str(found.origin)) for found in assignments] == [
        (("A",), 1, "x.yaml:1"),
        (("B", "C"), [1, "x"], "x.yaml:3"),
        (("B", "D", "E"), None, "x.yaml:5"),
    ]


def test_date_stays_text() -> None:
    assert values("OUTPUT_DIR: 2026-11-22") == {"OUTPUT_DIR": "2026-11-22"}


def test_key_like_a_number_or_boolean_stays_text() -> None:
    assert values("1: a\non: b\n") == {"1": "a", "on": "b"}


def test_aliases_are_followed() -> None:
    assert values("A: &x [1.0, 2.0]\nB: *x\n") == {"A": [1.0, 2.0], "B": [1.0, 2.0]}


def test_merge_key_fills_in_missing_values() -> None:
    text = "A: &x {C: 1, D: 2}\nB:\n  <<: *x\n  D: 3\n"
    assert values(text) == {"A.C": 1, "A.D": 2, "B.C": 1, "B.D": 3}


def test_eval_tag_computes_arithmetic() -> None:
    assert values('A: !!python/object/apply:eval ["[x * 2 for x in [1, 2]]"]') == {"A": [2, 4]}


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['touch {marker}']",
        "!!python/object/apply:eval [\"__import__('os').system('touch {marker}')\"]",
        "!!python/object/apply:eval [\"open('{marker}', 'w')\"]",
        "!!python/object/apply:exec [\"open('{marker}', 'w')\"]",
        "!!python/object/new:os.system ['touch {marker}']",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!python/tuple [1, 2]",
        "!!python/object/apply:eval ['1', '2']",
        "!!python/object/apply:eval {{args: ['1']}}",
        "!!binary aGVsbG8=",
        "!!set {{a, b}}",
        "!mine 3",
    ],
)
def test_tag_that_builds_an_object_is_refused(value: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    with pytest.raises(UserError, match=r"evil\.yaml:2: .*(refused|eval)"):
        read_yaml(f"A: 1\nB: {value.format(marker=marker)}\n", "evil.yaml")
    assert not marker.exists()


def test_tag_on_a_section_is_refused() -> None:
    with pytest.raises(UserError, match=r"x\.yaml:1: the tag !!python/object:os\.thing"):
        read_yaml("A: !!python/object:os.thing {b: 1}\n", "x.yaml")


def test_key_given_twice_names_both_lines() -> None:
    with pytest.raises(UserError, match=r"x\.yaml:4: LR is given twice, first in line 2"):
        read_yaml("SOLVER:\n  LR: 1\n  STEPS: [1]\n  LR: 2\n", "x.yaml")


@pytest.mark.parametrize("text", ["A: [1, 2", "A:\n\t- 1", "A: *nowhere", "A: 1\n---\nB: 2", "A: 'open", "A: \x00"])
def test_invalid_syntax_is_one_error(text: str) -> None:
    with pytest.raises(UserError, match=r"x\.yaml.*not valid YAML"):
        read_yaml(text, "x.yaml")


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "just text", "3"])
def test_file_without_a_mapping_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="a config must be a mapping"):
        read_yaml(text, "x.yaml")


def test_value_that_contradicts_its_tag_is_refused() -> None:
    with pytest.raises(UserError, match=r"x\.yaml:1: 'many' is not a YAML int"):
        read_yaml("A: !!int many\n", "x.yaml")


@pytest.mark.parametrize("text", ["A: &x [*x]", "A: &x {B: *x}", "A: &x\n  <<: *x\n"])
def test_recursive_alias_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="contains itself"):
        read_yaml(text, "x.yaml")


@pytest.mark.parametrize(("first", "more"), [("[1, 1]", "[{}]"), ("{{k: 1}}", "{{<<: [{}]}}")])
def test_exponential_aliases_are_refused(first: str, more: str) -> None:
    lines = [f"L0: &L0 {first.format()}"]
    for level in range(1, 12):
        lines.append(f"L{level}: &L{level} {more.format(', '.join([f'*L{level - 1}'] * 10))}")
    with pytest.raises(UserError, match="100000 values"):
        read_yaml("\n".join(lines), "x.yaml")


def test_single_value_is_read_from_flow_style() -> None:
    assert read_yaml_value("[a, {b: 1}]") == ["a", {"b": 1}]
    assert read_yaml_value("") is None
