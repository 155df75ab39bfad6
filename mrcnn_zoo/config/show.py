"""A resolved config as YAML, each line that something has set with a comment of where."""

from collections.abc import Iterator
from typing import Any

import yaml

from mrcnn_zoo.config.defaults import KEYS_BY_NAME
from mrcnn_zoo.config.node import DEFAULT, CfgNode
from mrcnn_zoo.config.unbuilt import unbuilt_changes

INDENT = "  "
COMMENT_COLUMN = 44


def shown(config: CfgNode, *, only_changed: bool = False) -> str:
    """The config as YAML that loads again, with the origin of each value that is not just the default.

    Args:
        config: the root, frozen or not.
        only_changed: leave out the values that equal their default.
    """
    unbuilt = {key.name for key in unbuilt_changes(config)}
    return "".join(f"{line}\n" for line in _lines(config, config, "", unbuilt, only_changed))


def _lines(root: CfgNode, node: CfgNode, section: str, unbuilt: set[str], only_changed: bool) -> Iterator[str]:
    indent = INDENT * (section.count(".") + 1) if section else ""
    for part, value in sorted(node.items()):
        name = f"{section}.{part}" if section else part
        if isinstance(value, CfgNode) and value:
            below = list(_lines(root, value, name, unbuilt, only_changed))
            yield from [f"{indent}{_yaml(part)}:", *below] if below else []
        elif not only_changed or not _is_default(name, value):
            note = _note(root, name, unbuilt)
            line = f"{indent}{_yaml(part)}: {_yaml(value)}"
            yield f"{line:{COMMENT_COLUMN}}  # {note}" if note else line


def _note(root: CfgNode, name: str, unbuilt: set[str]) -> str:
    origin = root.origin_of(name)
    notes = [] if origin == DEFAULT else [str(origin)]
    if name in unbuilt:
        notes.append("this version does not have the part")
    return "; ".join(notes)


def _is_default(name: str, value: Any) -> bool:
    return name in KEYS_BY_NAME and KEYS_BY_NAME[name].default == value


def _yaml(value: Any) -> str:
    plain = {} if isinstance(value, CfgNode) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("...\n").strip()
