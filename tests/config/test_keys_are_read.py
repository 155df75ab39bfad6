"""No key is ignored: whatever is supported is read somewhere outside the config package."""

import ast
import re
from pathlib import Path

import mrcnn_zoo
from mrcnn_zoo.config.defaults import ALL_KEYS

PACKAGE = Path(mrcnn_zoo.__file__).parent
DOTTED_NAME = re.compile(r"[A-Z][A-Z0-9_.]+")

# Read by the config package itself, by the user's code, and by nobody, as its meaning says.
READ_ELSEWHERE = {"VERSION", "CUSTOM", "INPUT.MASK_FORMAT"}


def names_in(path: Path) -> set[str]:
    """Attribute names of a module, and the parts of dotted names in its strings."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.update(part for name in DOTTED_NAME.findall(node.value) for part in name.split("."))
    return names


def test_every_supported_key_is_read_by_some_module() -> None:
    modules = [names_in(path) for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "config"]
    unread = [
        key.name
        for key in ALL_KEYS
        if key.unsupported is None and not any(set(key.name.split(".")[-2:]) <= names for names in modules)
    ]
    assert set(unread) <= READ_ELSEWHERE
