"""Nuclei of the 2018 Data Science Bowl: one folder per image, one PNG mask per object, with a split of its own."""

import logging
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.annotations.listing import FileListing
from mrcnn_zoo.data.annotations.mask_files import MaskedImage, add_mask_repairs, masked_record, read_masks
from mrcnn_zoo.data.catalog import read_fields
from mrcnn_zoo.data.formats.masks import MaskFiles, read_image_with_masks
from mrcnn_zoo.data.paths import cache_key, find_folder, read_cache, write_cache
from mrcnn_zoo.data.records import Dataset, RepairLog
from mrcnn_zoo.data.splits import digest
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.registries import DATASET_FORMATS

SPLITS = ("train", "val", "all")
CACHE_VERSION = "2"  # increase it when the meaning of the cached values changes
LAYOUT = (
    "A dataset of format dsb2018 is a folder with one subfolder per image, each with 'images' (one PNG) and 'masks' "
    "(one PNG per object)."
)

logger = logging.getLogger(__name__)


@DATASET_FORMATS.register("dsb2018")
def build_dsb2018_dataset(cfg: CfgNode, name: str, definition: Mapping[str, Any]) -> Dataset:  # noqa: ARG001
    """Fields: IMAGES, the folder; SPLIT train, val or all; VAL_FRACTION, SEED of the split; CLASS."""
    optional = {"SPLIT": "all", "VAL_FRACTION": 0.2, "SEED": 0, "CLASS": "nucleus"}
    fields = read_fields(name, definition, required=("IMAGES",), optional=optional)
    where = f"DATASETS.DEFINITIONS.{name}"
    if fields["SPLIT"] not in SPLITS:
        raise UserError(f"{where}.SPLIT = {fields['SPLIT']!r} is not one of {', '.join(SPLITS)}.")
    if not fields["CLASS"].strip():
        raise UserError(f"{where}.CLASS is empty; give the name of the class.")
    return load_dsb2018(
        name,
        find_folder(fields["IMAGES"], dataset=name, what="folder of images (IMAGES)"),
        split=fields["SPLIT"],
        val_fraction=float(fields["VAL_FRACTION"]),
        seed=fields["SEED"],
        class_name=fields["CLASS"],
    )


def load_dsb2018(
    name: str, root: Path, *, split: str = "all", val_fraction: float = 0.2, seed: int = 0, class_name: str = "nucleus"
) -> Dataset:
    """The dataset of all folders below `root`, or of one side of a stratified split.

    Args:
        name: of the dataset.
        root: the folder with one subfolder per image.
        split: "train", "val" or "all".
        val_fraction: share of the images in "val", in (0, 1).
        seed: of the split.
        class_name: of the one class.

    Raises:
        UserError: a folder without images, or a file that cannot be used.
    """
    images = read_all(root)
    numbered = list(enumerate(images, 1))
    if split != "all":
        chosen = choose_validation({_name_of(image): stratum_of(image) for image in images}, val_fraction, seed=seed)
        numbered = [(number, image) for number, image in numbered if (_name_of(image) in chosen) == (split == "val")]
    if not numbered:
        raise UserError(f"dataset {name!r}: the split {split!r} of the {len(images)} images in {root} is empty.")
    repairs = RepairLog()
    add_mask_repairs(repairs, [image for _, image in numbered])
    # Image ids number all images of the folder, so that the splits share no id.
    annotation_ids = count(1)
    records = tuple(
        masked_record(
            image, root / image.image, image_id=number, annotation_ids=annotation_ids, classify=lambda _: (0, None)
        )
        for number, image in numbered
    )
    return Dataset(name=name, records=records, class_names=(class_name,), category_ids=(1,), notes=repairs.notes())


def read_all(root: Path) -> list[MaskedImage]:
    """Every image below `root`, sorted by name; from the cache if no file has changed since it was written.

    Args:
        root: the folder of the dataset.

    Raises:
        UserError: no folders, or a file that cannot be read.
    """
    listing = FileListing(root)
    folders = list_folders(listing)
    files = [path for folder in folders for path in (folder.image, *dict(folder.masks))]
    key = cache_key([CACHE_VERSION, str(root.resolve()), *listing.fingerprint(files)])
    cached = read_cache("dsb2018", key)
    if cached is not None:
        return [MaskedImage.from_json(fields) for fields in cached]
    num_images, num_masks = counted(len(folders), "image"), counted(len(files) - len(folders), "mask")
    logger.info("%s: reading %s and %s; the next time they come from the cache", root, num_images, num_masks)
    images = read_masks(folders, partial(read_image_with_masks, root=root))
    write_cache("dsb2018", key, [image.as_json() for image in images])
    return images


def list_folders(listing: FileListing) -> list[MaskFiles]:
    """The PNGs of each image, sorted by the names of the folders, without opening them.

    Args:
        listing: of the folder of the dataset.

    Raises:
        UserError: no folders, or one without `images` and `masks`, or with several images.
    """
    root = listing.root
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise UserError(f"{root} holds no folders; format dsb2018 has one subfolder per image.")
    found: dict[str, list[str]] = defaultdict(list)
    for file in listing.with_suffix(".png"):
        found[file.rpartition("/")[0]].append(file)
    folders = []
    for name in names:
        images, masks = (found.get(f"{name}/{kind}", []) for kind in ("images", "masks"))
        missing = next((kind for kind in ("images", "masks") if not (root / name / kind).is_dir()), "")
        if missing:
            raise UserError(f"{root / name / missing} is missing. {LAYOUT}")
        if len(images) != 1:
            raise UserError(f"{root / name / 'images'} must hold one PNG, it holds {len(images)}.")
        folders.append(MaskFiles(images[0], tuple((path, "") for path in masks)))
    return folders


def _name_of(image: MaskedImage) -> str:
    return image.image.partition("/")[0]


def stratum_of(image: MaskedImage) -> str:
    """The stratum of an image for splitting: its modality and size, which identify the kind of experiment."""
    return f"{image.modality} {image.size[0]}x{image.size[1]}"


def choose_validation(strata: Mapping[str, str], fraction: float, *, seed: int = 0) -> set[str]:
    """The names of the validation images: a share of each stratum, chosen by a hash of the name.

    The choice depends on names, strata and seed only, not on order or machine. The share of all images is exact;
    rounding follows the largest remainders.

    Args:
        strata: image name -> name of its stratum.
        fraction: share of the validation images, 0 to 1.
        seed: of the choice.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for name, stratum in strata.items():
        members[stratum].append(name)
    shares = {stratum: len(names) * fraction for stratum, names in members.items()}
    counts = {stratum: int(share) for stratum, share in shares.items()}
    missing = int(len(strata) * fraction + 0.5) - sum(counts.values())
    by_remainder = sorted(members, key=lambda stratum: (counts[stratum] - shares[stratum], stratum))
    for stratum in by_remainder[:missing]:
        counts[stratum] += 1
    chosen: set[str] = set()
    for stratum, names in members.items():
        chosen.update(sorted(names, key=lambda name: digest(name, seed))[: counts[stratum]])
    return chosen
