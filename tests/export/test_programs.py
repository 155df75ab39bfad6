"""Programs: what is stored in them; damaged files, foreign ones and those that could run code; refused models."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mrcnn_zoo.config import load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.export.programs import read_program
from mrcnn_zoo.export.writing import check_exportable
from mrcnn_zoo.inference import Predictor
from mrcnn_zoo.inference.exported import fitting_size
from mrcnn_zoo.modeling import build_model
from support.exported import write_known_program
from support.small_models import CONFIGS, DIGITS, TINY_LAYERS

GRAPH, METADATA = "archive/models/model.json", "archive/extra/mrcnn_zoo.json"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_known_program(
        tmp_path_factory.mktemp("program") / "known.pt2", score_thresholds={"by_class": {"cat": 0.7, "dog": 0.2}}
    )


def with_records(source: Path, target: Path, changes: dict[str, bytes]) -> Path:
    """A copy of an archive with changed or added records."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in {**dict.fromkeys(old.namelist()), **changes}:
            new.writestr(name, changes[name] if name in changes else old.read(name))
    return target


def with_graph(source: Path, target: Path, old: str, new: str) -> Path:
    """A copy of an archive with a text replaced in its graph."""
    text = zipfile.ZipFile(source).read(GRAPH).decode()
    assert old in text
    return with_records(source, target, {GRAPH: text.replace(old, new).encode()})


def test_detections_are_in_pixels_of_the_original_image(program: Path) -> None:
    predictor = Predictor(program)
    assert predictor.class_names == ("cat", "dog")
    # 48 x 60 becomes 64 x 80, shortest side 64: a scale of 4 / 3.
    found = predictor(np.zeros((48, 60, 3), dtype=np.uint8))
    assert found.class_names[found.detections.classes[0]] == "dog"
    torch.testing.assert_close(found.detections.scores, torch.tensor([0.9, 0.6]))
    torch.testing.assert_close(found.detections.boxes, torch.tensor([[6.0, 12, 18, 36], [0, 0, 60, 48]]))
    masks = found.detections.masks.bitmaps()
    assert masks.shape == (2, 48, 60)
    assert masks[0].nonzero().amin(0).tolist() == [12, 6]
    assert masks[0].nonzero().amax(0).tolist() == [35, 17]
    assert predictor.detector.categories == [(7, "cat"), (3, "dog")]


def test_portrait_image_is_scaled_down_to_fit(program: Path) -> None:
    # 80 x 60 would become 85 x 64, higher than 64; it becomes 64 x 48, and the second box is all of it.
    found = Predictor(program)(np.zeros((80, 60, 3), dtype=np.uint8))
    torch.testing.assert_close(found.detections.boxes[1], torch.tensor([0.0, 0, 60, 80]))
    torch.testing.assert_close(found.detections.boxes[0], torch.tensor([8.0, 16, 24, 48]) * 1.25)


@pytest.mark.parametrize(
    ("size", "min_size", "expected"),
    [
        ((480, 640), 800, (800, 1067)),
        ((640, 480), 800, (800, 600)),  # 1067 x 800 is too high
        ((100, 1000), 800, (133, 1333)),
        ((100, 90), 0, (100, 90)),
        ((3000, 400), 0, (800, 107)),
        ((1, 5000), 800, (1, 1333)),
    ],
)
def test_fitting_size(size: tuple[int, int], min_size: int, expected: tuple[int, int]) -> None:
    assert fitting_size(size, (800, 1344), min_size=min_size, max_size=1333) == expected


def test_best_thresholds_are_those_of_the_checkpoint(program: Path) -> None:
    found = Predictor(program, score_threshold="best")(np.zeros((64, 96, 3), dtype=np.uint8))
    assert found.detections.classes.tolist() == [1]  # 0.6 is below the 0.7 of cat


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": DIGITS}, "has its config inside"),
        (
            {"overrides": ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.2]},
            "SCORE_THRESH_TEST is part of the exported program",
        ),
        ({"overrides": ["TEST.AUG.ENABLED", True]}, "TEST.AUG.ENABLED is part of the exported program"),
        ({"device": "cuda"}, "run on the CPU here"),
    ],
)
def test_settings_inside_a_program_cannot_be_changed(program: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Predictor(program, **options)


def test_config_inside_a_program_runs_no_code(tmp_path: Path, program: Path) -> None:
    text = zipfile.ZipFile(program).read(METADATA).decode()
    assert "StandardROIHeads" in text
    changed = with_records(
        program, tmp_path / "x.pt2", {METADATA: text.replace("StandardROIHeads", "os:getcwd").encode()}
    )
    with pytest.raises(UserError, match="os:getcwd"):
        Predictor(changed)


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.layer(values)


def test_files_of_other_tools_are_refused(tmp_path: Path, program: Path) -> None:
    path = tmp_path / "x.pt2"
    torch.export.save(torch.export.export(Linear(), (torch.zeros(1, 2),)), path)
    with pytest.raises(UserError, match="pickled example inputs"):
        read_program(path)
    torch.save({"model": {}}, path)
    with pytest.raises(UserError, match="is refused: it has the record"):
        read_program(path)
    with pytest.raises(UserError, match="was not written by `mrcnn-zoo export`"):
        read_program(with_records(program, path, {METADATA: b""}))
    text = zipfile.ZipFile(program).read(METADATA).replace(b'"format_version": 1', b'"format_version": 99')
    with pytest.raises(UserError, match="format version 99"):
        read_program(with_records(program, path, {METADATA: text}))
    with pytest.raises(UserError, match=r"missing\.onnx"):
        Predictor(tmp_path / "missing.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:40], "are damaged: .*: line 1 column"),
        (lambda _: b"[1]", "are damaged: no JSON object"),
        (lambda _: b"[" * 100_000, "are damaged: maximum recursion"),
        (lambda text: text.replace(b"[64, 96]", b"[64, 99]"), r"input_size is \[64, 99\].* takes images of \[64, 96\]"),
        (lambda text: text.replace(b"[64, 96]", b'"64"'), "input_size is 64"),
        (lambda text: text.replace(b'["cat"', b"[1"), "class_names is no list of texts"),
        (lambda text: text.replace(b"[7, 3]", b"[7, 3.5]"), "category_ids is no list of whole numbers"),
        (lambda text: text.replace(b'"config"', b'"content"'), r"x\.pt2 has no config .* Export the model again"),
        (lambda text: text.replace(b'"cat", ', b""), r"NUM_CLASSES = 2, but .*x\.pt2 has 1 class"),
    ],
)
def test_damaged_metadata(tmp_path: Path, program: Path, change: Callable[[bytes], bytes], message: str) -> None:
    text = zipfile.ZipFile(program).read(METADATA)
    damaged = with_records(program, tmp_path / "x.pt2", {METADATA: change(text)})
    with pytest.raises(UserError, match=message) as caught:
        Predictor(damaged)
    assert str(damaged) in str(caught.value)


@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
@pytest.mark.parametrize("length", [0, 10, 3000])
def test_damaged_files_are_refused(tmp_path: Path, program: Path, suffix: str, length: int) -> None:
    if suffix == "onnx":
        pytest.importorskip("onnxruntime")
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(program.read_bytes()[:length])
    with pytest.raises(UserError, match=f"{length:,} bytes\\) is cut short or no"):
        read_program(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("torch.ops.aten.mul.Tensor", "torch.hub.load"),
        ("torch.ops.aten.mul.Tensor", "torch.ops.aten.from_file.default"),
        ("torch.ops.aten.mul.Tensor", "_operator.call"),
        ('"guards_code": []', '"guards_code": ["__import__(1)"]'),
        ('"name": "image"', '"name": "image): exec(1)"'),
        ('"as_int": 64', '"as_expr": {"expr_str": "__import__(1)", "hint": null}'),
        ("builtins.tuple", "collections.defaultdict"),
    ],
)
def test_graphs_that_could_run_code_are_refused(tmp_path: Path, program: Path, old: str, new: str) -> None:
    with pytest.raises(UserError, match=r"is refused: it has .* could run code"):
        read_program(with_graph(program, tmp_path / "x.pt2", old, new))


@pytest.mark.parametrize(
    ("record", "content"),
    [
        ("archive/data/sample_inputs/model.pt", b"pickle"),
        ("archive/data/constants/custom_obj_0", b"pickle"),
        ("archive/data/aotinductor/model/model.so", b"library"),
    ],
)
def test_records_that_could_run_code_are_refused(tmp_path: Path, program: Path, record: str, content: bytes) -> None:
    with pytest.raises(UserError, match="is refused: it has"):
        read_program(with_records(program, tmp_path / "x.pt2", {record: content}))


def test_pickled_tensors_are_refused(tmp_path: Path, program: Path) -> None:
    name = "archive/data/constants/model_constants_config.json"
    config = json.loads(zipfile.ZipFile(program).read(name))
    next(iter(config["config"].values()))["use_pickle"] = True
    with pytest.raises(UserError, match="pickled tensors"):
        read_program(with_records(program, tmp_path / "x.pt2", {name: json.dumps(config).encode()}))


def test_onnx_models_of_another_tool_or_with_damaged_metadata_are_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    other = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "g", [value], [other])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="was not written by `mrcnn-zoo export`"):
        read_program(tmp_path / "x.onnx")
    model.metadata_props.add(key="mrcnn_zoo", value='{"format_version": 1')
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=r"x\.onnx: its metadata mrcnn_zoo are damaged: .* Export the model again"):
        read_program(tmp_path / "x.onnx")


KEYPOINTS = CONFIGS / "COCO-Keypoints" / "keypoint_rcnn_R_50_FPN_1x.yaml"


@pytest.mark.parametrize(
    ("base", "settings", "message"),
    [
        (KEYPOINTS, (), "MODEL.KEYPOINT_ON"),
        (DIGITS, ("MODEL.ROI_HEADS.SUPPRESSION=soft_gaussian",), "MODEL.ROI_HEADS.SUPPRESSION"),
        (DIGITS, ("MODEL.ROI_MASK_HEAD.NAME=PointRendMaskHead",), "MODEL.ROI_MASK_HEAD.NAME"),
        (DIGITS, ("MODEL.ROI_BOX_HEAD.POOLER_TYPE=ROIWarp",), "POOLER_TYPE"),
        (DIGITS, ("MODEL.META_ARCHITECTURE=ProposalNetwork",), "MODEL.META_ARCHITECTURE"),
        (DIGITS, ("TEST.DETECTIONS_PER_IMAGE=-1",), "TEST.DETECTIONS_PER_IMAGE"),
    ],
)
def test_models_that_cannot_be_exported_are_refused_by_name(
    base: str | Path, settings: tuple[str, ...], message: str
) -> None:
    cfg = load_config(base, [*TINY_LAYERS, "MODEL.RESNETS.DEPTH=18", "MODEL.WEIGHTS=", *settings])
    with pytest.raises(UserError, match=message):
        check_exportable(build_model(cfg))
