"""Compares exported programs with their model on real images, and prints the largest differences and the times.

python dev/check_export.py --images 50 --min-size 480
python dev/check_export.py --images 10 --threads 2
python dev/check_export.py --weights output/model_final.pth --folder my_images

Without --weights the model is a Mask R-CNN R50-FPN with random weights that detect many instances (as the benchmark's).
The model runs at the padded size of the program, and once more with its own padding, whose effect is a row of its own,
as is that of MODEL.OPTIMIZE fused. All predict each image in turns; the ratio is that of processor times. Images
on which a program is outside the tolerances are listed, with its differences and detections without a counterpart.
"""

import argparse
import copy
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate
from torch import nn

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "tests")]

from mrcnn_zoo.benchmark.inputs import calibrate_random_weights  # noqa: E402
from mrcnn_zoo.choices import PROGRAM_FORMATS  # noqa: E402
from mrcnn_zoo.cli.export import default_size  # noqa: E402
from mrcnn_zoo.config import load_config  # noqa: E402
from mrcnn_zoo.data.transforms.resize import ResizeTransform  # noqa: E402
from mrcnn_zoo.export.programs import read_program  # noqa: E402
from mrcnn_zoo.export.writing import padded_size, write_program  # noqa: E402
from mrcnn_zoo.inference.exported import ExportedDetector, fitting_size  # noqa: E402
from mrcnn_zoo.inference.fused_layers import fuse_layers  # noqa: E402
from mrcnn_zoo.inference.image_inputs import image_files  # noqa: E402
from mrcnn_zoo.inference.trained import load_trained  # noqa: E402
from mrcnn_zoo.modeling import build_model  # noqa: E402
from mrcnn_zoo.modeling.detectors.input_output import Collation  # noqa: E402
from mrcnn_zoo.structures import Batch, Detections, ImageSize, Sample  # noqa: E402
from support.exported import Differences, differences  # noqa: E402

CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x"
IMAGES = REPOSITORY.parent / "shared" / "data" / "coco_mini" / "val2017"
OWN, SAME, FUSED = "model, own padding", "model, padded as the program", "the same, fused"


class PaddedCollation(nn.Module):
    """A collation whose batches have one size.

    Args:
        collate: of a detector.
        size: (height, width) of the batches.
    """

    def __init__(self, collate: Collation, size: ImageSize) -> None:
        super().__init__()
        self.collate = collate
        self.size = size

    def forward(self, samples: list[Sample]) -> Batch:
        """The batch, padded at the right and bottom."""
        batch = self.collate(samples)
        height, width = batch.pixels.shape[2:]
        padding = (0, self.size[1] - width, 0, self.size[0] - height)
        return replace(batch, pixels=nn.functional.pad(batch.pixels, padding))


def read_samples(folder: Path, count: int, size: ImageSize, *, min_size: int, max_size: int) -> list[Sample]:
    """The first images of a folder, resized as for the program and with results in pixels of that size."""
    from PIL import Image

    samples = []
    for number, path in enumerate(image_files([folder])[:count]):
        pixels = np.asarray(Image.open(path).convert("RGB"))[..., ::-1].copy()  # BGR
        image = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
        before = (int(image.shape[1]), int(image.shape[2]))
        after = fitting_size(before, size, min_size=min_size, max_size=max_size)
        resized = ResizeTransform(before, after).apply_image(image)
        samples.append(Sample(resized, number, after, file_name=path.name))
    return samples


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--folder", type=Path, default=IMAGES)
    parser.add_argument("--weights", default="")
    parser.add_argument("--min-size", type=int, help="INPUT.MIN_SIZE_TEST (default: that of the config)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--formats", nargs="+", default=list(PROGRAM_FORMATS), choices=PROGRAM_FORMATS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    overrides = ["MODEL.DEVICE", "cpu"]
    if arguments.min_size:
        overrides += ["INPUT.MIN_SIZE_TEST", arguments.min_size, "INPUT.MAX_SIZE_TEST", arguments.min_size * 5 // 3]
    if arguments.weights:
        model, cfg, _ = load_trained(arguments.weights, overrides=overrides)
    else:
        cfg = load_config(CONFIG, [*overrides, "MODEL.WEIGHTS", ""])
        torch.manual_seed(0)
        model = build_model(cfg).eval()
    size = padded_size(default_size(cfg), model)
    settings = {"min_size": cfg.INPUT.MIN_SIZE_TEST, "max_size": cfg.INPUT.MAX_SIZE_TEST}
    samples = read_samples(arguments.folder, arguments.images, size, **settings)
    if not arguments.weights:
        calibrate_random_weights(model, samples[:1])
    with tempfile.TemporaryDirectory() as folder:
        programs = {}
        for to in arguments.formats:
            path = write_program(model, Path(folder) / f"x.{to}", to=to, size=size, meta={"config": cfg.dump()})
            programs[to] = ExportedDetector(read_program(path), min_size=0, max_size=max(size))
        _compare(model, programs, samples, size)


@dataclass
class Row:
    """What is measured of one detector."""

    detector: nn.Module
    differences: list[Differences] = field(default_factory=list)  # one per image
    seconds: list[float] = field(default_factory=list)
    processor_seconds: list[float] = field(default_factory=list)

    def predict(self, sample: Sample) -> Detections:
        """The detections, timed."""
        start, processor_start = time.perf_counter(), time.process_time()
        (found,) = self.detector.predict([sample])  # type: ignore[operator]
        self.seconds.append(time.perf_counter() - start)
        self.processor_seconds.append(time.process_time() - processor_start)
        return found


def _compare(model: nn.Module, programs: dict[str, ExportedDetector], samples: list[Sample], size: ImageSize) -> None:
    padded, fused = copy.copy(model), copy.deepcopy(model)
    with torch.no_grad():
        fuse_layers(fused, torch.float32)
    padded._modules = {**model._modules, "collate": PaddedCollation(model.collate, size)}
    fused.collate = padded.collate
    rows = {name: Row(detector) for name, detector in {OWN: model, SAME: padded, FUSED: fused, **programs}.items()}
    num_found = 0
    for row in rows.values():  # kernels are chosen in the first call
        row.detector.predict(samples[:1])  # type: ignore[operator]
    for number, sample in enumerate(samples):
        order = list(rows) if number % 2 == 0 else list(reversed(rows))
        results = {name: rows[name].predict(sample) for name in order}
        num_found += len(results[SAME])
        for name, row in rows.items():
            row.differences.append(differences(results[name], results[SAME]))
            if name in programs and not row.differences[-1].are_small:
                _print_disagreement(f"{sample.file_name}, {name}", results[name], results[SAME])
    threads = torch.get_num_threads()
    print(f"{len(samples)} images of up to {size[0]} x {size[1]}, {num_found} detections, {threads} threads")
    headers = ["", *Differences._fields[:3], "unmatched", "images within", "s per image", "of the processor", "ratio"]
    table = [_cells(name, row, rows[SAME]) for name, row in rows.items()]
    print(
        tabulate(table, headers, tablefmt="github", floatfmt=("", ".2g", ".2g", ".2g", "g", "g", ".3f", ".3f", ".2f"))
    )


def _cells(name: str, row: Row, base: Row) -> list[str | float]:
    largest = [max(values) for values in zip(*row.differences, strict=True)][:3]
    unmatched = sum(item.unmatched for item in row.differences)
    within = sum(item.are_small for item in row.differences)
    ratio = float(np.median(np.divide(base.processor_seconds, row.processor_seconds)))
    times = [float(np.median(values)) for values in (row.seconds, row.processor_seconds)]
    return [name, *largest, unmatched, within, *times, ratio]


def _print_disagreement(title: str, found: Detections, expected: Detections) -> None:
    """Detections that only one of two has, with the nearest of the other."""
    print(title, differences(found, expected))
    for name, one, other in (("only in the program", found, expected), ("only in the model", expected, found)):
        distances = (one.boxes[:, None] - other.boxes).abs().amax(dim=2)
        distances = distances.masked_fill(one.classes[:, None] != other.classes, torch.inf)
        for row in (distances > 0.1).all(dim=1).nonzero().flatten().tolist():
            box = [round(value, 3) for value in one.boxes[row].tolist()]
            text = (
                f"row {row} of {len(one)}, class {int(one.classes[row])}, score {float(one.scores[row]):.7f}, box {box}"
            )
            print(f"  {name}: {text}; nearest {float(distances[row].min()):.3g} pixels")


if __name__ == "__main__":
    main()
