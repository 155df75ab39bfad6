"""Names of code in a config that was read from a checkpoint or another downloaded file: refused unless allowed.

A component may be named as `package.module:function`; the module is then imported and the function called. That is
intended in files that the user wrote or named, and refused in a config inside downloaded weights.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mrcnn_zoo.config.defaults import KEYS_BY_NAME
from mrcnn_zoo.config.node import CfgNode
from mrcnn_zoo.config.stage_list import KEY as STAGE_LIST
from mrcnn_zoo.errors import UserError

TRUST_VARIABLE = "MRCNN_ZOO_TRUST"
MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")  # "my_lab.heads"
CODE_NAME = re.compile(rf"{MODULE.pattern}:[^\W\d]\w*")  # "my_lab.heads:build_head"
# Values that are never looked up as components: paths, addresses and titles.
PLAIN_TEXT = (
    "MODEL.WEIGHTS",
    "OUTPUT_DIR",
    "WANDB.",
    "DATASETS.TRAIN",
    "DATASETS.TEST",
    "DATASETS.GROUP",
    "DATASETS.PROPOSAL_FILES_",
)


def refuse_foreign_code(config: CfgNode, trust: Iterable[str] = ()) -> None:
    """Refuse names of code in values from a checkpoint or another downloaded file.

    A name that the user typed, or that is in the user's own file, is allowed everywhere.

    Args:
        config: with the origins of its values.
        trust: modules with code that may run, in addition to the environment variable; "my_lab" covers "my_lab.heads".

    Raises:
        UserError: listing each key with the name and its origin, and how to allow it.
    """
    allowed = allowed_modules(trust)
    named = list(code_names(config))
    typed = {name for key, name in named if not config.origin_of(key).is_foreign}
    refused = [
        (key, name)
        for key, name in named
        if config.origin_of(key).is_foreign and name not in typed and not _is_covered(name, allowed)
    ]
    if not refused:
        return
    modules = list(dict.fromkeys(name.partition(":")[0] for _, name in refused))
    lines = "".join(f"\n  {config.origin_of(key)}: {key} = {name!r}" for key, name in refused)
    raise UserError(
        f"a config stored in a file with weights names code that would be imported and run:{lines}\n"
        f"If you trust this code, add {' '.join(f'--trust {module}' for module in modules)} "
        f"(from Python: trust={tuple(modules)!r}), or set {TRUST_VARIABLE}={','.join(modules)}."
    )


def code_names(config: CfgNode) -> Iterator[tuple[str, str]]:
    """Each dotted key, and each name of code `module:function` in its value."""
    for key, value in _leaves(config, ""):
        declared = KEYS_BY_NAME.get(key)
        if key == STAGE_LIST:  # "stage:part" of FROM is no code
            value = [stage.get("OVERRIDES") for stage in value if isinstance(stage, dict)]
        names_component = declared is not None and declared.registry is not None
        if names_component or key.endswith(".FORMAT"):
            yield from ((key, text) for text in _texts(value) if ":" in text)
        elif not key.startswith(PLAIN_TEXT):
            yield from ((key, text) for text in _texts(value) if CODE_NAME.fullmatch(text.strip()))


def code_modules(config: CfgNode) -> tuple[str, ...]:
    """The modules of the code that a checked config names; to be trusted when its text is read again."""
    return tuple(dict.fromkeys(name.partition(":")[0] for _, name in code_names(config)))


def allowed_modules(trust: Iterable[str] = ()) -> tuple[str, ...]:
    """The modules of the argument and of the environment variable.

    Args:
        trust: names of modules, several of them also separated by commas.

    Raises:
        UserError: something that is not the name of a module.
    """
    if isinstance(trust, str):
        raise TypeError(f"trust is a sequence of modules like ('my_lab',), not the string {trust!r}")
    named = [("--trust", text) for text in trust] + [(TRUST_VARIABLE, os.environ.get(TRUST_VARIABLE, ""))]
    modules = [(where, module.strip()) for where, text in named for module in text.split(",") if module.strip()]
    for where, module in modules:
        if not MODULE.fullmatch(module):
            raise UserError(f"{where} takes names of modules, e.g. my_lab or my_lab.heads, not {module!r}.")
    return tuple(module for _, module in modules)


def _is_covered(name: str, allowed: Sequence[str]) -> bool:
    module = name.partition(":")[0]
    return any(module == root or module.startswith(f"{root}.") for root in allowed)


def _leaves(node: CfgNode, section: str) -> Iterator[tuple[str, Any]]:
    for part, value in node.items():
        name = f"{section}.{part}" if section else part
        if isinstance(value, CfgNode):
            yield from _leaves(value, name)
        else:
            yield name, value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for below in value.values():
            yield from _texts(below)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
