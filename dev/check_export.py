"""Compares exported programs with their model on real images, and prints the largest differences and the times.

python dev/check_export.py --images 50
python dev/check_export.py --weights output/model_final.pth --folder my_images

Without --weights the model is a Mask R-CNN R50-FPN with random weights that detect many instances (as the benchmark's).
The model runs at the padded size of the program, and once more with its own padding, whose effect is a row of its own.
"""

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate
from torch import nn

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "tests")]

from mrcnn_zoo.benchmark.inputs import calibrate_random_weights  # noqa: E402
from mrcnn_zoo.cli.export import default_size  # noqa: E402
from mrcnn_zoo.config import load_config  # noqa: E402
from mrcnn_zoo.data.transforms.resize import ResizeTransform  # noqa: E402
from mrcnn_zoo.export.programs import FORMATS, read_program  # noqa: E402
from mrcnn_zoo.export.writing import padded_size, write_program  # noqa: E402
from mrcnn_zoo.inference.exported import ExportedDetector, fitting_size  # noqa: E402
from mrcnn_zoo.inference.image_inputs import image_files  # noqa: E402
from mrcnn_zoo.inference.trained import load_trained  # noqa: E402
from mrcnn_zoo.modeling import build_model  # noqa: E402
from mrcnn_zoo.modeling.detectors.input_output import Collation  # noqa: E402
from mrcnn_zoo.structures import Batch, Detections, ImageSize, Sample  # noqa: E402
from support.exported import Differences, differences  # noqa: E402

CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x"
IMAGES = REPOSITORY.parent / "shared" / "data" / "coco_mini" / "val2017"
OWN, SAME = "model, own padding", "model, padded as the program"


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
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=FORMATS)
    arguments = parser.parse_args()
    if arguments.weights:
        model, cfg, _ = load_trained(arguments.weights, overrides=["MODEL.DEVICE", "cpu"])
    else:
        cfg = load_config(CONFIG, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])
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


def _compare(model: nn.Module, programs: dict[str, ExportedDetector], samples: list[Sample], size: ImageSize) -> None:
    seconds, found_differences = defaultdict(list), defaultdict(list)
    own, padded = model.collate, PaddedCollation(model.collate, size)
    num_found = 0
    for sample in samples:
        results: dict[str, Detections] = {}
        for name in (OWN, SAME, *programs):
            model.collate = own if name == OWN else padded
            start = time.perf_counter()
            (results[name],) = programs[name].predict([sample]) if name in programs else model.predict([sample])
            seconds[name].append(time.perf_counter() - start)
        model.collate = own
        num_found += len(results[SAME])
        for name in (OWN, *programs):
            found_differences[name].append(differences(results[name], results[SAME]))
    base = float(np.median(seconds[SAME]))
    rows = []
    for name in (OWN, SAME, *programs):
        largest = [max(values) for values in zip(*found_differences[name], strict=True)] if name != SAME else [0] * 4
        unmatched = sum(item.unmatched for item in found_differences[name])
        median = float(np.median(seconds[name]))
        rows.append([name, *largest[:3], unmatched, median, base / median])
    threads = torch.get_num_threads()
    print(f"{len(samples)} images of up to {size[0]} x {size[1]}, {num_found} detections, {threads} threads")
    headers = [*Differences._fields[:3], "unmatched", "s per image", "times the model"]
    print(tabulate(rows, ["", *headers], tablefmt="github", floatfmt=(".2g", ".2g", ".2g", ".2g", "g", ".3f", ".2f")))


if __name__ == "__main__":
    main()
