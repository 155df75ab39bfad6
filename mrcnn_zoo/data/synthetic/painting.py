"""From a layout to pixels: background, ink, noise."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.synthetic.layout import Layout
from mrcnn_zoo.data.synthetic.settings import SceneSettings

TEXTURE_CELLS = (5, 12, 28)  # grid cells across the longer side, of each octave of the texture
TEXTURE_WEIGHTS = (1.0, 0.6, 0.4)
TINT = 0.5  # a colour's channels lie up to about this far from their mean, of the full range

Picture = NDArray[np.float32]


def paint(settings: SceneSettings, layout: Layout, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The picture of a layout, (H, W, 3) RGB.

    All is painted as light ink on a dark ground and turned into its negative where the ink is to be dark. Ink is
    mixed with what lies beneath by its coverage, so objects have soft edges; the mask is what is at least half covered.
    """
    is_dark_ink = rng.random() < settings.invert_probability
    darkest_ink = rng.uniform(settings.min_contrast, 0.5 + settings.min_contrast / 2)
    ground_level = darkest_ink - settings.min_contrast
    picture = paint_background(settings, ground_level, rng)
    for item in layout.placed:
        ink = random_color(settings, rng.uniform(darkest_ink, 1.0), rng)
        beneath = picture[item.window]
        beneath += item.stamp.coverage.astype(np.float32)[:, :, None] * (ink - beneath)
    if is_dark_ink:
        picture = 1.0 - picture
    if settings.noise > 0:
        channels = 3 if settings.is_color else 1
        shape = (*settings.image_size, channels)
        picture = picture + rng.standard_normal(shape, dtype=np.float32) * np.float32(settings.noise)
    return np.rint(np.clip(picture, 0.0, 1.0) * 255).astype(np.uint8)


def paint_background(settings: SceneSettings, level: float, rng: np.random.Generator) -> Picture:
    """(H, W, 3) in [0, 1]: one colour, or a pattern between two colours no lighter than `level`."""
    dark = random_color(settings, rng.uniform(0.0, level), rng)
    light = random_color(settings, level, rng)
    height, width = settings.image_size
    if settings.background == "plain":
        pattern = np.ones((height, width), dtype=np.float32)
    elif settings.background == "gradient":
        pattern = _ramp(height, width, rng.uniform(0, 2 * np.pi))
    else:
        pattern = _texture(height, width, rng)
    return dark + pattern[:, :, None] * (light - dark)


def random_color(settings: SceneSettings, level: float, rng: np.random.Generator) -> Picture:
    """(3,) in [0, 1]: a random tint of a grey level; the mean of the channels is that level."""
    tint = rng.uniform(-1.0, 1.0, size=3)
    if not settings.is_color:
        return np.full(3, level, dtype=np.float32)
    tint = TINT * (tint - tint.mean())
    # Close to black or white there is little room for colour; clipping would change the brightness instead.
    room = np.where(tint > 0, 1.0 - level, level)
    strength = min(1.0, float((room / np.maximum(np.abs(tint), 1e-6)).min()))
    return (level + strength * tint).astype(np.float32)


def _ramp(height: int, width: int, angle: float) -> Picture:
    """(height, width) linear ramp from 0 to 1 along a direction."""
    along = np.cos(angle) * np.linspace(-1, 1, width) + np.sin(angle) * np.linspace(-1, 1, height)[:, None]
    return ((along - along.min()) / max(float(np.ptp(along)), 1e-6)).astype(np.float32)


def _texture(height: int, width: int, rng: np.random.Generator) -> Picture:
    """(height, width) in [0, 1]: random grids of several scales, added up."""
    total = np.zeros((height, width), dtype=np.float64)
    for cells, weight in zip(TEXTURE_CELLS, TEXTURE_WEIGHTS, strict=True):
        rows, columns = (max(2, round(cells * side / max(height, width))) for side in (height, width))
        grid = rng.uniform(-1.0, 1.0, size=(rows, columns))
        total += weight * (_linear_matrix(rows, height) @ grid @ _linear_matrix(columns, width).T)
    return np.clip(0.5 + 0.5 * total, 0.0, 1.0).astype(np.float32)


@lru_cache(maxsize=64)
def _linear_matrix(cells: int, length: int) -> NDArray[np.float64]:
    """(length, cells) matrix that stretches values at `cells` points evenly over `length` pixels, linearly."""
    position = np.linspace(0, cells - 1, length)
    return np.maximum(1.0 - np.abs(position[:, None] - np.arange(cells)), 0.0)
