"""TensorBoard event files in the output folder."""

from collections.abc import Mapping
from pathlib import Path

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registries import METRIC_WRITERS
from mrcnn_zoo.training.writers.contract import MetricWriter, Results, RunPlace, measured


class TensorboardWriter(MetricWriter):
    """Curves and pictures for `tensorboard --logdir <output folder>`.

    Args:
        log_dir: event files are added to this folder.
        start_iteration: TensorBoard hides what earlier event files hold for this iteration and later ones.
    """

    def __init__(self, log_dir: Path, *, start_iteration: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._events = SummaryWriter(str(log_dir), purge_step=start_iteration)

    def write(self, iteration: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._events.add_scalar(name, value, iteration)

    def write_images(self, iteration: int, images: Mapping[str, Path]) -> None:
        import numpy as np
        from PIL import Image

        for name, path in images.items():
            with Image.open(path) as image:
                self._events.add_image(name, np.asarray(image.convert("RGB")), iteration, dataformats="HWC")

    def write_results(self, iteration: int, results: Results) -> None:
        self.write(iteration, measured(results))
        self._events.flush()

    def close(self, *, failed: bool = False) -> None:  # noqa: ARG002
        self._events.close()


@METRIC_WRITERS.register("tensorboard")
def build_tensorboard_writer(cfg: CfgNode, place: RunPlace) -> TensorboardWriter:  # noqa: ARG001
    try:
        return TensorboardWriter(place.output_dir, start_iteration=place.start_iteration)
    except ImportError as error:
        raise UserError(
            "WRITERS names tensorboard, which is not installed. "
            "Install it with `pip install tensorboard`, or take it out of WRITERS."
        ) from error
