"""Keys of unsupported parts are refused when they would have an effect."""

from pathlib import Path

import pytest

from mrcnn_zoo.config import default_config, load_config
from mrcnn_zoo.config.defaults import ALL_KEYS, KEYS_BY_NAME
from mrcnn_zoo.config.keys import Key
from mrcnn_zoo.config.rules import unsupported_changes
from mrcnn_zoo.errors import UserError
from support.references import REFERENCES

UNSUPPORTED = [key for key in ALL_KEYS if key.unsupported is not None]


def test_defaults_set_no_unsupported_key() -> None:
    assert unsupported_changes(default_config()) == []


def test_unsupported_key_is_refused_with_place_key_value_and_default(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("GLOBAL:\n  HACK: 2.0\n")
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert str(caught.value).splitlines() == [
        "this key sets a part of Detectron2 that this version does not have:",
        f"  {path}:2: GLOBAL.HACK = 2.0; leave it at its default 1.0.",
    ]


def test_every_unsupported_key_in_use_is_listed() -> None:
    overrides = ["MODEL.META_ARCHITECTURE=PanopticFPN", "MODEL.SEM_SEG_HEAD.NUM_CLASSES=7", "GLOBAL.HACK=2"]
    overrides += ["MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT=7"]
    with pytest.raises(UserError) as caught:
        load_config(None, overrides)
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 3
    message = (
        "LOSS_WEIGHT = 7.0, which counts because MODEL.META_ARCHITECTURE is PanopticFPN; leave it at its default 1.0."
    )
    assert any(message in line for line in lines)


def test_file_key_of_an_unselected_part_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "MODEL:\n  SEM_SEG_HEAD: {NUM_CLASSES: 7, IGNORE_VALUE: 255}\n  PANOPTIC_FPN: {INSTANCE_LOSS_WEIGHT: 7}\n"
    )
    assert load_config(path).MODEL.SEM_SEG_HEAD.NUM_CLASSES == 7
    assert [record.message for record in caplog.records] == [
        "set without effect, as they belong to parts that the config does not select: "
        f"MODEL.SEM_SEG_HEAD.NUM_CLASSES ({path}:2), MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT ({path}:3)"
    ]


def test_file_with_default_values_is_loaded_without_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(default_config().dump())
    load_config(path)
    assert caplog.records == []


def test_command_line_key_of_an_unselected_part_is_refused() -> None:
    message = (
        r"command line: MODEL\.PANOPTIC_FPN\.INSTANCE_LOSS_WEIGHT = 7\.0, which counts only if "
        "MODEL.META_ARCHITECTURE is PanopticFPN"
    )
    with pytest.raises(UserError, match=message):
        load_config(None, ["MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT=7"])
    same = load_config(None, ["MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT=1"])
    assert same.MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT == 1
    with pytest.raises(UserError, match=r"INSTANCE_LOSS_WEIGHT = 7\.0, which counts because"):
        load_config(None, ["MODEL.PANOPTIC_FPN.INSTANCE_LOSS_WEIGHT=7", "MODEL.META_ARCHITECTURE=PanopticFPN"])


@pytest.mark.parametrize("key", UNSUPPORTED, ids=lambda key: key.name)
def test_part_of_an_unsupported_key_is_selected_by_a_key_and_not_by_default(key: Key) -> None:
    part = key.unsupported
    assert part is not None
    assert not part.selector or KEYS_BY_NAME[part.selector].default not in part.values
    assert bool(part.selector) == bool(part.values)


@pytest.mark.parametrize("count", [2, 13], ids=["committed", "all"])
def test_full_config_files_of_detectron2_load(count: int, request: pytest.FixtureRequest) -> None:
    root = REFERENCES if count == 2 else request.getfixturevalue("shared_dir") / "reference"
    paths = sorted((root / "detectron2" / "fixtures").glob("*/config.yaml"))
    assert len(paths) >= count
    for path in paths:
        load_config(path)
