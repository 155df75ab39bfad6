"""YAML as plain Python values with line numbers; Detectron2's computed value is evaluated as arithmetic."""

import ast
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import yaml

from mrcnn_zoo.config.keys import Assignment, Origin
from mrcnn_zoo.errors import UserError

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
    """Evaluate an expression of numbers, + - * / **, lists and comprehensions to a number or a nested list.

    Args:
        text: the expression; names other than those of comprehensions, calls, attributes and conditions are refused.

    Raises:
        ValueError: with the part that is not allowed.
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
    """One evaluation; counts its steps."""

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
            raise ValueError("a comprehension may only be 'for NAME in LIST'")
        items = self.value(generator.iter, names)
        if not isinstance(items, list):
            raise ValueError(f"{ast.unparse(generator.iter)!r} is not a list")
        return [self.value(element, {**names, generator.target.id: item}) for item in items]


def _bounded(number: Any) -> int | float:
    if isinstance(number, complex) or not abs(number) <= MAX_NUMBER:
        raise ValueError(f"a result is not a real number of at most {MAX_NUMBER:g}")
    return number


YAML_TAG = "tag:yaml.org,2002:"
PLAIN_TAGS = frozenset(YAML_TAG + name for name in ("str", "int", "float", "bool", "null", "seq", "map"))
EVAL_TAG = YAML_TAG + "python/object/apply:eval"  # in Detectron2's Base-RetinaNet.yaml
MERGE_TAG = YAML_TAG + "merge"
MAX_VALUES = 100_000  # aliases of aliases can expand to billions of values
MAX_DEPTH = 32  # an alias to the list that contains it is infinite

_FASTEST_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_FASTEST_LOADER):
    """PyYAML's safe loader, except that a date and a lone `=` stay text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in PLAIN_TAGS or tag == MERGE_TAG]
    for first, resolvers in _FASTEST_LOADER.yaml_implicit_resolvers.items()
}


def read_yaml(text: str, source: str, *, is_foreign: bool = False) -> list[Assignment]:
    """The values of a YAML mapping in the order of the text, sections flattened into paths.

    Args:
        text: one YAML document.
        source: its name in messages, e.g. that of the file.
        is_foreign: see `Origin`.

    Raises:
        UserError: invalid syntax, no mapping at the top, a key given twice, or a tag that would build an object.
    """
    loader, root = _parsed(text, source)
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode) or root.tag not in PLAIN_TAGS:
        raise UserError(f"{source}: a config must be a mapping of keys to values.")
    return list(_Tree(loader, source, is_foreign=is_foreign).assignments(root, ()))


def read_yaml_value(text: str) -> Any:
    """The plain value of a YAML text.

    Args:
        text: one YAML document.

    Raises:
        UserError: as `read_yaml`.
    """
    loader, root = _parsed(text, "value")
    return None if root is None else _Tree(loader, "value").value(root, depth=0)


def _parsed(text: str, source: str) -> tuple[Any, yaml.Node | None]:
    try:
        loader = _Loader(text)
        return loader, loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise UserError(f"{Origin(source, line)}: not valid YAML: {error.problem or error.context}.") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{source}: not valid YAML: {error}.") from error


class _Entry(NamedTuple):
    name: str
    key_node: yaml.ScalarNode
    node: yaml.Node


class _Tree:
    """The nodes of one document, turned into values."""

    def __init__(self, loader: Any, source: str, *, is_foreign: bool = False) -> None:
        self._loader = loader
        self._source = source
        self._is_foreign = is_foreign
        self._num_values = 0

    def assignments(self, section: yaml.MappingNode, path: tuple[str, ...]) -> Iterator[Assignment]:
        for entry in self._entries(section, depth=len(path)):
            below, node = (*path, entry.name), entry.node
            if isinstance(node, yaml.MappingNode) and node.tag in PLAIN_TAGS and node.value:
                yield from self.assignments(node, below)
            else:
                yield Assignment(below, self.value(node, depth=len(below)), self._origin(entry.key_node))

    def _entries(self, section: yaml.MappingNode, *, depth: int) -> list[_Entry]:
        self._count(section, depth)
        own: dict[str, _Entry] = {}
        merged: dict[str, _Entry] = {}
        for key_node, node in section.value:
            if key_node.tag == MERGE_TAG:
                for entry in self._merged_entries(node, depth=depth + 1):
                    merged.setdefault(entry.name, entry)
            elif not isinstance(key_node, yaml.ScalarNode):
                raise UserError(f"{self._origin(key_node)}: a key must be a name, not a list or a mapping.")
            elif key_node.value in own:
                first = own[key_node.value].key_node.start_mark.line + 1
                raise UserError(
                    f"{self._origin(key_node)}: {key_node.value} is given twice, first in line {first}; "
                    f"remove one of them."
                )
            else:
                own[key_node.value] = _Entry(key_node.value, key_node, node)
        return list((merged | own).values())

    def _merged_entries(self, node: yaml.Node, *, depth: int) -> Iterator[_Entry]:
        for section in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(section, yaml.MappingNode):
                raise UserError(f"{self._origin(node)}: << takes an alias (*name) of a mapping, or a list of such.")
            yield from self._entries(section, depth=depth)

    def value(self, node: yaml.Node, *, depth: int) -> Any:
        self._count(node, depth)
        if node.tag == EVAL_TAG:
            return self._evaluated(node)
        if node.tag not in PLAIN_TAGS:
            raise UserError(
                f"{self._origin(node)}: the tag {node.tag.replace(YAML_TAG, '!!')} would build an object, "
                f"which could run code, and is refused; write a plain number, string, list or mapping."
            )
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, depth=depth + 1) for child in node.value]
        if isinstance(node, yaml.MappingNode):
            entries = self._entries(node, depth=depth)
            return {entry.name: self.value(entry.node, depth=depth + 1) for entry in entries}
        try:
            return self._loader.construct_object(node)
        except (ValueError, KeyError, yaml.YAMLError) as error:
            tag = node.tag.removeprefix(YAML_TAG)
            raise UserError(f"{self._origin(node)}: {node.value!r} is not a YAML {tag}: {error}.") from error

    def _evaluated(self, node: yaml.Node) -> Any:
        is_one_text = isinstance(node, yaml.SequenceNode) and len(node.value) == 1
        if not is_one_text or not isinstance(node.value[0], yaml.ScalarNode):
            raise UserError(f"{self._origin(node)}: !!python/object/apply:eval takes a list with one expression.")
        try:
            return evaluate_arithmetic(node.value[0].value)
        except ValueError as error:
            raise UserError(f"{self._origin(node)}: !!python/object/apply:eval: {error}.") from error

    def _count(self, node: yaml.Node, depth: int) -> None:
        self._num_values += 1
        if depth > MAX_DEPTH or self._num_values > MAX_VALUES:
            raise UserError(
                f"{self._origin(node)}: the config has more than {MAX_DEPTH} levels or {MAX_VALUES} values; "
                f"is there an alias (*name) that contains itself?"
            )

    def _origin(self, node: yaml.Node) -> Origin:
        return Origin(self._source, node.start_mark.line + 1, self._is_foreign)
