"""torchvision's anchors: compared with its own generator, and by hand."""

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from mrcnn_zoo.config import load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling.anchors import IntegerAnchors, build_anchor_generator
from mrcnn_zoo.modeling.anchors.integer_anchors import integer_cell_anchors

RATIOS = (0.5, 1.0, 2.0)
ONE_SIZE = ((32,), (64,), (128,), (256,), (512,))
THREE_SIZES = ((32, 40, 50), (64, 80, 101), (128, 161, 203), (256, 322, 406), (512, 645, 812))


def pyramid(height: int, width: int, *, finest: int) -> list[torch.Tensor]:
    """Maps of an FPN from that stride on; further ones are halved with rounding up, as max-pooling and P7 do."""
    maps = [torch.zeros(1, 1, height // finest, width // finest)]
    for _ in range(4):
        maps.append(torch.zeros(1, 1, -(-maps[-1].shape[2] // 2), -(-maps[-1].shape[3] // 2)))
    return maps


@pytest.mark.parametrize(("sizes", "finest"), [(ONE_SIZE, 4), (THREE_SIZES, 8)])
@pytest.mark.parametrize("image", [(800, 1088), (608, 1344), (32, 32), (96, 160), (1344, 800)])
def test_anchors_are_exactly_those_of_torchvision(
    sizes: tuple[tuple[int, ...], ...], finest: int, image: tuple[int, int]
) -> None:
    maps = pyramid(*image, finest=finest)
    ours = IntegerAnchors(sizes, aspect_ratios=[RATIOS] * 5, finest_stride=finest)
    theirs = AnchorGenerator(sizes, (RATIOS,) * 5)
    (expected,) = theirs(ImageList(torch.zeros(1, 3, *image), [image]), maps)
    assert torch.equal(torch.cat(ours(maps)), expected)
    assert ours.anchors_per_cell == theirs.num_anchors_per_location()


def test_anchor_spacing_of_an_odd_level_is_below_its_stride() -> None:
    anchors = IntegerAnchors(ONE_SIZE, aspect_ratios=[[1.0]] * 5, finest_stride=4)(pyramid(800, 1088, finest=4))
    p6 = anchors[-1].reshape(13, 17, 4)  # 800 / 64 and 1088 / 64, rounded up
    assert p6[0, 0].tolist() == [-256, -256, 256, 256]
    assert p6[1, 0].tolist() == [-256, 61 - 256, 256, 61 + 256]  # 800 // 13
    assert p6[0, 1].tolist() == [64 - 256, -256, 64 + 256, 256]


def test_halves_are_rounded_to_the_even_side() -> None:
    assert integer_cell_anchors([101], [1.0]).tolist() == [[-50, -50, 50, 50]]
    assert integer_cell_anchors([103], [1.0]).tolist() == [[-52, -52, 52, 52]]


def test_anchors_of_a_cell_are_ordered_by_ratio_then_size() -> None:
    assert integer_cell_anchors([8, 16], [1.0, 4.0]).tolist() == [
        [-4, -4, 4, 4],
        [-8, -8, 8, 8],
        [-2, -8, 2, 8],
        [-4, -16, 4, 16],
    ]


def test_anchors_of_an_empty_batch_are_those_of_any_batch() -> None:
    generator = IntegerAnchors([[32]], aspect_ratios=[[1.0]], finest_stride=4)
    assert generator([torch.zeros(0, 1, 2, 3)])[0].shape == (6, 4)


def test_integer_anchors_refuse_an_offset() -> None:
    overrides = ["MODEL.ANCHOR_GENERATOR.NAME", "TorchvisionAnchorGenerator", "MODEL.ANCHOR_GENERATOR.OFFSET", 0.5]
    with pytest.raises(UserError, match=r"OFFSET = 0\.5: TorchvisionAnchorGenerator has no offset"):
        build_anchor_generator(load_config(None, overrides), [4])
