"""Names of Detectron's published files."""

import pytest

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.model_zoo.catalog import NAMES, catalog_url
from mrcnn_zoo.model_zoo.download import full_url

HOST = "https://dl.fbaipublicfiles.com/detectron"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("ImageNetPretrained/FAIR/R-50-GN", "ImageNetPretrained/47261647/R-50-GN.pkl"),
        ("ImageNetPretrained/FAIR/X-152-32x8d-IN5k", "ImageNetPretrained/25093814/X-152-32x8d-IN5k.pkl"),
        (
            "Caffe2Detectron/COCO/48616381/e2e_mask_rcnn_R-50-FPN_2x_gn",
            "GN/48616381/04_2018_gn_baselines/e2e_mask_rcnn_R-50-FPN_2x_gn_0416.13_23_38.bTlTI97Q/output/train/"
            "coco_2014_train%3Acoco_2014_valminusminival/generalized_rcnn/model_final.pkl",
        ),
    ],
)
def test_catalog_names_become_urls(name: str, path: str) -> None:
    assert full_url(f"catalog://{name}") == f"{HOST}/{path}"


def test_every_catalog_name_has_a_url() -> None:
    assert len({catalog_url(f"catalog://{name}") for name in NAMES}) == len(NAMES) == 20


def test_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'ImageNetPretrained/FAIR/R-50-GN'"):
        catalog_url("catalog://ImageNetPretrained/FAIR/R50-GN")
