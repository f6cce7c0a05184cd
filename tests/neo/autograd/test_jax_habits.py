"""What JAX's own tests of grad, vjp, jvp, linearize, jacobian, hessian and vmap try, where other tests here do not.

Wrong input at every transform; outputs that are constants, None or integers; aux that is nested, constant or no pair;
Jacobians off the diagonal and of mixed dtypes; every kind of container; vmap's dims, keywords and closures;
perturbations in a batch. Rules and checkpoint are in test_jax_rules.py.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import OrderedDict, defaultdict, deque
from typing import NamedTuple

import numpy as np
import optree
import pytest
import torch

import neo
from neo import autograd
from neo.autograd import TapeContext, session

MODES = ["reverse", "forward"]


def number(value):
    return neo.LiteTensor(torch.as_tensor(value, dtype=torch.float64))


def d(fn, argnums=0, **options):
    return session.grad(fn, argnums=argnums, **options)


def close(got, expected):
    torch.testing.assert_close(got.data, torch.as_tensor(expected, dtype=torch.float64))


X, V, ONE = number([0.5, -1.0, 2.0]), number([1.0, 2.0, -3.0]), number(1.0)


# --- wrong input -----------------------------------------------------------------------------------------------------

CALLS = {  # each differentiates, or runs, a function at X
    "grad": lambda fn: session.grad(fn)(X),
    "value_and_grad": lambda fn: session.value_and_grad(fn, 0)(X),
    "vjp": lambda fn: session.vjp(fn, X),
    "jvp": lambda fn: session.jvp(fn, (X,), (V,)),
    "linearize": lambda fn: session.linearize(fn, X),
    "hvp": lambda fn: session.hvp(fn, X, V),
    "jacobian": lambda fn: session.jacobian(fn)(X),
    "hessian": lambda fn: session.hessian(fn, mode="forward")(X),
    "vmap": lambda fn: session.vmap(fn)(X),
    "checkpoint": lambda fn: session.checkpoint(fn)(X),
    "draw": lambda fn: autograd.draw(fn, X),
    "gradcheck": lambda fn: session.gradcheck(fn, X),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("fn", "what"), [(3, "int"), (X, "LiteTensor of torch.float64, shape"), (None, "None")]
)
def test_what_is_no_function_is_refused_before_anything_runs(name, fn, what):
    with pytest.raises(
        TypeError, match=rf"^{name}: expected a function, got {what}.*pass the function itself"
    ):
        CALLS[name](fn)
    assert TapeContext.current() is None


@pytest.mark.parametrize("given", ["foo", 3.0, 3, True, None, {}, np.array([1, 2], dtype=object)], ids=repr)
def test_argument_without_a_tensor_is_refused_with_what_came(given):
    with pytest.raises(TypeError, match=rf"nothing to differentiate.*got {type(given).__name__}\."):
        d(lambda x: x)(given)


def test_argument_given_by_keyword_is_none_that_argnums_counts():
    with pytest.raises(TypeError, match="argnums names argument 0, but 0 were given"):
        functools.partial(d(lambda x, y: x + y), x=X)(y=X)


@pytest.mark.parametrize("transform", [session.jvp, session.hvp])
@pytest.mark.parametrize(
    ("args", "others", "got"),
    [
        (ONE, (ONE,), r"LiteTensor of torch.float64, shape \(\) and tuple of 1"),
        ((ONE,), ONE, r"tuple of 1 and LiteTensor"),
        ((ONE,), np.ones(2), "tuple of 1 and ndarray"),
        ((ONE, ONE), [ONE, ONE], "tuple of 2 and list of 2"),
        ((ONE,), (), "tuple of 1 and tuple of 0"),
        ((ONE,), None, "tuple of 1 and NoneType"),
    ],
)
def test_arguments_and_tangents_that_are_no_tuples_are_described(transform, args, others, got):
    if transform is session.hvp and not isinstance(args, tuple):
        args, others, got = (
            (args,),
            others[0],
            "tuple of 1 and LiteTensor",
        )  # one argument alone is welcome there
    with pytest.raises(TypeError, match=f"expected two tuples of the same length.*got {got}.*one argument"):
        transform(lambda *xs: sum(xs), args, others)


def test_pullback_takes_one_cotangent_also_of_a_tuple():
    _, pullback = session.vjp(lambda x: (x, x * 2), X)
    with pytest.raises(TypeError, match=r"one cotangent, in the structure of the output \(\*, \*\), got 2"):
        pullback(V, V)
    close(pullback((V, V))[0], 3 * V.data)


NO_PAIRS = {
    "three": (lambda x: (x, 1, 2), "tuple of .*int, int"),
    "one": (lambda x: (x,), "tuple of"),
    "list": (lambda x: [x, 1], "list of"),
    "tensor of two": (lambda x: x[:2], "LiteTensor"),
}


@pytest.mark.parametrize("case", NO_PAIRS)
@pytest.mark.parametrize("taker", [session.grad, session.value_and_grad, session.jacobian, session.hessian])
def test_has_aux_takes_a_pair_and_nothing_like_it(case, taker):
    fn, got = NO_PAIRS[case]
    with pytest.raises(TypeError, match=rf"has_aux=True expects fn to return \(output, aux\), got {got}"):
        taker(fn, argnums=0, has_aux=True)(X)
    with pytest.raises(TypeError, match=f"has_aux=True.*got {got}"):
        session.vjp(fn, X, has_aux=True)


def test_errors_of_hessian_have_its_name():
    with pytest.raises(TypeError, match=r"^hessian\(<lambda>\): "):
        session.hessian(lambda x: 3.0)(X)


@pytest.mark.parametrize("name", list(CALLS)[:8])  # those that differentiate
@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda x: (), r"pytree of them, got tuple of \(\)"),
        (lambda x: None, "pytree of them, got NoneType"),
        (lambda x: (x, 1.0), r"float 1\.0 at \[1\].*has_aux=True"),
        (
            lambda x: {"x": x, "n": [torch.argmax(x)]},
            r"output\['n'\]\[0\] is torch.int64.*as aux, with has_aux=True",
        ),
        (lambda x: (x, x > 0), r"output\[1\] is torch.bool"),
        (lambda x: (i for i in x), "generator"),
    ],
)
def test_outputs_without_a_gradient_are_named_by_every_transform(name, fn, message):
    with pytest.raises(TypeError, match=message):
        CALLS[name](fn)
    assert TapeContext.current() is None


# --- constants and None among the outputs ----------------------------------------------------------------------------


def test_constant_output_has_zeros_everywhere():
    fn = lambda x: (x * 2, neo.ones(2))  # noqa: E731
    zero = neo.zeros(2)
    (_, dots), (_, push) = session.jvp(fn, (X,), (V,)), session.linearize(fn, X)
    for got in (dots[1], push(V)[1]):
        assert (got.tolist(), got.dtype) == (zero.tolist(), zero.dtype)
    for mode in MODES:
        assert session.jacobian(fn, mode=mode)(X)[1].tolist() == [[0.0] * 3] * 2
    assert session.vjp(fn, X)[1]((V * 0, zero))[0].tolist() == [0.0] * 3
    assert session.hessian(lambda x: torch.stack([ONE, x[0]]))(X).tolist() == [[[0.0] * 3] * 3] * 2


def test_none_is_an_empty_tree_in_arguments_and_outputs():
    fn = lambda tree: {"y": tree["x"] * 2, "n": None}  # noqa: E731
    tree, dots = {"x": X, "n": None, "t": (), "l": []}, {"x": V, "n": None, "t": (), "l": []}
    out, g = session.value_and_grad(fn, 0)(tree)
    assert out["n"] is None
    close(g.pop("x"), [2.0, 2.0, 2.0])
    assert g == {"n": None, "t": (), "l": []}
    close(session.vjp(fn, tree)[1]({"y": V, "n": None})[0]["x"], 2 * V.data)
    close(session.jvp(fn, (tree,), (dots,))[1]["y"], 2 * V.data)
    close(session.linearize(fn, tree)[1](dots)["y"], 2 * V.data)
    assert session.jacobian(fn)(tree)["n"] is None
    empty, gx = d(lambda p, x: x * 2, (0, 1))({}, X)
    assert empty == {}
    close(gx, [2.0, 2.0, 2.0])


@pytest.mark.parametrize("index", [1, neo.LiteTensor(1), torch.tensor(1)], ids=type)
def test_integers_beside_are_constants_and_have_none(index):
    out, pullback = session.vjp(lambda x, i: x[i], X, index)
    gx, gi = pullback(2.0)
    close(out, -1.0)
    close(gx, [0.0, 2.0, 0.0])
    assert gi is None
    close(session.jvp(lambda x, i: x[i], (X, index), (V, None))[1], 2.0)


def test_detour_through_integers_is_constant():
    close(d(lambda x: x.to(torch.int64).to(torch.float64) * x)(X), [0.0, -1.0, 2.0])
    close(d(lambda x: (x > 0) * x)(X), [1.0, 0.0, 1.0])
    straight = lambda x: (x + session.stop_gradient(torch.round(x) - x)) ** 2  # noqa: E731
    close(d(straight)(X), 2 * torch.round(X.data))


# --- aux -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outer", MODES)
@pytest.mark.parametrize("inner", MODES)
def test_aux_of_an_inner_jacobian_belongs_to_the_one_around(outer, inner):
    def around(x):
        _, (cube, constant) = session.jacobian(lambda x: (x**3, [x**3, 4.0]), has_aux=True, mode=inner)(x)
        return cube * torch.sin(x) * constant

    expected = 4 * (48 * math.sin(4.0) + 64 * math.cos(4.0))
    close(session.jacobian(around, mode=outer)(number(4.0)), expected)


def test_aux_is_a_constant_to_later_sessions_and_to_its_own():
    g, aux = d(lambda x: (x**2, {"same": x, "more": x + 1}), has_aux=True)(number(3.0))
    close(g, 6.0)
    close(d(lambda y: (aux["same"] + aux["more"]) * y)(ONE), 7.0)
    h, aux = session.hessian(lambda x: ((x**3).sum(), x * 2), has_aux=True, mode="forward")(X)
    close(h, torch.diag(6 * X.data))
    close(aux, 2 * X.data)


# --- Jacobians -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("inner", "outer"), list(itertools.product(MODES, MODES)))
def test_second_derivatives_off_the_diagonal_have_rows_and_columns_in_place(inner, outer):
    x, u = number([1.0, 2.0, 3.0]), number([4.0, 5.0])
    fn = lambda x, u: (x @ x) * (u @ u)  # noqa: E731
    mixed = lambda a, b: session.jacobian(session.jacobian(fn, a, mode=inner), b, mode=outer)(x, u)  # noqa: E731
    close(mixed(0, 0), 2 * (u.data @ u.data) * torch.eye(3))
    close(mixed(1, 1), 2 * (x.data @ x.data) * torch.eye(2))
    close(mixed(0, 1), 4 * torch.outer(x.data, u.data))
    close(mixed(1, 0), 4 * torch.outer(u.data, x.data))


@pytest.mark.parametrize("mode", MODES)
def test_blocks_of_a_jacobian_between_dtypes(mode):
    half, single = neo.LiteTensor([2.0], dtype=torch.float16), neo.LiteTensor([3.0])
    rows = session.jacobian(lambda pair: (pair[0], pair[1], pair[0] + pair[1]), mode=mode)((half, single))
    assert [[block.item() for block in row] for row in rows] == [[1, 0], [0, 1], [1, 1]]
    columns = [half.dtype, single.dtype]  # by rows a block is a gradient, by columns a tangent
    by_columns = [[kind] * 2 for kind in (half.dtype, single.dtype, single.dtype)]
    got = [[block.dtype for block in row] for row in rows]
    assert got == ([columns] * 3 if mode == "reverse" else by_columns)


def test_tuples_of_numbers_are_points():
    one, two, three = number(1.0), number(2.0), number(3.0)
    for mode in MODES:
        rows = session.jacobian(lambda point: point[:2], mode=mode)((one, two, three))
        assert [[entry.item() for entry in row] for row in rows] == [[1, 0, 0], [0, 1, 0]]
    blocks = session.hessian(lambda point: torch.stack(list(point)) ** 2)((one, two))
    assert [[block.tolist() for block in row] for row in blocks] == [[[2, 0], [0, 0]], [[0, 0], [0, 2]]]


# --- containers ------------------------------------------------------------------------------------------------------


class Point(NamedTuple):
    x: object
    y: object

    def __call__(self, scale):
        return self.x * self.y * scale


class Origin(Point):
    def is_zero(self):
        return bool(self.x == 0)


TREES = {
    "dict out of order": {"b": number(2.0), "a": number(3.0)},
    "keys of several kinds": {"b": number(2.0), 1: number(3.0)},
    "ordered": OrderedDict(b=number(2.0), a=number(3.0)),
    "default": defaultdict(list, b=number(2.0), a=number(3.0)),
    "deque": deque([number(2.0), number(3.0)], maxlen=2),
    "named": Point(number(2.0), number(3.0)),
    "subclass of named": Origin(number(2.0), number(3.0)),
}


@pytest.mark.parametrize("name", TREES)
def test_containers_keep_their_type_and_order(name):
    tree = TREES[name]
    values = lambda t: list(t.values()) if isinstance(t, dict) else list(t)  # noqa: E731

    def fn(tree):
        assert type(tree) is type(TREES[name])
        first, second = values(tree)
        return first * second**2

    for g in (d(fn)(tree), session.vjp(fn, tree)[1](1.0)[0], session.jacobian(fn)(tree)):
        assert type(g) is type(tree)
        assert [part.item() for part in values(g)] == [9.0, 12.0]
        assert not isinstance(tree, dict) or list(g) == list(tree)


def test_methods_of_a_named_tuple_are_there_inside():
    branch = lambda p: ONE if p.is_zero() else (p.x**2 + p.y**2).sqrt()  # noqa: E731
    assert [part.item() for part in d(branch)(Origin(number(0.0), ONE))] == [0.0, 0.0]
    close(torch.stack(list(d(branch)(Origin(number(3.0), number(4.0))))), [0.6, 0.8])
    point = Point(number(2.0), number(3.0))
    close(d(point)(ONE), 6.0)  # as the function: what it holds is closed over
    gp, gs = d(lambda p, scale: p(scale), (0, 1))(point, ONE)
    assert (gp.x.item(), gp.y.item(), gs.item()) == (3.0, 2.0, 6.0)


@pytest.mark.parametrize("base", [list, dict, tuple, set])
def test_subclass_that_nobody_registered_is_refused(base):
    made = type("Own", (base,), {})({"a": X} if base is dict else [X])
    with pytest.raises(TypeError, match=r"argument 0 is a Own, which is no pytree, and holds a LiteTensor"):
        d(lambda own: X)(made)


def test_registered_node_is_never_remade_with_none():
    class Own(list):
        pass

    def remade(_, parts):
        assert all(part is not None for part in parts)
        return Own(parts)

    optree.register_pytree_node(Own, lambda own: (list(own), None), remade, namespace=neo.pytree.NAMESPACE)
    fn = lambda own: own[0] * 2  # noqa: E731
    for g in (d(fn)(Own([X, V])), session.vjp(fn, Own([X, V]))[1](ONE.data.expand(3))[0]):
        assert [part.tolist() for part in g] == [[2.0] * 3, [0.0] * 3]


# --- vmap ------------------------------------------------------------------------------------------------------------


def test_none_in_an_argument_has_nothing_to_slice():
    close(session.vmap(lambda x, n: x * 2 if n is None else n)(X, None), 2 * X.data)
    close(session.vmap(lambda t: t["w"] * 2)({"w": X, "bias": None}), 2 * X.data)
    close(session.vmap(lambda x, t: x * t[0], chunk_size=2)(X, (V, None)), X.data * V.data)
    close(d(lambda x: session.vmap(lambda t: t[0] ** 2)((x, None)))(X), 2 * X.data)
    with pytest.raises(ValueError, match="nothing to map over"):
        session.vmap(lambda n: n)(None)


@pytest.mark.parametrize("specs", [Point(1, 2), OrderedDict(a=1, b=2), {"b": 2, "a": 1}])
def test_dims_stand_in_trees_of_any_kind(specs):
    a, b, c = (number(np.arange(24.0).reshape(s)) for s in [(6, 2, 2), (2, 6, 2), (2, 2, 6)])
    pair = Point(b, c) if isinstance(specs, Point) else type(specs)(a=b, b=c)
    parts = lambda p: (p.x, p.y) if isinstance(p, Point) else (p["a"], p["b"])  # noqa: E731
    fn = lambda tree: tree[0] @ parts(tree[1])[0] @ parts(tree[1])[1]  # noqa: E731
    got = session.vmap(fn, in_dims=((0, specs),))((a, pair))
    close(got, a.data @ b.data.movedim(1, 0) @ c.data.movedim(2, 0))
    close(session.vmap(fn, in_dims=[[0, specs]])([a, pair]), got.data)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: session.vmap(lambda a, b: a, (0, None))(a=X, b=X),
            "expected 0.*by keyword, a, b, have none",
        ),
        (lambda: session.vmap(lambda a, *, b: a, (None, 0))(X, b=X), "expected 1.*by keyword, b, have none"),
        (lambda: session.vmap(lambda a, b: a)(X, b=V[:2]), "got 3 in argument 0 .*2 in keyword argument 'b'"),
        (lambda: session.vmap(lambda a, b: a)(X, [V, {"k": V[:2]}]), r"2 in argument 1\[1\]\['k'\]"),
        (lambda: session.vmap(lambda x: x, in_dims=False)(X), "in_dims of argument 0 must be .* got False"),
        (lambda: session.vmap(lambda x: x, out_dims=False)(X), "out_dims must be .* got False"),
        (lambda: session.vmap(lambda x: x)(ONE), r"argument 0 has shape \(\), and no dim 0"),
        (lambda: session.vmap(lambda: X)(), "nothing to map over"),
    ],
)
def test_dims_that_do_not_fit_are_named(call, message):
    with pytest.raises(ValueError, match=f"vmap.*: .*{message}"):
        call()


def test_what_a_batch_closes_over_keeps_its_own_shape():
    rows = number(np.ones((3, 2)))
    total = lambda z: session.vmap(lambda y: torch.logaddexp(z, y.sum() + z))(rows).sum()  # noqa: E731
    value, g = session.value_and_grad(total, 0)(number(0.1))
    close(value, 3 * (0.1 + math.log(1 + math.exp(2.0))))
    close(g, 3.0)  # f(z + c) = f(z) + c, three times
    close(session.vmap(lambda f, x: f(x), (None, 0))(lambda x: x + 1, X), X.data + 1)


def test_perturbations_in_a_batch_are_not_confused():
    inner = {
        "grad": lambda x: d(lambda y: x + y)(ONE),
        "jvp": lambda x: session.jvp(lambda y: x + y, (ONE,), (ONE,))[1],
        "linearize": lambda x: session.linearize(lambda y: x + y, ONE)[1](ONE),
        "vmap": lambda x: session.vmap(d(lambda y: x + y))(X).sum() / 3,
    }
    for one in inner.values():
        fn = lambda x, one=one: x * one(x)  # noqa: E731
        close(session.vmap(d(fn))(X), [1.0] * 3)
        close(session.vmap(lambda x, fn=fn: session.jvp(fn, (x,), (x,))[1])(X), X.data)
