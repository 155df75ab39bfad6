"""The rules of tests/test_architecture.py: functions from a parsed file to its violations, and their tables."""

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

from support.source_files import SourceFile, calls_by_function, is_builder, keeps_cfg, takes_cfg, used_private_functions

# Import layers: a part may import parts of its own row and of earlier rows.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("__init__", "registry", "registries", "errors", "choices", "config", "ops", "restricted_pickle"),
    ("structures", "distributed", "output_files", "progress", "model_zoo"),
    ("layers", "losses"),
    ("modeling", "data", "checkpoint", "interop"),
    ("evaluation", "export", "inference", "inspection"),
    ("training", "model_zoo.__init__", "model_zoo.models", "interop.conversion"),
    ("benchmark", "doctor", "experiments"),
    ("cli", "__main__"),
)
SIBLINGS = ({"modeling"}, {"data"}, {"checkpoint", "interop"})  # of one layer, but without imports between them

# Functions outside config/ and cli/ that may read cfg because they start a run or a part of it.
RUN_STARTERS = {
    "evaluation": {
        "evaluate",
        "run_evaluation",
        "evaluate_datasets",
        "evaluate_predictions",
        "evaluated_part",
        "check_evaluation",
        "check_classes",
        "fit_min_box_area",
        "load_ground_truth",
        "load_test_datasets",
        "prepare_evaluation",
    },
    "inference": {"fill_model", "with_value_range_of", "open_trained", "check_takes_boxes", "check_predicts_tiles"},
    "inspection": {
        "save_predictions",
        "save_prediction_pictures",
        "save_evaluation_pictures",
        "evaluation_folders",
        "evaluate_with_pictures",
        "record_config",
    },
    "training": {
        "run",
        "choose_length",
        "fit_to_processes",
        "fit_to_epochs",
        "fit_warmup",
        "warn_of_schedule",
        "warn_of_early_stopping",
        "check_remaining_length",
        "fit_lengths",
        "fit_batch",
        "with_batch",
        "scaled_lengths",
        "check_output_dir",
        "plan_stages",
        "check_registered_names",
        "plan_training",
        "plan_evaluation",
        "evaluated_config",
        "finish_stage",
        "log_stage_list",
        "with_lengths",
        "with_stage_overrides",
    },
    "data": {
        "load_dataset",
        "source_of",
        "load_train_and_test",
        "load_train",
        "load_test",
        "is_split",
        "check_common_split",
        "dataset_names",
        "definition_of",
        "check_num_classes",
        "fit_num_classes",
        "fit_value_range",
        "check_class_count",
        "check_num_keypoints",
        "select_for_training",
        "warn_of_selection",
        "depth_reduction_of",
        "pixel_format_of",
        "num_channels_of",
    },
    "experiments": {"dataset_definitions"},
    "benchmark": {"benchmark_loading", "benchmark_evaluation"},
    "interop": {"convert_checkpoint"},
}
VAGUE_FILE_NAMES = {"utils.py", "util.py", "helpers.py", "helper.py", "misc.py", "common.py"}
DEVICE_PARTS = {"modeling", "losses", "layers", "ops"}  # run on the device in every step
ALLOWED_SYNCHRONIZATIONS: dict[tuple[str, str], str] = {  # (file, function) -> reason for .item() or .cpu()
    ("mrcnn_zoo/modeling/assignment/matching.py", "match_one_to_one"): "scipy runs on the host; one copy per batch",
    ("mrcnn_zoo/modeling/proposal_generators/image_search.py", "predict"): "OpenCV needs the pixels on the host",
    ("mrcnn_zoo/modeling/suppression/criterion.py", "match_by_score"): "a loop on the host, one copy per batch",
}
KEEPS_CONFIG = {  # (file, class) of configs with additional fields
    ("mrcnn_zoo/training/stages/stage.py", "Stage"),
    ("mrcnn_zoo/training/preflight.py", "RunPlan"),
    ("mrcnn_zoo/evaluation/proposal_jobs.py", "ProposalJob"),
    ("mrcnn_zoo/experiments/runs.py", "RunSpec"),
}
HEAVY_MODULES = {"matplotlib", "wandb", "sklearn", "tensorboard", "cv2", "scipy", "tifffile"}
HEAVY_MODULES |= {"hotcoco", "faster_coco_eval", "optuna", "submitit"}
MAX_LINES = {"mrcnn_zoo": 350, "tests": 400}
STRING_TOKENS = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)}  # the latter since Python 3.12
MIN_LINES = 40  # of a module of the package
# Not what code does, or not the term of the field; shared with docstrings, comments and messages.
UNPLAIN_WORDS = re.compile(
    r"\b(tells?|told|judges?|judged|kindly|for ever|good-bye|sitting|key points?|in turns|nobody|whoever|"
    r"[Oo]ne (?:number|value|file|line|row|box|step|process) an? \w+)\b"
)

Rule = Callable[[SourceFile], Iterator[str]]


def layer_of(module: str) -> int | None:
    """Row of the longest entry of LAYERS that contains the module."""
    rows = {part: row for row, parts in enumerate(LAYERS) for part in parts}
    names = module.split(".")
    return next((rows[name] for end in range(len(names), 0, -1) if (name := ".".join(names[:end])) in rows), None)


def imported_modules(file: SourceFile) -> Iterator[tuple[ast.AST, str]]:
    """(node, module) of every import of the package anywhere in the file."""
    for node in file.nodes:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            is_top = node.module == "mrcnn_zoo"
            names = [f"mrcnn_zoo.{alias.name}" for alias in node.names] if is_top else [node.module]
            if node.module == "mrcnn_zoo.model_zoo":  # its __init__ is in a higher layer than its modules
                names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            package, _, rest = name.partition(".")
            if package == "mrcnn_zoo":
                yield node, "__init__" if rest.startswith("__") or not rest else rest


def imports_only_lower_layers(file: SourceFile) -> Iterator[str]:
    own = layer_of(file.module)
    if not file.part or file.module == "__init__":
        return
    if own is None:
        yield file.violation(file.tree, f"{file.part!r} is not in the layer table of {Path(__file__).name}")
        return
    for node, module in imported_modules(file):
        row, part = layer_of(module), module.partition(".")[0]
        if row is None:
            yield file.violation(node, f"imports {part!r}, which is not in the layer table")
        elif row > own:
            yield file.violation(node, f"{file.module} (layer {own}) imports {module} (layer {row})")
        elif row == own and are_siblings(file.part, part):
            yield file.violation(node, f"{file.part} imports its sibling {part}")


def are_siblings(part: str, other: str) -> bool:
    groups = [next((group for group in SIBLINGS if name in group), None) for name in (part, other)]
    return None not in groups and groups[0] is not groups[1]


def classes_take_no_cfg(file: SourceFile) -> Iterator[str]:
    if file.part in ("", "config"):
        return
    for owner in file.nodes:
        if not isinstance(owner, ast.ClassDef) or (file.path, owner.name) in KEEPS_CONFIG:
            continue
        for node in ast.walk(owner):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and takes_cfg(node):
                yield file.violation(node, f"a method of {owner.name} takes the config; pass values from its builder")
            elif keeps_cfg(node):
                yield file.violation(node, f"{owner.name} stores the config")


def only_builders_read_cfg(file: SourceFile) -> Iterator[str]:
    """Only builders, functions that start a run, and private functions that these use take the config."""
    if file.part in ("", "config", "cli"):
        return
    functions = [node for node in file.tree.body if isinstance(node, ast.FunctionDef)]
    allowed = {node.name for node in functions if is_builder(node) or node.name in RUN_STARTERS.get(file.part, ())}
    private = used_private_functions(file.tree, by=allowed)
    for node in filter(takes_cfg, functions):
        if node.name.startswith("_") and node.name not in private:
            yield file.violation(node, f"{node.name}() reads the config, but no builder of this file uses it")
        elif not node.name.startswith("_") and node.name not in allowed:
            yield file.violation(node, f"{node.name}() reads the config but is neither a builder nor starts a run")


def imports_no_private_names(file: SourceFile) -> Iterator[str]:
    if not file.part:
        return
    for node in file.nodes:
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("mrcnn_zoo"):
            for alias in node.names:
                if alias.name.startswith("_") and not alias.name.startswith("__"):
                    yield file.violation(node, f"imports {alias.name}, which is private to {node.module}")


def no_relative_or_star_imports(file: SourceFile) -> Iterator[str]:
    if not re.search(r"from\s*\.|import\s*\*", file.text):
        return  # without parsing
    for node in file.nodes:
        if isinstance(node, ast.ImportFrom) and node.level:
            yield file.violation(node, "relative import")
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            yield file.violation(node, "star import")


def no_heavy_imports_at_import_time(file: SourceFile) -> Iterator[str]:
    if not file.part:
        return
    for node in file.tree.body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        for name in names:
            if name.split(".")[0] in HEAVY_MODULES or name.startswith("torch.utils.tensorboard"):
                yield file.violation(node, f"imports {name} at import time; import it in the function that needs it")


def file_name_is_specific(file: SourceFile) -> Iterator[str]:
    if file.path.rsplit("/", 1)[-1] in VAGUE_FILE_NAMES:
        yield file.violation(file.tree, "a vague file name; split the file by content")


def file_has_a_readable_length(file: SourceFile) -> Iterator[str]:
    count, limit = len(file.text.splitlines()), MAX_LINES["mrcnn_zoo" if file.part else "tests"]
    if count > limit:
        yield f"{file.path}:{limit + 1}: {count} lines, at most {limit} are allowed"
    if file.part and count < MIN_LINES and not file.path.endswith(("__init__.py", "__main__.py")):
        yield f"{file.path}:{count}: {count} lines; merge the module with the one it belongs to"


def words_are_plain(file: SourceFile) -> Iterator[str]:
    """In docstrings, comments and messages of the package."""
    if not file.part or not UNPLAIN_WORDS.search(file.text):
        return  # without the slow separation into tokens
    for token in tokenize.generate_tokens(io.StringIO(file.text).readline):
        is_prose = token.type == tokenize.COMMENT or (token.type in STRING_TOKENS and " " in token.string)
        for number, line in enumerate(token.string.splitlines() if is_prose else (), start=token.start[0]):
            for match in UNPLAIN_WORDS.finditer(line):
                yield f"{file.path}:{number}: {match[0]!r}; use the term of the field"


def only_cli_prints(file: SourceFile) -> Iterator[str]:
    if file.part in ("", "cli"):
        return
    for node in file.nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield file.violation(node, "print() outside cli/ and tools/; log, or return the text")


def device_code_does_not_synchronize(file: SourceFile) -> Iterator[str]:
    if file.part not in DEVICE_PARTS:
        return
    for function, node in calls_by_function(file.tree):
        synchronizes = isinstance(node.func, ast.Attribute) and node.func.attr in ("item", "cpu") and not node.args
        if synchronizes and (file.path, function) not in ALLOWED_SYNCHRONIZATIONS:
            yield file.violation(node, f"{ast.unparse(node)} in {function or 'module'} synchronises with the device")


def has_no_kwargs(file: SourceFile) -> Iterator[str]:
    # These wrap builders, and methods of modules, with any arguments.
    if not file.part or file.path in ("mrcnn_zoo/registry.py", "mrcnn_zoo/inspection/model/module_times.py"):
        return
    for node in file.nodes:
        if isinstance(node, ast.FunctionDef) and node.args.kwarg is not None:
            yield file.violation(node, f"{node.name}() takes **{node.args.kwarg.arg}; name its arguments")


RULES: tuple[Rule, ...] = (
    imports_only_lower_layers,
    classes_take_no_cfg,
    only_builders_read_cfg,
    imports_no_private_names,
    no_relative_or_star_imports,
    no_heavy_imports_at_import_time,
    file_name_is_specific,
    file_has_a_readable_length,
    words_are_plain,
    only_cli_prints,
    device_code_does_not_synchronize,
    has_no_kwargs,
)
