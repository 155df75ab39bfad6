"""The evaluator of plain arithmetic: allowed and refused expressions."""

import pytest

from mrcnn_zoo.config.safe_yaml import evaluate_arithmetic

RETINANET_SIZES = "[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]"


def test_arithmetic_computes_the_anchor_sizes_of_the_retinanet_base_file() -> None:
    sizes = evaluate_arithmetic(RETINANET_SIZES)
    assert sizes[0] == [32, 40.31747359663594, 50.79683366298238]
    assert [row[0] for row in sizes] == [32, 64, 128, 256, 512]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 2 * 3", 7),
        ("-(4 - 6) / 4", 0.5),
        ("[]", []),
        ("(1, 2)", [1, 2]),
        ("[[i * j for j in [1, 2]] for i in [3]]", [[3, 6]]),
    ],
)
def test_arithmetic_computes_numbers_and_lists(text: str, expected: object) -> None:
    assert evaluate_arithmetic(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 +",
        "__import__('os')",
        "x",
        "(1).real",
        "[1][0]",
        "'text'",
        "True",
        "1 if 1 else 2",
        "lambda: 1",
        "{1: 2}",
        "1 // 2",
        "[x for x in 3]",
        "[x for x in [1, 2] if x]",
        "[x for x, y in [[1, 2]]]",
        "[print for x in [1]]",
    ],
)
def test_arithmetic_refuses_everything_else(text: str) -> None:
    with pytest.raises(ValueError, match=r"not|may only be"):
        evaluate_arithmetic(text)


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9",
        "((9**64)**64)**64",
        "2**1e9",
        "[1] * 1000000000",
        "1e300 * 1e300",
        "1 / 0",
        "(-8)**0.5",
        "[" * 250 + "]" * 250,
        "[[[[[0 for a in [1,2,3,4,5,6,7,8,9]] for b in [1,2,3,4,5,6,7,8,9]] for c in [1,2,3,4,5,6,7,8,9]]"
        " for d in [1,2,3,4,5,6,7,8,9]] for e in [1,2,3,4,5,6,7,8,9]]",
        "1 + " * 1000 + "1",
    ],
)
def test_arithmetic_refuses_large_results(text: str) -> None:
    with pytest.raises(ValueError, match=r"exponent|list where|real number|cannot be computed|steps|expression"):
        evaluate_arithmetic(text)
