"""The report of loaded weights."""

from mrcnn_zoo.checkpoint import LoadReport
from mrcnn_zoo.checkpoint.report import group_by_status


def patterns(statuses: dict[str, str]) -> list[tuple[str, str, int]]:
    return [(pattern, status, len(names)) for pattern, status, names in group_by_status(statuses)]


def test_no_names_give_no_rows() -> None:
    assert group_by_status({}) == []


def test_part_with_one_status_is_one_row() -> None:
    statuses = {"backbone.stem.weight": "loaded", "backbone.res2.0.weight": "loaded", "head.weight": "missing"}
    assert patterns(statuses) == [("backbone.*", "loaded", 2), ("head.*", "missing", 1)]


def test_name_without_dots_is_one_row() -> None:
    assert patterns({"scale": "loaded"}) == [("scale", "loaded", 1)]


def test_part_with_several_statuses_is_split() -> None:
    statuses = {
        "roi_heads.box_head.fc1.weight": "loaded",
        "roi_heads.box_head.fc2.weight": "loaded",
        "roi_heads.box_predictor.cls_score.weight": "reset",
        "roi_heads.box_predictor.cls_score.bias": "reset",
    }
    assert patterns(statuses) == [("roi_heads.box_head.*", "loaded", 2), ("roi_heads.box_predictor.*", "reset", 2)]


def test_siblings_of_one_status_share_a_row_by_their_prefix() -> None:
    statuses = {"a.fpn_lateral2.weight": "missing", "a.fpn_output2.weight": "missing", "a.res2.weight": "loaded"}
    assert patterns(statuses) == [("a.fpn_*.*", "missing", 2), ("a.res2.*", "loaded", 1)]


def test_siblings_with_the_same_statuses_share_rows() -> None:
    statuses = {}
    for number in (1, 2):
        statuses |= {f"a.conv{number}.weight": "loaded", f"a.conv{number}.norm.bias": "skipped"}
    statuses["a.fc.weight"] = "loaded"
    assert patterns(statuses) == [
        ("a.conv*.weight", "loaded", 2),
        ("a.conv*.norm.*", "skipped", 2),
        ("a.fc.*", "loaded", 1),
    ]


def test_prefix_shared_with_other_siblings_is_not_used() -> None:
    statuses = {"a.conv1.w": "loaded", "a.conv2.w": "loaded", "a.conv3.w": "missing"}
    assert patterns(statuses) == [("a.{conv1, conv2}.*", "loaded", 2), ("a.conv3.*", "missing", 1)]


def test_every_name_is_in_exactly_one_row() -> None:
    statuses = {
        f"a.{i}.{j}.{k}": str((i * j + k) % 3) for i in range(4) for j in range(3) for k in "wb" for k in (1, 2)
    }
    covered = [name for _, _, names in group_by_status(statuses) for name in names]
    assert sorted(covered) == sorted(statuses)
    assert all(statuses[name] == status for _, status, names in group_by_status(statuses) for name in names)


def test_text_has_totals_statuses_and_expected_settings() -> None:
    report = LoadReport(
        source="r50.pth",
        sizes={"backbone.w": 900, "head.w": 100, "fc.w": 50, "neck.w": 1000},
        converted=("backbone.w",),
        reinitialized={"head.w": ((20, 5), (10, 10))},
        mismatched={"neck.w": ((1, 2), (100, 10))},
        skipped=("fc.w",),
        converter="torchvision ResNet",
        expected_settings={"INPUT.FORMAT": "RGB"},
    )
    text = str(report)
    assert "r50.pth, recognised as torchvision ResNet, fill 45.0 % of the model's 2,000 values" in text
    for words in ("converted", "re-initialised", "not loaded: another shape", "skipped: not in the model"):
        assert words in text
    assert "neck.w is 1x2 in the file and 100x10 in the model." in text
    assert "INPUT.FORMAT RGB" in text
    assert not report.is_complete


def test_completely_filled_model_is_complete() -> None:
    assert LoadReport(source="x", sizes={"w": 1}, loaded=("w",), skipped=("v",)).is_complete
