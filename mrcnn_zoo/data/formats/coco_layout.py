"""Where images and annotations lie in a folder in COCO's layout, or in that of tools that export it."""

from pathlib import Path

from mrcnn_zoo.data.formats.other_formats import CONVERT, looks_like_nuclei, name_of_folder
from mrcnn_zoo.errors import UserError

ROBOFLOW_FILE = "_annotations.coco.json"
NAMES_SHOWN = 5
PREFIXES = ("instances_", "", "image_info_")  # of the files in COCO's annotations/; the last one for unlabelled images


def find_coco_layout(folder: Path) -> tuple[Path, Path]:
    """The image folder and the annotation file that a folder stands for.

    What is recognised: Roboflow's `train/_annotations.coco.json` beside the images; one JSON file in the folder with
    the images in `images/` or beside it; COCO's own `val2017/` with `../annotations/instances_val2017.json`.

    Raises:
        UserError: no layout that is known, or several, with the subfolders that could be meant.
    """
    if (folder / ROBOFLOW_FILE).is_file():
        return folder, folder / ROBOFLOW_FILE
    beside = [folder.parent / "annotations" / f"{prefix}{folder.name}.json" for prefix in PREFIXES]
    for annotations in beside:
        if annotations.is_file():
            return folder, annotations
    candidates = sorted(folder.glob("*.json")) or sorted((folder / "annotations").glob("*.json"))
    if len(candidates) == 1:
        images = folder / "images"
        return (images if images.is_dir() else folder), candidates[0]
    raise UserError(_message(folder, candidates))


def _message(folder: Path, candidates: list[Path]) -> str:
    splits = [child for child in sorted(folder.iterdir()) if child.is_dir() and _is_split(child)]
    if splits:
        return f"{folder} holds several datasets; name one of them: {', '.join(str(split) for split in splits)}."
    other = name_of_folder(folder)
    if other:
        return f"{folder} holds annotations in {other}, {CONVERT}"
    if looks_like_nuclei(folder):
        return (
            f"{folder} has a folder per image with 'images' and 'masks', which FORMAT dsb2018 reads: "
            f"{_definition(folder, {'FORMAT': 'dsb2018'})}"
        )
    if candidates:
        names = ", ".join(path.name for path in candidates[:NAMES_SHOWN])
        names += f" and {len(candidates) - NAMES_SHOWN} more" if len(candidates) > NAMES_SHOWN else ""
        return (
            f"{folder} has several JSON files ({names}); say which in the config: "
            f"{_definition(folder, {'FORMAT': 'coco', 'ANNOTATIONS': str(candidates[0])})}"
        )
    return (
        f"{folder} is not in COCO's layout: there is no {ROBOFLOW_FILE}, no other JSON file in it or in its "
        f"'annotations' folder, and no {folder.parent / 'annotations' / ('instances_' + folder.name + '.json')}."
    )


def _definition(folder: Path, fields: dict[str, str]) -> str:
    """The overrides that define a dataset, as they can be typed."""
    overrides = [f"DATASETS.DEFINITIONS.my_data.{key} {value}" for key, value in {"IMAGES": folder, **fields}.items()]
    return " ".join([*overrides, 'DATASETS.TRAIN "[my_data]"'])


def _is_split(folder: Path) -> bool:
    return (folder / ROBOFLOW_FILE).is_file() or (
        folder.parent / "annotations" / f"instances_{folder.name}.json"
    ).is_file()
