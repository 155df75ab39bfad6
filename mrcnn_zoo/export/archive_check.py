"""Refuses `.pt2` files that could run code when `torch.export.load` reads them.

Such a file is a zip archive of a graph in JSON and of raw tensors. Tensors and example inputs may also be pickles, and
the archive may hold compiled libraries. Of the graph, torch looks up operators by name in the whole of `torch`,
evaluates expressions of sizes and guards as Python, and writes names into the Python code of a module. The files
written here need none of that, so everything else is refused.
"""

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mrcnn_zoo.errors import UserError

RECORDS = re.compile(
    r"models/model\.json|data/weights/(weight_\d+|model_weights_config\.json)|"
    r"data/constants/(tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt|extra/[\w.]+|"
    r"archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)"
)
GRAPH, EXAMPLES = "models/model.json", "data/sample_inputs/model.pt"
CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
OPERATORS = re.compile(
    r"torch\.ops\.(aten|torchvision)\.(?!from_file)\w+\.\w+|_operator\.(add|sub|mul|floordiv|[lg][te]|eq|ne)"
)
SIZES = re.compile(  # sums and comparisons of integers and symbols such as u0
    r"(Symbol|Integer|Add|Mul|Max|Min|(Strict)?(Greater|Less)Than|Equality|Unequality|BooleanTrue|True|False|integer|"
    r"positive|nonnegative|[us]\d+|\d+|[ (),='*+-])*"
)
NAMES = re.compile(r"[\w.,:;+-]*")
CODE_ARGUMENTS = {"as_operator", "as_custom_obj", "as_graph", "as_opaque"}
TREE_SPECS = ("in_spec", "out_spec")
CONTAINERS = {"builtins.tuple", "builtins.list", "builtins.dict"}


def check_archive(path: Path) -> None:
    """Refuse an archive that is damaged, or that holds anything but tensors and a graph of known operators.

    Args:
        path: of a `.pt2` file.

    Raises:
        UserError: saying what is in it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = {name.partition("/")[2]: name for name in archive.namelist()}
            for record in records:
                if not RECORDS.fullmatch(record):
                    raise _refusal(path, f"the record {record!r}")
            if GRAPH not in records:
                raise UserError(f"{path} is a zip archive without an exported program ({GRAPH}).")
            if EXAMPLES in records and archive.getinfo(records[EXAMPLES]).file_size:
                raise _refusal(path, "pickled example inputs")
            for name in CONFIGS:
                entries = json.loads(archive.read(records[name]))["config"].values()
                if any(entry["use_pickle"] for entry in entries):
                    raise _refusal(path, "pickled tensors")
            graph = json.loads(archive.read(records[GRAPH]))
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, AttributeError, EOFError, OSError) as error:
        raise UserError(
            f"{path} ({path.stat().st_size:,} bytes) is cut short or no exported program: {error}. Export or copy it "
            "again."
        ) from error
    for reason in _code_in(graph):
        raise _refusal(path, reason)


def _refusal(path: Path, what: str) -> UserError:
    return UserError(
        f"{path} is refused: it has {what}, which `mrcnn-zoo export` does not write and which could run code. Export "
        "the model again with this version."
    )


def _code_in(content: Any, key: str = "") -> Iterator[str]:
    """What of a graph could run code."""
    if isinstance(content, dict):
        for name, value in content.items():
            if not NAMES.fullmatch(name) or (name in CODE_ARGUMENTS and value is not None):
                yield f"the argument {name!r}"
            if name in ("guards_code", "treespec_namedtuple_fields") and value:
                yield f"{name} in its graph"
            yield from _code_in(value, name)
    elif isinstance(content, list):
        for value in content:
            yield from _code_in(value, key)
    elif isinstance(content, str) and not _is_plain(content, key):
        yield f"{content[:60]!r} as {key} in its graph"


def _is_plain(text: str, key: str) -> bool:
    if key == "target":
        return OPERATORS.fullmatch(text) is not None
    if key == "expr_str":
        return SIZES.fullmatch(text) is not None
    if key in TREE_SPECS:
        return _is_plain_tree(json.loads(text))
    return NAMES.fullmatch(text) is not None


def _is_plain_tree(content: Any) -> bool:
    if isinstance(content, list):
        return all(_is_plain_tree(value) for value in content)
    if not isinstance(content, dict):
        return isinstance(content, int)
    is_leaf = content["type"] is None
    if is_leaf:
        return not content["children_spec"]
    return content["type"] in CONTAINERS and _is_plain_tree(content["children_spec"])
