#!/usr/bin/env python
"""Writes the tables of model_zoo/MODEL_ZOO.md, and adds weights that ship with the package.

python dev/model_zoo.py write                  MODEL_ZOO.md from index.json
python dev/model_zoo.py check                  whether it is up to date
python dev/model_zoo.py ship NAME FILE         FILE becomes the shipped weights of NAME; then `write`
"""

import argparse
import json
import shutil
import sys
from itertools import groupby
from pathlib import Path

from tabulate import tabulate

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.model_zoo import index
from mrcnn_zoo.model_zoo.index import ZooEntry

LARGEST_SHIPPED = 8_000_000  # bytes; the repository and the wheel carry them
COLUMNS = {
    "bbox/AP": "box AP",
    "bbox/AP50": "box AP50",
    "segm/AP": "mask AP",
    "keypoints/AP": "keypoint AP",
    "box_proposals/AR@1000": "proposal AR",
    "panoptic_seg/PQ": "PQ",
}
SOURCES = {
    "mrcnn_zoo": (
        "Our own",
        "Trained here on two CPU cores, except those without AP; what it took is in "
        "[dev/BENCHMARKS.md](../dev/BENCHMARKS.md). "
        "Where the weights ship with the package, nothing is downloaded.",
    ),
    "Detectron2": (
        "Detectron2",
        "Published by Detectron2 under CC BY-SA 3.0 (its PointRend project states no licence), with its figures: "
        "training on 8 V100 GPUs, seconds per iteration of 16 images, inference on one. A dash under config means "
        "that no config of ours builds the model.",
    ),
    "torchvision": (
        "torchvision",
        "Published by torchvision: code under BSD-3-Clause; according to torchvision, terms of the weights may follow "
        "from their training data. With its figures: training on 8 V100 GPUs, inference on one. The config is derived "
        "from the weights: `mrcnn-zoo predict --weights zoo://NAME IMAGE` and `mrcnn-zoo evaluate --weights "
        "zoo://NAME` need nothing else. The 90 classes are COCO's category ids, the unused ones called N/A; an "
        "evaluation finds its dataset's classes among them by name. `mrcnn-zoo convert-checkpoint` writes the same "
        "model into a file of ours.",
    ),
}
INTRODUCTION = """\
# Model zoo

Written by `python dev/model_zoo.py write` from `index.json`, which ships with the package.

```bash
mrcnn-zoo zoo list '*R_50_FPN_3x'
mrcnn-zoo zoo info COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x
mrcnn-zoo zoo download COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x --output weights/
mrcnn-zoo zoo verify
mrcnn-zoo zoo reproduce Quickstart/mask_rcnn_R_18_FPN_digits --run OUTPUT_DIR output/digits
```

`zoo://NAME` names a model's weights in `--weights` and in `MODEL.WEIGHTS`; in Python it is
`model_zoo.get("NAME", trained=True)`. Downloads are verified with the published checksum, continue after a break, and
are kept in `MRCNN_ZOO_CACHE` (else `FVCORE_CACHE`, else `~/.torch/iopath_cache`). `MRCNN_ZOO_MIRROR` names a server
that has the publishers' files under the same paths; `MRCNN_ZOO_OFFLINE=1` takes them from the cache alone.
"""


def text_of_page() -> str:
    """The content of MODEL_ZOO.md."""
    parts = [INTRODUCTION]
    entries = list(index.read_index().values())
    for source, (title, introduction) in SOURCES.items():
        parts.append(f"## {title}\n\n{introduction}\n")
        own = [entry for entry in entries if entry.source == source]
        for folder, group in groupby(own, key=lambda entry: entry.name.partition("/")[0]):
            parts.append(f"### {folder}\n\n{_table(list(group))}\n")
    return "\n".join(parts)


def _table(entries: list[ZooEntry]) -> str:
    rows = [_row(entry) for entry in entries]
    used = [column for column in rows[0] if any(row[column] for row in rows)]
    table = [{column: row[column] for column in used} for row in rows]
    return tabulate(table, headers="keys", tablefmt="github", disable_numparse=True) + _reasons(entries)


def _row(entry: ZooEntry) -> dict[str, str]:
    weights = f"[file](weights/{Path(entry.weights).name})" if entry.weights and entry.is_shipped else ""
    return {
        "model": entry.name.partition("/")[2],
        "config": "yes" if entry.config else "from weights" if entry.config_from_weights else "-",
        **{title: _number(entry.results.get(key), 1) for key, title in COLUMNS.items()},
        "s/iteration": _number(entry.seconds_per_iteration, 3),
        "GB": _number(entry.memory_gb, 1),
        "s/image": _number(entry.seconds_per_image, 3),
        "weights": weights or (f"[download]({entry.weights})" if entry.weights else ""),
        "checksum": f"sha256 {entry.sha256[:8]}" if entry.sha256 else f"md5 {entry.md5}" if entry.md5 else "",
        "reproduce": f"`{entry.reproduce}`" if entry.reproduce and entry.source == "mrcnn_zoo" else "",
    }


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _reasons(entries: list[ZooEntry]) -> str:
    reasons = list(dict.fromkeys(entry.reason for entry in entries if entry.reason))
    return "\n\n" + "\n".join(f"- No config: {reason}." for reason in reasons) if reasons else ""


def ship(name: str, file: Path) -> None:
    """Copy trained weights into `model_zoo/weights/`, and write them with their checksum into the index.

    Args:
        name: of the model.
        file: `.safetensors`.

    Raises:
        UserError: another kind of file, or a large one.
    """
    from mrcnn_zoo.model_zoo.checksum import Checksum

    entry = index.find_entry(name)
    if file.suffix != ".safetensors" or file.stat().st_size >= LARGEST_SHIPPED:
        raise UserError(
            f"{file} ({file.stat().st_size:,} bytes) should be .safetensors below {LARGEST_SHIPPED:,} bytes."
        )
    folder = index.zoo_folder()
    target = folder / "weights" / f"{entry.name.partition('/')[2]}.safetensors"
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(file, target)
    path = folder / index.INDEX_FILE
    content = json.loads(path.read_text(encoding="utf-8"))
    fields = content["models"][entry.name]
    fields["weights"] = target.relative_to(folder).as_posix()
    fields["sha256"] = Checksum("sha256", "").digest_of(target)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> int:
    """Run an action; returns 1 when the page is out of date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("write")
    actions.add_parser("check")
    shipping = actions.add_parser("ship")
    shipping.add_argument("name")
    shipping.add_argument("file", type=Path)
    arguments = parser.parse_args()
    page = index.zoo_folder() / "MODEL_ZOO.md"
    if arguments.action == "check":
        is_current = page.read_text(encoding="utf-8") == text_of_page()
        print("up to date" if is_current else f"{page} is out of date: run `python dev/model_zoo.py write`")
        return 0 if is_current else 1
    if arguments.action == "ship":
        ship(arguments.name, arguments.file)
    page.write_text(text_of_page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
