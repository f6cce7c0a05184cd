"""torch.autocast and sessions: values in torch's dtypes, gradients in those of their tensors, wherever it stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import optree
import pytest
import torch
import torch.nn.functional as F

import neo
from neo import LiteTensor, autograd
from neo.functions import function, registry
from neo.kernels import direct
from tests.helpers.bfloat16 import needs_lstm

LOWER = [torch.bfloat16, torch.float16]
CONTEXTS = {
    "block": lambda fn, dtype: _in_block(fn, dtype),
    "decorator": lambda fn, dtype: torch.autocast("cpu", dtype=dtype)(fn),
    "nested in one that is off": lambda fn, dtype: torch.autocast("cpu", enabled=False)(_in_block(fn, dtype)),
}


def _in_block(fn: Callable[..., Any], dtype: torch.dtype) -> Callable[..., Any]:
    def wrapped(*args: Any) -> Any:
        with torch.autocast("cpu", dtype=dtype):
            return fn(*args)

    return wrapped


def network(weights: Any, x: Any) -> Any:
    """Ops of every list, and some of none."""
    hidden = torch.tanh(F.linear(x, weights["w"], weights["b"]))
    hidden = F.layer_norm(hidden, (6,), weights["scale"], None)
    both = torch.cat([hidden, x @ weights["v"]], 1)
    return torch.softmax(both, 1) @ weights["out"]


def problem() -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"w": (6, 4), "b": (6,), "scale": (6,), "v": (4, 3), "out": (9, 5)}
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return weights, torch.randn(7, 4, generator=generator), torch.randint(0, 5, (7,), generator=generator)


def lite(tree: Any) -> Any:
    return optree.tree_map(LiteTensor, tree)


def tracked(tree: Any) -> Any:
    return optree.tree_map(lambda x: x.clone().requires_grad_(), tree)


def assert_close(got: Any, expected: Any, tolerance: float) -> None:
    for mine, theirs in zip(optree.tree_leaves(got), optree.tree_leaves(expected), strict=True):
        assert mine.dtype is theirs.dtype
        assert tuple(mine.shape) == tuple(theirs.shape)
        size = max(float(theirs.detach().abs().max()), 1e-3)
        theirs = theirs.data if isinstance(theirs, LiteTensor) else theirs.detach()
        torch.testing.assert_close(mine.data, theirs, rtol=0, atol=tolerance * size)


# --- where autocast stands -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", LOWER)
@pytest.mark.parametrize("context", CONTEXTS)
def test_gradients_under_autocast_are_torchs_when_backward_is_outside(context: str, dtype: torch.dtype):
    weights, x, y = problem()
    loss = CONTEXTS[context](lambda weights: F.cross_entropy(network(weights, x), y), dtype)
    mine = tracked(weights)
    expected = loss(mine)
    expected.backward()
    got, gradients = neo.value_and_grad(loss, argnums=0)(lite(weights))
    assert_close(got, expected, 1e-2)
    assert_close(gradients, {name: weight.grad for name, weight in mine.items()}, 2e-2)


@pytest.mark.parametrize("dtype", LOWER)
def test_gradients_are_the_same_with_autocast_around_the_session(dtype: torch.dtype):
    weights, x, y = problem()

    def loss(weights: Any) -> Any:
        return F.cross_entropy(network(weights, x), y)

    inside = neo.grad(_in_block(loss, dtype), argnums=0)(lite(weights))
    around = _in_block(neo.grad(loss, argnums=0), dtype)(lite(weights))
    assert_close(around, inside, 0)


def test_autocast_around_a_stretch_of_the_function():
    weights, x, y = problem()

    def loss(weights: Any) -> Any:
        hidden = F.linear(x, weights["w"], weights["b"])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            middle = hidden @ weights["w"]
            with torch.autocast("cpu", enabled=False):
                kept = hidden @ weights["w"]
        assert (middle.dtype, kept.dtype) == (torch.bfloat16, torch.float32)
        return (middle.float() * kept).sum() + F.cross_entropy(kept @ weights["v"], y % 3)

    mine = tracked(weights)
    theirs = torch.autograd.grad(loss(mine), [mine[name] for name in ("w", "b", "v")])
    got = neo.grad(loss, argnums=0)(lite(weights))
    assert_close([got[name] for name in ("w", "b", "v")], list(theirs), 2e-2)


def test_nothing_is_cast_without_autocast_when_the_walk_back_runs_under_it():
    w, x = torch.randn(5, 4), torch.randn(3, 4)
    out, pullback = neo.vjp(lambda w: F.linear(x, w), LiteTensor(w))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (gradient,) = pullback(torch.ones(3, 5))
    torch.testing.assert_close(gradient.data, torch.ones(3, 5).T @ x)
    assert out.dtype is gradient.dtype is torch.float32


def test_pullback_called_outside_takes_the_outputs_dtype_and_gives_the_inputs():
    w, x = torch.randn(5, 4), torch.randn(3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, pullback = neo.vjp(lambda w, x: F.linear(x, w), LiteTensor(w), LiteTensor(x))
    assert out.dtype is torch.bfloat16
    w_bar, x_bar = pullback(torch.ones(3, 5, dtype=torch.bfloat16))
    assert w_bar.dtype is x_bar.dtype is torch.float32
    torch.testing.assert_close(w_bar.data, torch.ones(3, 5).T @ x, rtol=2e-2, atol=2e-2)


def test_state_of_autocast_is_put_back_after_an_op_and_after_one_that_fails():
    x = LiteTensor(torch.randn(3, 3))
    with torch.autocast("cpu", dtype=torch.float16):
        _ = x @ x
        with pytest.raises(RuntimeError):
            _ = x @ LiteTensor(torch.ones(2, 2))
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") is torch.float16
    assert not torch.is_autocast_enabled("cpu")


def test_float64_and_integers_are_left_alone():
    x = torch.randn(3, 3, dtype=torch.float64)

    def loss(x: Any) -> Any:
        return (x @ x).sum()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, gradient = neo.value_and_grad(loss, argnums=0)(LiteTensor(x))
        whole = LiteTensor(torch.ones(2, 2, dtype=torch.int64)) @ torch.ones(2, 2, dtype=torch.int64)
    assert out.dtype is gradient.dtype is torch.float64
    assert whole.dtype is torch.int64


def test_operators_and_methods_are_cast_like_functions():
    a, b = torch.randn(3, 4), torch.randn(4, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        products = [
            LiteTensor(a) @ LiteTensor(b),
            LiteTensor(a) @ b,
            a @ LiteTensor(b),
            LiteTensor(a).matmul(b),
            LiteTensor(a).mm(LiteTensor(b)),
            neo.functions.matmul(LiteTensor(a), b),
            LiteTensor(a) @ b.numpy(),
        ]
        expected = a @ b
        plain = neo.functions.matmul(a, b)
    for product in products:
        assert product.dtype is torch.bfloat16
        assert torch.equal(product.data, expected)
    assert torch.equal(plain, expected)


def test_widest_of_two_lower_precisions_is_refused_as_in_torch():
    halves = [torch.ones(2, dtype=torch.float16), torch.ones(2, dtype=torch.bfloat16)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(RuntimeError):
            torch.cat(halves)
        with pytest.raises(RuntimeError, match=r"autocast to torch\.bfloat16 met torch\.float16"):
            torch.cat([LiteTensor(x) for x in halves])


# --- higher orders, and what runs a function again -------------------------------------------------------------


def _maml(weights: Any, x: Any, y: Any, grad: Callable[..., Any]) -> Any:
    def inner(weights: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.cross_entropy(network(weights, x), y)

    gradient = grad(inner, weights)
    adapted = {name: weight - 0.5 * gradient[name] for name, weight in weights.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return F.cross_entropy(network(adapted, x.flip(1)), y)


@pytest.mark.parametrize("around", [False, True])
def test_meta_gradient_under_autocast_is_torchs(around: bool):
    weights, x, y = problem()

    def by_torch(inner: Any, weights: Any) -> Any:
        names = list(weights)
        found = torch.autograd.grad(inner(weights), [weights[name] for name in names], create_graph=True)
        return dict(zip(names, found, strict=True))

    def meta(weights: Any) -> Any:
        return _maml(weights, x, y, lambda inner, weights: neo.grad(inner, argnums=0)(weights))

    mine = tracked(weights)
    expected = _maml(mine, x, y, by_torch)
    expected.backward()
    session = neo.value_and_grad(meta, argnums=0)
    got, gradients = (_in_block(session, torch.bfloat16) if around else session)(lite(weights))
    assert_close(got, expected, 1e-2)
    assert_close(gradients, {name: weight.grad for name, weight in mine.items()}, 5e-2)


def test_hessian_product_under_autocast_is_torchs():
    w, v, x = torch.randn(4, 4), torch.randn(4, 4), torch.randn(3, 4)

    def loss(w: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return torch.tanh(x @ w).float().pow(2).sum()

    mine = w.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(mine), mine, create_graph=True)
    (expected,) = torch.autograd.grad((gradient * v).sum(), mine)
    assert_close(neo.hvp(loss, LiteTensor(w), LiteTensor(v)), expected, 3e-2)


def test_jvp_under_autocast_is_that_of_the_casts():
    w, dot, x = torch.randn(4, 5), torch.randn(4, 5), torch.randn(3, 4)

    def fn(w: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return torch.tanh(x @ w)

    out, tangent = neo.jvp(fn, (LiteTensor(w),), (LiteTensor(dot),))
    expected = (1 - torch.tanh(x @ w) ** 2) * (x @ dot)
    assert out.dtype is tangent.dtype is torch.bfloat16
    torch.testing.assert_close(tangent.data.float(), expected, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("backward_inside", [False, True])
def test_checkpoint_recomputes_under_the_autocast_of_the_first_run(backward_inside: bool):
    weights, x, y = problem()
    dtypes: list[torch.dtype] = []

    def body(weights: Any) -> Any:
        out = network(weights, x)
        dtypes.append(out.dtype)
        return out

    def loss(weights: Any, body: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.cross_entropy(body(weights), y)

    expected = neo.grad(lambda weights: loss(weights, body), argnums=0)(lite(weights))
    session = neo.grad(lambda weights: loss(weights, neo.checkpoint(body)), argnums=0)
    if backward_inside:
        session = _in_block(session, torch.float16)
    assert_close(session(lite(weights)), expected, 1e-2)
    assert dtypes == [torch.bfloat16] * 3


def test_vmap_under_autocast_is_the_loop():
    w, xs = torch.randn(4, 5), torch.randn(6, 3, 4)

    def loss(w: Any, x: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return torch.tanh(x @ w).float().square().sum()

    mapped = neo.vmap(neo.grad(loss, argnums=0), in_dims=(None, 0))(LiteTensor(w), LiteTensor(xs))
    one_by_one = torch.stack([neo.grad(loss, argnums=0)(LiteTensor(w), x).data for x in xs])
    assert_close(mapped, one_by_one, 1e-2)
    through = neo.grad(lambda w: neo.vmap(loss, in_dims=(None, 0))(w, LiteTensor(xs)).sum(), argnums=0)
    assert_close(through(LiteTensor(w)), one_by_one.sum(0), 2e-2)


# --- models ---------------------------------------------------------------------------------------------------


def _conv4_by_torch(params: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    for i in range(4):
        x = F.conv2d(x, params[f"conv{i}.weight"], params[f"conv{i}.bias"], 1, 1)
        x = F.batch_norm(x, None, None, params[f"norm{i}.weight"], params[f"norm{i}.bias"], True)
        x = F.max_pool2d(torch.relu(x), 2)
    return F.linear(x.flatten(1), params["head.weight"], params["head.bias"])


@pytest.mark.parametrize("images", [torch.Tensor, LiteTensor])
@pytest.mark.parametrize("dtype", LOWER)
def test_conv4_under_autocast_has_torchs_value_and_gradients(images: Any, dtype: torch.dtype):
    model = neo.nn.Conv4(ways=5, hidden=16, pool="max")
    params = model.init(seed=0)
    x = torch.randn(10, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    y = torch.arange(10) % 5
    mine = {name: value.data.clone().requires_grad_() for name, value in params.items()}
    given = x if images is torch.Tensor else LiteTensor(x)
    loss = _in_block(lambda params: F.cross_entropy(model(params, given), y), dtype)
    expected = _in_block(lambda params: F.cross_entropy(_conv4_by_torch(params, x), y), dtype)(mine)
    expected.backward()
    got, gradients = neo.value_and_grad(loss, argnums=0)(params)
    assert_close(got, expected, 2e-2)
    for name, weight in mine.items():
        if not (name.startswith("conv") and name.endswith("bias")):  # zero but for rounding
            assert_close(gradients[name], weight.grad, 0.1)
    assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}


@pytest.mark.parametrize(
    "model", [neo.nn.MLP(12, 8, 3), neo.nn.Conv4(ways=3, hidden=8)], ids=["MLP", "Conv4"]
)
def test_meta_gradient_of_a_model_under_autocast_is_near_that_of_float32(model: Any):
    params = model.init(seed=0)
    shape = (6, 12) if isinstance(model, neo.nn.MLP) else (6, 1, 28, 28)
    x, y = torch.randn(shape, generator=torch.Generator().manual_seed(2)), torch.arange(6) % 3

    def loss(params: Any) -> Any:
        return F.cross_entropy(model(params, x), y)

    def meta(loss: Any) -> Any:
        def after_a_step(params: Any) -> Any:
            gradient = neo.grad(loss, argnums=0)(params)
            return loss({name: value - 0.1 * gradient[name] for name, value in params.items()})

        return neo.grad(after_a_step, argnums=0)(params)

    exact, rough = meta(loss), meta(_in_block(loss, torch.bfloat16))
    flat = [torch.cat([g.data.flatten() for g in optree.tree_leaves(tree)]) for tree in (exact, rough)]
    assert {g.dtype for g in optree.tree_leaves(rough)} == {torch.float32}
    assert float((flat[0] - flat[1]).norm() / flat[0].norm()) < 0.1


@pytest.mark.parametrize("name", ["encoder", pytest.param("lstm", marks=needs_lstm), "convolutional"])
def test_converted_module_under_autocast_has_torchs_value_and_gradients(name: str):
    torch.manual_seed(3)
    module, x = {
        "encoder": lambda: (
            torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
            torch.randn(3, 5, 8),
        ),
        "lstm": lambda: (torch.nn.LSTM(4, 6, batch_first=True), torch.randn(3, 5, 4)),
        "convolutional": lambda: (
            torch.nn.Sequential(
                torch.nn.Conv2d(3, 8, 3), torch.nn.GroupNorm(2, 8), torch.nn.GELU(), torch.nn.Flatten(),
                torch.nn.Linear(8 * 36, 4),
            ),
            torch.randn(2, 3, 8, 8),
        ),
    }[name]()  # fmt: skip
    model, params = neo.nn.from_torch(module)

    def total(out: Any) -> Any:
        return (out[0] if isinstance(out, tuple) else out).float().square().mean()

    expected = _in_block(lambda: total(module(x)), torch.bfloat16)()
    expected.backward()
    loss = _in_block(lambda params: total(model(params, x)), torch.bfloat16)
    got, gradients = neo.value_and_grad(loss, argnums=0)(params)
    assert_close(got, expected, 2e-2)
    assert_close(gradients, {name: weight.grad for name, weight in module.named_parameters()}, 0.1)


# --- rules of the user's ----------------------------------------------------------------------------------------


class Affine(autograd.Policy):
    """y = x w + b;  the README's rule, which knows nothing of autocast."""

    dtypes: ClassVar[list[Any]] = []

    def forward(self, x, w, b):
        self.ctx.save(x, w, b)
        y = (x @ w) + b
        self.dtypes.append((x.dtype, (x @ w).dtype, torch.is_autocast_enabled("cpu")))
        return y

    def backward(self, grad):
        x, w, _ = self.ctx.release
        return grad @ w.T, x.T @ grad, grad.sum(axis=0)


def test_policy_of_the_users_meets_its_inputs_uncast_and_autocast_forward_and_backward():
    affine = function(Affine)
    x, w, b = torch.randn(3, 4), torch.randn(4, 5), torch.randn(5)
    Affine.dtypes.clear()

    def loss(x: Any, w: Any, b: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return affine(x, w, b)

    out, gradients = neo.value_and_grad(loss, argnums=(0, 1, 2))(*map(LiteTensor, (x, w, b)))
    assert Affine.dtypes == [(torch.float32, torch.bfloat16, True)]
    assert out.dtype is torch.float32
    ones = torch.ones(3, 5)
    assert_close(list(gradients), [ones @ w.T, x.T @ ones, ones.sum(0)], 2e-2)


def test_second_order_of_a_policy_of_the_users_runs_under_the_same_autocast():
    affine = function(Affine)
    x, w, b = torch.randn(3, 4), torch.randn(4, 5), torch.randn(5)

    def loss(x: Any, w: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return affine(x, w, LiteTensor(b)).square().sum()

    def size(x: Any, w: Any) -> Any:
        return neo.grad(loss, argnums=1)(x, w).square().sum()

    got = neo.grad(size, argnums=0)(LiteTensor(x), LiteTensor(w))
    mine = x.clone().requires_grad_()
    weight = w.clone().requires_grad_()
    (first,) = torch.autograd.grad(((mine @ weight + b) ** 2).sum(), weight, create_graph=True)
    (expected,) = torch.autograd.grad(first.square().sum(), mine)
    assert_close(got, expected, 5e-2)


def test_jvp_of_a_policy_of_the_users_runs_under_the_same_autocast():
    class Product(autograd.Policy):
        def forward(self, x, w):
            self.ctx.save(x, w)
            return x @ w

        def backward(self, grad):
            x, w = self.ctx.release
            return grad @ w.T, x.T @ grad

        def jvp(self, x_dot, w_dot):
            x, w = self.ctx.release
            return x_dot @ w + x @ w_dot

    x, w, dot = torch.randn(3, 4), torch.randn(4, 5), torch.randn(4, 5)
    fn = _in_block(lambda w: function(Product)(LiteTensor(x), w), torch.bfloat16)
    out, tangent = neo.jvp(fn, (LiteTensor(w),), (LiteTensor(dot),))
    assert out.dtype is tangent.dtype is torch.bfloat16
    torch.testing.assert_close(tangent.data.float(), x @ dot, rtol=2e-2, atol=4e-2)


def test_policy_that_stands_for_a_listed_op_gets_its_inputs_cast_and_no_autocast():
    class Seen(autograd.Policy):
        def forward(self, x, w):
            self.ctx.save(x, w)
            assert x.dtype is w.dtype is torch.bfloat16
            assert not torch.is_autocast_enabled("cpu")
            return x @ w

        def backward(self, y_bar):
            x, w = self.ctx.release
            assert not torch.is_autocast_enabled("cpu")
            return y_bar @ w.T, x.T @ y_bar

    product = function(Seen)
    product.autocast = registry.autocasting.kinds_of(["mm"])  # as implements(torch.mm) does
    x, w = torch.randn(3, 4), torch.randn(4, 5)
    out, gradients = neo.value_and_grad(_in_block(product, torch.bfloat16))(LiteTensor(x), LiteTensor(w))
    assert out.dtype is torch.bfloat16
    assert_close(list(gradients.values()), [torch.ones(3, 5) @ w.T, x.T @ torch.ones(3, 5)], 2e-2)


def test_replaying_forward_at_second_order_runs_under_the_same_autocast():
    class Intermediate(autograd.Policy):
        """Saves tanh(x w), which second order replays forward for."""

        def forward(self, x, w):
            h = torch.tanh(x @ w)
            self.ctx.save(x, w, h)
            return h.float()

        def backward(self, y_bar):
            x, w, h = self.ctx.release
            h_bar = y_bar * (1 - h * h)
            return h_bar @ w.T, x.T @ h_bar

    x, w, v = torch.randn(3, 4), torch.randn(4, 5), torch.randn(4, 5)
    fn = _in_block(lambda w: function(Intermediate)(LiteTensor(x), w), torch.bfloat16)
    mine = w.clone().requires_grad_()
    (first,) = torch.autograd.grad(torch.tanh(x @ mine).square().sum(), mine, create_graph=True)
    (expected,) = torch.autograd.grad((first * v).sum(), mine)
    got = neo.hvp(lambda w: fn(w).square().sum(), LiteTensor(w), LiteTensor(v))
    assert_close(got, expected, 5e-2)


def test_hand_made_node_runs_under_the_autocast_that_it_was_recorded_under():
    x = LiteTensor(torch.randn(3, 3))
    seen: list[bool] = []

    def rule(y_bar: Any) -> Any:
        seen.append(torch.is_autocast_enabled("cpu"))
        return (y_bar @ y_bar,)

    tape = autograd.Tape()
    tape.watch(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autograd.TapeContext.push(tape)
        y = LiteTensor(torch.ones(3, 3))
        tape.add(autograd.Node(y, (x,), rule))
        autograd.TapeContext.pop()
    (gradient,) = tape.gradients([y], [torch.ones(3, 3)], [x])
    assert seen == [True]
    assert gradient.dtype is torch.float32


# --- the query itself -------------------------------------------------------------------------------------------


def test_query_of_the_compiled_engine_agrees_with_torchs():
    from neo.autograd._queries import autocast_enabled

    def both() -> tuple[bool, bool]:
        return autocast_enabled(), torch._C._is_any_autocast_enabled()

    assert both() == (False, False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert both() == (True, True)
        with torch.autocast("cpu", enabled=False):
            assert both() == (False, False)
    torch.set_autocast_enabled("cuda", True)
    try:
        assert both() == (True, True)
    finally:
        torch.set_autocast_enabled("cuda", False)
    assert direct.look is None or both() == (False, False)


def test_autocast_for_a_kind_of_device_that_neo_has_no_lists_of_is_refused_by_name():
    torch.set_autocast_enabled("xpu", True)
    try:
        with pytest.raises(NotImplementedError, match="autocast\\('xpu'\\)"):
            torch.sin(LiteTensor(1.0))
    finally:
        torch.set_autocast_enabled("xpu", False)
