"""vmap's arguments: keywords, out_dims=None, chunks, trees, sizes, against the loop at first and second order."""

from __future__ import annotations

import collections

import optree
import pytest
import torch
import torch.nn.functional as F

import neo
from neo import LiteTensor
from neo.autograd import TapeContext, session
from neo.errors import SavedTensorError
from tests.neo.functions.orders import scalar, tensors


def normal(*shape, seed=0):
    return LiteTensor(torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))


def looped(fn, *batched):
    results = [fn(*(x[i] for x in batched)) for i in range(len(batched[0]))]
    return optree.tree_map(lambda *leaves: torch.stack(leaves), *results)


def assert_same(got, expected, tolerance=1e-10):
    assert optree.tree_structure(got) == optree.tree_structure(expected)
    for a, b in zip(optree.tree_leaves(got), optree.tree_leaves(expected), strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a.data, b.data, rtol=tolerance, atol=tolerance)


def assert_orders_same(got, expected, *args, orders=2):
    """Values, and the gradients of a scalar of them with respect to every argument, to second order."""
    assert_same(got(*args), expected(*args))
    places = tuple(range(len(args)))
    for _ in range(orders):
        got, expected = (
            session.grad(lambda *xs, f=f: scalar(f(*xs)), argnums=places) for f in (got, expected)
        )
        assert_same(got(*args), expected(*args))
    assert TapeContext.current() is None


X, W = normal(5, 4), normal(4, seed=1)


def model(w, x):
    return (torch.tanh(w * x) * x).sum()


def slope(w, x):
    """With a session inside."""
    return w - session.grad(model, argnums=0)(w, x) * 0.3


# --- keyword arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fn", [model, slope])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_keyword_tensors_are_sliced_along_dim_zero(fn, chunk_size):
    mapped = session.vmap(fn, chunk_size=chunk_size)
    batch = normal(5, 4, seed=2)
    assert_orders_same(lambda w, x: mapped(w, x=x), lambda w, x: looped(fn, w, x), batch, X)
    assert_orders_same(lambda w, x: mapped(w=w, x=x), lambda w, x: looped(fn, w, x), batch, X)
    shared = session.vmap(fn, in_dims=None, chunk_size=chunk_size)
    assert_orders_same(lambda w, x: shared(w, x=x), lambda w, x: looped(lambda x: fn(w, x), x), W, X)


def test_keyword_trees_are_sliced_and_what_is_no_tensor_is_passed_on():
    def fn(x, *, extra, power=1, mode="sin", mask=None):
        assert mask is None
        return getattr(torch, mode)(x) ** power * extra["a"] + extra["b"][0]

    extra = {"b": [X.data], "a": X}
    got = session.vmap(fn)(X, extra=extra, power=3, mode="cos", mask=None)
    assert_same(got, torch.cos(X) ** 3 * X + X.data)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"x": LiteTensor(2.0)},
            r"keyword argument 'x' is LiteTensor of torch.float32, shape \(\); .* sliced along dim",
        ),
        ({"x": X.data.numpy()}, r"keyword argument 'x' is ndarray; .* make arrays LiteTensors"),
        (
            {"x": normal(4, 4)},
            r"one size, the batch's, got 5 in argument 0 along dim 0, 4 in keyword argument 'x'",
        ),
        ({"x": {"k": normal(4, 4)}}, r"4 in keyword argument 'x'\['k'\] along dim 0"),
    ],
)
def test_keyword_arguments_that_do_not_fit_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        session.vmap(lambda w, x: w)(X, **kwargs)
    with pytest.raises(
        ValueError, match=r"in_dims has 2 entries, expected 1, .*given by keyword, x, have none"
    ):
        session.vmap(lambda w, x: w, in_dims=(0, 0))(X, x=X)


# --- out_dims=None -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_output_with_none_comes_once_and_its_gradient_counts_once(chunk_size):
    def fn(w, x):
        return {"each": slope(w, x), "once": torch.sin(w) * w, "n": 3, "none": None}

    out_dims = {"each": 1, "once": None, "n": None, "none": 0}

    def mapped(w, x):
        return session.vmap(fn, (None, 0), out_dims, chunk_size=chunk_size)(w, x)

    def expected(w, x):
        return {"each": looped(lambda x: slope(w, x), x).T, "once": torch.sin(w) * w, "n": 3, "none": None}

    out = mapped(W, X)
    assert (out.pop("n"), out.pop("none")) == (3, None)
    pick = lambda f: lambda w, x: [f(w, x)["each"], f(w, x)["once"]]  # noqa: E731
    assert_orders_same(pick(mapped), pick(expected), W, X, orders=3)
    closed = lambda w, x: session.vmap(lambda x: fn(w, x), 0, out_dims, chunk_size=chunk_size)(x)  # noqa: E731
    assert_orders_same(pick(closed), pick(expected), W, X)


def test_outputs_with_none_alone():
    def fn(w, x):
        return session.vmap(lambda x: session.grad(lambda w: (w**3).sum(), argnums=0)(w), out_dims=None)(x)

    assert_orders_same(lambda w: fn(w, X), lambda w: 3 * w**2, W, orders=3)
    constant = session.vmap(lambda x: W, out_dims=None)(X)
    assert constant is not W
    assert constant.tolist() == W.tolist()


@pytest.mark.parametrize("fn", [lambda x: x * 2, lambda x: W + x.sum() * 0, lambda x: {"a": x}])
def test_output_that_depends_on_the_example_is_refused_with_none(fn):
    with pytest.raises(
        ValueError, match=r"vmap\(<lambda>\): out_dims says None for output.*depends on a sliced arg"
    ):
        session.vmap(fn, out_dims=None)(X)
    assert TapeContext.current() is None


def test_output_with_none_in_a_nested_vmap_may_depend_on_the_outer_example():
    def inner(a, b):
        return (a * b).sum(), torch.exp(a)

    def mapped(x, y):
        return session.vmap(lambda a: session.vmap(lambda b: inner(a, b), out_dims=(0, None))(y))(x)

    def expected(x, y):
        return looped(lambda a: (looped(lambda b: (a * b).sum(), y), torch.exp(a)), x)

    assert_orders_same(mapped, expected, X, normal(3, 4, seed=5))


# --- chunks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [1, 2, 4, 5, 9])
@pytest.mark.parametrize("out_dim", [0, -1])
def test_chunks_give_the_same_numbers(chunk_size, out_dim):
    whole = session.vmap(slope, (None, 1), out_dim)
    chunked = session.vmap(slope, (None, 1), out_dim, chunk_size=chunk_size)
    assert_orders_same(chunked, whole, W, X.T, orders=3)
    closed = lambda w, x: session.vmap(lambda x: slope(w, x), chunk_size=chunk_size)(x)  # noqa: E731
    assert_orders_same(closed, lambda w, x: looped(lambda x: slope(w, x), x), W, X)


def test_chunk_is_all_that_fn_sees_at_once_forward_and_backward():
    sizes = []

    def fn(x):
        sizes.append(torch._C._functorch.get_unwrapped(x.data).shape[0])
        return (x * x).sum()

    session.grad(lambda x: session.vmap(fn, chunk_size=2)(x).sum(), argnums=0)(X)
    assert sizes == [2, 2, 1, 1, 2, 2]


def test_chunks_keep_torch_tensors_integers_and_trees():
    def fn(x, n):
        return {"raw": x.data * 2, "n": n + 1, "lite": (x, [x.sum()])}

    numbers = LiteTensor(torch.arange(5))
    got, whole = session.vmap(fn, chunk_size=2)(X, numbers), session.vmap(fn)(X, numbers)
    assert type(got["raw"]) is torch.Tensor
    assert got["n"].dtype == torch.int64
    assert_same(got, whole)


@pytest.mark.parametrize("source", ["torch", "draws"])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_same_randomness_holds_across_chunks_and_goes_on_afterwards(source, order):
    def run(chunk_size):
        def noisy(x):
            return (x**3).sum() * (F.dropout(x * 0 + 1, 0.5) if source == "draws" else torch.rand(4)).sum()

        fn = session.vmap(noisy, chunk_size=chunk_size, randomness="same")
        for _ in range(order):
            fn = session.grad(lambda x, f=fn: f(x).sum(), argnums=0)
        torch.manual_seed(3)
        if source == "torch":
            return fn(X), LiteTensor(torch.rand(2))
        with neo.nn.draws(7):
            return fn(X), F.dropout(LiteTensor(torch.ones(20)), 0.5)

    assert_same(run(2), run(None))


def test_different_randomness_differs_across_chunks_and_is_repeated_for_the_gradient():
    fn = session.vmap(lambda x: (x * torch.rand(())).sum(), chunk_size=2, randomness="different")
    out, gradient = session.value_and_grad(lambda x: fn(x), argnums=0)(X)
    assert len(set(gradient[:, 0].tolist())) == 5
    torch.testing.assert_close((gradient * X).sum(1).data, out.data)


def test_structure_that_changes_between_chunks_is_refused():
    calls = iter([1, 2, 3])
    with pytest.raises(ValueError, match="one structure"):
        session.vmap(lambda x: [x] * next(calls), chunk_size=2)(X)


# --- trees, dtypes, sizes ------------------------------------------------------------------------------------

Pair = collections.namedtuple("Pair", "left right")


def test_named_tuples_dicts_and_lists_go_in_and_come_out():
    def fn(pair, table):
        return Pair(pair.left * table["w"][0], {"sum": (pair.right * table["w"][1]).sum()})

    dims = (Pair(0, 1), {"w": [None, 0]})
    pair, table = Pair(X, X.T), {"w": [W, normal(5, 4, seed=3)]}
    got = session.vmap(fn, dims, Pair(1, 0))(pair, table)
    assert isinstance(got, Pair)
    assert_same(got.left, (X * W).T)
    assert_same(got.right["sum"], (X * table["w"][1]).sum(1))


def test_integer_tensors_are_sliced_and_used_as_indices():
    table, index = normal(6, 3), LiteTensor(torch.tensor([4, 0, 4, 2]))
    mapped = session.vmap(lambda t, i: torch.index_select(t, 0, i[None])[0] * 2, (None, 0))
    assert_orders_same(lambda t: mapped(t, index), lambda t: t[index] * 2, table)


def test_examples_that_are_numbers_index_as_they_do_alone():
    table, rows, columns = (
        normal(6, 3),
        LiteTensor(torch.tensor([4, 0, -1])),
        LiteTensor(torch.tensor([2, 2, 0])),
    )
    for fn in (lambda t, i, j: t[i] * t[0, j], lambda t, i, j: t[i, j] * t[:, j] + t[i, 1:].sum()):
        mapped = session.vmap(fn, (None, 0, 0))
        assert_orders_same(
            lambda t, m=mapped: m(t, rows, columns),
            lambda t, fn=fn: looped(lambda i, j: fn(t, i, j), rows, columns),
            table,
        )


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("chunk_size", [None, 1, 3])
@pytest.mark.parametrize("out_dim", [0, 1])
def test_batches_of_none_and_one_have_values_and_gradients(size, chunk_size, out_dim):
    x = normal(size, 4)

    def mapped(w, x):
        out, once = session.vmap(
            lambda x: (slope(w, x), w * w), out_dims=(out_dim, None), chunk_size=chunk_size
        )(x)
        return out, once

    def expected(w, x):
        each = torch.stack([slope(w, x[0])], out_dim) if size else x.reshape(mapped(W, x)[0].shape) * w.sum()
        return each, w * w

    assert mapped(W, x)[0].shape == ((size, 4) if out_dim == 0 else (4, size))
    assert_orders_same(mapped, expected, W, x)


def test_torch_tensors_are_constants():
    got, gradient = session.value_and_grad(lambda w: session.vmap(model, (None, 0))(w, X.data), argnums=0)(W)
    assert_same(
        (got, gradient), session.value_and_grad(lambda w: looped(lambda x: model(w, x), X), argnums=0)(W)
    )


# --- what may be mapped --------------------------------------------------------------------------------------

TRANSFORMED = {
    "vjp": lambda w, x: session.vjp(model, w, x)[1](LiteTensor(2.0, dtype=torch.float64)),
    "jvp": lambda w, x: session.jvp(model, (w, x), (x, w)),
    "hvp": lambda w, x: session.hvp(model, (w, x), (x, w)),
    "jacobian": lambda w, x: session.jacobian(lambda w: slope(w, x))(w),
    "hessian": lambda w, x: session.hessian(lambda w: model(w, x))(w),
    "checkpoint": lambda w, x: session.checkpoint(slope)(w, x),
    "checkpointed gradient": lambda w, x: session.grad(session.checkpoint(model), argnums=(0, 1))(w, x),
    "vmap": lambda w, x: session.vmap(lambda e: torch.sin(e * w).sum())(torch.outer(x, w)),
    "chunked vmap": lambda w, x: session.vmap(lambda e: torch.sin(e * w).sum(), chunk_size=3)(
        torch.outer(x, w)
    ),
}


@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("name", TRANSFORMED)
def test_transforms_inside_vmap_equal_the_loop(name, chunk_size):
    fn = TRANSFORMED[name]
    mapped = session.vmap(fn, (None, 0), chunk_size=chunk_size)
    assert_orders_same(
        lambda w, x: tensors(mapped(w, x)), lambda w, x: tensors(looped(lambda x: fn(w, x), x)), W, X[:3]
    )


def test_path_that_gives_fewer_outputs_the_second_time_is_refused():
    calls = iter([2, 1])
    with pytest.raises(SavedTensorError, match="fn gave 2 tensors, and 1 when it was run again"):
        session.grad(lambda x: session.vmap(lambda x: [x * 2] * next(calls))(x)[0], argnums=0)(X)
