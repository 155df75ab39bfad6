"""Keys of parts that do not exist yet are refused when they would matter."""

from pathlib import Path

import pytest

from mrcnn_zoo.config import default_config, load_config
from mrcnn_zoo.config.defaults import ALL_KEYS, KEYS_BY_NAME
from mrcnn_zoo.config.unbuilt import CONDITIONS, Condition, unbuilt_changes
from mrcnn_zoo.errors import UserError

UNBUILT = [key for key in ALL_KEYS if not key.is_built]


def test_defaults_need_nothing_that_is_not_built() -> None:
    assert unbuilt_changes(default_config()) == []


def test_an_unbuilt_key_is_refused_with_place_key_value_and_default(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("MODEL:\n  KEYPOINT_ON: True\n")
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert str(caught.value).splitlines() == [
        "this key sets a part of Detectron2 that this version does not have:",
        f"  {path}:2: MODEL.KEYPOINT_ON = True; leave it at its default False.",
    ]


def test_every_unbuilt_key_in_use_is_listed() -> None:
    overrides = ["MODEL.KEYPOINT_ON=True", "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS=5", "MODEL.LOAD_PROPOSALS=True"]
    with pytest.raises(UserError) as caught:
        load_config(None, overrides)
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 3
    assert "NUM_KEYPOINTS = 5, which counts because MODEL.KEYPOINT_ON is True; leave it at its default 17." in lines[-1]


def test_a_key_in_a_file_of_a_part_that_is_not_selected_is_inert_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("MODEL:\n  RETINANET: {NUM_CLASSES: 7, IOU_LABELS: [0, -1, 1]}\nTEST: {AUG: {FLIP: False}}\n")
    assert load_config(path).MODEL.RETINANET.NUM_CLASSES == 7
    assert [record.message for record in caplog.records] == [
        "set without effect, as they belong to parts that the config does not select: "
        f"MODEL.RETINANET.NUM_CLASSES ({path}:2), TEST.AUG.FLIP ({path}:3)"
    ]


def test_a_file_that_spells_defaults_out_is_loaded_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(default_config().dump())
    load_config(path)
    assert caplog.records == []


def test_a_key_on_the_command_line_of_a_part_that_is_not_selected_is_refused() -> None:
    message = (
        r"command line: MODEL\.RETINANET\.NUM_CLASSES = 7, which counts only if MODEL.META_ARCHITECTURE is RetinaNet"
    )
    with pytest.raises(UserError, match=message):
        load_config(None, ["MODEL.RETINANET.NUM_CLASSES=7"])
    assert load_config(None, ["MODEL.RETINANET.NUM_CLASSES=80"]).MODEL.RETINANET.NUM_CLASSES == 80
    with pytest.raises(UserError, match=r"MODEL\.RETINANET\.NUM_CLASSES = 7, which counts because"):
        load_config(None, ["MODEL.RETINANET.NUM_CLASSES=7", "MODEL.META_ARCHITECTURE=RetinaNet"])


def test_a_list_selects_with_any_of_its_elements(tmp_path: Path) -> None:
    selecting = ["MODEL.RESNETS.DEFORM_ON_PER_STAGE=[False, True, False, False]", "MODEL.RESNETS.DEFORM_MODULATED=True"]
    with pytest.raises(UserError, match="DEFORM_MODULATED = True, which counts"):
        load_config(None, selecting)
    path = tmp_path / "x.yaml"
    path.write_text("MODEL: {RESNETS: {DEFORM_MODULATED: True}}")
    assert load_config(path).MODEL.RESNETS.DEFORM_MODULATED


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: condition.prefix)
def test_every_condition_is_about_unbuilt_keys_and_a_real_selector(condition: Condition) -> None:
    assert condition.selector in KEYS_BY_NAME
    matching = [key for key in ALL_KEYS if key.name.startswith(condition.prefix)]
    assert matching
    assert not any(key.is_built for key in matching)
    assert not condition.holds(default_config())


@pytest.mark.parametrize("case", ["retinanet_R_50_FPN", "keypoint_rcnn_R_50_FPN", "cascade_mask_rcnn_R_50_FPN"])
def test_files_of_detectron2_that_need_more_are_refused_by_key_or_load(case: str, shared_dir: Path) -> None:
    path = shared_dir / "reference/detectron2/fixtures" / case / "config.yaml"
    try:
        load_config(path)
    except UserError as error:
        named = [line.split(": ")[1].split(" = ")[0] for line in str(error).splitlines()[1:]]
        assert named
        assert all(not KEYS_BY_NAME[name].is_built for name in named)
