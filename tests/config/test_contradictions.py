"""Of keys that contradict each other the one with higher priority is used, and the other is named."""

import re
from pathlib import Path
from typing import Any

import pytest

from mrcnn_zoo.config import load_config
from mrcnn_zoo.errors import UserError

HEAD = "MODEL.ROI_BOX_HEAD"


@pytest.mark.parametrize(
    ("in_file", "typed", "expected", "named"),
    [
        ("USE_SIGMOID_CE: True", ["CLS_LOSS_TYPE", "focal"], ("focal", False, False), "USE_SIGMOID_CE = True"),
        (
            "{USE_SIGMOID_CE: True, USE_FED_LOSS: True}",
            ["CLS_LOSS_TYPE", "softmax"],
            ("softmax", False, False),
            "USE_FED_LOSS = True",
        ),
        ("CLS_LOSS_TYPE: focal", ["USE_SIGMOID_CE", "True"], ("softmax", True, False), "CLS_LOSS_TYPE = focal"),
        ("CLS_LOSS_TYPE: sigmoid", ["USE_SIGMOID_CE", "False"], ("softmax", False, False), "CLS_LOSS_TYPE = sigmoid"),
        (
            "{USE_SIGMOID_CE: True, USE_FED_LOSS: True}",
            ["USE_SIGMOID_CE", "False"],
            ("softmax", False, False),
            "USE_FED_LOSS = True",
        ),
        ("CLS_LOSS_TYPE: sigmoid", ["USE_SIGMOID_CE", "True"], ("sigmoid", True, False), ""),
        ("USE_SIGMOID_CE: True", ["CLS_LOSS_TYPE", "sigmoid"], ("sigmoid", True, False), ""),
        ("CLS_LOSS_TYPE: focal", ["USE_SIGMOID_CE", "False"], ("focal", False, False), ""),
    ],
)
def test_closer_key_of_a_loss_has_priority(
    in_file: str,
    typed: list[str],
    expected: tuple[str, bool, bool],
    named: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    content = in_file if in_file.startswith("{") else f"{{{in_file}}}"
    (tmp_path / "file.yaml").write_text(f"MODEL: {{ROI_BOX_HEAD: {content}}}\n")
    overrides = [f"{HEAD}.{typed[0]}", typed[1]] if typed else []
    head = load_config(tmp_path / "file.yaml", overrides).MODEL.ROI_BOX_HEAD
    assert expected == (head.CLS_LOSS_TYPE, head.USE_SIGMOID_CE, head.USE_FED_LOSS)
    messages = [message for message in caplog.messages if "has no effect" in message]
    assert bool(messages) == bool(named)
    assert not named or any(f"{HEAD}.{named} (" in message for message in messages)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([f"{HEAD}.USE_FED_LOSS", True], "USE_FED_LOSS needs MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE True"),
        ([f"{HEAD}.USE_SIGMOID_CE", True, f"{HEAD}.CLS_LOSS_TYPE", "focal"], "'focal' contradicts"),
        (
            [
                "MODEL.MASK_ON=True",
                "MODEL.ROI_MASK_HEAD.NAME=PointRendMaskHead",
                "MODEL.ROI_MASK_HEAD.POINT_HEAD_ON=True",
                "MODEL.POINT_HEAD.NUM_CLASSES=3",
            ],
            "command line: MODEL.POINT_HEAD.NUM_CLASSES = 3 must be MODEL.ROI_HEADS.NUM_CLASSES = 80",
        ),
    ],
)
def test_contradiction_at_equal_priority_is_refused(overrides: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        load_config(None, overrides)


def test_derived_file_has_priority_over_its_base(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("SOLVER: {BASE_LR: 0.1, MAX_ITER: 10}\n")
    (tmp_path / "derived.yaml").write_text("_BASE_: base.yaml\nSOLVER: {BASE_LR: 0.2}\n")
    cfg = load_config(tmp_path / "derived.yaml", ["SOLVER.GAMMA", "0.5"])
    ranks = [cfg.closeness_of(f"SOLVER.{leaf}") for leaf in ("MOMENTUM", "MAX_ITER", "BASE_LR", "GAMMA")]
    assert ranks == sorted(set(ranks))
    assert [cfg.clone().closeness_of(f"SOLVER.{leaf}") for leaf in ("MOMENTUM", "BASE_LR")] == [ranks[0], ranks[2]]
