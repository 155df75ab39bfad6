"""Dense stages of a detector: exported for all image sizes, compiled by inductor into files, and run from these."""

import hashlib
import logging
import os
import re
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mrcnn_zoo.model_zoo.download import cache_folder

DENSE_STAGES = (BACKBONE, RPN_HEAD, HEAD) = ("backbone", "proposal_generator.rpn_head", "head")  # some of a detector's
# Images, and height and width in units of about 32 pixels, so that sides differ and no map has one cell.
EXAMPLE, UNIT = (2, 7, 9), 32
# The weights are constants in the order of oneDNN; loops take as many threads as torch has when they run.
OPTIONS = {"freezing": True, "cpp.dynamic_threads": True}


def key_of(stages: Mapping[str, nn.Module], *others: Any) -> str:
    """A name of the compiled stages: a hash of layers, weights, torch, the processor and what else they depend on.

    Args:
        stages: by name.
        others: texts, numbers and tensors.
    """
    digest = hashlib.sha256()
    capabilities = sorted(getattr(torch.cpu, "get_capabilities", dict)().items())
    _add(digest, (torch.__version__, OPTIONS, torch.backends.cpu.get_cpu_capability(), capabilities))
    for name, stage in stages.items():
        _add(digest, [name, *_description(stage)])
        for key, tensor in stage.state_dict().items():
            _add(digest, key)
            _add(digest, tensor)
    for other in others:
        _add(digest, other)
    return digest.hexdigest()[:32]


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(repr((value.dtype, tuple(value.shape))).encode())
        digest.update(np.ascontiguousarray(value.detach().cpu().numpy()))
    else:
        digest.update(repr(value).encode())


def _description(stage: nn.Module) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """Class and settings of each module of a stage, without addresses in memory."""
    for name, module in stage.named_modules():
        settings = [(key, _text_of(value)) for key, value in vars(module).items() if not key.startswith("_")]
        yield name, type(module).__qualname__, sorted(settings)


def _text_of(value: Any) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def stages_of(model: nn.Module) -> dict[str, nn.Module]:
    """The dense stages of a detector by name.

    Args:
        model: the detector.
    """
    stages = {}
    for name in DENSE_STAGES:
        with suppress(AttributeError):
            stages[name] = model.get_submodule(name)
    return stages


def run_stages(model: Any, pixels: Tensor) -> None:
    """Compute the dense stages, without the selection of boxes.

    Args:
        model: a detector.
        pixels: (N, C, H, W) of `collate`.
    """
    features, stages = model.backbone(pixels), stages_of(model)
    if RPN_HEAD in stages:
        model.proposal_generator(features)
    elif HEAD in stages:
        model.predict_all(features)


def example_inputs(model: Any, stages: Mapping[str, nn.Module]) -> dict[str, Any]:
    """The inputs of the stages for a batch of noise.

    Args:
        model: a detector with `collate`.
        stages: of it, by name.
    """
    unit = model.collate.size_divisibility
    unit *= -(-UNIT // unit)
    images, rows, columns = EXAMPLE
    seen: dict[str, Any] = {}
    hooks = [
        stage.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: in_order(*inputs)}))
        for name, stage in stages.items()
    ]
    run_stages(model, torch.randn(images, len(model.collate.pixel_mean), rows * unit, columns * unit))
    for hook in hooks:
        hook.remove()
    return seen


def in_order(inputs: Any) -> Any:
    """The same in the order in memory that stages are compiled for, channels-last.

    Args:
        inputs: maps (N, C, H, W), one or a list.
    """
    if isinstance(inputs, Tensor):
        return inputs.contiguous(memory_format=torch.channels_last)
    return [in_order(level) for level in inputs]


def export_stage(stage: nn.Module, example: Any, divisibility: int) -> Any:
    """The `torch.export.ExportedProgram` of a stage for any number of images and any sizes.

    Args:
        stage: takes pixels or a list of maps.
        example: its input.
        divisibility: height and width of pixels are multiples of this.
    """
    batch = torch.export.Dim("images", min=1)

    def sizes(unit: int) -> dict[int, Any]:
        if unit == 1:  # the least size is that of a coarsest map of two cells
            return {0: batch, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
        height, width = (torch.export.Dim(side, min=1) for side in ("height", "width"))
        return {0: batch, 2: unit * height, 3: unit * width}

    shapes = sizes(divisibility) if isinstance(example, Tensor) else [sizes(1) for _ in example]
    return torch.export.export(stage, (example,), dynamic_shapes=(shapes,))


@contextmanager
def quiet_torch() -> Iterator[None]:
    """Without warnings of torch and torchao about their own code."""
    torch_logger = logging.getLogger("torch")
    level = torch_logger.level
    torch_logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch_logger.setLevel(level)


def keep_generated_code() -> None:
    """Let inductor write its code into the cache folder, where the next process finds it; a set variable decides."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))


def write_package(program: Any, package: Path, check: Callable[[str], None]) -> None:
    """Compile a program into a file; it takes a minute or more.

    Args:
        program: of `export_stage`.
        package: file to write, `.pt2`, in a folder that exists.
        check: called with the generated C++ code before the file is written.
    """
    keep_generated_code()
    with tempfile.TemporaryDirectory(dir=package.parent) as folder:
        path = Path(folder) / package.name
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=dict(OPTIONS))
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".cpp")]
            check("\n".join(archive.read(name).decode() for name in names))
        path.replace(package)


class StageRunner:
    """A compiled stage in place of the `forward` of a module; threads take turns in it.

    Args:
        package: file of `write_package`.
    """

    def __init__(self, package: Path) -> None:
        with quiet_torch():
            self._run = torch._inductor.aoti_load_package(str(package))

    def __call__(self, inputs: Any) -> Any:
        """What the module returned, in float32, for one tensor or list of maps (N, C, H, W)."""
        with torch.no_grad():
            return self._run(in_order(inputs))
