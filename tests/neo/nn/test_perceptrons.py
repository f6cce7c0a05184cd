"""Linear layers that run as one op, in a converted module and in neo.nn.MLP: found, right, and left alone."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import neo
from neo.functions.perceptron import layer_by_layer, perceptron
from tests.neo.nn.meta_gradients import assert_meta_gradients_agree


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class Headed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4), nn.Sigmoid())
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def tied() -> nn.Module:
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(3, 2))


CASES: dict[str, tuple[Any, list[str]]] = {
    "whole": (
        lambda: nn.Sequential(
            nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 2)
        ),
        ["0 + ReLU + 2 + ReLU + 4"],
    ),
    "an activation at the end": (
        lambda: nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2), nn.Sigmoid()),
        ["0 + 1 + sigmoid"],
    ),
    "two, and other layers between": (
        lambda: nn.Sequential(
            *(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.GELU(), nn.LayerNorm(4)),
            *(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)),
        ),
        ["0 + tanh + 2", "5 + ReLU + 7"],
    ),
    "within": (Headed, ["body.0 + tanh + body.2 + sigmoid"]),
    "tied": (tied, ["0 + tanh + 2 + tanh + 4"]),
    "one alone": (lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh()), []),
    "without a bias": (lambda: nn.Sequential(nn.Linear(3, 5, bias=False), nn.Tanh(), nn.Linear(5, 2)), []),
}


@pytest.mark.parametrize("name", CASES)
def test_layers_as_one_op_give_torch_s_meta_gradient(name: str) -> None:
    build, said = CASES[name]
    torch.manual_seed(0)
    module = build().double()
    support, query = drawn(5, 3), drawn(4, 3, seed=1)
    model, params = neo.nn.from_torch(module)
    torch.testing.assert_close(model(params, support).data, module(support).detach(), rtol=1e-12, atol=1e-12)
    assert str(model).split("\n  one op: ")[1:] == said
    torch.testing.assert_close(model(params, support).data, module(support).detach(), rtol=1e-12, atol=1e-12)
    assert_meta_gradients_agree(module, (support,), (query,))


@pytest.mark.parametrize("kinds", ["t-", "rst", "s-s-"])
def test_third_derivatives_are_those_of_layer_by_layer(kinds: str) -> None:
    sizes = [3, 4, 2, 3, 2][: len(kinds) + 1]
    layers = [neo.LiteTensor(drawn(b, a, seed=b)) for a, b in itertools.pairwise(sizes)]
    layers += [neo.LiteTensor(drawn(b, seed=9)) for b in sizes[1:]]
    x = neo.LiteTensor(drawn(4, 3))

    def third(net: Any) -> Any:
        def norm(of: Any) -> Any:
            return lambda *args: sum((g**2).sum() for g in neo.pytree.leaves(neo.grad(of, (0, 1))(*args)))

        loss = lambda x, layers: (torch.sin(net(kinds, x, *layers)) ** 2).sum()  # noqa: E731
        return neo.pytree.leaves(neo.grad(norm(norm(loss)), (0, 1))(x, layers))

    found, right = third(perceptron), third(lambda kinds, *args: layer_by_layer(kinds, False, *args)[-1])
    for got, expected in zip(found, right, strict=True):
        scale = float(expected.data.abs().max())
        torch.testing.assert_close(got.data, expected.data, rtol=1e-10, atol=1e-10 * scale)


def test_examples_of_more_dims_and_of_none() -> None:
    torch.manual_seed(0)
    module = CASES["whole"][0]().double()
    model, params = neo.nn.from_torch(module)
    for shape in ((4, 3), (2, 5, 3), (3,), (0, 3)):
        x = drawn(*shape)
        torch.testing.assert_close(model(params, x).data, module(x).detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["whole", "within"])
def test_hooks_that_torch_calls_for_every_module_see_every_layer(name: str) -> None:
    module = CASES[name][0]().double()
    model, params = neo.nn.from_torch(module)
    model(params, drawn(4, 3))
    seen: list[Any] = []
    with nn.modules.module.register_module_forward_hook(lambda part, args, out: seen.append(type(part))):
        model(params, drawn(4, 3))
    assert seen.count(nn.Linear) == 3


def test_a_layer_with_a_hook_is_left_alone() -> None:
    module = CASES["whole"][0]().double()
    module[2].register_forward_hook(lambda part, args, out: 2 * out)
    model, params = neo.nn.from_torch(module)
    x = drawn(4, 3)
    torch.testing.assert_close(model(params, x).data, module(x).detach(), rtol=1e-12, atol=1e-12)
    assert "one op" not in str(model)


def test_wrong_input_is_refused_as_torch_has_it() -> None:
    model, params = neo.nn.from_torch(CASES["whole"][0]())
    model(params, drawn(4, 3, dtype=torch.float32))
    with pytest.raises(RuntimeError, match=r"shapes cannot be multiplied"):
        model(params, drawn(4, 2, dtype=torch.float32))
    with pytest.raises(KeyError, match="must have exactly the names"):
        model({**params, "more": params["0.bias"]}, drawn(4, 3, dtype=torch.float32))
    with pytest.raises(RuntimeError, match="dtype"):
        model(params, drawn(4, 3))


def test_a_model_that_has_been_called_can_be_pickled() -> None:
    model, params = neo.nn.from_torch(CASES["whole"][0]())
    x = drawn(4, 3, dtype=torch.float32)
    y = model(params, x)
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(params, x).data, y.data)
    assert str(again) == str(model)


def test_switched_off_it_runs_layer_by_layer() -> None:
    module = CASES["whole"][0]().double()
    model, params = neo.nn.from_torch(module, fused=False)
    model(params, drawn(4, 3))
    assert "one op" not in str(model)


def test_autocast_casts_each_layer() -> None:
    model, params = neo.nn.from_torch(CASES["whole"][0]())
    x = drawn(4, 3, dtype=torch.float32)
    model(params, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(params, x).dtype is torch.bfloat16


def test_a_meta_batch_by_vmap_is_each_task_s_own() -> None:
    module = CASES["whole"][0]().double()
    model, params = neo.nn.from_torch(module)
    tasks = [neo.LiteTensor(drawn(3, 5, size, seed=seed)) for seed, size in enumerate((3, 2, 3, 2))]

    def of_task(sx: Any, sy: Any, qx: Any, qy: Any) -> Any:
        def outer(params: Any) -> Any:
            inner = lambda p: torch.nn.functional.mse_loss(model(p, sx), sy)  # noqa: E731
            adapted, _ = neo.optim.sgd(0.1).step(params, neo.grad(inner, 0)(params), None)
            return torch.nn.functional.mse_loss(model(adapted, qx), qy)

        return neo.value_and_grad(outer, 0)(params)

    losses, gradients = neo.vmap(of_task)(*tasks)
    for i in range(3):
        loss, gradient = of_task(*[part[i] for part in tasks])
        torch.testing.assert_close(losses.data[i], loss.data, rtol=1e-12, atol=1e-14)
        for name, right in gradient.items():
            torch.testing.assert_close(gradients[name].data[i], right.data, rtol=1e-10, atol=1e-12)


def test_vmaps_nest() -> None:
    layers = [drawn(2, 4, 3), drawn(3, 2, 4, seed=1), drawn(2, 4, seed=2), drawn(3, 2, seed=3)]
    x = drawn(5, 3, seed=4)

    def net(*layers: Any) -> Any:
        return perceptron("t-", neo.LiteTensor(x), *layers)

    lite = [neo.LiteTensor(layer) for layer in layers]
    both = neo.vmap(neo.vmap(net, (0, None, 0, None)), (None, 0, None, 0))(*lite)
    for i in range(3):
        for j in range(2):
            alone = net(lite[0][j], lite[1][i], lite[2][j], lite[3][i])
            torch.testing.assert_close(both.data[i, j], alone.data, rtol=1e-12, atol=1e-14)


def test_an_mlp_is_one_op_and_its_layers_give_the_same() -> None:
    model = neo.nn.MLP(6, 5, 4, 2)
    params = model.init(0, dtype=torch.float64)
    x = drawn(3, 2, 3)
    nodes: list[str] = []
    for call in (model, model.run):
        tape_of = neo.value_and_grad(lambda params, call=call: (call(params, x) ** 2).sum(), argnums=0)
        nodes.append(str({name: g.tolist() for name, g in tape_of(params)[1].items()}))
    assert nodes[0] == nodes[1]
    with pytest.raises(KeyError, match="MLP: params lack"):
        model({name: value for name, value in params.items() if name != "linear1.bias"}, x)
