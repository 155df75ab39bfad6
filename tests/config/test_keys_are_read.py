"""Every supported key is read outside the config package, and everything read from a config exists.

mypy cannot check either: the attributes of a YACS node have the type Any.
"""

import ast
import re

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.defaults import ALL_KEYS, KEYS_BY_NAME, SECTION_NAMES
from support.source_files import SourceFile, files_in

DOTTED_NAME = re.compile(r"[A-Z][A-Z0-9_.]+")

# Read by the config package itself, by the user's code, and not at all, as its meaning states.
READ_ELSEWHERE = {"VERSION", "CUSTOM", "INPUT.MASK_FORMAT"}


def names_in(file: SourceFile) -> set[str]:
    """Attribute names of a module, and the parts of dotted names in its strings."""
    names: set[str] = set()
    for node in file.nodes:
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.update(part for name in DOTTED_NAME.findall(node.value) for part in name.split("."))
    return names


def test_every_supported_key_is_read_by_some_module() -> None:
    modules = [names_in(file) for file in files_in("mrcnn_zoo") if file.part != "config"]
    unread = [
        key.name
        for key in ALL_KEYS
        if key.unsupported is None and not any(set(key.name.split(".")[-2:]) <= names for names in modules)
    ]
    assert set(unread) <= READ_ELSEWHERE


def reads_in(file: SourceFile) -> set[tuple[str, ...]]:
    """Attribute chains that start at an argument `cfg: CfgNode`, e.g. ("MODEL", "FPN", "NORM") or ("clone",)."""
    chains = set()
    for function in file.nodes:
        if not isinstance(function, ast.FunctionDef):
            continue
        arguments = [*function.args.args, *function.args.kwonlyargs]
        typed = {
            arg.arg for arg in arguments if isinstance(arg.annotation, ast.Name) and arg.annotation.id == "CfgNode"
        }
        roots = typed & {"cfg", "config"}  # the names of a whole config; others are sections
        for node in ast.walk(function):
            chain: list[str] = []
            while isinstance(node, ast.Attribute):
                chain.insert(0, node.attr)
                node = node.value
            if chain and isinstance(node, ast.Name) and node.id in roots:
                chains.add(tuple(chain))
    return chains


def unknown_in(chain: tuple[str, ...]) -> str:
    """The first name of a chain that is no key, section or method of a config; empty for none."""
    for end, part in enumerate(chain, start=1):
        name = ".".join(chain[:end])
        if name in KEYS_BY_NAME:
            return ""
        if not part.isupper():
            return "" if hasattr(CfgNode, part) else name
        if name not in SECTION_NAMES:
            return name
    return ""


def test_config_reads_name_existing_keys_and_methods() -> None:
    chains = set().union(*map(reads_in, files_in("mrcnn_zoo")))
    assert len(chains) > 100  # the search works
    assert {name for name in map(unknown_in, chains) if name} == set()


def test_unknown_reads_are_found() -> None:
    reads = "cfg.MODEL.FPN.NORMS, cfg.origin(), cfg.MODEL.FPN.NORM.lower(), cfg.clone()"
    source = f"def build(cfg: CfgNode) -> None:\n    {reads}\n"
    found = {unknown_in(chain) for chain in reads_in(SourceFile("a.py", source))}
    assert found == {"", "MODEL.FPN.NORMS", "origin"}
