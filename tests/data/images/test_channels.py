"""Images of any number of channels, from the file to the sample."""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.images.pixels import divide, fit_channels, num_channels_of, pixel_format_of, stretch
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.loading.mapper import build_eval_mapper
from mrcnn_zoo.data.records import ImageRecord
from mrcnn_zoo.data.transforms import build_train_augmentations
from mrcnn_zoo.data.transforms.photometric import adjust_brightness, adjust_contrast
from mrcnn_zoo.errors import UserError

SIZE = (20, 18)


def pixels(channels: int, dtype: Any = np.uint8) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, 256, (*SIZE, channels)).astype(dtype)


def with_channels(cfg: CfgNode, count: int) -> CfgNode:
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [0.0] * count, [1.0] * count
    return cfg


def sample_of(cfg: CfgNode, path: Path) -> torch.Tensor:
    record = ImageRecord(1, FileImage(str(path)), SIZE)
    return build_eval_mapper(cfg)(record, np.random.default_rng(0)).image


@pytest.mark.parametrize("channels", [2, 3, 4, 16])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_numpy_files_keep_channels_and_dtype(channels: int, dtype: Any, tmp_path: Path) -> None:
    array = pixels(channels, dtype)
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "a.npz", image=array, other=array[:1])
    for name in ("a.npy", "a.npz"):
        read = FileImage(str(tmp_path / name)).read()
        assert read.dtype == dtype
        np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("shape", [SIZE, (*SIZE, 1)])
def test_grey_arrays_are_repeated(shape: tuple[int, ...], tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", pixels(1).reshape(shape))
    np.testing.assert_array_equal(FileImage(str(tmp_path / "a.npy")).read(), np.repeat(pixels(1), 3, axis=2))


@pytest.mark.parametrize(("array", "expected"), [(pixels(4) > 99, np.uint8), (pixels(4).astype(np.int64), np.float32)])
def test_other_dtypes_become_uint8_or_float32(array: np.ndarray, expected: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    read = FileImage(str(tmp_path / "a.npy")).read()
    assert read.dtype == expected
    np.testing.assert_array_equal(read, array * 255 if array.dtype == bool else array)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3, 4, 5)), r"shape \(2, 3, 4, 5\)"),
        (np.zeros((0, 3)), r"shape \(0, 3\)"),
        (np.zeros(SIZE, dtype=complex), "complex128"),
        (np.full(SIZE, np.nan), "NaN or infinite"),
    ],
)
def test_arrays_of_other_shapes_or_types_are_refused(array: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "a.npy")) + ".*" + message):
        FileImage(str(tmp_path / "a.npy")).read()


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_truncated_and_missing_arrays_are_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with pytest.raises(UserError, match=f"{name}.*missing"):
        FileImage(str(path)).read()
    np.save(path, pixels(4)) if name == "a.npy" else np.savez(path, pixels(4))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=f"{name}.*cannot be read"):
        FileImage(str(path)).read()


def test_arrays_of_python_objects_are_refused_without_running_them(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object))
    with pytest.raises(UserError, match="Python objects"):
        FileImage(str(tmp_path / "a.npy")).read()


def test_archive_with_several_arrays_needs_an_image_entry(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", left=pixels(3), right=pixels(3))
    with pytest.raises(UserError, match=r"2 arrays \(left, right\).*'image'"):
        FileImage(str(tmp_path / "a.npz")).read()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize(("channels", "is_planar"), [(3, False), (4, False), (4, True), (16, True), (16, False)])
def test_tiff_with_channels_on_any_axis(channels: int, is_planar: bool, dtype: Any, tmp_path: Path) -> None:
    array, path = pixels(channels, dtype), tmp_path / "a.tif"
    stored = np.ascontiguousarray(array.transpose(2, 0, 1)) if is_planar else array
    # Pages, or samples of one page.
    tifffile.imwrite(path, stored, photometric="minisblack", planarconfig=None if is_planar else "contig")
    read = FileImage(str(path)).read_with_alpha()
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, array)


def test_tiff_without_axes_is_read_as_written(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 60000, (20, 24, 16)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", array)  # 20 pages of 24 x 16
    np.testing.assert_array_equal(FileImage(str(tmp_path / "a.tif")).read(), array)


def test_tiff_stack_of_more_axes_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((2, 3, *SIZE), np.uint8), photometric="minisblack", metadata={"axes": "ZCYX"}
    )
    with pytest.raises(UserError, match="axes ZCYX"):
        FileImage(str(tmp_path / "a.tif")).read()


def test_tiff_of_several_pages_error_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, *SIZE), np.uint8), photometric="minisblack")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(UserError, match="pip install tifffile"):
        FileImage(str(tmp_path / "a.tif")).read()


def test_truncated_tiff_of_several_pages_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((16, 64, 64), np.uint16), photometric="minisblack")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"a\.tif.*(truncated|cut off)"):
        FileImage(str(path)).read()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_alpha_is_the_fourth_channel(suffix: str, cfg: CfgNode, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels(4)).save(path)
    four = sample_of(with_channels(cfg, 4), path)
    np.testing.assert_array_equal(four.permute(1, 2, 0).numpy(), pixels(4))
    three = sample_of(with_channels(cfg, 3), path)
    np.testing.assert_array_equal(three.flip(0).permute(1, 2, 0).numpy(), pixels(4)[..., :3])


def test_grey_with_alpha_has_two_channels(cfg: CfgNode, tmp_path: Path) -> None:
    Image.fromarray(pixels(2), mode="LA").save(tmp_path / "a.png")
    two = sample_of(with_channels(cfg, 2), tmp_path / "a.png")
    np.testing.assert_array_equal(two.permute(1, 2, 0).numpy(), pixels(2))


@pytest.mark.parametrize("suffix", ["png", "npy"])
def test_grey_and_colour_images_become_one_channel(suffix: str, cfg: CfgNode, tmp_path: Path) -> None:
    one = with_channels(cfg, 1)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels(1)[..., 0]).save(path) if suffix == "png" else np.save(path, pixels(1))
    np.testing.assert_array_equal(sample_of(one, path).numpy(), pixels(1).transpose(2, 0, 1))
    Image.fromarray(pixels(3)).save(tmp_path / "colour.png")
    luma = np.asarray(Image.fromarray(pixels(3)).convert("L"))
    np.testing.assert_array_equal(sample_of(one, tmp_path / "colour.png")[0].numpy(), luma)


def test_more_channels_stay_in_the_order_of_the_file(cfg: CfgNode, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", pixels(16))
    image = sample_of(with_channels(cfg, 16), tmp_path / "a.npy")
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), pixels(16))


@pytest.mark.parametrize(("channels", "count"), [(3, 4), (4, 3), (16, 4), (16, 1)])
def test_wrong_number_of_channels_is_refused(channels: int, count: int, cfg: CfgNode, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", pixels(channels))
    message = rf"a\.npy has {channels} channels, but the model has {count}.*PIXEL_MEAN"
    with pytest.raises(UserError, match=message):
        sample_of(with_channels(cfg, count), tmp_path / "a.npy")


def test_one_channel_is_repeated_for_rgb_models() -> None:
    assert fit_channels(pixels(1), 3, name="a").shape == (*SIZE, 3)


def test_channels_first_layout_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"looks like 16 channels first"):
        fit_channels(pixels(16).transpose(2, 0, 1), 16, name="a")


def test_channels_are_stretched_separately() -> None:
    deep = np.zeros((1, 256, 4), np.uint16)
    deep[0, :, 0], deep[0, :, 1] = np.arange(256), 100 * np.arange(256)
    stretched = stretch(deep)
    np.testing.assert_array_equal(stretched[..., 0], stretched[..., 1])
    assert stretched[..., 0].max() == 255
    assert stretch(deep[..., :3])[..., 0].max() < 5  # one range for all colours


def test_divide_refuses_floats() -> None:
    with pytest.raises(UserError, match=r"SIXTEEN_BIT.*float32"):
        divide(np.zeros((2, 2, 3), np.float32))


def test_kept_floats_are_unchanged_in_the_sample(cfg: CfgNode, tmp_path: Path) -> None:
    cfg.INPUT.SIXTEEN_BIT = "keep"
    array = pixels(4, np.float32) / 255 - 0.5
    np.save(tmp_path / "a.npy", array)
    image = sample_of(with_channels(cfg, 4), tmp_path / "a.npy")
    assert image.dtype == torch.float32
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), array)


def test_length_of_pixel_mean_is_the_number_of_channels(cfg: CfgNode) -> None:
    assert num_channels_of(cfg) == 3
    assert pixel_format_of(with_channels(cfg, 1)) == "L"
    cfg.INPUT.FORMAT = "L"
    with pytest.raises(UserError, match=r"one grey channel.*3 values"):
        pixel_format_of(with_channels(cfg, 3))
    cfg.MODEL.PIXEL_STD = [1.0]
    with pytest.raises(UserError, match=r"PIXEL_MEAN has 3 values and MODEL\.PIXEL_STD 1"):
        num_channels_of(cfg)


def test_brightness_and_contrast_of_many_channels() -> None:
    image = torch.tensor([10, 30, 100, 200], dtype=torch.uint8).reshape(2, 1, 2).repeat(8, 1, 1)
    assert adjust_brightness(image, 0.5)[:2].flatten().tolist() == [5, 15, 50, 100]
    assert adjust_contrast(image, 0.5)[:2].flatten().tolist() == [15, 25, 125, 175]  # to 20 and to 150


def test_saturation_needs_rgb(cfg: CfgNode) -> None:
    cfg.INPUT.AUGMENTATIONS = ["RandomBrightness", "RandomContrast"]
    build_train_augmentations(with_channels(cfg, 4))
    cfg.INPUT.AUGMENTATIONS = ["RandomSaturation"]
    with pytest.raises(UserError, match=r"RandomSaturation.*4 channel"):
        build_train_augmentations(cfg)
