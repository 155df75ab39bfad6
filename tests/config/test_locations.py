"""Finding config files by path and by name."""

from pathlib import Path

import pytest

from mrcnn_zoo.config import files, find_config, packaged_names
from mrcnn_zoo.config.files import did_you_mean_config, find_packaged
from mrcnn_zoo.errors import UserError

NAME = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package as after `pip install`: configs inside it, no checkout around it."""
    folder = tmp_path / "site-packages/mrcnn_zoo/_configs"
    (folder / "Lab").mkdir(parents=True)
    (folder / "Lab/net.yaml").write_text("SEED: 1\n")
    (tmp_path / "site-packages/configs").mkdir()
    (tmp_path / "site-packages/configs/foreign.yaml").write_text("SEED: 2\n")
    monkeypatch.setattr(files, "INSTALLED_CONFIGS", folder)
    monkeypatch.setattr(files, "CHECKOUT", tmp_path / "site-packages")
    return folder


def test_path_has_priority_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / NAME).parent.mkdir()
    (tmp_path / NAME).write_text("")
    monkeypatch.chdir(tmp_path)
    assert find_config(NAME) == Path(NAME)


def test_name_is_found_from_any_folder_with_or_without_suffix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(NAME) == find_config(NAME.removesuffix(".yaml"))
    assert find_config(NAME).is_file()


def test_installed_package_finds_only_its_own_configs(installed: Path) -> None:
    assert find_config("Lab/net") == installed / "Lab/net.yaml"
    assert packaged_names() == ["Lab/net.yaml"]
    with pytest.raises(UserError, match="does not exist"):
        find_config("foreign")


def test_name_outside_the_package_is_not_found(installed: Path) -> None:
    (installed.parent / "secret.yaml").write_text("")
    assert find_packaged("../secret.yaml") is None


def test_package_without_configs_suggests_nothing(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "INSTALLED_CONFIGS", installed / "nothing")
    assert packaged_names() == []
    assert did_you_mean_config("net") == ""


def test_nearest_name_is_suggested(installed: Path) -> None:
    assert installed.is_dir()
    assert did_you_mean_config("nets.yaml") == " Did you mean 'Lab/net.yaml'?"
    assert did_you_mean_config("lab/net.yaml") == " Did you mean 'Lab/net.yaml'?"
