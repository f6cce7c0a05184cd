"""Parameters as constants: what is left has the gradients that it had, alone and below low-rank adapters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import neo
from neo import LiteTensor
from neo.nn import MLP, Conv4, Frozen, LoRA

X = torch.randn(2, 6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6) % 3
ALPHA = 0.1


def meta_gradient(model: Any, params: Any, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    support, query = X.to(dtype)

    def outer(params: Any) -> Any:
        inner = neo.grad(lambda p: F.cross_entropy(model(p, support), LABELS), argnums=0)(params)
        return F.cross_entropy(model({n: params[n] - ALPHA * inner[n] for n in params}, query), LABELS)

    return neo.value_and_grad(outer, argnums=0)(params)


def test_what_is_left_learns_as_if_the_rest_were_captured_as_constants() -> None:
    plain = Conv4(3, size=8, hidden=4, blocks=2)
    model = Frozen(plain, ["conv0.*", "norm0.*"], seed=3)
    whole, params = plain.init(3), model.init(3)
    assert [*params] == [
        "conv1.weight",
        "conv1.bias",
        "norm1.weight",
        "norm1.bias",
        "head.weight",
        "head.bias",
    ]
    assert all(torch.equal(params[name].data, whole[name].data) for name in params)
    constants = {name: leaf for name, leaf in whole.items() if name not in params}
    assert all(torch.equal(model.constants[name], leaf.data) for name, leaf in constants.items())
    value, found = meta_gradient(model, params)
    expected_value, expected = meta_gradient(lambda p, x: plain({**constants, **p}, x), params)
    assert torch.equal(value.data, expected_value.data)
    assert all(torch.equal(found[name].data, expected[name].data) for name in params)
    merged = model.merge(params)
    assert {*merged} == {*whole}
    other = model.init(4)
    assert not torch.equal(other["conv1.weight"].data, params["conv1.weight"].data)
    assert torch.equal(
        model.complete(other)["conv0.weight"].data, whole["conv0.weight"].data
    )  # whatever the seed


def test_adapters_of_a_frozen_base_adapt_as_by_torch() -> None:
    """∇ of the loss after a step on A, B and the head, W a constant: torch's double backward in float64."""
    base = MLP(64, 5, 3)
    adapted = LoRA(base, "linear0.weight", rank=2, alpha=4.0)
    model = Frozen(adapted, ["linear0.weight", "linear0.bias"], seed=1)
    start = model.init(1, dtype=torch.float64)
    assert [*start] == ["linear1.weight", "linear1.bias", "linear0.weight.lora_a", "linear0.weight.lora_b"]
    generator = torch.Generator().manual_seed(2)
    params = {
        n: LiteTensor(p.data + 0.1 * torch.randn(p.shape, generator=generator).double())
        for n, p in start.items()
    }
    value, found = meta_gradient(model, params, torch.float64)

    w, b = (model.constants[f"linear0.{key}"].double() for key in ("weight", "bias"))

    def forward(p: Any, x: torch.Tensor) -> torch.Tensor:
        weight = w + 2.0 * p["linear0.weight.lora_b"] @ p["linear0.weight.lora_a"]
        return F.linear(torch.relu(x.flatten(1) @ weight.T + b), p["linear1.weight"], p["linear1.bias"])

    theta = {name: leaf.data.clone().requires_grad_() for name, leaf in params.items()}
    support, query = X.double()
    inner = torch.autograd.grad(
        F.cross_entropy(forward(theta, support), LABELS), list(theta.values()), create_graph=True
    )
    adapted = {name: p - ALPHA * g for (name, p), g in zip(theta.items(), inner, strict=True)}
    loss = F.cross_entropy(forward(adapted, query), LABELS)
    torch.testing.assert_close(value.data, loss.detach(), rtol=1e-10, atol=1e-10)
    for (name, ours), theirs in zip(
        found.items(), torch.autograd.grad(loss, list(theta.values())), strict=True
    ):
        torch.testing.assert_close(ours.data, theirs, rtol=1e-9, atol=1e-9, msg=name)
    plain = {name: leaf.data for name, leaf in model.merge(params).items()}
    assert [*plain] == [*base.init(0)]
    torch.testing.assert_close(base(plain, LiteTensor(query)).data, forward(theta, query).detach())


def test_what_is_given_is_what_they_begin_at() -> None:
    given = {"linear0.weight": torch.full((5, 64), 0.5), "linear1.bias": torch.ones(3)}
    model = Frozen(MLP(64, 5, 3), "linear0.*", given=given)
    assert torch.equal(model.constants["linear0.weight"], given["linear0.weight"])
    assert torch.equal(model.init(7)["linear1.bias"].data, torch.ones(3))
    double = model.complete(model.init(7, dtype=torch.float64))
    assert {leaf.dtype for leaf in double.values()} == {torch.float64}


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda m: Frozen(m, "linear3.*"), ValueError, r"'linear3\.\*' matches no parameter; the model's: linear0"),
        (lambda m: Frozen(m, "*"), ValueError, r"matches every parameter, and nothing would be learned"),
        (lambda m: Frozen(m, []), ValueError, r"frozen=\[\] must be a pattern"),
        (lambda m: Frozen(m, "linear0.*", given={"linear0.bias": torch.ones(2)}), ValueError, r"expected \(5,\)"),
        (lambda m: Frozen(m, "linear0.*", given={"bias": torch.ones(2)}), ValueError, r"expected one of linear0"),
        (lambda m: Frozen(m, "linear0.*")(m.init(0), X[0]), KeyError, r"have \['linear0\.weight', .*\] too many"),
        (lambda m: Frozen(m, "linear0.*")({}, X[0]), KeyError, r"lack \['linear1\.weight', 'linear1\.bias'\]"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(make, error, sentence) -> None:
    with pytest.raises(error, match=sentence):
        make(MLP(64, 5, 3))
