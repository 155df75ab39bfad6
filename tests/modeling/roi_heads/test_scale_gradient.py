import torch

from mrcnn_zoo.modeling.roi_heads.cascade_heads import scale_gradient


def test_scaled_gradient_keeps_values_and_scales_the_gradient() -> None:
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    scaled = scale_gradient(values * 2, 0.25)
    assert scaled.tolist() == [2, 4]
    scaled.square().sum().backward()
    assert values.grad.tolist() == [0.25 * 2 * 2 * 2, 0.25 * 2 * 4 * 2]


def test_scaled_gradient_accepts_empty_tensors() -> None:
    values = torch.zeros(0, 3, requires_grad=True)
    scale_gradient(values, 0.5).sum().backward()
    assert values.grad.shape == (0, 3)
