"""vmap equals the loop: values, and every order of gradients, with sessions inside and around."""

from __future__ import annotations

import optree
import pytest
import torch
import torch.nn.functional as F

import neo
from neo import LiteTensor, autograd
from neo.autograd import TapeContext, session
from neo.errors import SavedTensorError
from neo.functions import function
from tests.neo.functions.orders import scalar
from tests.neo.functions.samples import SAMPLES

BATCH = 3


def normal(*shape, seed=0):
    return LiteTensor(torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))


def d(fn, argnums=0):
    return session.grad(fn, argnums=argnums)


def looped(fn, *batched):
    """[fn(x[0]), fn(x[1]), ...] stacked."""
    results = [fn(*(x[i] for x in batched)) for i in range(len(batched[0]))]
    return optree.tree_map(lambda *leaves: torch.stack(leaves), *results)


def assert_same(got, expected, tolerance=1e-10):
    assert optree.tree_structure(got) == optree.tree_structure(expected)
    for a, b in zip(optree.tree_leaves(got), optree.tree_leaves(expected), strict=True):
        torch.testing.assert_close(a.data, b.data, rtol=tolerance, atol=tolerance)


X, W = normal(BATCH, 4), normal(4, seed=1)


def loss(w, x):
    return (torch.tanh(w * x) * x).sum()


def adapted(w, x):
    return w - d(loss)(w, x) * 0.3


def after(w, x):
    return loss(adapted(adapted(w, x), x), x * 2)


# --- sessions within, sessions around ------------------------------------------------------------------------


@pytest.mark.parametrize("fn", [loss, adapted, after, d(after), d(lambda w, x: d(after)(w, x))])
def test_vmap_of_sessions_equals_the_loop(fn):
    assert_same(session.vmap(lambda x: fn(W, x))(X), looped(lambda x: fn(W, x), X))


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("fn", [loss, adapted, after], ids=lambda fn: fn.__name__)
def test_sessions_around_vmap_see_every_order(fn, order):
    def total(mapped):
        return lambda w, x: scalar(mapped(w, x))

    def batched(w, x):
        return session.vmap(fn, in_dims=(None, 0))(w, x)

    def closed_over(w, x):
        return session.vmap(lambda x: fn(w, x))(x)

    def loop(w, x):
        return looped(lambda x: fn(w, x), x)

    expected, got, closed = total(loop), total(batched), total(closed_over)
    for k in range(order):
        expected, got, closed = (
            (lambda w, x, f=f: scalar(d(f, (0, 1))(w, x))) if k < order - 1 else d(f, (0, 1))
            for f in (expected, got, closed)
        )
    assert_same(got(W, X), expected(W, X))
    assert_same(closed(W, X), expected(W, X))


@pytest.mark.parametrize("pool", ["stride", "max"])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("constant_images", [True, False])
def test_meta_batch_of_conv4_tasks_equals_the_loop(pool, fused, constant_images):
    model = neo.nn.Conv4(
        ways=3, size=16, hidden=8, pool=pool, fused=fused
    )  # 8 fill a vector of Neo's own kernels
    params = optree.tree_map(lambda p: p.to(torch.float64), model.init(seed=0))
    support, query = normal(2, 3, 1, 16, 16), normal(2, 6, 1, 16, 16, seed=1)
    if constant_images:
        support, query = support.data, query.data
    labels, query_labels = torch.arange(3).expand(2, 3), torch.arange(6).expand(2, 6) % 3

    def cross_entropy(params, x, y):
        return F.cross_entropy(model(params, x), y)

    def after_adaptation(params, x, y, query_x, query_y):
        gradient = d(cross_entropy)(params, x, y)
        return cross_entropy(optree.tree_map(lambda p, g: p - 0.4 * g, params, gradient), query_x, query_y)

    task = (support, labels, query, query_labels)
    one = lambda *task: session.value_and_grad(after_adaptation, argnums=0)(params, *task)  # noqa: E731
    expected = looped(one, *task)
    assert_same(session.vmap(one)(*task), expected)

    mapped = session.vmap(after_adaptation, in_dims=(None, 0, 0, 0, 0))
    outside = session.grad(lambda params: mapped(params, *task).mean(), argnums=0)(params)
    assert_same(outside, optree.tree_map(lambda g: g.mean(0), expected[1]))


def test_optimiser_state_and_schedules_adapt_in_a_batch():
    def adapted_by_adam(x):
        w = W
        optimizer = neo.optim.adam(neo.optim.cosine(0.1, 5))
        state = optimizer.init(w)
        for _ in range(3):
            w, state = optimizer.step(w, d(loss)(w, x), state)
        return w

    assert_same(session.vmap(adapted_by_adam)(X), looped(adapted_by_adam, X))


def test_policy_with_a_saved_intermediate_is_replayed_in_a_batch():
    class Cube(autograd.Policy):
        def forward(self, x):
            squared = x * x
            self.ctx.save(squared)
            return squared * x

        def backward(self, grad):
            return grad * self.ctx.release[0] * 3

    fn = d(d(function(Cube)))
    assert_same(session.vmap(fn)(X), looped(fn, X))


# --- the rest of the engine around it ------------------------------------------------------------------------


def test_vmaps_nest_and_differentiate():
    def products(x, y):
        return session.vmap(session.vmap(lambda a, b: (a * torch.sin(b)).sum(), (None, 0)), (0, None))(x, y)

    expected = X @ torch.sin(X).T
    assert_same(products(X, X), expected)
    assert_same(
        d(lambda x, y: scalar(products(x, y)), (0, 1))(X, X),
        d(lambda x, y: scalar(x @ torch.sin(y).T), (0, 1))(X, X),
    )


@pytest.mark.parametrize("order", [1, 2])
def test_tensor_sliced_inside_a_checkpoint_or_vmap_and_known_outside_gets_its_gradient(order):
    """The inner vmap slices `w`, which only the suspended outer tape knows."""

    def fn(w, wrap):
        return scalar(wrap(lambda x: session.vmap(lambda entry: entry * entry * x.sum())(w))(X))

    wraps = [session.checkpoint, lambda f: session.vmap(f), lambda f: lambda x: looped(f, x)]
    gradients = []
    for wrap in wraps:
        first = d(lambda w, wrap=wrap: fn(w, wrap))
        gradients.append(first(W) if order == 1 else d(lambda w, first=first: scalar(first(w)))(W))
    plain = d(lambda w: fn(w, lambda f: f))
    assert_same(gradients[0], plain(W) if order == 1 else d(lambda w: scalar(plain(w)))(W))
    assert_same(gradients[1], gradients[2])
    assert gradients[0].data.abs().min() > 0


def test_vmap_in_checkpoint_and_checkpoint_in_vmap():
    expected = d(lambda w: looped(lambda x: after(w, x), X).sum())(W)
    assert_same(d(lambda w: session.checkpoint(session.vmap(lambda x: after(w, x)))(X).sum())(W), expected)
    assert_same(d(lambda w: session.vmap(session.checkpoint(lambda x: after(w, x)))(X).sum())(W), expected)


def test_jvp_hvp_and_jacobian_through_vmap():
    fn = lambda w: session.vmap(lambda x: after(w, x))(X)  # noqa: E731
    loop = lambda w: looped(lambda x: after(w, x), X)  # noqa: E731
    assert_same(session.jvp(fn, (W,), (W,)), session.jvp(loop, (W,), (W,)))
    assert_same(session.hvp(fn, W, W), session.hvp(loop, W, W))
    assert_same(session.jacobian(fn)(W), session.jacobian(loop)(W))
    hessian = session.hessian(lambda x: after(W, x))
    assert_same(session.vmap(hessian)(X), looped(hessian, X))


def test_only_what_is_asked_for_gets_a_gradient():
    asked = []

    class Watching(autograd.Policy):
        def forward(self, x, y):
            self.ctx.save(x, y)
            return x * y

        def backward(self, grad):
            x, y = self.ctx.release
            asked.append(self.ctx.needs_grad)
            return grad * y, grad * x

    d(lambda w: session.vmap(lambda x: function(Watching)(w, x))(X))(W)
    assert asked == [(True, False)]


def test_integer_outputs_constants_and_unused_arguments():
    def fn(x, unused):
        return {"top": torch.argmax(x), "x": x * 2, "constant": W}

    def total(x, unused):
        out = session.vmap(fn)(x, unused)
        assert out["top"].dtype == torch.int64
        assert out["constant"].shape == (BATCH, 4)
        return scalar(out["x"])

    gx, unused = d(total, (0, 1))(X, X)
    assert_same(gx, d(lambda x: scalar(x * 2))(X))
    assert unused.tolist() == torch.zeros(BATCH, 4).tolist()


# --- which dim -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("in_dim", "out_dim"), [(0, 0), (1, 0), (-1, 1), (2, -1), (1, 2)])
def test_dims_and_their_gradients_are_those_of_torch(in_dim, out_dim):
    x = normal(3, 4, 2)
    fn = lambda x: torch.sin(x) * x[0]  # noqa: E731
    expected = torch.func.vmap(fn, in_dim, out_dim)(x.data)
    assert_same(session.vmap(fn, in_dim, out_dim)(x), LiteTensor(expected))
    theirs = x.data.clone().requires_grad_()
    (g,) = torch.autograd.grad(scalar(torch.func.vmap(fn, in_dim, out_dim)(theirs)), theirs)
    assert_same(d(lambda x: scalar(session.vmap(fn, in_dim, out_dim)(x)))(x), LiteTensor(g))


def test_dims_may_be_prefixes_of_trees():
    tree = {"a": X, "b": [W, 2.0]}
    fn = lambda tree, scale: (tree["a"] * tree["b"][0] * tree["b"][1], {"w": tree["a"] * scale})  # noqa: E731
    out = session.vmap(fn, in_dims=({"a": 0, "b": None}, None), out_dims=(0, {"w": 1}))(tree, 3.0)
    assert_same(out[0], X * W * 2.0)
    assert_same(out[1]["w"], (X * 3.0).T)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: session.vmap(loss)(W, X), ValueError, r"one size, the batch's, got 4 in .* 0 .* 3 in .* 1"),
        (lambda: session.vmap(loss)(X, 3.0), ValueError, r"argument 1 is float, which has no dim 0"),
        (lambda: session.vmap(loss, 2)(X, X), ValueError, r"argument 0 has shape \(3, 4\), and no dim 2"),
        (lambda: session.vmap(loss, (0,))(X, X), ValueError, r"in_dims has 1 entries, expected 2"),
        (lambda: session.vmap(loss, (None, None))(X, X), ValueError, r"nothing to map over"),
        (
            lambda: session.vmap(loss, ({"a": 0}, 0))(X, X),
            ValueError,
            r"in_dims\[0\] = {'a': 0} does not fit",
        ),
        (
            lambda: session.vmap(loss, (0, 0.5))(X, X),
            ValueError,
            r"in_dims of argument 1 must be an int or None",
        ),
        (lambda: session.vmap(adapted, out_dims=3)(X, X), ValueError, r"no place 3 for the batch"),
        (lambda: session.vmap(adapted, out_dims=0.5)(X, X), ValueError, r"out_dims must be an int or None"),
        (
            lambda: session.vmap(adapted, out_dims={"a": 0})(X, X),
            ValueError,
            r"out_dims must be an int or None",
        ),
        (
            lambda: session.vmap(loss, chunk_size=0),
            ValueError,
            r"chunk_size must be None or .* at least 1, got 0",
        ),
        (lambda: session.vmap(loss, chunk_size=True), ValueError, r"chunk_size must be None or .* got True"),
        (
            lambda: session.vmap(loss, chunk_size="same"),
            ValueError,
            r"chunk_size must be None or .* got 'same'",
        ),
        (
            lambda: session.vmap(lambda x: {"n": 3.0})(X),
            TypeError,
            r"fn's output\['n'\] must be .* got float",
        ),
        (lambda: session.vmap(loss, randomness="often"), ValueError, 'randomness must be "error"'),
    ],
)
def test_arguments_that_do_not_fit_are_named(call, error, message):
    with pytest.raises(error, match=rf"vmap.*: .*{message}"):
        call()


# --- what cannot be batched ----------------------------------------------------------------------------------

REFUSED = {
    "control flow": (lambda x: x if x.sum() > 0 else -x, "data-dependent control flow"),
    "item": (lambda x: x * x.sum().item(), r"\.item\(\)"),
    "numpy": (lambda x: x * x.numpy().sum(), "data pointer"),
    "random draws": (lambda x: F.dropout(x, 0.5), "randomness"),
    "a mask as an index": (lambda x: x[x > 0], "getitem: .*boolean mask"),
    "nonzero": (torch.nonzero, "dynamic shape"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("around", [False, True], ids=["alone", "in a session"])
def test_what_cannot_be_batched_is_refused_by_name(name, around):
    fn, message = REFUSED[name]
    mapped = session.vmap(fn)
    with pytest.raises(RuntimeError, match=rf"vmap\(.*\): .*{message}"):
        d(lambda x: scalar(mapped(x)))(X) if around else mapped(X)
    assert TapeContext.current() is None


@pytest.mark.parametrize("randomness", ["different", "same"])
def test_random_draws_are_repeated_for_the_gradient(randomness):
    def noisy(x):
        return x * x * torch.rand(4, dtype=torch.float64)

    mapped = session.vmap(noisy, randomness=randomness)
    for order in (1, 2):
        fn = d(lambda x: mapped(x).sum()) if order == 1 else d(d(lambda x: mapped(x).sum()))
        torch.manual_seed(0)
        got, after = fn(X), torch.rand(1)
        torch.manual_seed(0)
        draws = torch.rand((BATCH, 4) if randomness == "different" else (4,), dtype=torch.float64)
        torch.testing.assert_close(
            got.data, 2 * X.data * draws if order == 1 else (2 * draws).expand(BATCH, 4)
        )
        assert torch.equal(after, torch.rand(1))  # the recomputation leaves the generator as it was


def test_draws_that_torch_does_not_make_and_changed_inputs_are_refused():
    draws = iter([0.3, 0.7])

    def noisy(x):  # draws from something that nobody sets back
        return x * next(draws)

    with pytest.raises(SavedTensorError, match="came out different when fn was run again"):
        d(lambda x: session.vmap(noisy)(x).sum())(X)

    def change_afterwards(x):
        out = session.vmap(lambda x: x * x)(x)
        x.data.mul_(2)
        return out

    with pytest.raises(SavedTensorError, match="changed in place"):
        d(change_afterwards)(LiteTensor(X.data.clone()))


# --- every op ------------------------------------------------------------------------------------------------

# Their results or their path depend on the numbers, which inside vmap nobody may read.
UNBATCHED = ("masked_select",)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch then runs the op in a loop, rightly
@pytest.mark.parametrize("case", SAMPLES, ids=[f"{i}-{case.id}" for i, case in enumerate(SAMPLES)])
def test_gradient_of_every_op_equals_the_loop_or_is_refused(case):
    places = tuple(range(len(case.args)))
    fn = session.grad(lambda *xs: scalar(case.fn(*xs)), argnums=places)
    batch = [LiteTensor(torch.stack([x, x * 0.9])) for x in case.args]
    expected = [fn(*(x[i] for x in batch)) for i in range(2)]
    if case.id.startswith(UNBATCHED):
        with pytest.raises((RuntimeError, ValueError)):
            session.vmap(fn)(*batch)
        return
    got = session.vmap(fn)(*batch)
    for k, gradient in enumerate(got):
        stacked = torch.stack([e[k].data for e in expected])
        torch.testing.assert_close(gradient.data, stacked, rtol=1e-8, atol=1e-8, equal_nan=True)
