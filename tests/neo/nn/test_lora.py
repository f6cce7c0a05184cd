"""Low-rank adapters beside weights merged by hand in torch, with its double backward as oracle."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

import neo
from neo import LiteTensor

RANK, ALPHA, RATE = 2, 3.0, 0.3

CASES = {
    "transformer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True),
        ["*attn*weight", "linear1.weight"],
        {"self_attn.in_proj_weight": (24, 8), "self_attn.out_proj.weight": (8, 8), "linear1.weight": (12, 8)},
        (2, 5, 8),
    ),
    "convolution": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)
        ),
        "*.weight",
        {"0.weight": (4, 9), "4.weight": (3, 16)},  # and not the batch norm's, of one dimension
        (3, 2, 4, 4),
    ),
}


@pytest.fixture(params=CASES, ids=str)
def case(request):
    """(module, LoRA around it, its params in float64 with no zeros among them, sizes of the matrices, x)."""
    make, layers, sizes, shape = CASES[request.param]
    torch.manual_seed(0)
    module = make().double()
    model = neo.nn.LoRA(neo.nn.from_torch(module, init="given")[0], layers, rank=RANK, alpha=ALPHA)
    params = {
        name: LiteTensor(leaf.data + 0.1 * torch.randn_like(leaf.data))
        for name, leaf in model.init(0).items()
    }
    return module, model, params, sizes, torch.randn(shape, dtype=torch.float64)


def merged_by_hand(weights: dict, sizes: dict) -> dict:
    """W + (α/r) B A, written as sums over the rank."""
    own = {name: leaf for name, leaf in weights.items() if "lora" not in name}
    for name in sizes:
        a, b = weights[f"{name}.lora_a"], weights[f"{name}.lora_b"]
        own[name] = own[name] + (ALPHA / RANK) * torch.einsum("or,ri->oi", b, a).reshape(own[name].shape)
    return own


def test_begins_as_the_model_that_it_wraps(case):
    _, model, _, sizes, x = case
    plain, params = model.model.init(seed=3), model.init(seed=3)
    adapters = {name: tuple(leaf.shape) for name, leaf in params.items() if name not in plain}
    assert adapters == {
        f"{name}.lora_{letter}": shape
        for name, (rows, columns) in sizes.items()
        for letter, shape in (("a", (RANK, columns)), ("b", (rows, RANK)))
    }
    assert all(torch.equal(params[name].data, plain[name].data) for name in plain)
    assert {leaf.dtype for leaf in params.values()} == {torch.float64}
    for name, (_, columns) in sizes.items():
        largest = float(params[f"{name}.lora_a"].data.abs().max())
        assert 0.5 * columns**-0.5 < largest <= columns**-0.5
    assert torch.equal(model(params, x).data, model.model(plain, x).data)
    again, other = model.init(seed=3), model.init(seed=4, dtype=torch.float32)
    assert all(torch.equal(params[name].data, again[name].data) for name in params)
    name = f"{next(iter(sizes))}.lora_a"
    assert other[name].dtype == torch.float32
    assert not torch.equal(other[name].data, params[name].data.float())


def test_merged_weights_give_the_same_function_in_torch(case):
    module, model, params, sizes, x = case
    merged = model.merge(params)
    module.load_state_dict({name: leaf.data for name, leaf in merged.items()}, strict=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        expected = module(x)
        by_hand = functional_call(
            module, merged_by_hand({n: leaf.data for n, leaf in params.items()}, sizes), x
        )
    torch.testing.assert_close(model(params, x).data, by_hand, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(model(params, x).data, expected, rtol=1e-11, atol=1e-12)
    assert merged.keys() == model.model.params().keys()
    assert float((expected - model.model(model.model.params(), x).data).abs().max()) > 1e-3


def test_gradients_to_second_order_are_those_of_torch(case):
    """Of a loss after one step on the adapters alone, with respect to every parameter and the input."""
    module, model, params, sizes, x = case
    adapting = [name for name in params if "lora" in name]

    def after_a_step(params, x):
        rest = {name: leaf for name, leaf in params.items() if name not in adapting}
        found = neo.grad(lambda own: (model({**rest, **own}, x) ** 2).mean(), argnums=0)(
            {name: params[name] for name in adapting}
        )
        at = {name: params[name] - RATE * leaf for name, leaf in found.items()}
        return (model({**rest, **at}, x) ** 3).mean()

    value, (ours, by_x) = neo.value_and_grad(after_a_step, argnums=(0, 1))(params, LiteTensor(x))

    weights = {name: leaf.data.clone().requires_grad_() for name, leaf in params.items()}
    x = x.clone().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        loss = (functional_call(module, merged_by_hand(weights, sizes), x) ** 2).mean()
        found = torch.autograd.grad(loss, [weights[name] for name in adapting], create_graph=True)
        at = dict(weights)
        for name, gradient in zip(adapting, found, strict=True):
            at[name] = at[name] - RATE * gradient
        expected = (functional_call(module, merged_by_hand(at, sizes), x) ** 3).mean()
        expected.backward()
    torch.testing.assert_close(value.data, expected.detach(), rtol=1e-11, atol=0)
    scale = max(float(weight.grad.abs().max()) for weight in weights.values())
    for name, weight in weights.items():
        torch.testing.assert_close(ours[name].data, weight.grad, rtol=0, atol=1e-10 * scale, msg=name)
    torch.testing.assert_close(by_x.data, x.grad, rtol=0, atol=1e-10 * scale)


def test_is_a_layer_like_any_other():
    layer = neo.nn.LoRA(neo.nn.Linear(4, 3), "weight", rank=1, alpha=2)
    model = neo.nn.Sequential([("first", layer), ("second", neo.nn.Linear(3, 2))])
    params = model.init(seed=1, dtype=torch.float64)
    assert [name for name in params if "lora" in name] == ["first.weight.lora_a", "first.weight.lora_b"]
    params["first.weight.lora_b"] = LiteTensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    x = torch.eye(4, dtype=torch.float64)
    out = model(params, x).data
    w, a, b = (params[f"first.weight{part}"].data for part in ("", ".lora_a", ".lora_b"))
    hidden = x @ (w + 2 * b @ a).T
    torch.testing.assert_close(out, hidden @ params["second.weight"].data.T, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"layers": "hed*"}, r"layers='hed\*' matches no parameter; it must be a pattern .*: conv0\.weight, head\.w"),
        ({"layers": "norm0.*"}, r"layers='norm0\.\*' matches 'norm0\.weight' of shape \(4,\), no matrix; it must be"),
        ({"layers": ["head.weight", "*.bias"]}, r"layers='\*\.bias' matches 'conv0\.bias' of shape \(4,\), no matrix"),
        ({"layers": "*", "rank": 4}, r"rank=4 is more than 'head\.weight' of shape \(3, 4\) can have, 3; set rank"),
        ({"layers": []}, r"layers=\[\] must be a pattern"),
        ({"layers": None}, r"layers=None must be a pattern"),
        ({"layers": "*", "rank": 0}, r"rank must be an integer of 1 or more, got 0"),
        ({"layers": "*", "rank": 2.0}, r"rank must be an integer of 1 or more, got 2\.0"),
        ({"layers": "*", "alpha": float("nan")}, r"alpha must be a finite number, got nan"),
    ],
)  # fmt: skip
def test_what_cannot_be_adapted_is_said(arguments, sentence):
    model = neo.nn.Conv4(ways=3, hidden=4, size=8, blocks=1)
    with pytest.raises(ValueError, match=f"^LoRA: {sentence}"):
        neo.nn.LoRA(model, **{"rank": 2, **arguments}).init(seed=0)


def test_adapters_that_are_not_whole_or_taken_are_said():
    model = neo.nn.LoRA(neo.nn.Linear(4, 3), "weight", rank=2)
    params = model.init(seed=0)
    with pytest.raises(ValueError, match=r"parameter 'weight\.lora_a' has the name of an adapter"):
        neo.nn.LoRA(model, "*", rank=1).init(seed=0)
    for part in ("weight", "weight.lora_a", "weight.lora_b"):
        lacking = {name: leaf for name, leaf in params.items() if name != part}
        with pytest.raises(KeyError, match=rf"params lack '{part}'; 'weight' is corrected by"):
            model(lacking, torch.ones(1, 4))
