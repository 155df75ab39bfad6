"""Definitions of the built-in datasets, as entries of DATASETS.DEFINITIONS."""

from collections.abc import Mapping
from typing import Any

Definition = Mapping[str, Any]

# The splits of COCO as Detectron2 names them: name -> (image folder, suffix of the annotation file).
COCO_SPLITS = {
    "coco_2014_train": ("train2014", "train2014"),
    "coco_2014_val": ("val2014", "val2014"),
    "coco_2014_minival": ("val2014", "minival2014"),
    "coco_2014_valminusminival": ("val2014", "valminusminival2014"),
    "coco_2017_train": ("train2017", "train2017"),
    "coco_2017_val": ("val2017", "val2017"),
    "coco_2017_val_100": ("val2017", "val2017_100"),
}


def _coco(folder: str, annotations: str) -> Definition:
    return {"FORMAT": "coco", "IMAGES": f"coco/{folder}", "ANNOTATIONS": f"coco/annotations/{annotations}.json"}


def _nuclei(split: str) -> Definition:
    return {"FORMAT": "dsb2018", "IMAGES": "dsb2018/stage1_train", "SPLIT": split}


KNOWN_DATASETS: dict[str, Definition] = {
    **{name: _coco(folder, f"instances_{suffix}") for name, (folder, suffix) in COCO_SPLITS.items()},
    **{
        f"keypoints_{name}": _coco(folder, f"person_keypoints_{suffix}")
        for name, (folder, suffix) in COCO_SPLITS.items()
    },
    **{
        f"lvis_v1_{split}": {"FORMAT": "coco", "IMAGES": "coco", "ANNOTATIONS": f"lvis/lvis_v1_{split}.json"}
        for split in ("train", "val")
    },
    **{f"dsb2018_{split}": _nuclei(split) for split in ("train", "val")},
    **{
        f"{kind}_{split}": {"FORMAT": kind, "SPLIT": split}
        for kind in ("digits", "shapes")
        for split in ("train", "val")
    },
}
