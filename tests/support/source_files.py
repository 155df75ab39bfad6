"""Parsed Python files for the rules of architecture_rules.py."""

import ast
import gc
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class SourceFile:
    """A Python file of the repository."""

    path: str  # relative to the repository, with /
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """All nodes of the tree, in the order of `ast.walk`."""
        was_enabled = gc.isenabled()
        gc.disable()  # a tree has no cycles, and each collection would go through those of all other files
        try:
            return list(ast.walk(self.tree))
        finally:
            if was_enabled:
                gc.enable()

    @property
    def module(self) -> str:
        """Module name inside the package, e.g. "ops.boxes" or "ops.__init__"; empty outside the package."""
        folder, _, rest = self.path.partition("/")
        return rest.removesuffix(".py").replace("/", ".") if folder == "mrcnn_zoo" else ""

    @property
    def part(self) -> str:
        """Top-level part of the package, e.g. "modeling"; empty outside the package."""
        return self.module.partition(".")[0]

    def violation(self, node: ast.AST, message: str) -> str:
        return f"{self.path}:{getattr(node, 'lineno', 1)}: {message}"


@cache
def files_in(*folders: str) -> list[SourceFile]:
    """The Python files below folders of the repository, by path; each is read and parsed once per process."""
    paths = sorted(path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))
    return [SourceFile(path.relative_to(REPOSITORY).as_posix(), path.read_text(encoding="utf-8")) for path in paths]


def takes_cfg(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> bool:
    arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
    return any(is_cfg(argument.arg, argument.annotation) for argument in arguments)


def is_cfg(name: str, annotation: ast.expr | None) -> bool:
    return name in ("cfg", "_cfg") or (annotation is not None and "CfgNode" in ast.unparse(annotation))


def keeps_cfg(node: ast.AST) -> bool:
    """Whether a node inside a class stores a config in a field or an attribute."""
    if isinstance(node, ast.AnnAssign):
        return is_cfg(ast.unparse(node.target).split(".")[-1], node.annotation)
    if isinstance(node, ast.Assign):
        return any(isinstance(target, ast.Attribute) and is_cfg(target.attr, None) for target in node.targets)
    return False


def calls_by_function(node: ast.AST, function: str = "") -> Iterator[tuple[str, ast.Call]]:
    """(innermost enclosing function, call) of every call."""
    for child in ast.iter_child_nodes(node):
        inner = child.name if isinstance(child, ast.FunctionDef) else function
        if isinstance(child, ast.Call):
            yield inner, child
        yield from calls_by_function(child, inner)


def used_private_functions(tree: ast.Module, *, by: set[str]) -> set[str]:
    """Private names of the module that the functions `by` use, directly or through other private names."""
    names = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            names[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):  # a table of functions
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {ast.unparse(target): node for target in targets}
    used: set[str] = set()
    queue = sorted(by)
    while queue:
        found = {n.id for n in ast.walk(names[queue.pop()]) if isinstance(n, ast.Name) and n.id in names}
        queue += sorted(name for name in found - used - by if name.startswith("_") or name.isupper())
        used |= found
    return {name for name in used if name.startswith("_")}


def is_builder(node: ast.FunctionDef) -> bool:
    is_registered = any(".register(" in ast.unparse(decorator) for decorator in node.decorator_list)
    return node.name.startswith("build_") or is_registered
