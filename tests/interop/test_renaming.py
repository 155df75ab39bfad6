"""Rename tables, with names written out by hand."""

import pytest
import torch

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.interop.renaming import RESIDUAL_BLOCK, RenameTable, patterns, without_pyramid

TABLE = RenameTable((("layer1.", "res2."), ("head.fc6.", "box_head.fc1.")), inner=RESIDUAL_BLOCK)
ZERO = torch.zeros(1)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("layer1.0.bn2.bias", "res2.0.conv2.norm.bias"),
        ("layer1.0.downsample.0.weight", "res2.0.shortcut.weight"),
        ("layer1.0.downsample.1.weight", "res2.0.shortcut.norm.weight"),
        ("head.fc6.weight", "box_head.fc1.weight"),
    ],
)
def test_literal_lines_rename_in_both_directions(theirs: str, ours: str) -> None:
    assert TABLE.rename(theirs) == ours
    assert TABLE.inverse().rename(ours) == theirs


@pytest.mark.parametrize("name", ["backbone.layer1.0.weight", "other.bn1.weight", "layer10.weight"])
def test_names_that_no_line_places_stay(name: str) -> None:
    assert TABLE.rename(name) == name


def test_every_name_is_renamed_or_left_over() -> None:
    renamed, leftovers = TABLE.apply({"layer1.0.conv1.weight": ZERO, "fc.bias": ZERO})
    assert list(renamed) == ["res2.0.conv1.weight"]
    assert leftovers == ("fc.bias",)


def test_name_that_stays_the_same_is_no_leftover() -> None:
    renamed, leftovers = RenameTable((("head.", "head."),)).apply({"head.weight": ZERO})
    assert (list(renamed), leftovers) == (["head.weight"], ())


def test_two_weights_of_one_new_name_are_refused() -> None:
    table = RenameTable((("bn1.", "norm."), ("gn1.", "norm.")))
    with pytest.raises(UserError, match=r"two weights of the file become norm\.weight; gn1\.weight is one of them"):
        table.apply({"bn1.weight": ZERO, "gn1.weight": ZERO})


def test_patterns_are_applied_in_order_and_have_no_inverse() -> None:
    table = RenameTable(patterns((r"^stage(\d)_", r"res\1."), (r"\.w$", ".weight")))
    assert table.rename("stage3_0.w") == "res3.0.weight"
    with pytest.raises(ValueError, match="cannot be read in the other direction"):
        table.inverse()


def test_backbone_without_pyramid_has_no_bottom_up() -> None:
    names = ("backbone.bottom_up.res2.0.conv1.weight", "roi_heads.res5.0.conv1.weight")
    assert list(without_pyramid(dict.fromkeys(names, ZERO))) == ["backbone.res2.0.conv1.weight", names[1]]
