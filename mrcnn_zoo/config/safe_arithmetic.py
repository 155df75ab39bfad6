"""Evaluates plain arithmetic on number lists, for the one computed value in Detectron2's YAML files."""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

MAX_TEXT = 1000  # characters
MAX_STEPS = 10_000  # evaluated syntax nodes, against comprehensions inside comprehensions
MAX_EXPONENT = 64
MAX_NUMBER = 1e100

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def evaluate_arithmetic(text: str) -> Any:
    """The number or nested list that an expression of numbers, + - * / **, lists and comprehensions stands for.

    Nothing else is known: no names but those of comprehensions, no calls, no attributes, no conditions.

    Raises:
        ValueError: saying what is not allowed.
    """
    if len(text) > MAX_TEXT:
        raise ValueError(f"the expression has {len(text)} characters, more than {MAX_TEXT}")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ValueError(f"{text!r} is not an expression: {error}") from error
    try:
        return _Evaluation().value(tree.body, {})
    except (ArithmeticError, RecursionError) as error:
        raise ValueError(f"{text!r} cannot be computed: {error}") from error


class _Evaluation:
    """One evaluation, which counts its steps."""

    def __init__(self) -> None:
        self._steps = 0

    def value(self, node: ast.expr, names: Mapping[str, Any]) -> Any:
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise ValueError(f"the expression takes more than {MAX_STEPS} steps")
        match node:
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return _bounded(number)
            case ast.Name(id=name) if name in names:
                return names[name]
            case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _UNARY:
                return _UNARY[type(sign)](self._number(operand, names))
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _BINARY:
                return self._binary(sign, self._number(left, names), self._number(right, names))
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                return [self.value(element, names) for element in elements]
            case ast.ListComp(elt=element, generators=[generator]):
                return self._comprehension(element, generator, names)
        raise ValueError(f"{ast.unparse(node)!r} is not allowed: only numbers, + - * / **, lists and comprehensions")

    def _number(self, node: ast.expr, names: Mapping[str, Any]) -> int | float:
        number = self.value(node, names)
        if isinstance(number, list):
            raise ValueError(f"{ast.unparse(node)!r} is a list where a number is needed")
        return number

    @staticmethod
    def _binary(sign: ast.operator, left: int | float, right: int | float) -> int | float:
        if isinstance(sign, ast.Pow) and abs(right) > MAX_EXPONENT:
            raise ValueError(f"the exponent {right} is beyond {MAX_EXPONENT}")
        return _bounded(_BINARY[type(sign)](left, right))

    def _comprehension(self, element: ast.expr, generator: ast.comprehension, names: Mapping[str, Any]) -> list[Any]:
        if generator.ifs or generator.is_async or not isinstance(generator.target, ast.Name):
            raise ValueError("a comprehension may only say 'for NAME in LIST'")
        items = self.value(generator.iter, names)
        if not isinstance(items, list):
            raise ValueError(f"{ast.unparse(generator.iter)!r} is not a list")
        return [self.value(element, {**names, generator.target.id: item}) for item in items]


def _bounded(number: Any) -> int | float:
    if isinstance(number, complex) or not abs(number) <= MAX_NUMBER:
        raise ValueError(f"a result is not a real number of at most {MAX_NUMBER:g}")
    return number
