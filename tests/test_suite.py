"""Rules of the test suite."""

import ast
import warnings
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
CHECKS = ("raises", "assert_", "gradcheck", "fail")  # substrings of names of functions that can fail a test
# Comment in tests that pass if the code raises nothing.
RAISES_NOTHING = "# raises nothing"


def uncheckable_tests(text: str) -> set[str]:
    """Tests that cannot fail: no assertion, directly or through functions of the same file."""
    lines = text.splitlines()
    functions = {node.name: node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)}
    checking: set[str] = set()
    while found := {name for name, node in functions.items() if name not in checking and can_fail(node, checking)}:
        checking |= found
    tests = [node for name, node in functions.items() if name.startswith("test_") and name not in checking]
    return {node.name for node in tests if RAISES_NOTHING not in "".join(lines[node.lineno : node.end_lineno])}


def can_fail(function: ast.FunctionDef, checking: set[str]) -> bool:
    for node in ast.walk(function):
        if isinstance(node, ast.Assert) and not is_constant(node.test):
            return True
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in checking or any(part in name for part in CHECKS):
                return True
    return False


def is_constant(expression: ast.expr) -> bool:
    return not any(isinstance(node, ast.Name | ast.Attribute | ast.Call) for node in ast.walk(expression))


def test_every_test_can_fail() -> None:
    paths = sorted(TESTS.rglob("test_*.py"))
    found = {path.name: uncheckable_tests(path.read_text(encoding="utf-8")) for path in paths}
    assert {name: tests for name, tests in found.items() if tests} == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("def test_a():\n    f()\n", {"test_a"}),
        ("def test_a():\n    assert True\n    assert 1 < 2\n", {"test_a"}),
        ("def test_a():\n    assert f()\n", set()),
        ("def test_a():\n    f()  # raises nothing\n", set()),
        ("def test_a():\n    with pytest.raises(ValueError):\n        f()\n", set()),
        ("def check(x):\n    assert x\ndef check_all(x):\n    check(x)\ndef test_a():\n    check_all(1)\n", set()),
    ],
)
def test_tests_without_assertion_are_found(text: str, found: set[str]) -> None:
    assert uncheckable_tests(text) == found


@pytest.mark.parametrize("category", [UserWarning, DeprecationWarning, FutureWarning, RuntimeWarning])
def test_warning_in_package_code_is_an_error(category: type[Warning]) -> None:
    with pytest.raises(category, match="from inside"):
        warnings.warn_explicit("from inside", category, "boxes.py", 1, module="mrcnn_zoo.ops.boxes")
