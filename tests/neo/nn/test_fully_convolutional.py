"""Logits for each pixel, against the same layers of torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import neo


def test_model_agrees_with_torch():
    model = neo.nn.FullyConvolutional(2, channels=3, hidden=4)
    params = {name: one.data.double() for name, one in model.init(0).items()}
    x = torch.randn(5, 3, 8, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = x
    for i in range(5):
        name = f"conv{i}" if i < 3 else f"up{i - 3}"
        weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
        y = (
            F.conv2d(y, weight, bias, stride=1 if i == 0 else 2, padding=1)
            if i < 3
            else F.conv_transpose2d(y, weight, bias, stride=2, padding=1)
        )
        y = F.batch_norm(
            y, None, None, params[f"norm{i}.weight"], params[f"norm{i}.bias"], training=True
        ).relu()
    y = F.conv2d(y, params["head.weight"], params["head.bias"])
    torch.testing.assert_close(model(params, x), y)
    assert y.shape == (5, 3, 8, 12)
    with pytest.raises(ValueError, match="a height and width that 4 divides"):
        model(params, x[..., 1:])
