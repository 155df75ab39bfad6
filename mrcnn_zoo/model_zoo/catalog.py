"""The names of Detectron's published files, as configs of Detectron2 give them: `catalog://ImageNetPretrained/...`."""

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registry import did_you_mean

PREFIX = "catalog://"
HOST = "https://dl.fbaipublicfiles.com/detectron"
BACKBONES = {
    "ImageNetPretrained/MSRA/R-50": "ImageNetPretrained/MSRA/R-50.pkl",
    "ImageNetPretrained/MSRA/R-101": "ImageNetPretrained/MSRA/R-101.pkl",
    "ImageNetPretrained/FAIR/R-50-GN": "ImageNetPretrained/47261647/R-50-GN.pkl",
    "ImageNetPretrained/FAIR/R-101-GN": "ImageNetPretrained/47592356/R-101-GN.pkl",
    "ImageNetPretrained/FAIR/X-101-32x8d": "ImageNetPretrained/20171220/X-101-32x8d.pkl",
    "ImageNetPretrained/FAIR/X-101-64x4d": "ImageNetPretrained/FBResNeXt/X-101-64x4d.pkl",
    "ImageNetPretrained/FAIR/X-152-32x8d-IN5k": "ImageNetPretrained/25093814/X-152-32x8d-IN5k.pkl",
}
BASELINES = "12_2017_baselines"
COCO = "coco_2014_train%3Acoco_2014_valminusminival"
KEYPOINTS = "keypoints_coco_2014_train%3Akeypoints_coco_2014_valminusminival"
# The folder of a training on the server ends in the time it began and a random word.
DETECTORS = {
    "35857197/e2e_faster_rcnn_R-50-C4_1x": f"{BASELINES}/e2e_faster_rcnn_R-50-C4_1x.yaml.01_33_49.iAX0mXvW",
    "35857345/e2e_faster_rcnn_R-50-FPN_1x": f"{BASELINES}/e2e_faster_rcnn_R-50-FPN_1x.yaml.01_36_30.cUF7QR7I",
    "35857890/e2e_faster_rcnn_R-101-FPN_1x": f"{BASELINES}/e2e_faster_rcnn_R-101-FPN_1x.yaml.01_38_50.sNxI7sX7",
    "36761737/e2e_faster_rcnn_X-101-32x8d-FPN_1x": (
        f"{BASELINES}/e2e_faster_rcnn_X-101-32x8d-FPN_1x.yaml.06_31_39.5MIHi1fZ"
    ),
    "35858791/e2e_mask_rcnn_R-50-C4_1x": f"{BASELINES}/e2e_mask_rcnn_R-50-C4_1x.yaml.01_45_57.ZgkA7hPB",
    "35858933/e2e_mask_rcnn_R-50-FPN_1x": f"{BASELINES}/e2e_mask_rcnn_R-50-FPN_1x.yaml.01_48_14.DzEQe4wC",
    "35861795/e2e_mask_rcnn_R-101-FPN_1x": f"{BASELINES}/e2e_mask_rcnn_R-101-FPN_1x.yaml.02_31_37.KqyEK4tT",
    "36761843/e2e_mask_rcnn_X-101-32x8d-FPN_1x": (
        f"{BASELINES}/e2e_mask_rcnn_X-101-32x8d-FPN_1x.yaml.06_35_59.RZotkLKI"
    ),
    "48616381/e2e_mask_rcnn_R-50-FPN_2x_gn": (
        "04_2018_gn_baselines/e2e_mask_rcnn_R-50-FPN_2x_gn_0416.13_23_38.bTlTI97Q"
    ),
    "37697547/e2e_keypoint_rcnn_R-50-FPN_1x": f"{BASELINES}/e2e_keypoint_rcnn_R-50-FPN_1x.yaml.08_42_54.kdzV35ao",
    "35998355/rpn_R-50-C4_1x": f"{BASELINES}/rpn_R-50-C4_1x.yaml.08_00_43.njH5oD9L",
    "35998814/rpn_R-50-FPN_1x": f"{BASELINES}/rpn_R-50-FPN_1x.yaml.08_06_03.Axg0r179",
    "36225147/fast_R-50-FPN_1x": f"{BASELINES}/fast_rcnn_R-50-FPN_1x.yaml.08_39_09.L3obSdQ2",
}
DETECTOR_START = "Caffe2Detectron/COCO/"
NAMES = (*BACKBONES, *(DETECTOR_START + name for name in DETECTORS))


def catalog_url(address: str) -> str:
    """Where a file of Detectron's is published.

    Args:
        address: e.g. `catalog://ImageNetPretrained/FAIR/R-50-GN`.

    Raises:
        UserError: a name that is not in the catalog.
    """
    name = address.removeprefix(PREFIX)
    if name in BACKBONES:
        return f"{HOST}/{BACKBONES[name]}"
    detector = name.removeprefix(DETECTOR_START)
    if detector == name or detector not in DETECTORS:
        raise UserError(
            f"{address} is not in Detectron's catalog.{did_you_mean(name, NAMES)} Known: {', '.join(NAMES)}."
        )
    number = detector.partition("/")[0]
    folder = f"GN/{number}" if detector.endswith("_gn") else number
    dataset = KEYPOINTS if "keypoint_rcnn" in detector else COCO
    kind = "rpn" if detector == "35998355/rpn_R-50-C4_1x" else "generalized_rcnn"
    return f"{HOST}/{folder}/{DETECTORS[detector]}/output/train/{dataset}/{kind}/model_final.pkl"
