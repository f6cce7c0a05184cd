"""functional_call with LiteTensors, torch's spelling of it too, and other methods than forward: against torch."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

import neo
from neo.nn import functional_call

X = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Autoencoder(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = torch.nn.Linear(3, 2)
        self.up = torch.nn.Linear(2, 3)
        self.register_buffer("scale", torch.tensor(2.0))
        self.double()

    def encode(self, x: Any, power: float = 1.0) -> Any:
        return torch.tanh(self.down(x)) * self.scale * power

    def decode(self, z: Any) -> Any:
        return self.up(z)

    def forward(self, x: Any) -> Any:
        return self.decode(self.encode(x))

    def loss(self, x: Any) -> Any:
        return ((self(x) - x) ** 2).mean()


def lite(module: torch.nn.Module) -> dict[str, neo.LiteTensor]:
    return {name: neo.LiteTensor(p.detach().clone()) for name, p in module.named_parameters()}


def torchs(module: torch.nn.Module, fn: Any) -> dict[str, torch.Tensor]:
    """torch's own gradient of fn(params) at the module's parameters."""
    params = {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}
    found = torch.autograd.grad(fn(params), list(params.values()), allow_unused=True)
    return {
        name: torch.zeros_like(params[name]) if g is None else g
        for name, g in zip(params, found, strict=True)
    }


def same(got: dict, expected: dict) -> None:
    assert got.keys() == expected.keys()
    for name in got:
        torch.testing.assert_close(got[name].data, expected[name])


CALLS = {
    "neo.nn": functional_call,
    "torch.func": torch.func.functional_call,
    "stateless": lambda *args: torch.nn.utils.stateless.functional_call(*args),
}


@pytest.mark.filterwarnings("ignore:.*stateless.functional_call:FutureWarning")
@pytest.mark.parametrize("spelled", CALLS)
def test_gradient_is_torchs(spelled: str) -> None:
    module = Autoencoder()
    before = copy.deepcopy(module.state_dict())
    call = CALLS[spelled]
    got = neo.grad(lambda params: (call(module, params, (X,)) ** 2).sum(), argnums=0)(lite(module))
    same(got, torchs(module, lambda params: (torch.func.functional_call(module, params, (X,)) ** 2).sum()))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_inner_step_through_it_has_torchs_meta_gradient() -> None:
    module = Autoencoder()

    def meta_loss(params: Any, call: Any, grad: Any) -> Any:
        g = grad(params)
        adapted = {name: params[name] - 0.1 * g[name] for name in params}
        return ((call(module, adapted, (X,)) - X) ** 2).sum()

    def inner(call: Any) -> Any:
        return lambda params: ((call(module, params, (X,)) - X) ** 2).sum()

    def torch_grad(params: Any) -> Any:
        loss = inner(torch.func.functional_call)(params)
        return dict(
            zip(params, torch.autograd.grad(loss, list(params.values()), create_graph=True), strict=True)
        )

    got = neo.grad(
        lambda params: meta_loss(params, functional_call, neo.grad(inner(functional_call), argnums=0)),
        argnums=0,
    )(lite(module))
    same(got, torchs(module, lambda params: meta_loss(params, torch.func.functional_call, torch_grad)))


def test_what_is_not_named_is_the_modules_own_and_current() -> None:
    module = Autoencoder()
    only = {"down.bias": neo.LiteTensor(module.down.bias.detach().clone())}
    for factor in (1.0, 3.0):
        with torch.no_grad():
            module.up.weight.mul_(factor)
            module.scale.fill_(factor)
        got = neo.grad(lambda params: functional_call(module, params, X).sum(), argnums=0)(only)
        expected = torch.func.grad(lambda b: torch.func.functional_call(module, {"down.bias": b}, X).sum())(
            module.down.bias.detach()
        )
        torch.testing.assert_close(got["down.bias"].data, expected)


def test_buffers_and_several_dicts_may_be_given() -> None:
    module = Autoencoder()
    params, buffers = lite(module), {"scale": neo.LiteTensor(3.0, dtype=torch.float64)}
    got = neo.grad(lambda p, b: functional_call(module, (p, b), X).sum(), argnums=1)(params, buffers)
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(torch.func.functional_call(module, {"scale": scale}, X).sum(), scale)
    torch.testing.assert_close(got["scale"].data, expected)
    assert torch.func.functional_call(module, (params, buffers), X).shape == (4, 3)


def test_changes_of_the_module_are_seen() -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.5), torch.nn.ReLU()).double()
    params = lite(module)
    module.eval()
    torch.testing.assert_close(functional_call(module, params, X).data, module(X), rtol=1e-12, atol=1e-12)
    module[2] = torch.nn.Tanh()
    torch.testing.assert_close(functional_call(module, params, X).data, module(X), rtol=1e-12, atol=1e-12)
    module[2].register_forward_hook(lambda part, args, out: out * 2)
    torch.testing.assert_close(functional_call(module, params, X).data, module(X), rtol=1e-12, atol=1e-12)
    module.train()
    with pytest.raises(neo.DrawError, match="dropout is active"):
        functional_call(module, params, X)
    one, other = (functional_call(module, params, X, seed=1).data for _ in range(2))
    assert torch.equal(one, other)


def test_dtype_of_the_given_parameters_is_that_of_the_call() -> None:
    module = Autoencoder().float()
    params = {name: p.to(torch.float64) for name, p in lite(module).items() if name.startswith("down")}
    out = functional_call(module, params, X)
    assert out.dtype is torch.float64
    torch.testing.assert_close(out.data, copy.deepcopy(module).double()(X))


def test_tied_parameters_are_taken_under_any_of_their_names() -> None:
    module = Autoencoder()
    module.up.weight = torch.nn.Parameter(module.down.weight.detach().T.contiguous())
    module.again = module.up
    w = neo.LiteTensor(module.up.weight.detach().clone())
    for name in ("up.weight", "again.weight"):
        got = neo.grad(lambda w, name=name: functional_call(module, {name: w}, X).sum(), argnums=0)(w)
        expected = torch.func.grad(lambda w: torch.func.functional_call(module, {"up.weight": w}, X).sum())(
            w.data
        )
        torch.testing.assert_close(got.data, expected)
    with pytest.raises(ValueError, match=r"one tied tensor"):
        functional_call(module, {"up.weight": w, "again.weight": w * 2}, X)


def test_what_it_cannot_take_is_refused() -> None:
    module = Autoencoder()
    with pytest.raises(KeyError, match=r"no parameter or buffer 'down\.wieght'; it has down\.weight"):
        functional_call(module, {"down.wieght": neo.LiteTensor(1.0)}, X)
    with pytest.raises(ValueError, match="'scale' given in two dicts"):
        functional_call(module, ({"scale": neo.LiteTensor(1.0)}, {"scale": neo.LiteTensor(1.0)}), X)
    not_torchs: Any = neo.nn.Linear(3, 2)
    with pytest.raises(TypeError, match=r"called as model\(params, x\)"):
        functional_call(not_torchs, {}, X)


def test_keywords_reach_forward() -> None:
    class Shifted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))

        def forward(self, x: Any, state: Any = 0.0, *, shift: float = 0.0) -> Any:
            return x * self.w + shift + state

    params = {"w": neo.LiteTensor(X[0])}
    with pytest.raises(TypeError, match="give it by position"):
        torch.func.functional_call(Shifted(), params, (X,), {"state": 1.0})
    out = torch.func.functional_call(Shifted(), params, (X, 1.0), {"shift": 2.0})
    torch.testing.assert_close(out.data, X * X[0] + 3.0)


# --- methods ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["encode", "loss", "forward"])
def test_method_has_torchs_gradient_under_the_models_names(method: str) -> None:
    module = Autoencoder()
    model, params = neo.nn.from_torch(module)
    got = neo.grad(lambda params: (model.method(method)(params, X) ** 2).sum(), argnums=0)(params)

    def theirs(named: Any) -> Any:
        clone = copy.deepcopy(module)
        for name, value in named.items():
            owner, _, leaf = name.rpartition(".")
            delattr(clone.get_submodule(owner), leaf)
            setattr(clone.get_submodule(owner), leaf, value)
        return (getattr(clone, method)(X) ** 2).sum()

    same(got, torchs(module, theirs))


def test_methods_compose_and_are_made_once() -> None:
    module = Autoencoder()
    model, params = neo.nn.from_torch(module)
    encode, decode = model.method("encode"), model.method("decode")
    assert model.method("encode") is encode
    torch.testing.assert_close(decode(params, encode(params, X)).data, module(X))
    torch.testing.assert_close(encode(params, X, power=2.0).data, module.encode(X, 2.0))
    assert encode.init(0).keys() == params.keys()
    assert "encode" in repr(encode)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(again.method("encode")(params, X).data, module.encode(X))


def test_method_takes_and_returns_state() -> None:
    class Normed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(3)

        def features(self, x: Any) -> Any:
            return self.norm(x) * 2

    module = Normed().double()
    model, params = neo.nn.from_torch(module, buffers="updated")
    out, state = model.method("features")(params, X, state=model.state)
    expected = copy.deepcopy(module)
    torch.testing.assert_close(out.data, expected.features(X))
    torch.testing.assert_close(state["norm.running_mean"], expected.norm.running_mean)
    out, state = model.method("features")(params, X, state=state)
    assert int(state["norm.num_batches_tracked"]) == 2


def test_method_that_does_not_exist_is_named() -> None:
    model, _ = neo.nn.from_torch(Autoencoder())
    for name in ("encoder", "scale"):
        with pytest.raises(AttributeError, match=f"has no method '{name}'"):
            model.method(name)
