"""The output of `config explain`."""

import pytest

from mrcnn_zoo.config.defaults import ALL_KEYS
from mrcnn_zoo.config.explain import explain
from mrcnn_zoo.errors import UserError


def rows(name: str) -> dict[str, str]:
    title, *lines = explain(name).splitlines()
    assert title == name
    return {line.split("  ")[1]: line.split("  ", 2)[2].strip() for line in lines if not line.startswith("   ")}


def test_key_has_default_type_origin_and_meaning() -> None:
    assert rows("SOLVER.BASE_LR") == {
        "default": "0.001",
        "type": "number",
        "range": "at least 0",
        "Detectron2": "has it",
        "meaning": "Learning rate after the warm-up.",
    }


def test_new_key_is_marked_as_missing_in_detectron2() -> None:
    assert rows("SOLVER.MAX_MINUTES")["Detectron2"] == "does not have it"


def test_choices_are_listed() -> None:
    assert rows("INPUT.MASK_FORMAT")["values"] == "'polygon', 'bitmask'"


def test_unsupported_key_states_when_it_is_refused() -> None:
    assert "refused when" in explain("MODEL.SEM_SEG_HEAD.NORM")
    assert "MODEL.META_ARCHITECTURE is PanopticFPN" in explain("MODEL.SEM_SEG_HEAD.NORM")
    assert rows("GLOBAL.HACK")["unsupported"].startswith("this version does not have the part")


@pytest.mark.parametrize(
    ("name", "registered"),
    [
        ("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"),
        ("MODEL.ROI_MASK_HEAD.POOLER_TYPE", "ROIAlignV2"),
        ("SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR"),
        ("WRITERS", "tensorboard"),
    ],
)
def test_key_of_a_registry_lists_the_registered_names(name: str, registered: str) -> None:
    assert registered in explain(name).partition("registered")[2]


def test_registered_names_are_explained_in_a_line() -> None:
    lines = explain("MODEL.ROI_BOX_HEAD.POOLER_TYPE").splitlines()
    assert [line.split(maxsplit=1)[1] for line in lines if line.startswith("    ROIAlignV2 ")] == [
        "RoIAlign with the right half-cell shift."
    ]


def test_section_lists_its_keys() -> None:
    text = explain("SOLVER.AMP")
    assert "SOLVER.AMP.ENABLED = False\n    Train" in text
    assert "BASE_LR" not in text


def test_empty_name_lists_every_key() -> None:
    text = explain("")
    assert all(f"{key.name} = " in text for key in ALL_KEYS)


def test_old_name_explains_the_new_one() -> None:
    assert explain("MODEL.WEIGHT").startswith("MODEL.WEIGHT is the old name of:\n\nMODEL.WEIGHTS\n")


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match=r"there is no config key MODEL\.MASKON\. Did you mean 'MODEL\.MASK_ON'\?"):
        explain("MODEL.MASKON")
