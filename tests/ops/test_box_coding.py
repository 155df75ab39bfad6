import math

import torch

from mrcnn_zoo.ops.box_coding import SCALE_CLAMP, BoxCoder, LastPixelBoxCoder


def test_encode_gives_deltas_of_the_paper() -> None:
    # The source is 10 x 20 around (5, 10), the target 20 x 10 around (10, 15).
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    deltas = coder.encode(torch.tensor([[0.0, 0.0, 10.0, 20.0]]), torch.tensor([[0.0, 10.0, 20.0, 20.0]]))
    expected = [[10 * 5 / 10, 10 * 5 / 20, 5 * math.log(2), 5 * math.log(0.5)]]
    torch.testing.assert_close(deltas, torch.tensor(expected))


def test_decode_inverts_encode() -> None:
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 50, 2, generator=generator) * 100
    source, target = torch.cat((corners, corners + 1 + torch.rand(2, 50, 2, generator=generator) * 50), dim=2)
    torch.testing.assert_close(coder.decode(coder.encode(source, target), source), target, atol=1e-3, rtol=1e-4)


def test_decode_applies_all_groups_of_four_deltas_to_the_same_box() -> None:
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    deltas = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0, math.log(2)]])
    expected = torch.tensor([[0.0, 0.0, 10.0, 10.0, 5.0, -5.0, 15.0, 15.0]])
    torch.testing.assert_close(coder.decode(deltas, box), expected)


def test_decode_clamps_growth_of_box() -> None:
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    box = coder.decode(torch.tensor([[0.0, 0.0, 1e4, SCALE_CLAMP + 1]]), torch.tensor([[0.0, 0.0, 16.0, 16.0]]))
    torch.testing.assert_close(box, torch.tensor([[-492.0, -492.0, 508.0, 508.0]]))


def test_decode_keeps_leading_dimensions() -> None:
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    boxes = torch.rand(2, 3, 4)
    assert coder.decode(torch.zeros(2, 3, 8), boxes).shape == (2, 3, 8)


def test_decode_works_in_float32_on_half_precision_deltas() -> None:
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    box = torch.tensor([[1000.25, 0.0, 1001.25, 1.0]])
    decoded = coder.decode(torch.zeros(1, 4, dtype=torch.bfloat16), box)
    assert decoded.dtype == torch.float32
    assert decoded.tolist() == box.tolist()


def test_no_boxes_have_no_deltas() -> None:
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    assert coder.encode(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0, 4)
    assert coder.decode(torch.zeros(0, 12), torch.zeros(0, 4)).shape == (0, 12)


def test_bounded_coder_limits_shrinking() -> None:
    coder = BoxCoder((1, 1, 1, 1), scale_floor=-SCALE_CLAMP)
    source = torch.tensor([[0.0, 0.0, 62.5, 62.5]])
    decoded = coder.decode(torch.tensor([[0.0, 0.0, -50.0, -1.0]]), source)
    sides = decoded[0, 2:] - decoded[0, :2]
    torch.testing.assert_close(sides, torch.tensor([1.0, 62.5 / math.e]), rtol=1e-5, atol=1e-5)


def test_last_pixel_deltas_of_tiny_boxes_are_finite() -> None:
    coder = LastPixelBoxCoder((1, 1, 1, 1))
    tiny, box = torch.tensor([[3.0, 3.0, 3.5, 4.0]]), torch.tensor([[0.0, 0.0, 9.0, 9.0]])
    assert coder.encode(tiny, box).isfinite().all()
    assert coder.encode(box, tiny).isfinite().all()
    assert coder.encode(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0, 4)
