"""Synthetic scenes as a dataset: images painted when they are read, with exact annotations."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.keypoints import flip_pairs
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.data.synthetic.digits import load_digit_stamps
from mrcnn_zoo.data.synthetic.layout import PlacedStamp, SceneLayout, StampSource, arrange
from mrcnn_zoo.data.synthetic.settings import SPLITS, SceneSettings, build_scene_settings, build_scene_split
from mrcnn_zoo.data.synthetic.shapes import ShapeStamps
from mrcnn_zoo.ops import rle
from mrcnn_zoo.ops.masks import tight_box
from mrcnn_zoo.registries import DATASET_FORMATS

KINDS = ("digits", "shapes")
HIDDEN, VISIBLE = 1.0, 2.0  # visibility of keypoints, as in COCO
LAYOUT_STREAM, PAINT_STREAM = 0, 1  # separate, so that settings of the paint do not move the objects
TEXTURE_CELLS = (5, 12, 28)  # grid cells across the longer side, per octave of the texture
TEXTURE_WEIGHTS = (1.0, 0.6, 0.4)  # per octave
TINT = 0.5  # largest distance of a channel from the mean of a colour, of the full range

Picture = NDArray[np.float32]


@dataclass(frozen=True)
class SceneImage:
    """The image source of one scene, which paints it at each reading."""

    settings: SceneSettings
    kind: str  # one of KINDS
    split: str  # "train" or "val"
    index: int  # of the scene in its split

    @property
    def name(self) -> str:
        """The name for messages, e.g. "digits/train/000012 (seed 0)"."""
        return f"{self.kind}/{self.split}/{self.index:06d} (seed {self.settings.seed})"

    def read(self) -> NDArray[np.uint8]:
        """(H, W, 3) RGB."""
        return paint(self.settings, self.layout(), self._generator(PAINT_STREAM))

    def layout(self) -> SceneLayout:
        """The objects of the scene; nothing is painted."""
        return arrange(self.settings, stamp_source(self), self._generator(LAYOUT_STREAM))

    def _generator(self, stream: int) -> np.random.Generator:
        seed = [self.settings.seed, SPLITS.index(self.split), self.index, stream]
        return np.random.Generator(np.random.PCG64(seed))


def stamp_source(scene: SceneImage) -> StampSource:
    """The source of a scene's objects."""
    if scene.kind == "digits":
        return load_digit_stamps(scene.settings.digits_source, scene.split)
    return ShapeStamps()


def build_scenes(name: str, settings: SceneSettings, *, kind: str, split: str, length: int) -> Dataset:
    """A dataset of synthetic scenes; category and annotation ids start at 1, as in COCO.

    Args:
        name: of the dataset.
        settings: of the scenes.
        kind: one of KINDS.
        split: "train" or "val".
        length: number of scenes.
    """
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


def scene_instances(layout: SceneLayout, annotation_ids: Iterator[int]) -> Iterator[InstanceRecord]:
    """The annotations of the objects, with their visible masks and the tight boxes of these.

    Args:
        layout: of the scene.
        annotation_ids: the next free ids.
    """
    for index, item in enumerate(layout.placed):
        mask = layout.visible_mask(index)
        box = tight_box(mask)
        assert box is not None, "every placed object stays visible"
        left, top, right, bottom = map(float, box)
        yield InstanceRecord(
            box=(left, top, right, bottom),
            class_index=item.stamp.class_index,
            segmentation=rle.encode(mask),
            keypoints=_visible_keypoints(layout, index, item),
            area=float(mask.sum()),
            annotation_id=next(annotation_ids),
        )


def _visible_keypoints(layout: SceneLayout, index: int, item: PlacedStamp) -> tuple[float, ...] | None:
    """x, y and visibility of each: 2, or 1 if an object in front hides it."""
    if item.stamp.keypoints is None:
        return None
    values: list[float] = []
    last_row, last_column = (length - 1 for length in layout.owner.shape)
    for x, y in (item.stamp.keypoints + np.array([item.left, item.top])).tolist():
        owner = layout.owner[min(max(int(y), 0), last_row), min(max(int(x), 0), last_column)]
        values += [x, y, HIDDEN if owner > index else VISIBLE]
    return tuple(values)


def paint(settings: SceneSettings, layout: SceneLayout, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Paint a layout, (H, W, 3) RGB.

    Light ink is painted on a dark ground; scenes of dark ink are inverted. The coverage blends the ink with the ground,
    which gives soft edges; the mask has the pixels of at least half coverage.

    Args:
        settings: of the scene.
        layout: its objects.
        rng: the only source of randomness.
    """
    is_dark_ink = rng.random() < settings.invert_probability
    darkest_ink = rng.uniform(settings.min_contrast, 0.5 + settings.min_contrast / 2)
    ground_level = darkest_ink - settings.min_contrast
    picture = paint_background(settings, ground_level, rng)
    for item in layout.placed:
        ink = random_color(settings, rng.uniform(darkest_ink, 1.0), rng)
        window = picture[item.window]
        window += item.stamp.coverage.astype(np.float32)[:, :, None] * (ink - window)
    if is_dark_ink:
        picture = 1.0 - picture
    if settings.noise > 0:
        channels = 3 if settings.is_color else 1
        shape = (*settings.image_size, channels)
        picture = picture + rng.standard_normal(shape, dtype=np.float32) * np.float32(settings.noise)
    return np.rint(np.clip(picture, 0.0, 1.0) * 255).astype(np.uint8)


def paint_background(settings: SceneSettings, level: float, rng: np.random.Generator) -> Picture:
    """(H, W, 3) in [0, 1]: one colour, or a pattern of two colours.

    Args:
        settings: of the scene.
        level: largest brightness, in [0, 1].
        rng: the only source of randomness.
    """
    dark = random_color(settings, rng.uniform(0.0, level), rng)
    light = random_color(settings, level, rng)
    height, width = settings.image_size
    pattern = BACKGROUNDS[settings.background](height, width, rng)
    return dark + pattern[:, :, None] * (light - dark)


def random_color(settings: SceneSettings, level: float, rng: np.random.Generator) -> Picture:
    """(3,) in [0, 1]: a random tint of a grey level.

    Args:
        settings: of the scene.
        level: mean of the channels, in [0, 1].
        rng: the only source of randomness.
    """
    tint = rng.uniform(-1.0, 1.0, size=3)
    if not settings.is_color:
        return np.full(3, level, dtype=np.float32)
    tint = TINT * (tint - tint.mean())
    # The tint is weaker near black or white: clipping would change the brightness.
    room = np.where(tint > 0, 1.0 - level, level)
    strength = min(1.0, float((room / np.maximum(np.abs(tint), 1e-6)).min()))
    return (level + strength * tint).astype(np.float32)


def _plain(height: int, width: int, rng: np.random.Generator) -> Picture:  # noqa: ARG001
    return np.ones((height, width), dtype=np.float32)


def _gradient(height: int, width: int, rng: np.random.Generator) -> Picture:
    """(height, width) linear ramp from 0 to 1 along a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * np.linspace(-1, 1, width) + np.sin(angle) * np.linspace(-1, 1, height)[:, None]
    return ((along - along.min()) / max(float(np.ptp(along)), 1e-6)).astype(np.float32)


def _texture(height: int, width: int, rng: np.random.Generator) -> Picture:
    """(height, width) in [0, 1]: the sum of random grids at several scales."""
    total = np.zeros((height, width), dtype=np.float64)
    for cells, weight in zip(TEXTURE_CELLS, TEXTURE_WEIGHTS, strict=True):
        rows, columns = (max(2, round(cells * side / max(height, width))) for side in (height, width))
        grid = rng.uniform(-1.0, 1.0, size=(rows, columns))
        total += weight * (_linear_matrix(rows, height) @ grid @ _linear_matrix(columns, width).T)
    return np.clip(0.5 + 0.5 * total, 0.0, 1.0).astype(np.float32)


@lru_cache(maxsize=64)
def _linear_matrix(cells: int, length: int) -> NDArray[np.float64]:
    """(length, cells) matrix of linear interpolation from `cells` points, evenly spaced, to `length` pixels."""
    position = np.linspace(0, cells - 1, length)
    return np.maximum(1.0 - np.abs(position[:, None] - np.arange(cells)), 0.0)


# (height, width, generator) -> (height, width) pattern in [0, 1], by the choices of DATASETS.SCENES.BACKGROUND
BACKGROUNDS = {"plain": _plain, "gradient": _gradient, "texture": _texture}


@DATASET_FORMATS.register("digits")
def build_digit_scenes(cfg: CfgNode, name: str, definition: Mapping[str, Any]) -> Dataset:
    """Ten classes, "0" to "9"; fields: SPLIT (train or val), NUM_IMAGES, and any key of DATASETS.SCENES."""
    settings = build_scene_settings(cfg, definition, name=name)
    split, length = build_scene_split(cfg, definition, name=name)
    return build_scenes(name, settings, kind="digits", split=split, length=length)


@DATASET_FORMATS.register("shapes")
def build_shape_scenes(cfg: CfgNode, name: str, definition: Mapping[str, Any]) -> Dataset:
    """Three classes; fields: SPLIT (train or val), NUM_IMAGES, and any key of DATASETS.SCENES."""
    settings = build_scene_settings(cfg, definition, name=name)
    split, length = build_scene_split(cfg, definition, name=name)
    return build_scenes(name, settings, kind="shapes", split=split, length=length)
