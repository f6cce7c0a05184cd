"""Layers and models against torch.nn, with the same weights."""

from __future__ import annotations

import pytest
import torch

import neo
from neo import nn


def torch_block(
    block: int, inputs: int, hidden: int, pool: str, params: neo.typing.Params
) -> torch.nn.Sequential:
    conv = torch.nn.Conv2d(inputs, hidden, 3, stride=2 if pool == "stride" else 1, padding=1)
    norm = torch.nn.BatchNorm2d(hidden, track_running_stats=False)
    for layer, name in ((conv, f"conv{block}"), (norm, f"norm{block}")):
        layer.weight.data = params[f"{name}.weight"].data.clone()
        layer.bias.data = params[f"{name}.bias"].data.clone()
    return torch.nn.Sequential(
        conv, norm, torch.nn.ReLU(), *([torch.nn.MaxPool2d(2)] if pool == "max" else [])
    )


@pytest.mark.parametrize("pool", ["stride", "max"])
@pytest.mark.parametrize("head", ["mean", "flatten"])
def test_conv4_equals_torch_modules(pool: str, head: str) -> None:
    model = nn.Conv4(ways=5, channels=3, size=28, hidden=6, pool=pool, head=head)
    params = model.init(seed=2)
    x = torch.rand(7, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    expected = x
    for block in range(4):
        expected = torch_block(block, 3 if block == 0 else 6, 6, pool, params)(expected)
    expected = expected.mean((2, 3)) if head == "mean" else expected.flatten(1)
    expected = torch.nn.functional.linear(expected, params["head.weight"].data, params["head.bias"].data)
    torch.testing.assert_close(model(params, neo.LiteTensor(x)).data, expected.detach(), rtol=1e-4, atol=1e-5)


def test_mlp_equals_torch_modules() -> None:
    model = nn.MLP(12, 8, 4)
    params = model.init(seed=1)
    x = torch.rand(5, 3, 4)
    hidden = torch.relu(x.flatten(1) @ params["linear0.weight"].data.T + params["linear0.bias"].data)
    expected = hidden @ params["linear1.weight"].data.T + params["linear1.bias"].data
    torch.testing.assert_close(model(params, neo.LiteTensor(x)).data, expected)


@pytest.mark.parametrize("scale", [True, False])
def test_mlp_with_norm_equals_torch_modules(scale: bool) -> None:
    model = nn.MLP(12, 8, 4, norm=True, scale=scale)
    params = model.init(seed=1)
    assert ("norm0.weight" in params) is scale
    assert "norm1.bias" not in params
    x = torch.rand(5, 3, 4)
    hidden = x.flatten(1) @ params["linear0.weight"].data.T + params["linear0.bias"].data
    hidden = torch.relu(torch.nn.BatchNorm1d(8)(hidden))
    expected = hidden @ params["linear1.weight"].data.T + params["linear1.bias"].data
    torch.testing.assert_close(model(params, neo.LiteTensor(x)).data, expected.detach())


def test_init_is_a_pure_function_of_the_seed() -> None:
    model = nn.Conv4(ways=5, hidden=4)
    torch.manual_seed(1)
    first = model.init(seed=7)
    torch.manual_seed(2)
    again, other = model.init(seed=7), model.init(seed=8)
    assert all(torch.equal(first[name].data, again[name].data) for name in first)
    assert not torch.equal(first["conv0.weight"].data, other["conv0.weight"].data)


def test_shift_only_batch_norm_has_no_scale() -> None:
    names = nn.Conv4(ways=5, hidden=4, scale=False).init()
    assert "norm0.bias" in names
    assert "norm0.weight" not in names


def test_missing_parameter_is_named() -> None:
    model = nn.MLP(4, 3)
    params = model.init()
    del params["linear0.bias"]
    with pytest.raises(KeyError, match=r"linear0\.bias"):
        model(params, neo.LiteTensor(torch.rand(2, 4)))


@pytest.mark.parametrize("option", [{"pool": "avg"}, {"head": "sum"}])
def test_conv4_refuses_unknown_options(option: dict) -> None:
    with pytest.raises(ValueError, match="must be one of"):
        nn.Conv4(ways=5, **option)


def test_conv4_refuses_images_that_are_used_up() -> None:
    with pytest.raises(ValueError, match="used up after 4 blocks"):
        nn.Conv4(ways=5, size=8, pool="max")


def test_sequential_refuses_one_name_twice() -> None:
    with pytest.raises(ValueError, match="more than once"):
        nn.Sequential([("a", nn.ReLU()), ("a", nn.ReLU())])
