"""Code size and reading effort, as a Markdown table with one column per checkout.

python dev/code_numbers.py                      (this checkout)
python dev/code_numbers.py <before> <after>     (paths of checkouts)

Files, lines and docstrings are counted without importing the package. The rest is measured in one process per checkout:
the types of an RPN, and a traced run of a small model on digits that stops after three optimizer steps.
Only public names of the package are used, so that versions with different modules can be compared.
"""

import argparse
import ast
import inspect
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import tokenize
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch.utils.data
from torch.optim.optimizer import register_optimizer_step_post_hook

PACKAGE = "mrcnn_zoo"
SHORT, LONG, FULL_FOLDER = 40, 350, 12
RPN_CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
RUN_CONFIG = "Quickstart/mask_rcnn_R_18_FPN_digits.yaml"
TORCH_DATA = os.path.dirname(torch.utils.data.__file__)
SMALL = (
    *("MODEL.DEVICE", "cpu", "MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8),
    *("MODEL.FPN.OUT_CHANNELS", 16, "MODEL.ROI_BOX_HEAD.FC_DIM", 32, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8),
    *("DATASETS.SCENES.NUM_TRAIN", 8, "DATASETS.SCENES.NUM_VAL", 4, "VIS.NUM_BATCHES", 0, "VIS.NUM_IMAGES", 0),
    *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 4, "SOLVER.WARMUP_ITERS", 1),
)


def static_numbers(root: Path) -> dict[str, Any]:
    """File sizes and counts of docstrings of the package in the folder `root`."""
    lengths = {path: len(path.read_text().splitlines()) for path in sorted(root.rglob("*.py"))}
    named = {path: length for path, length in lengths.items() if not path.name.startswith("__")}
    per_folder = Counter(path.parent for path in named)
    full = [f"{folder.relative_to(root)}/ {num}" for folder, num in per_folder.items() if num > FULL_FOLDER]
    return {
        "files": len(lengths),
        "named files": len(named),
        "lines": sum(lengths.values()),
        "code lines": sum(len(code_lines(path)) for path in lengths),
        "median": statistics.median(named.values()),
        "short": sum(length < SHORT for length in named.values()),
        "long": sum(length > LONG for length in lengths.values()),
        "flat": f"{len(full)} ({', '.join(full)})" if full else "0",
        **Counter(fact for path in lengths for fact in documentation(ast.parse(path.read_text()))),
    }


def code_lines(path: Path) -> set[int]:
    """Numbers of the lines that hold code: no blank lines, comments or docstrings."""
    text, lines = path.read_text(), set[int]()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.string.strip() and token.type != tokenize.COMMENT:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def documentation(tree: ast.Module) -> Iterator[str]:
    """Per public function or class: "public"; "with arguments" if it takes any; "described" if it documents them."""
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        yield "public"
        inits = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        if function := node if isinstance(node, ast.FunctionDef) else (inits or [None])[0]:
            arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            takes_arguments = any(argument.arg != "self" for argument in arguments)
        else:
            fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
            takes_arguments = bool(fields) and "dataclass" in "".join(map(ast.unparse, node.decorator_list))
        if takes_arguments:
            yield "with arguments"
            docstrings = "\n".join(ast.get_docstring(one) or "" for one in (node, *inits))
            if "Args:" in map(str.strip, docstrings.splitlines()):
                yield "described"


class Finished(BaseException):
    """Ends the traced run."""


class Trace:
    """Profiler for `sys.setprofile`: records the functions that take `cfg`, and those that run in one training step."""

    def __init__(self, root: Path, *, config_type: type, build_model: Any) -> None:
        self.root, self.config_type = f"{root}{os.sep}", config_type
        self.build_model = inspect.unwrap(build_model).__code__
        self.updates = 0
        self.entered: list[str] = []  # files of functions that take `cfg`, called before the first update
        self.num_before_build = 0  # number of these called before `build_model`
        self.step: set[CodeType] = set()  # functions called between the ends of updates 2 and 3
        self._loading: FrameType | None = None  # outermost frame of the data loading
        self._outer: list[FrameType] = []  # stack at the end of update 2

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        is_ours = code.co_filename.startswith(self.root)
        if self.updates == 2 and frame is self._loading and event == "return":
            self._loading = None
        elif self.updates == 2 and self._loading is None and event == "call":
            if code.co_filename.startswith((f"{self.root}data{os.sep}", TORCH_DATA)):
                self._loading = frame
            elif is_ours and code.co_flags & inspect.CO_OPTIMIZED:  # neither a module nor the body of a class
                self.step.add(code)
        elif self.updates == 0 and event == "call" and is_ours:
            if code is self.build_model and not self.num_before_build:
                self.num_before_build = len(self.entered)
            names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
            if any(isinstance(frame.f_locals.get(name), self.config_type) for name in names if name != "self"):
                self.entered.append(code.co_filename.removeprefix(self.root))

    def after_update(self, *_: Any) -> None:
        """Hook of all optimizers; ends the run after three updates."""
        self.updates += 1
        stack = [info.frame for info in inspect.stack(0) if info.filename.startswith(self.root)]
        if self.updates == 3:
            self.step.add(next(frame.f_code for frame in stack if frame in self._outer))  # the loop itself
            raise Finished
        self._outer = stack


def traced_numbers(root: Path) -> dict[str, Any]:
    """Files that `cfg` enters from `run` to the first update, and the size of the code that one training step runs."""
    from mrcnn_zoo.config import CfgNode, load_config
    from mrcnn_zoo.modeling import build_model
    from mrcnn_zoo.training import run

    trace = Trace(root, config_type=CfgNode, build_model=build_model)
    register_optimizer_step_post_hook(trace.after_update)
    with tempfile.TemporaryDirectory() as folder:
        cfg = load_config(RUN_CONFIG, (*SMALL, "OUTPUT_DIR", f"{folder}/output"))
        sys.setprofile(trace)
        with suppress(Finished):
            run(cfg)
        sys.setprofile(None)
    assert trace.updates == 3, f"the run ended after {trace.updates} updates"
    before_build = [f for f in trace.entered[: trace.num_before_build] if f[:7] != "config/" and "registr" not in f]
    lines: set[tuple[str, int]] = set()
    for code in trace.step:
        last = max(end or 0 for _, end, _, _ in code.co_positions())
        lines.update((code.co_filename, row) for row in range(code.co_firstlineno, last + 1))
    files = {file for file, _ in lines}
    num_functions = sum(not code.co_name.startswith("<") for code in trace.step)  # no lambdas and comprehensions
    code_of_step = lines & {(file, row) for file in files for row in code_lines(Path(file))}
    return {
        "cfg files": count_files_and_returns(trace.entered),
        "cfg files to build": count_files_and_returns(before_build),
        "files to build": ", ".join(dict.fromkeys(before_build)),
        "step": f"{len(lines)} ({len(code_of_step)}) of {num_functions} functions in {len(files)} files",
    }


def count_files_and_returns(files: list[str]) -> str:
    """Number of distinct files, and of returns to a file visited before."""
    visited = [file for file, _ in groupby(files)]
    return f"{len(set(visited))}, {len(visited) - len(set(visited))} returns"


def rpn_numbers() -> dict[str, Any]:
    """Classes of the package whose objects are reachable from the RPN of a Mask R-CNN."""
    from mrcnn_zoo.config import load_config
    from mrcnn_zoo.modeling import build_model

    model = build_model(load_config(RPN_CONFIG, ("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "")))
    types: dict[type, None] = {}
    seen: dict[int, Any] = {}  # by id; references prevent the reuse of ids
    queue: list[Any] = [model.proposal_generator]
    while queue:
        one = queue.pop(0)
        if id(one) in seen or isinstance(one, type):
            continue
        seen[id(one)] = one
        if type(one).__module__.partition(".")[0] == PACKAGE:
            types[type(one)] = None
        attributes = one if isinstance(one, dict) else getattr(one, "__dict__", {})
        queue += one if isinstance(one, list | tuple | set | frozenset) else attributes.values()
    files = {file: len(Path(file).read_text().splitlines()) for file in map(inspect.getfile, types)}
    return {
        "rpn": f"{len(types)} in {len(files)} files of {sum(files.values())} lines",
        "rpn types": ", ".join(sorted(one.__name__ for one in types)),
    }


ROWS = {  # row label -> format of the value
    "files (without `__init__`, `__main__`)": "{files} ({named files})",
    "lines (of code: no blank lines, comments, docstrings)": "{lines} ({code lines})",
    "median lines of a file, without `__init__`, `__main__`": "{median:g}",
    f"files below {SHORT} lines, without `__init__`, `__main__`; above {LONG} lines": "{short}; {long}",
    f"folders of more than {FULL_FOLDER} files, without `__init__`, `__main__`": "{flat}",
    "public functions and classes; with arguments; of these with `Args:`": "{public}; {with arguments}; {described}",
    "types of the RPN": "{rpn}",
    "files that `cfg` enters from `run` to `build_model`, without config/ and registries": "{cfg files to build}",
    "files that `cfg` enters from `run` to the first update, all": "{cfg files}",
    "lines to read for one training step, without data loading (of code)": "{step}",
}


def measure(checkout: Path) -> dict[str, Any]:
    """All measurements of a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "numbers.json"
        command = [sys.executable, __file__, "--import-and-save", str(file)]
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
        imported = json.loads(file.read_text())
    root = checkout / PACKAGE
    assert Path(imported["root"]) == root, f"imported {imported['root']} instead of {root}"
    return {**static_numbers(root), **imported}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="*", type=Path, default=[Path(__file__).parents[1]])
    parser.add_argument("--import-and-save", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.import_and_save:
        root = Path(__import__(PACKAGE).__file__).parent
        args.import_and_save.write_text(json.dumps({"root": str(root), **rpn_numbers(), **traced_numbers(root)}))
        return
    checkouts = [checkout.resolve() for checkout in args.checkouts]
    columns = [measure(checkout) for checkout in checkouts]
    print("| | " + " | ".join(checkout.name for checkout in checkouts) + " |")
    print("|---" * (1 + len(columns)) + "|")
    for label, text in ROWS.items():
        print(f"| {label} | " + " | ".join(text.format(**numbers) for numbers in columns) + " |")
    for checkout, numbers in zip(checkouts, columns, strict=True):
        print(f"\n{checkout.name}: RPN: {numbers['rpn types']}. `run` to `build_model`: {numbers['files to build']}.")


if __name__ == "__main__":
    main()
