"""Steps of check_formats.sh: write our datasets, read them with another tool and write its own, compare.

python dev/check_formats.py write|labelme|datumaro|compare FOLDER

`labelme` and `datumaro` run in the environment of the tool, which lacks this package. Objects are exchanged as JSON:
image, label, group, and polygons, a bitmap or a box.
"""

import importlib.metadata
import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

DATUMARO_READS = {
    "coco": "coco_instances",
    "voc": "voc_instance_segmentation",
    "cvat": "cvat",
    "yolo": "yolo",
}  # our format -> datumaro's
DATUMARO_WRITES = ("coco_instances", "voc_instance_segmentation", "cvat", "yolo_ultralytics")
READERS = {"yolo_ultralytics": "yolo"}  # datumaro's reader of what it writes
MIN_IOU = 0.98
Objects = list[dict[str, Any]]


def write(folder: Path) -> None:
    """Our datasets: of the scene of the round trips, without overlapping objects.

    Args:
        folder: gets `ours/<format>`.
    """
    from dataclasses import replace

    from PIL import Image

    from support.round_trips import HEIGHT, WIDTH, mask_dataset, without_sides, write_as, write_images

    images = write_images(folder / "images")
    for path in folder.rglob("*16 bit.png"):  # which labelme cannot open
        Image.new("RGB", (WIDTH, HEIGHT), (16, 8, 8)).save(path)
    scene = without_sides(mask_dataset(images))
    apart = [
        replace(record, split="val" if record.image_id == 5 else "train")
        for record in scene.records
        if record.image_id not in (3, 7)
    ]
    scene = replace(scene, records=tuple(apart))
    for name in ("labelme", *DATUMARO_READS):
        dataset = scene
        if name == "cvat":  # datumaro reads no subsets
            dataset = without_sides(scene)
        elif name == "yolo":  # datumaro reads no polygons
            boxes = [
                replace(record, instances=tuple(replace(item, segmentation=None) for item in record.instances))
                for record in scene.records
            ]
            dataset = replace(scene, records=tuple(boxes))
        write_as(name, dataset, folder / "ours" / name)


def labelme(folder: Path) -> None:
    """What labelme reads of our files, and files that it writes.

    Args:
        folder: of `write`; gets `read/labelme.json`, `theirs/labelme` and `wrote/labelme.json`.
    """
    from labelme import LabelFile, utils

    target = folder / "theirs" / "labelme"
    target.mkdir(parents=True)
    read: Objects = []
    wrote: Objects = []
    for path in sorted((folder / "ours" / "labelme").rglob("[!.]*.json")):
        file = LabelFile(str(path))
        found = [_labelme_object(path.stem, number, shape) for number, shape in enumerate(file.shapes)]
        read += found
        content = json.loads(path.read_text(encoding="utf-8"))
        shapes = [{key: value for key, value in shape.items() if key != "other_data"} for shape in file.shapes]
        for shape in shapes:
            shape["mask"] = None if shape["mask"] is None else utils.img_arr_to_b64(shape["mask"].astype("uint8"))
        box = {"label": "rectangle", "points": [[3.5, 4.0], [20.25, 30.0]], "shape_type": "rectangle", "mask": None}
        shapes.append({**box, "group_id": None, "flags": {}, "description": ""})
        shutil.copy(path.parent / content["imagePath"], target)
        size = content["imageHeight"], content["imageWidth"]
        LabelFile().save(
            filename=str(target / path.name),
            shapes=shapes,
            image_path=content["imagePath"],
            image_height=size[0],
            image_width=size[1],
        )
        extra = {"image": path.stem, "label": "rectangle", "group": "box", "box": [3.5, 4.0, 20.25, 30.0]}
        wrote += [*found, extra]
    _save(folder / "read" / "labelme.json", read, "labelme")
    _save(folder / "wrote" / "labelme.json", wrote, "labelme")


def _labelme_object(image: str, number: int, shape: Any) -> dict[str, Any]:
    group = shape["group_id"]
    item = {"image": image, "label": shape["label"], "group": f"shape {number}" if group is None else f"group {group}"}
    if shape["mask"] is None:
        return {**item, "polygons": [[value for point in shape["points"] for value in point]]}
    return {**item, "mask": shape["mask"].astype(int).tolist(), "corner": [int(value) for value in shape["points"][0]]}


def datumaro(folder: Path) -> None:
    """What datumaro reads of our files, and files that it writes.

    Args:
        folder: of `write`; gets `read/<format>.json`, `theirs/<format>` and `wrote/<format>.json`.
    """
    import datumaro as dm

    for ours, theirs in DATUMARO_READS.items():
        try:
            dataset = dm.Dataset.import_from(str(folder / "ours" / ours), theirs)
            _save(folder / "read" / f"{ours}.json", _datumaro_objects(dataset), "datumaro")
        except Exception as error:  # of many kinds: shown in the table
            _save(folder / "read" / f"{ours}.json", [], f"datumaro: {type(error).__name__} {error}")
    dataset = dm.Dataset.import_from(str(folder / "ours" / "coco"), "coco_instances")
    for name in DATUMARO_WRITES:
        dataset.export(str(folder / "theirs" / name), name, save_media=True)
        # As datumaro itself reads it: it turns masks into polygons through the centres of pixels.
        again = dm.Dataset.import_from(str(folder / "theirs" / name), READERS.get(name, name))
        _save(folder / "wrote" / f"{name}.json", _datumaro_objects(again), "datumaro")


def _datumaro_objects(dataset: Any) -> Objects:
    names = [label.name for label in dataset.categories()[next(iter(dataset.categories()))]]
    found: Objects = []
    for item in dataset:
        for number, annotation in enumerate(item.annotations):
            kind = annotation.type.name
            group = f"group {annotation.group}" if annotation.group else f"object {number}"
            common = {"image": Path(item.id).name, "label": names[annotation.label], "group": group}
            if kind == "polygon":
                found.append({**common, "polygons": [list(map(float, annotation.points))]})
            elif kind == "mask":
                found.append({**common, "mask": annotation.image.astype(int).tolist()})
            elif kind == "bbox" and not any(other.type.name == "mask" for other in item.annotations):
                x, y, width, height = map(float, annotation.get_bbox())
                found.append({**common, "box": [x, y, x + width, y + height]})
    return found


def _save(path: Path, objects: Objects, tool: str) -> None:
    path.parent.mkdir(exist_ok=True)
    version = importlib.metadata.version(tool.partition(":")[0])
    path.write_text(json.dumps({"tool": tool, "version": version, "objects": objects}), encoding="utf-8")


def compare(folder: Path) -> int:
    """Print the table; the number of differences.

    Args:
        folder: of the other steps.
    """
    from tabulate import tabulate

    rows, problems = [], 0
    for kind, place in (("read", "ours"), ("wrote", "theirs")):
        for path in sorted((folder / kind).glob("*.json")):
            content = json.loads(path.read_text(encoding="utf-8"))
            words, is_equal = _compared(content["objects"], folder / place / path.stem)
            direction = f"{content['tool']} reads ours" if kind == "read" else f"we read {content['tool']}'s"
            rows.append([direction, path.stem, content["version"], words])
            problems += not is_equal
    print(tabulate(rows, ["", "format", "version", "result"]))
    return problems


def _compared(theirs: Objects, folder: Path) -> tuple[str, bool]:
    """Equal objects of those that we read in a folder, in words, and whether all are."""
    from mrcnn_zoo.errors import UserError
    from support.round_trips import items_of, read_back

    try:
        _, dataset = read_back(folder)
    except UserError as error:
        return f"refused here: {error}", False
    ours = [
        (Path(record.source.name).stem.removesuffix("_leftImg8bit"), item)
        for record in dataset.records
        for item in items_of(record, dataset.class_names)
    ]
    merged = _merged(theirs)
    equal, lowest = 0, 1.0
    for (image, label, _), shape in merged.items():
        overlaps = [
            (_overlap(item, shape), row)
            for row, (name, item) in enumerate(ours)
            if (name, item.class_name) == (image.removesuffix("_leftImg8bit"), label)
        ]
        best, row = max(overlaps, default=(0.0, -1))
        lowest = min(lowest, best)
        if best > MIN_IOU:
            equal += 1
            ours.pop(row)
    words = f"{equal} of {len(merged)} objects equal, lowest IoU {lowest:.3f}"
    if ours:
        words += f"; {len(ours)} more here: {dict(Counter(item.class_name for _, item in ours))}"
    return words, equal == len(merged) and not ours


def _merged(objects: Objects) -> dict[tuple[str, str, str], Any]:
    """The mask or box of each object by image, label and group."""
    import numpy as np
    from pycocotools import mask as coco_mask

    from support.round_trips import HEIGHT, WIDTH

    found: dict[tuple[str, str, str], Any] = {}
    for item in objects:
        key = (item["image"], item["label"], item["group"])
        if "box" in item:
            found.setdefault(key, item["box"])
            continue
        full = np.zeros((HEIGHT, WIDTH), dtype=bool)
        if "mask" in item:
            x, y = item.get("corner", (0, 0))
            part = np.array(item["mask"], dtype=bool)
            full[y : y + part.shape[0], x : x + part.shape[1]] = part
        else:
            full = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(item["polygons"], HEIGHT, WIDTH))) != 0
        before = found.get(key)
        found[key] = full if not isinstance(before, np.ndarray) else before | full
    return found


def _overlap(item: Any, shape: Any) -> float:
    """IoU of masks, or of boxes where one of the two has no mask."""
    import numpy as np

    if item.mask is not None and isinstance(shape, np.ndarray):
        union = (item.mask | shape).sum()
        return float((item.mask & shape).sum() / union) if union else 0.0
    if isinstance(shape, np.ndarray):
        rows, columns = np.nonzero(shape)
        shape = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    one, other = np.array(item.box, dtype=float), np.array(shape, dtype=float)
    shared = np.clip(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0, None).prod()
    areas = [(box[2:] - box[:2]).prod() for box in (one, other)]
    return float(shared / (sum(areas) - shared))


if __name__ == "__main__":
    step, place = sys.argv[1], Path(sys.argv[2])
    sys.exit({"write": write, "labelme": labelme, "datumaro": datumaro, "compare": compare}[step](place) or 0)
