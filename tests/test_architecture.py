"""Design rules, checked on the source code; every violation names its file and line. The rules are tested too."""

from typing import Any

import pytest

from support import architecture_rules
from support.architecture_rules import (
    ALLOWED_SYNCHRONIZATIONS,
    KEEPS_CONFIG,
    RULES,
    RUN_STARTERS,
    Rule,
    classes_take_no_cfg,
    device_code_does_not_synchronize,
    file_has_a_readable_length,
    file_name_is_specific,
    has_no_kwargs,
    imports_no_private_names,
    imports_only_lower_layers,
    no_heavy_imports_at_import_time,
    no_relative_or_star_imports,
    only_builders_read_cfg,
    only_cli_prints,
    words_are_plain,
)
from support.source_files import SourceFile, files_in


@pytest.fixture(scope="module")
def files() -> list[SourceFile]:
    return files_in("mrcnn_zoo") + files_in("tools") + files_in("tests")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_all_files_satisfy_the_rule(rule: Rule, files: list[SourceFile]) -> None:
    violations = [violation for file in files for violation in rule(file)]
    assert not violations, "\n" + "\n".join(violations)


# (rule, name of its table of exceptions, exception); without the exception the rule must be violated.
EXCEPTIONS: list[tuple[Rule, str, Any]] = [
    *[(only_builders_read_cfg, "RUN_STARTERS", (part, name)) for part, names in RUN_STARTERS.items() for name in names],
    *[(classes_take_no_cfg, "KEEPS_CONFIG", exception) for exception in KEEPS_CONFIG],
    *[
        (device_code_does_not_synchronize, "ALLOWED_SYNCHRONIZATIONS", exception)
        for exception in ALLOWED_SYNCHRONIZATIONS
    ],
]


def without(table: Any, exception: Any) -> Any:
    if table is RUN_STARTERS:
        part, name = exception
        return {**RUN_STARTERS, part: RUN_STARTERS[part] - {name}}
    if isinstance(table, dict):
        return {key: reason for key, reason in table.items() if key != exception}
    return table - {exception}


@pytest.mark.parametrize(("rule", "table", "exception"), sorted(EXCEPTIONS, key=str))
def test_exception_is_necessary(
    rule: Rule, table: str, exception: Any, files: list[SourceFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(architecture_rules, table, without(getattr(architecture_rules, table), exception))
    part = exception[0] if table == "RUN_STARTERS" else exception[0].split("/")[1]
    assert any(violation for file in files if file.part == part for violation in rule(file))


BROKEN = [
    (imports_only_lower_layers, "mrcnn_zoo/ops/boxes.py", "import torch\nfrom mrcnn_zoo.structures import Batch\n", 2),
    (imports_only_lower_layers, "mrcnn_zoo/modeling/a/b.py", "def f():\n    import mrcnn_zoo.data.loading.mapper\n", 2),
    (imports_only_lower_layers, "mrcnn_zoo/data/catalog.py", "from mrcnn_zoo import evaluation\n", 1),
    (imports_only_lower_layers, "mrcnn_zoo/training/run.py", "from mrcnn_zoo.novel import x\n", 1),
    (imports_only_lower_layers, "mrcnn_zoo/novel.py", "x = 1\n", 1),
    (classes_take_no_cfg, "mrcnn_zoo/modeling/a.py", "class A:\n    def f(self, cfg): ...\n", 2),
    (classes_take_no_cfg, "mrcnn_zoo/modeling/a.py", "class A:\n    def f(self, *, c: CfgNode | None): ...\n", 2),
    (classes_take_no_cfg, "mrcnn_zoo/training/a.py", "class A:\n    settings: CfgNode\n", 2),
    (classes_take_no_cfg, "mrcnn_zoo/cli/a.py", "class A:\n    def f(self, c):\n        self.cfg = c\n", 3),
    (only_builders_read_cfg, "mrcnn_zoo/modeling/a.py", "def make_head(cfg: CfgNode): ...\n", 1),
    (only_builders_read_cfg, "mrcnn_zoo/modeling/a.py", "\ndef width(config: CfgNode): ...\n", 2),
    (only_builders_read_cfg, "mrcnn_zoo/modeling/a.py", "def _width(cfg: CfgNode): ...\n", 1),
    (only_builders_read_cfg, "mrcnn_zoo/ops/a.py", "def _width(cfg): ...\n\ndef width(x):\n    return _width(x)\n", 1),
    (imports_no_private_names, "mrcnn_zoo/ops/a.py", "from mrcnn_zoo.ops.b import _c\n", 1),
    (no_relative_or_star_imports, "mrcnn_zoo/ops/nms.py", "from . import boxes\n", 1),
    (no_relative_or_star_imports, "tests/test_a.py", "from math import *\n", 1),
    (no_heavy_imports_at_import_time, "mrcnn_zoo/inspection/a.py", "import matplotlib.pyplot as plt\n", 1),
    (
        no_heavy_imports_at_import_time,
        "mrcnn_zoo/training/a.py",
        "from torch.utils.tensorboard import SummaryWriter\n",
        1,
    ),
    (file_name_is_specific, "mrcnn_zoo/ops/utils.py", "", 1),
    (file_has_a_readable_length, "mrcnn_zoo/ops/nms.py", "x = 1\n" * 351, 351),
    (file_has_a_readable_length, "mrcnn_zoo/ops/nms.py", "x = 1\n" * 39, 39),
    (words_are_plain, "mrcnn_zoo/ops/nms.py", "x = 1\n# Nothing is told here.\n", 2),
    (words_are_plain, "mrcnn_zoo/ops/nms.py", '"""Masks.\n\nOne value a channel.\n"""\n', 3),
    (only_cli_prints, "mrcnn_zoo/training/run.py", "def f():\n    print('done')\n", 2),
    (device_code_does_not_synchronize, "mrcnn_zoo/modeling/a.py", "def f(x):\n    return g(x.sum().item())\n", 2),
    (device_code_does_not_synchronize, "mrcnn_zoo/losses/a.py", "def f(x):\n    return x.cpu()\n", 2),
    (has_no_kwargs, "mrcnn_zoo/ops/a.py", "def f(x, **kwargs): ...\n", 1),
]

ALLOWED = [
    (imports_only_lower_layers, "mrcnn_zoo/training/a.py", "from mrcnn_zoo.inspection import draw\nimport mrcnn_zoo\n"),
    (imports_only_lower_layers, "mrcnn_zoo/cli/a.py", "from mrcnn_zoo import __version__\n"),
    (imports_only_lower_layers, "tools/a.py", "from mrcnn_zoo.cli.main import main\n"),
    (only_builders_read_cfg, "mrcnn_zoo/modeling/a.py", "def build_head(cfg: CfgNode): ...\n"),
    (only_builders_read_cfg, "mrcnn_zoo/modeling/a.py", "@HEADS.register('A')\ndef make(cfg): ...\n"),
    (only_builders_read_cfg, "mrcnn_zoo/modeling/a.py", "def _w(cfg): ...\ndef build_a(cfg):\n    return A(_w(cfg))\n"),
    (
        only_builders_read_cfg,
        "mrcnn_zoo/modeling/a.py",
        "def _w(cfg): ...\nT = [_w]\ndef build_a(cfg):\n    f(T)\n",
    ),
    (only_builders_read_cfg, "mrcnn_zoo/training/run.py", "def run(cfg: CfgNode): ...\n"),
    (no_heavy_imports_at_import_time, "mrcnn_zoo/inspection/a.py", "def f():\n    import matplotlib\n"),
    (only_cli_prints, "mrcnn_zoo/cli/a.py", "print('done')\n"),
    (device_code_does_not_synchronize, "mrcnn_zoo/training/a.py", "def f(x):\n    return x.item()\n"),
]


@pytest.mark.parametrize(("rule", "path", "text", "line"), BROKEN)
def test_violation_has_file_and_line(rule: Rule, path: str, text: str, line: int) -> None:
    violations = list(rule(SourceFile(path, text)))
    assert len(violations) == 1
    assert violations[0].startswith(f"{path}:{line}: ")


@pytest.mark.parametrize(("rule", "path", "text"), ALLOWED)
def test_allowed_code_has_no_violation(rule: Rule, path: str, text: str) -> None:
    assert list(rule(SourceFile(path, text))) == []
