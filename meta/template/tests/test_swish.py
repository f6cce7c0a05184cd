import neo
import torch

from my_project.swish import swish


def test_swish_is_silu():
    x = torch.linspace(-5, 5, 11, dtype=torch.float64)
    assert torch.allclose(swish(neo.LiteTensor(x)).data, torch.nn.functional.silu(x))


def test_gradients_agree_with_finite_differences_to_second_order():
    x = neo.LiteTensor([-3.0, -0.5, 0.0, 2.0], dtype=torch.float64)
    assert neo.gradcheck(swish, (x,), order=2)
