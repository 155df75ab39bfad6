"""Time and memory of loading annotations: generated datasets of several sizes, the first time and from the cache.

python dev/benchmark_annotations.py --formats coco yolo labels --images 10000 30000 100000

COCO files have 7.3 objects per image as COCO, each a polygon of 20 points; YOLO the same polygons as fractions in a
text file per image; label images are PNGs of 64 x 64 pixels with four objects. Each measurement is a process of its own
and begins after the imports: detection of the format, reading, checks, records. pycocotools' is `COCO(file)`. "Peak" is
the resident memory above that before loading, "kept" what is left afterwards. Printed are a line per measurement and a
table in Markdown; the generated folders, 1.3 GB for 100,000 images of YOLO, are removed.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

OBJECTS_PER_IMAGE, POINTS = 7.3, 20
WIDTH, HEIGHT = 640, 480
NUM_CLASSES = 80
LABELS_SIDE = 64
FIRST, SECOND, REFERENCE, DETECTION = "first", "second", "pycocotools", "detection"


def main() -> None:
    """Generate, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="+", default=list(GENERATORS), choices=list(GENERATORS))
    parser.add_argument("--images", nargs="+", type=int, default=[10_000, 30_000, 100_000])
    parser.add_argument("--folder", type=Path, default=Path("/tmp/annotations_benchmark"), help="for generated files")
    parser.add_argument("--repeats", type=int, default=1, help="of each measurement; the fastest counts")
    parser.add_argument("--path", type=Path, help="an existing dataset to measure instead")
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "PATH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure)))
        return
    rows = []
    if arguments.path:
        rows += list(_measured(str(arguments.path), arguments.path, arguments.folder, arguments.repeats))
    else:
        for name in arguments.formats:
            for count in arguments.images:
                root = arguments.folder / f"{name}_{count}"
                shutil.rmtree(root, ignore_errors=True)
                GENERATORS[name](root, count)
                rows += list(_measured(name, root, arguments.folder, arguments.repeats))
                shutil.rmtree(root)
    print(_table(rows))


def _measured(name: str, root: Path, folder: Path, repeats: int) -> Iterator[dict[str, Any]]:
    """Each kind of measurement in turns; the second time has the cache that the first one wrote."""
    best: dict[str, dict[str, Any]] = {}
    for _ in range(repeats):
        cache = folder / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        for what in (REFERENCE, FIRST, SECOND, DETECTION):
            path = root / "annotations.json" if what == REFERENCE else root
            if not path.exists():
                continue
            command = [sys.executable, __file__, "--measure", what, str(path)]
            environment = os.environ | {"MRCNN_ZOO_CACHE": str(cache)}
            output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
            row = {"format": name, "what": what, **json.loads(output.splitlines()[-1])}
            row["cache_bytes"] = sum(file.stat().st_size for file in cache.glob("*")) if what == FIRST else 0
            print(json.dumps(row), flush=True)
            best[what] = min(best.get(what, row), row, key=lambda item: item["cpu_seconds"])
        shutil.rmtree(cache, ignore_errors=True)
    yield from best.values()


def measure(what: str, path: str) -> dict[str, Any]:
    """Load once in this process.

    Args:
        what: one of the kinds.
        path: of the dataset; of the JSON for pycocotools.

    Returns:
        Seconds of wall and processor time, bytes, and numbers of images and objects.
    """
    load = {REFERENCE: _load_by_pycocotools, DETECTION: _detect}.get(what, _load)
    run = load(path)
    before, start, start_cpu = _memory("VmRSS"), time.perf_counter(), time.process_time()
    num_images, num_objects, kept = run()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    memory = {"peak_bytes": _memory("VmHWM") - before, "kept_bytes": _memory("VmRSS") - before}
    del kept
    return {"images": num_images, "objects": num_objects, "seconds": seconds, "cpu_seconds": cpu_seconds, **memory}


Run = Callable[[], tuple[int, int, Any]]  # numbers of images and objects, and what must stay in memory


def _load(path: str) -> Run:
    from mrcnn_zoo.data.annotations.contract import ReadOptions
    from mrcnn_zoo.data.annotations.detection import find_format
    from mrcnn_zoo.registries import ANNOTATION_FORMATS

    ANNOTATION_FORMATS.names()  # imports them

    def run() -> tuple[int, int, Any]:
        kind, found = find_format(Path(path), dataset="data")
        dataset = kind.read(found, ReadOptions("data"))
        return len(dataset), sum(len(record.instances) for record in dataset.records), dataset

    return run


def _detect(path: str) -> Run:
    from mrcnn_zoo.data.annotations.contract import AnnotationFormat
    from mrcnn_zoo.data.annotations.listing import FileListing
    from mrcnn_zoo.registries import ANNOTATION_FORMATS

    formats: list[AnnotationFormat] = [ANNOTATION_FORMATS.get(name)() for name in ANNOTATION_FORMATS.names()]

    def run() -> tuple[int, int, Any]:
        start = time.process_time()
        listing = FileListing(Path(path))
        count = len(listing.files)
        seconds = {"listing": time.process_time() - start}
        for kind in formats:
            start = time.process_time()
            kind.find(listing)
            seconds[kind.name] = time.process_time() - start
        print({name: round(value, 2) for name, value in seconds.items()}, file=sys.stderr)
        return count, 0, listing

    return run


def _load_by_pycocotools(path: str) -> Run:
    from pycocotools.coco import COCO

    def run() -> tuple[int, int, Any]:
        coco = COCO(path)
        return len(coco.imgs), len(coco.anns), coco

    return run


def _memory(field: str) -> int:
    """Bytes of a field of /proc/self/status: VmRSS is the memory now, VmHWM the largest so far."""
    if not os.path.exists("/proc/self/status"):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _polygons(generator: np.random.Generator) -> NDArray[np.float64]:
    """(N, POINTS, 2) of an image, in pixels with two decimals, as COCO's."""
    count = generator.poisson(OBJECTS_PER_IMAGE)
    angles = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    centers = generator.uniform((100, 100), (WIDTH - 100, HEIGHT - 100), (count, 1, 2))
    return np.round(centers + generator.uniform(10, 90, (count, POINTS, 1)) * circle, 2)


def _write_images(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Equal PNG files of (width, height) without content."""
    folder.mkdir(parents=True)
    Image.new("L", size).save(folder / f"{0:06d}.png")
    content = (folder / f"{0:06d}.png").read_bytes()
    for number in range(1, count):
        (folder / f"{number:06d}.png").write_bytes(content)


def generate_coco(root: Path, count: int) -> None:
    """`annotations.json` and `images/`.

    Args:
        root: of the dataset.
        count: of the images.
    """
    _write_images(root / "images", count, (WIDTH, HEIGHT))
    generator = np.random.default_rng(0)
    images = [{"id": i + 1, "file_name": f"{i:06d}.png", "height": HEIGHT, "width": WIDTH} for i in range(count)]
    annotations = []
    for number in range(count):
        for polygon in _polygons(generator):
            low, high = polygon.min(axis=0), polygon.max(axis=0)
            annotations.append(
                {
                    "segmentation": [polygon.ravel().tolist()],
                    "area": round(float((high - low).prod()) * 0.6, 2),
                    "iscrowd": 0,
                    "image_id": number + 1,
                    "bbox": [*low.tolist(), *(high - low).round(2).tolist()],
                    "category_id": int(generator.integers(1, NUM_CLASSES + 1)),
                    "id": len(annotations) + 1,
                }
            )
    categories = [{"id": number, "name": f"class {number}"} for number in range(1, NUM_CLASSES + 1)]
    with (root / "annotations.json").open("w") as file:
        json.dump({"images": images, "annotations": annotations, "categories": categories}, file)


def generate_yolo(root: Path, count: int) -> None:
    """`data.yaml`, `images/train/` and `labels/train/`.

    Args:
        root: of the dataset.
        count: of the images.
    """
    _write_images(root / "images" / "train", count, (WIDTH, HEIGHT))
    (root / "labels" / "train").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(count):
        lines = []
        for polygon in _polygons(generator):
            values = (polygon / (WIDTH, HEIGHT)).ravel().tolist()
            lines.append(f"{generator.integers(NUM_CLASSES)} {' '.join(f'{value:.6f}' for value in values)}\n")
        (root / "labels" / "train" / f"{number:06d}.txt").write_text("".join(lines))
    names = "".join(f"  {number}: class {number}\n" for number in range(NUM_CLASSES))
    (root / "data.yaml").write_text(f"train: images/train\nval: images/train\nnames:\n{names}")


def generate_labels(root: Path, count: int) -> None:
    """`images/` and `masks/`, of 16 bits.

    Args:
        root: of the dataset.
        count: of the images.
    """
    _write_images(root / "images", count, (LABELS_SIDE, LABELS_SIDE))
    (root / "masks").mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        labels = np.zeros((LABELS_SIDE, LABELS_SIDE), dtype=np.uint16)
        for label, (x, y) in enumerate(generator.integers(0, LABELS_SIDE - 16, (4, 2)).tolist(), start=1):
            labels[y : y + 16, x : x + 12] = label
        Image.fromarray(labels).save(root / "masks" / f"{number:06d}.png", compress_level=1)


GENERATORS: dict[str, Callable[[Path, int], None]] = {
    "coco": generate_coco,
    "yolo": generate_yolo,
    "labels": generate_labels,
}


def _table(rows: list[dict[str, Any]]) -> str:
    lines = ["| dataset | images | what | s | CPU s | CPU us per image | peak | kept, bytes per image | cache |"]
    lines.append("|---" * 9 + "|")
    for row in rows:
        count = row["images"]
        cells = [row["format"], f"{count:,}", row["what"], f"{row['seconds']:.1f}", f"{row['cpu_seconds']:.1f}"]
        cells += [f"{row['cpu_seconds'] / count * 1e6:.0f}", f"{row['peak_bytes'] / count:,.0f}"]
        cells += [f"{row['kept_bytes'] / count:,.0f}", f"{row['cache_bytes'] / count:,.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
