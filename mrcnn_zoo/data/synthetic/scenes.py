"""Generated scenes as a dataset: images that are painted when they are read, and their exact annotations."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from mrcnn_zoo.data.keypoints import flip_pairs
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord, Rle
from mrcnn_zoo.data.synthetic.digits import load_digit_stamps
from mrcnn_zoo.data.synthetic.layout import Layout, PlacedStamp, arrange
from mrcnn_zoo.data.synthetic.painting import paint
from mrcnn_zoo.data.synthetic.settings import SPLITS, SceneSettings
from mrcnn_zoo.data.synthetic.shapes import ShapeStamps
from mrcnn_zoo.data.synthetic.stamps import StampSource

KINDS = ("digits", "shapes")
HIDDEN, VISIBLE = 1.0, 2.0  # of key points, as in COCO
LAYOUT_STREAM, PAINT_STREAM = 0, 1  # apart, so that settings of the paint leave the objects where they are


@dataclass(frozen=True)
class SceneImage:
    """The image of one scene: an image source that paints it anew at each reading."""

    settings: SceneSettings
    kind: str  # one of KINDS
    split: str
    index: int

    @property
    def name(self) -> str:
        """What stands for a file in messages, e.g. "digits/train/000012 (seed 0)"."""
        return f"{self.kind}/{self.split}/{self.index:06d} (seed {self.settings.seed})"

    def read(self) -> NDArray[np.uint8]:
        """(H, W, 3) RGB."""
        return paint(self.settings, self.layout(), self._generator(PAINT_STREAM))

    def layout(self) -> Layout:
        """The objects of the scene, without painting it."""
        return arrange(self.settings, stamp_source(self), self._generator(LAYOUT_STREAM))

    def _generator(self, stream: int) -> np.random.Generator:
        seed = [self.settings.seed, SPLITS.index(self.split), self.index, stream]
        return np.random.Generator(np.random.PCG64(seed))


def stamp_source(scene: SceneImage) -> StampSource:
    """What a scene draws its objects from."""
    if scene.kind == "digits":
        return load_digit_stamps(scene.settings.digits_source, scene.split)
    return ShapeStamps()


def build_scenes(name: str, settings: SceneSettings, *, kind: str, split: str, length: int) -> Dataset:
    """A dataset of `length` scenes; category ids and annotation ids start at 1, as COCO's do."""
    annotation_ids = count(1)
    scenes = [SceneImage(settings, kind, split, index) for index in range(length)]
    records = tuple(
        ImageRecord(
            image_id=scene.index + 1,
            source=scene,
            image_size=settings.image_size,
            instances=tuple(scene_instances(scene.layout(), annotation_ids)),
        )
        for scene in scenes
    )
    source = stamp_source(SceneImage(settings, kind, split, 0))
    return Dataset(
        name,
        records,
        source.class_names,
        category_ids=tuple(range(1, len(source.class_names) + 1)),
        keypoint_names=source.keypoint_names,
        keypoint_flip_pairs=flip_pairs(source.keypoint_names),
        keypoint_skeleton=tuple((0, row) for row in range(1, len(source.keypoint_names))),
    )


def scene_instances(layout: Layout, annotation_ids: Iterator[int]) -> Iterator[InstanceRecord]:
    """The annotation of every object: its visible mask, and the tight box of that."""
    for index, item in enumerate(layout.placed):
        mask = layout.visible_mask(index)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        yield InstanceRecord(
            box=(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)),
            class_index=item.stamp.class_index,
            segmentation=_encode(mask),
            keypoints=_visible_keypoints(layout, index, item),
            area=float(mask.sum()),
            annotation_id=next(annotation_ids),
        )


def _visible_keypoints(layout: Layout, index: int, item: PlacedStamp) -> tuple[float, ...] | None:
    """x, y and visibility of each: 2, or 1 where a nearer object hides it."""
    if item.stamp.keypoints is None:
        return None
    values: list[float] = []
    last_row, last_column = (length - 1 for length in layout.owner.shape)
    for x, y in (item.stamp.keypoints + np.array([item.left, item.top])).tolist():
        owner = layout.owner[min(max(int(y), 0), last_row), min(max(int(x), 0), last_column)]
        values += [x, y, HIDDEN if owner > index else VISIBLE]
    return tuple(values)


def _encode(mask: NDArray[np.bool_]) -> Rle:
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}
