"""Sessions called inside a Policy's backward or jvp: the same rule is right at every order (rule 3)."""

from __future__ import annotations

import threading

import optree
import pytest
import torch

import neo
from neo import LiteTensor, autograd
from neo.autograd import TapeContext
from neo.errors import GradientError
from neo.functions import function


def potential(w):
    return (w**4).sum() / 4 + torch.sin(w).sum() + (w[:-1] * w[1:]).sum() ** 2


def coupled(params):
    return (params["a"] ** 3 * torch.exp(params["b"])).sum()


W = LiteTensor([0.5, 2.0, -1.0], dtype=torch.float64)


def gradient_of(rule, forward_rule=None):
    """A Policy y = ∇potential(w) whose backward is `rule(w, ȳ)` = H ȳ."""

    class GradientOf(autograd.Policy):
        def forward(self, w):
            self.ctx.save(w)
            return neo.grad(potential, argnums=0)(LiteTensor(w)).data

        def backward(self, y_bar):
            (w,) = self.ctx.release
            return rule(w, y_bar)

        if forward_rule is not None:

            def jvp(self, w_dot):
                (w,) = self.ctx.release
                return forward_rule(w, w_dot)

    return function(GradientOf)


def by_hessian(w, v):
    return neo.hessian(potential)(w) @ v


def by_jacobian(w, v):
    return neo.jacobian(neo.grad(potential, argnums=0))(w).T @ v


def by_gradient_of_a_product(w, v):
    return neo.grad(lambda w: (neo.grad(potential, argnums=0)(w) * v).sum(), argnums=0)(w)


def by_keys(w, v):
    return neo.grad(lambda w: (neo.grad(potential, argnums=0)(w) * v).sum())(w)[w]


def by_value_and_grad(w, v):
    (_, aux), (dw, dv) = neo.value_and_grad(
        lambda w, v: ((neo.grad(potential, argnums=0)(w) * v).sum(), {"twice": w * 2}), (0, 1), has_aux=True
    )(w, v)
    return dw + (dv - dv) + (aux["twice"] - 2 * w)


def by_pullback(w, v):
    gradient, pullback = neo.vjp(neo.grad(potential, argnums=0), w)
    return pullback(v)[0] + (gradient - gradient)


def by_tangent(w, v):
    gradient, tangent = neo.jvp(neo.grad(potential, argnums=0), (w,), (v,))
    return tangent + 0 * gradient


def by_cotangent(w, v):
    return neo.grad(neo.grad(potential, argnums=0), argnums=0, cotangent=v)(w)


def by_checkpoint(w, v):
    return neo.hvp(neo.checkpoint(potential), w, v) + 0 * neo.checkpoint(torch.sin)(w)


def by_vmap(w, v):
    rows = neo.vmap(lambda e: neo.hvp(potential, w, e))(torch.eye(3, dtype=torch.float64))
    return rows @ v


def by_vmap_over_both(w, v):
    stack = neo.vmap(lambda w, v: neo.hvp(potential, w, v))(torch.stack([w, w]), torch.stack([v, v * 2]))
    return stack[1] / 2


def by_wrapping_first(w, v):
    return neo.hvp(potential, LiteTensor(w), LiteTensor(v))


SCALES = torch.tensor([2.0, -1.0, 3.0], dtype=torch.float64)


def by_products_beside_a_constant(w, v):
    """SCALES is a torch tensor at every order."""
    scaled = lambda w, scales: potential(w) + (w * scales).sum()  # noqa: E731
    product = neo.hvp(scaled, (w, SCALES), (v, None))[0]
    _, tangent = neo.jvp(neo.grad(scaled, argnums=0), (w, SCALES), (v, None))
    return (product + tangent) / 2


def by_trees(w, v):
    product = neo.hvp(lambda t: potential(t["w"]), ({"w": w},), ({"w": v},))
    return product[0]["w"]


def by_session_on_the_cotangent_in_a_session(w, v):
    """The inner session differentiates ȳ, which at first order is a torch tensor, while the outer one is open."""
    return neo.grad(
        lambda w: (neo.grad(lambda v: (neo.grad(potential, argnums=0)(w) * v).sum(), argnums=0)(v) * v).sum(),
        argnums=0,
    )(w)


RULES = {
    "hvp": lambda w, v: neo.hvp(potential, w, v),
    "hvp of tuples": lambda w, v: neo.hvp(potential, (w,), (v,))[0],
    **{
        rule.__name__: rule
        for rule in (
            by_hessian,
            by_jacobian,
            by_gradient_of_a_product,
            by_keys,
            by_value_and_grad,
            by_pullback,
            by_tangent,
            by_cotangent,
            by_checkpoint,
            by_vmap,
            by_vmap_over_both,
            by_wrapping_first,
            by_trees,
            by_products_beside_a_constant,
            by_session_on_the_cotangent_in_a_session,
        )
    },
}


def orders(fn, x, count):
    """fn(x), and x ↦ Σ k fn(x)_k² / 2 differentiated by the session again and again."""
    for _ in range(count):
        fn = neo.grad(
            lambda x, f=fn: (f(x) ** 2 * torch.arange(1.0, 4, dtype=torch.float64)).sum() / 2, argnums=0
        )
    return fn(x)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("rule", RULES)
def test_session_in_backward_is_right_at_every_order(rule, order):
    got = orders(gradient_of(RULES[rule]), W, order)
    expected = orders(neo.grad(potential, argnums=0), W, order)
    torch.testing.assert_close(got.data, expected.data, rtol=1e-9, atol=1e-9)
    assert TapeContext.current() is None


@pytest.mark.parametrize("rule", RULES)
def test_session_in_jvp_rule_is_right_at_every_order(rule):
    mine = gradient_of(RULES[rule], RULES[rule])  # H is symmetric
    V = LiteTensor([1.0, -2.0, 0.5], dtype=torch.float64)
    tangent = lambda fn: lambda w: neo.jvp(fn, (w,), (V * w,))[1]  # noqa: E731
    expected = tangent(neo.grad(potential, argnums=0))
    for wrap in (lambda f: f, tangent, lambda f: neo.grad(f, argnums=0), lambda f: tangent(tangent(f))):
        torch.testing.assert_close(wrap(tangent(mine))(W).data, wrap(expected)(W).data, rtol=1e-9, atol=1e-9)


def test_sessions_in_backward_give_torch_tensors_where_the_rule_works_on_those():
    seen = []

    def rule(w, v):
        out, grads = neo.value_and_grad(potential)(w)
        hv = neo.hvp(potential, w, v)
        seen.append({type(x) for x in (w, v, out, grads[w], hv, *neo.vjp(potential, w)[1](out))})
        return hv

    mine = gradient_of(rule)
    neo.grad(mine, argnums=0)(W)
    assert seen == [{torch.Tensor}]
    neo.grad(neo.grad(mine, argnums=0), argnums=0)(W)
    assert seen[1:] == [{LiteTensor}]  # the inner walk; what the outer one walks is this one's ops


def test_tensor_that_a_rule_closes_over_and_an_outer_session_knows_gets_its_gradient():
    def fn(scale, w):
        # backward sees torch tensors, for nobody tracks w; what comes of `scale` must stay on the outer tape
        rule = gradient_of(lambda w, v: neo.grad(lambda w: potential(w) * scale, argnums=0)(w) * v)
        return neo.grad(rule, argnums=0)(w)

    scale = LiteTensor(3.0, dtype=torch.float64)
    got = neo.grad(fn, argnums=0)(scale, W)
    torch.testing.assert_close(got.data, neo.grad(potential, argnums=0)(W).data.sum())


@pytest.mark.parametrize("wrap", [neo.checkpoint, lambda f: lambda x: neo.vmap(f)(x[None])[0]])
def test_rule_with_a_session_works_in_a_checkpoint_and_in_a_batch(wrap):
    rule = gradient_of(RULES["hvp"])
    inner = lambda w: neo.grad(lambda w: (rule(w) ** 2).sum(), argnums=0)(w)  # noqa: E731
    for order in (0, 1, 2):
        got, expected = orders(wrap(inner), W, order), orders(inner, W, order)
        torch.testing.assert_close(got.data, expected.data, rtol=1e-9, atol=1e-9)


def test_function_of_trees_with_its_gradient_by_a_session():
    class Coupled(autograd.Policy):
        """y = Σ a³ exp b, its gradient by neo.grad of a dict."""

        def forward(self, a, b):
            self.ctx.save(a, b)
            return coupled({"a": a, "b": b})

        def backward(self, y_bar):
            a, b = self.ctx.release
            gradient = neo.grad(coupled, argnums=0)({"a": a, "b": b})
            return y_bar * gradient["a"], y_bar * gradient["b"]

    assert neo.gradcheck(function(Coupled), (W, W * 0.3), order=3)


def conjugate_gradient(apply, b, steps):
    x, r = torch.zeros_like(b), b
    p, rr = r, (r * r).sum()
    for _ in range(steps):
        Ap = apply(p)
        alpha = rr / (p * Ap).sum()
        x, r = x + alpha * p, r - alpha * Ap
        rr, before = (r * r).sum(), rr
        p = r + rr / before * p
    return x


@pytest.mark.slow
def test_implicit_function_rule_with_conjugate_gradients_is_right_to_third_order():
    def energy(w, theta):
        return (w**4).sum() / 4 + (w * w).sum() + 0.5 * (w[:-1] * w[1:]).sum() - (w * torch.sin(theta)).sum()

    class Minimum(autograd.Policy):
        """w(θ) = argmin energy(w, θ);  θ̄ = −(∂²E/∂θ∂w) H⁻¹ w̄."""

        def forward(self, theta):
            w = torch.zeros_like(theta)
            for _ in range(60):
                gradient = neo.grad(energy, argnums=0)(LiteTensor(w), LiteTensor(theta)).data
                H = neo.hessian(lambda w: energy(w, LiteTensor(theta)))(LiteTensor(w)).data
                w = w - torch.linalg.solve(H, gradient)
            self.ctx.save(theta, w)
            return w

        def backward(self, w_bar):
            theta, w = self.ctx.release
            v = conjugate_gradient(lambda p: neo.hvp(lambda w: energy(w, theta), w, p), w_bar, steps=3)
            _, pullback = neo.vjp(lambda theta: neo.grad(energy, argnums=0)(w, theta), theta)
            return -pullback(v)[0]

    assert neo.gradcheck(function(Minimum), (LiteTensor([0.3, 1.0, -2.0], dtype=torch.float64),), order=3)


def test_another_dtype_by_the_constructor_is_refused_at_higher_orders():
    rule = gradient_of(
        lambda w, v: neo.hvp(potential, LiteTensor(w, dtype=torch.float32), v.to(torch.float32)).to(v.dtype)
    )
    first = neo.grad(rule, argnums=0)
    torch.testing.assert_close(
        first(W).data, by_hessian(W, LiteTensor(torch.ones(3).double())).data, rtol=1e-5, atol=1e-5
    )
    with pytest.raises(GradientError, match=r"LiteTensor: .*torch.float64.*use x.to"):
        neo.grad(first, argnums=0)(W)


def test_torch_tensors_are_constants_again_outside_of_a_rule():
    refused = []

    class Probe(autograd.Policy):
        def forward(self, x):
            self.ctx.save(x)
            return x * 2

        def backward(self, y_bar):
            assert neo.grad(lambda x: x * x, argnums=0)(y_bar).data.item() == 2 * y_bar.item()
            thread = threading.Thread(target=lambda: refused.append(attempt()))
            thread.start()
            thread.join()
            raise ZeroDivisionError

    def attempt():
        with pytest.raises(TypeError, match="nothing to differentiate"):
            neo.grad(torch.sin)(torch.ones(2))
        return True

    with pytest.raises(ZeroDivisionError):
        neo.grad(function(Probe), argnums=0)(LiteTensor(1.0))
    assert refused == [True]
    assert attempt()


def test_wrapped_tensor_inside_a_session_of_the_rule_is_a_constant_to_that_session():
    rule = gradient_of(lambda w, v: neo.grad(lambda u: (u * LiteTensor(u)).sum(), argnums=0)(w) * v)  # w v
    assert optree.tree_map(float, neo.grad(rule, argnums=0)(W).tolist()) == W.tolist()
    second = neo.grad(neo.grad(rule, argnums=0), argnums=0)(W)
    torch.testing.assert_close(second.data, torch.ones(3, dtype=torch.float64))


def test_session_in_the_backward_of_a_torch_function_is_right_at_every_order():
    class GradientOf(torch.autograd.Function):
        @staticmethod
        def forward(ctx, w):
            ctx.save_for_backward(w)
            return neo.grad(potential, argnums=0)(LiteTensor(w)).data

        @staticmethod
        def backward(ctx, y_bar):
            (w,) = ctx.saved_tensors
            return neo.hvp(potential, w, y_bar)

    for order in (1, 2, 3):
        got = orders(lambda w: GradientOf.apply(w), W, order)
        expected = orders(neo.grad(potential, argnums=0), W, order)
        torch.testing.assert_close(got.data, expected.data, rtol=1e-9, atol=1e-9)
