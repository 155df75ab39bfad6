"""MODEL.OPTIMIZE int8: calibration, refusals, and 8-bit convolutions in the compiled code."""

import importlib.util
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mrcnn_zoo.cli.main import main
from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inference import Predictor
from mrcnn_zoo.inference.calibration import build_calibration_samples
from mrcnn_zoo.inference.dense_stages import example_inputs, key_of, stages_of
from mrcnn_zoo.inference.fused_layers import FusedConv2d
from mrcnn_zoo.inference.int8 import build_quantizer, calibrate, refuse_float_code
from mrcnn_zoo.inference.optimization import build_optimized
from support.scenes import smooth_sample
from support.small_models import DIGITS, SIX_DETECTIONS, TINY_LAYERS, TINY_RESNET_18, save_tiny_checkpoint, varied_model

INT8 = "MODEL.OPTIMIZE=int8"
needs_torchao = pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None, reason="int8 needs the optional torchao"
)


def config(*overrides: object) -> CfgNode:
    return load_config(DIGITS, [*TINY_LAYERS, *SIX_DETECTIONS, INT8, *overrides])


def save_images(folder: Path, count: int) -> Path:
    """Images of one grey value each: 0, 1, 2, ..."""
    folder.mkdir()
    for number in range(count):
        Image.fromarray(np.full((20, 30, 3), number, np.uint8)).save(folder / f"{number:02}.png")
    return folder


def grey_values(cfg: CfgNode, *given: FileImage) -> list[int]:
    return [int(sample.image.flatten()[0]) for sample in build_calibration_samples(cfg, given)]


def test_calibration_takes_images_that_are_spread_over_the_folder(tmp_path: Path) -> None:
    folder = save_images(tmp_path / "photos", 9)
    cfg = config(f"MODEL.INT8.CALIBRATION={folder}", "MODEL.INT8.NUM_IMAGES=3")
    assert grey_values(cfg) == [0, 3, 6]
    other = save_images(tmp_path / "other", 1)
    cfg = config("MODEL.INT8.CALIBRATION", [f"{folder}/0[78].png", str(other)])
    assert grey_values(cfg) == [7, 8, 0]


def test_calibration_without_a_name_takes_the_given_images_or_the_test_set(tmp_path: Path) -> None:
    folder = save_images(tmp_path / "photos", 2)
    given = FileImage(str(folder / "01.png"))
    assert grey_values(config(), given) == [1]
    assert len(build_calibration_samples(config("DATASETS.SCENES.NUM_VAL=2"))) == 2
    with pytest.raises(UserError, match=r"no images to measure .* on: set MODEL\.INT8\.CALIBRATION"):
        build_calibration_samples(config("DATASETS.TEST=[]"))


def test_damaged_image_is_left_out_of_the_calibration(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = save_images(tmp_path / "photos", 2)
    (folder / "00.png").write_bytes(b"no image")
    cfg = config(f"MODEL.INT8.CALIBRATION={folder}")
    assert grey_values(cfg) == [1]
    assert caplog.text.count("00.png") == 1
    (folder / "01.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="none of the 2 images for its calibration can be read"):
        build_calibration_samples(cfg)


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing_folder/", "missing_folder"), ("empty", "empty is empty"), ("empty/*.png", "matches nothing")],
)
def test_calibration_without_images_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=rf"MODEL\.INT8\.CALIBRATION.*{message}"):
        build_calibration_samples(config(f"MODEL.INT8.CALIBRATION={tmp_path / name}"))


def with_dtype(_: pytest.MonkeyPatch) -> CfgNode:
    return config("MODEL.DTYPE=bfloat16")


def on_another_processor(monkeypatch: pytest.MonkeyPatch) -> CfgNode:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    return config()


def without_torchao(monkeypatch: pytest.MonkeyPatch) -> CfgNode:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    return config()


@pytest.mark.parametrize(
    ("situation", "message"),
    [
        (with_dtype, "int8 with MODEL.DTYPE bfloat16: what is not int8 stays float32"),
        (on_another_processor, "int8 is for x86 processors, and this one is aarch64: use fused or compiled"),
        (without_torchao, r"int8 needs the package torchao: `pip install \"mrcnn_zoo\[int8\]\"`"),
    ],
)
def test_int8_is_refused_before_images_are_read(
    monkeypatch: pytest.MonkeyPatch, situation: Callable[[pytest.MonkeyPatch], CfgNode], message: str
) -> None:
    def fail() -> list[object]:
        raise AssertionError

    monkeypatch.setattr("mrcnn_zoo.inference.optimization.get_cpp_compiler", lambda: "g++")
    cfg = situation(monkeypatch)
    with pytest.raises(UserError, match=message):
        build_optimized(cfg, varied_model(cfg), fail)  # type: ignore[arg-type]


def test_without_a_compiler_int8_is_fused(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> str:
        raise RuntimeError

    monkeypatch.setattr("mrcnn_zoo.inference.optimization.get_cpp_compiler", fail)
    model = build_optimized(config(), varied_model(config()))
    assert any(isinstance(module, FusedConv2d) for module in model.modules())
    assert caplog.text.count("MODEL.OPTIMIZE int8 needs a C++ compiler") == 1


@needs_torchao
def test_code_without_int8_operators_is_refused() -> None:
    refuse_float_code("backbone", "aoti_torch_cpu__qconv_pointwise_tensor(x)")
    with pytest.raises(UserError, match=r"make of backbone has no 8-bit operator.*use fused or compiled"):
        refuse_float_code("backbone", "aoti_torch_cpu_mkldnn__convolution_pointwise(x)")


def test_key_of_compiled_stages_depends_on_weights_layers_and_images() -> None:
    stages, image = stages_of(varied_model(config())), torch.zeros(3, 4, 4)
    same = stages_of(varied_model(config()))
    assert key_of(stages, image) == key_of(same, image)
    keys = {key_of(stages, image), key_of(stages, image + 1), key_of(stages, image, image)}
    same["backbone"].bottom_up.stem.conv1.weight.data[0, 0, 0, 0] += 1  # type: ignore[union-attr]
    keys.add(key_of(same, image))
    keys.add(key_of(stages_of(varied_model(config("MODEL.FPN.FUSE_TYPE=avg"))), image))
    assert len(keys) == 5


@pytest.mark.slow
@needs_torchao
@pytest.mark.parametrize("base", [DIGITS, "COCO-Detection/retinanet_R_50_FPN_1x", "Base-RCNN-C4"])
def test_calibrated_stages_are_near_the_plain_ones_and_hold_every_convolution(base: str) -> None:
    """The rounding error of 8 bits: a step is 1/255 of the range, which is several deviations."""
    model = varied_model(load_config(base, [*TINY_RESNET_18, *SIX_DETECTIONS]))
    stages, samples = stages_of(model), [smooth_sample(64, 96)]
    with torch.no_grad():
        calibrated = calibrate(model, stages, samples, build_quantizer())
        pixels = model.collate(samples).pixels  # type: ignore[operator]
        expected, found = model.backbone(pixels), calibrated["backbone"][0](pixels)  # type: ignore[operator]
    for name, features in expected.items():
        assert 1e-4 < (found[name] - features).norm() / features.norm() < 0.1
    for name, (graph, example) in calibrated.items():
        num_levels = 1 if isinstance(example, Tensor) else len(example)
        num_layers = sum(isinstance(module, nn.Conv2d) for module in stages[name].modules())
        targets = [str(node.target) for node in graph.graph.nodes]
        assert targets.count("aten.conv2d.default") == num_levels * num_layers
        assert sum("dequantize_per_channel" in target for target in targets) == num_levels * num_layers
    assert "forward" not in vars(stages["backbone"])


def test_examples_of_stages_have_different_sides() -> None:
    model = varied_model(config())
    with torch.no_grad():
        examples = example_inputs(model, stages_of(model))
    sides = [side for level in examples["proposal_generator.rpn_head"] for side in level.shape[2:]]
    assert len(set(sides)) == len(sides)
    assert min(sides) > 1


@pytest.mark.slow
@needs_torchao
def test_int8_model_is_near_the_plain_one_and_a_second_one_compiles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MRCNN_ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    weights = save_tiny_checkpoint(tmp_path)
    Image.fromarray(smooth_sample(64, 96).image.permute(1, 2, 0).numpy()).save(tmp_path / "smooth.png")
    sizes = ((64, 96), (96, 64), (70, 150), (16, 16))
    plain = Predictor(weights).model
    overrides = [INT8, f"MODEL.INT8.CALIBRATION={tmp_path / 'smooth.png'}"]
    int8 = Predictor(weights, overrides=overrides).model
    packages = list((tmp_path / "cache" / "int8").rglob("*.pt2"))
    assert {package.stem for package in packages} == {"backbone", "proposal_generator.rpn_head"}
    for package in packages:
        with zipfile.ZipFile(package) as archive:
            code = [archive.read(name) for name in archive.namelist() if name.endswith(".cpp")]
        assert any(b"qconv" in text for text in code)  # oneDNN's convolution in integers
    monkeypatch.setattr("mrcnn_zoo.inference.int8.write_package", None)
    again = Predictor(weights, overrides=overrides).model
    for images, (height, width) in zip((1, 1, 3, 1), sizes, strict=True):
        samples = [smooth_sample(height, width)] * images
        expected, found = maps_of(plain, samples), maps_of(int8, samples)
        for name, features in expected.items():
            assert found[name].shape == features.shape
            assert 1e-4 < (found[name] - features).norm() / features.norm() < 0.2
            assert torch.equal(maps_of(again, samples)[name], found[name])
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert len(int8.predict(samples)[0].boxes) == len(plain.predict(samples)[0].boxes)


@pytest.mark.slow
@needs_torchao
def test_ap_of_a_shipped_model_changes_by_less_than_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By -0.07 to +0.16 on whole validation sets (dev/BENCHMARKS.md)."""
    monkeypatch.setenv("MRCNN_ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    found = {}
    for way in ("none", "int8"):
        keys = [f"MODEL.OPTIMIZE={way}", "MODEL.DEVICE=cpu", "DATASETS.SCENES.NUM_VAL=40", "DATALOADER.NUM_WORKERS=0"]
        keys += ["VIS.PLOTS=False", "VIS.REPORT=False", "VIS.NUM_IMAGES=0"]
        assert main(["evaluate", "--weights", f"zoo://{DIGITS}", "--output", str(tmp_path / way), *keys]) == 0
        found[way] = json.loads((tmp_path / way / "inference" / "results.json").read_text())
    for task in ("bbox", "segm"):
        assert 60 < found["none"][task]["AP"] < 90
        assert 1e-6 < abs(found["int8"][task]["AP"] - found["none"][task]["AP"]) < 1


def maps_of(model: nn.Module, samples: list[object]) -> dict[str, Tensor]:
    with torch.no_grad():
        return model.backbone(model.collate(samples).pixels)  # type: ignore[operator]
