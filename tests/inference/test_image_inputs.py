"""Image files named by files, folders and glob patterns."""

from pathlib import Path

import pytest
from PIL import Image

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inference.image_inputs import find_images, image_files
from mrcnn_zoo.inference.video import split_videos


def write_files(*paths: Path) -> None:
    """Empty files, which only have names of images."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_images_of_a_folder_are_sorted(tmp_path: Path) -> None:
    write_files(*(tmp_path / name for name in ("b.PNG", "a.jpg", "c.tif", "notes.txt")))
    assert [file.name for file in image_files([tmp_path, tmp_path / "a.jpg"])] == ["a.jpg", "b.PNG", "c.tif"]


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no images to predict on"):
        image_files([tmp_path])


def test_glob_patterns_are_expanded(tmp_path: Path) -> None:
    write_files(*(tmp_path / name for name in ("a.png", "b.jpg", "x/c.png", "notes.txt")))
    assert [path.name for path in find_images([f"{tmp_path}/*"]).files] == ["a.png", "b.jpg"]
    assert [path.name for path in find_images([f"{tmp_path}/**/*.png"]).files] == ["a.png", "c.png"]
    write_files(tmp_path / "d[1].png")
    assert [path.name for path in find_images([f"{tmp_path}/d[1].png"]).files] == ["d[1].png"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone/a.png", "{tmp}/gone/a.png does not exist: there is no {tmp}/gone."),
        ("gone", "{tmp}/gone: there is no such file or folder."),
        ("gone.png", "{tmp}/gone.png: there is no such image file."),
        ("*.tif", "the pattern {tmp}/*.tif matches nothing."),
        ("*.txt", "the pattern {tmp}/*.txt matches 1 file, but no image: notes.txt."),
        ("empty", "{tmp}/empty is empty."),
        ("texts", "{tmp}/texts has no image, only other files (1 x .txt). Images end in .jpg"),
        (
            "deep",
            "{tmp}/deep has no image directly in it, but 1 in its sub-folders: add --recursive, or give the pattern "
            "{tmp}/deep/**/*.",
        ),
    ],
)
def test_inputs_without_images_are_reported_with_the_reason(tmp_path: Path, name: str, words: str) -> None:
    write_files(*(tmp_path / file for file in ("notes.txt", "texts/a.txt", "deep/x/a.png", "good.png")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as refusal:
        find_images([tmp_path / name])
    assert words.format(tmp=tmp_path) in str(refusal.value)
    found = find_images([tmp_path / name, tmp_path / "good.png"])
    assert found.files == [tmp_path / "good.png"]
    assert words.format(tmp=tmp_path) in found.problems[0]


def test_broken_link_in_a_folder_is_reported(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "moved.png")
    found = find_images([tmp_path])
    assert found.files == [tmp_path / "a.png"]
    assert found.problems == [f"{tmp_path / 'b.png'} is a link to {tmp_path / 'moved.png'}, which is missing."]


def test_pattern_leaves_out_the_output_folder_unless_it_names_it_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    paths = [tmp_path / "a.png", tmp_path / "out" / "a.png"]
    for path in paths:
        Image.new("RGB", (4, 4)).save(path)
    exclude = tmp_path / "out"
    assert find_images([f"{tmp_path}/**/*.png"], exclude=exclude).files == paths[:1]
    assert find_images([f"{tmp_path}/out/*.png"], exclude=exclude).files == paths[1:]


def test_other_addresses_than_http_are_refused() -> None:
    with pytest.raises(UserError, match=r"ftp://x/a\.png: the address of an image starts with https:// or http://"):
        find_images(["ftp://x/a.png"])


def test_patterns_of_videos_are_expanded_and_those_in_folders_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("b.mp4", "a.mp4", "a.png"):
        (tmp_path / name).touch()
    files = [str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4")]
    assert split_videos([f"{tmp_path}/*.mp4", files[1], "x.png"]) == (files, ["x.png"])
    assert caplog.messages == []
    assert split_videos([str(tmp_path)]) == ([], [str(tmp_path)])
    (message,) = caplog.messages
    assert f"{tmp_path}: 2 videos not read. To predict on videos, name them, e.g. {tmp_path}/*.mp4" == message
