"""MODEL.OPTIMIZE compiled in training: the same losses and checkpoints."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mrcnn_zoo.checkpoint import load_checkpoint
from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.structures import Sample, Targets
from mrcnn_zoo.training import run
from mrcnn_zoo.training.compilation import build_compiled_stages
from mrcnn_zoo.training.optimizer import build_optimizer
from mrcnn_zoo.training.reduction import with_averaged_gradients
from mrcnn_zoo.training.step import Updater, build_precision
from support.processes import run_in_processes
from support.references import relative_error
from support.scenes import filled_boxes
from support.small_models import DIGITS, TINY_LAYERS, TINY_RESNET_18

TinyConfig = Callable[..., CfgNode]
COMPILED = load_config(None, ["MODEL.OPTIMIZE=compiled"])
RETINANET = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"
ONE_MAP = (
    "MODEL.RESNETS.OUT_FEATURES=[res2]",
    "MODEL.FPN.IN_FEATURES=[res2]",
    "MODEL.RPN.IN_FEATURES=[p2, p3]",
    "MODEL.ROI_HEADS.IN_FEATURES=[p2]",
    "MODEL.ANCHOR_GENERATOR.SIZES=[[32], [64]]",
)
# Every anchor and every region is sampled, so that nothing is left to chance.
ALL_SAMPLED = (
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE=100000",
    "MODEL.RPN.NMS_THRESH=1.0",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN=100000",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN=100000",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE=100000",
)
SIDES = (128, 160)  # of the images of two processes
SHORT = ("TEST.EVAL_PERIOD=2", "SEED=3", "VIS.NUM_IMAGES=0", "LOG_PERIOD=1")


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The modules whose compiled forward is called, without a compiler."""
    called = []

    def compile(forward: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
        assert settings["dynamic"]

        def marked(*inputs: Any) -> Any:
            called.append(type(forward.__self__).__name__)  # type: ignore[attr-defined]
            return forward(*inputs)

        return marked

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr("mrcnn_zoo.inference.optimization.get_cpp_compiler", lambda: "g++")
    return called


@pytest.mark.parametrize(
    ("config", "head", "names"),
    [(DIGITS, "proposal_generator.rpn_head", ["FPN"]), (RETINANET, "head", ["FPN", "RetinaNetHead"])],
)
def test_dense_stages_are_compiled_where_they_have_gradients_and_names_stay(
    compiled: list[str], config: str, head: str, names: list[str]
) -> None:
    model: Any = build_model(load_config(config, TINY_RESNET_18))
    keys = list(model.state_dict())
    build_compiled_stages(COMPILED, model)
    assert list(model.state_dict()) == keys
    pixels = torch.rand(1, 3, 64, 64)
    model.eval().backbone(pixels)
    with torch.no_grad():
        model.train().backbone(pixels)
    assert compiled == []
    features = model.backbone(pixels)
    model.get_submodule(head)(list(features.values()))
    assert compiled == names  # on the CPU the head of an RPN is trained on patches


def test_a_training_without_the_key_or_a_compiler_has_the_plain_layers(
    compiled: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> str:
        raise RuntimeError

    model: Any = build_model(load_config(DIGITS, TINY_LAYERS)).train()
    build_compiled_stages(load_config(), model)
    monkeypatch.setattr("mrcnn_zoo.inference.optimization.get_cpp_compiler", fail)
    build_compiled_stages(COMPILED, model)
    model.backbone(torch.rand(1, 3, 64, 64))
    assert compiled == []
    assert caplog.text.count("needs a C++ compiler, e.g. g++, and there is none (RuntimeError): using none") == 1


@pytest.mark.slow
def test_steps_of_three_image_sizes_equal_the_plain_ones_with_one_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    counts = torch._dynamo.utils.counters["stats"]
    counts.clear()
    cfg = load_config(DIGITS, [*TINY_LAYERS, *ONE_MAP, *ALL_SAMPLED])
    torch.manual_seed(0)
    plain, compiled = build_model(cfg).train(), build_model(cfg).train()
    compiled.load_state_dict(plain.state_dict())
    build_compiled_stages(COMPILED, compiled)
    for size in ((192, 224), (224, 192), (256, 208)):
        samples = [scene(number, size) for number in range(2)]
        (losses, gradients), (found_losses, found) = step(plain, samples), step(compiled, samples)
        assert found_losses == pytest.approx(losses, rel=1e-4)
        assert found.keys() == gradients.keys()
        differences = [relative_error(found[name], gradients[name]) for name in gradients]
        # A value near 0 on the other side of a ReLU changes a gradient by about a hundredth, on few of the maps.
        assert max(differences) < 0.03
        assert min(differences) < 1e-4
    assert counts["unique_graphs"] == 1  # on this side of two limits: sums of 4,096 values, maps of 20,480


def step(model: Any, samples: list[Sample]) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Losses and gradients by name."""
    model.zero_grad()
    output = model.losses(samples)
    output.total().backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return {name: loss.item() for name, loss in output.losses.items()}, gradients


def scene(number: int, size: tuple[int, int]) -> Sample:
    """Noise with two rectangles."""
    generator = torch.Generator().manual_seed(number)
    boxes = torch.tensor([[20.0, 30, 60, 80], [70, 20, 110, 90]]) + 10 * number
    targets = Targets(size, boxes, torch.tensor([1, 2]), masks=filled_boxes(boxes, size))
    image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    return Sample(image, number, size, targets=targets)


@pytest.mark.slow
def test_runs_begun_with_either_choice_go_on_with_the_other(
    tiny_config: TinyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = without_code(monkeypatch)
    rows, states = {}, {}
    for ways in (("none", "none"), ("none", "compiled"), ("compiled", "none")):
        output = tmp_path / "-".join(ways)
        for way, length in zip(ways, (2, 4), strict=True):
            graphs.clear()
            torch._dynamo.reset()  # else graphs of the run before are used again
            settings = (*SHORT, f"SOLVER.MAX_ITER={length}", f"MODEL.OPTIMIZE={way}", f"OUTPUT_DIR={output}")
            run(tiny_config(*settings), resume=length > 2)
            assert (graphs["unique_graphs"] > 0) == (way == "compiled")
        lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
        rows[ways] = [{name: value for name, value in line.items() if "loss" in name} for line in lines]
        states[ways] = load_checkpoint(output / "model_final.pth")["model"]
    plain = ("none", "none")
    for ways in rows.keys() - {plain}:
        assert states[ways].keys() == states[plain].keys()
        for found, expected in zip(rows[ways], rows[plain], strict=True):
            assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["FrozenBN", "SyncBN"])
def test_two_processes_give_the_gradients_of_a_plain_one(norm: str, tmp_path: Path) -> None:
    first, second = run_in_processes(train_a_share, norm, folder=tmp_path)
    expected = gradients([scene(number, SIDES) for number in range(4)], f"MODEL.RESNETS.NORM={norm}")
    assert expected.keys() == first.keys() == second.keys()
    for name, value in expected.items():
        assert torch.equal(first[name], second[name])
        assert (first[name] - value).norm() <= 1e-3 * value.norm() + 1e-6, name


def train_a_share(rank: int, norm: str) -> dict[str, Tensor]:
    """The gradients of a compiled step of half the scenes."""
    graphs = without_code(pytest.MonkeyPatch())
    found = gradients(
        [scene(2 * rank + number, SIDES) for number in range(2)], f"MODEL.RESNETS.NORM={norm}", is_compiled=True
    )
    assert graphs["unique_graphs"] > 0
    return found


def gradients(samples: list[Sample], setting: str, *, is_compiled: bool = False) -> dict[str, Tensor]:
    """Of one step, averaged over the processes."""
    cfg = load_config(DIGITS, [*TINY_LAYERS, *ONE_MAP, *ALL_SAMPLED, "SOLVER.OPTIMIZER=SGD", setting])
    torch.manual_seed(0)
    model = build_model(cfg).train()
    if is_compiled:
        build_compiled_stages(COMPILED, model)
    updater = Updater(build_optimizer(cfg, model), precision=build_precision(cfg, torch.device("cpu")))
    updater.compute_gradients(with_averaged_gradients(model), [samples])
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def without_code(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Graphs are traced, but run operator by operator; returns torch's counts of them."""
    compile = torch.compile

    def compile_eagerly(forward: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
        return compile(forward, backend="aot_eager", dynamic=settings["dynamic"])

    monkeypatch.setattr(torch, "compile", compile_eagerly)
    return torch._dynamo.utils.counters["stats"]
