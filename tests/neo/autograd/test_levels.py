"""Rule 3: an op is on each tape that tracks one of its inputs, and on no other."""

import math

import pytest
import torch

import neo
from neo import autograd
from neo.autograd import Tape, TapeContext, session
from neo.functions import function
from tests.neo.autograd.policies import Affine, affine, sincos, square


def number(value):
    return neo.LiteTensor(value, dtype=torch.float64)


def test_op_is_recorded_on_the_tapes_that_track_an_input_and_no_other():
    x, y, lone = number(2.0), number(3.0), number(5.0)
    lengths = {}

    def inner(y, x):
        outer, own = tapes[0], TapeContext.current()
        ops = {"both": lambda: x * y, "x": lambda: x * 2, "y": lambda: y * 2, "none": lambda: lone * 2}
        for name, op in ops.items():
            before = len(outer.nodes), len(own.nodes)
            op()
            lengths[name] = len(outer.nodes) - before[0], len(own.nodes) - before[1]
        return y * x

    tapes = []

    def outer(x):
        tapes.append(TapeContext.current())
        return session.value_and_grad(inner, argnums=0)(y, x)[0]

    session.grad(outer)(x)
    assert lengths == {"both": (1, 1), "x": (1, 0), "y": (0, 1), "none": (0, 0)}


def test_node_shows_output_parents_and_rule():
    def fn(x, y):
        z = x * y
        (node,) = TapeContext.current().nodes
        assert node.output is z
        assert [parent is given for parent, given in zip(node.parents, (x, y), strict=True)] == [True, True]
        assert [float(g) for g in node.bwd_fn(torch.tensor(1.0, dtype=torch.float64))] == [3.0, 2.0]
        assert [type(g) for g in node.bwd_fn(number(1.0))] == [neo.LiteTensor, neo.LiteTensor]
        return z

    assert session.value_and_grad(fn)(number(2.0), number(3.0))[0].item() == 6.0


def test_node_does_not_keep_its_tensors_alive():
    tape, x = Tape(), number(2.0)
    tape.watch(x)
    TapeContext.push(tape)
    y = x + 1
    assert TapeContext.pop() is tape
    assert tape.nodes[0].output is y
    del y
    assert tape.nodes[0].output is None


def test_current_is_the_innermost_open_tape():
    assert TapeContext.current() is None
    outer, inner = Tape(), Tape()
    TapeContext.push(outer)
    TapeContext.push(inner)
    assert TapeContext.current() is inner
    assert TapeContext.pop() is inner
    assert TapeContext.current() is outer
    assert TapeContext.pop() is outer
    assert TapeContext.current() is None


def test_hand_made_node_takes_part_in_the_walk_at_both_orders():
    def cube(x):
        out = neo.LiteTensor(x.data**3)
        TapeContext.current().add(autograd.Node(out, (x,), lambda bar: (bar * x * x * 3,)))
        return out

    x = number(2.0)
    assert session.grad(cube, argnums=0)(x).item() == 12.0
    # the outer tape has no node of cube's forward, yet sees what its bwd_fn does
    assert session.grad(session.grad(cube, argnums=0), argnums=0)(x).item() == 12.0


def kinds_seen_by_backward(run):
    """The types that a Policy's backward meets, as (cotangent, saved...), per call."""
    seen = []

    class Watched(Affine):
        def backward(self, grad):
            seen.append({type(grad), *(type(value) for value in self.ctx.release)})
            return super().backward(grad)

    run(function(Watched))
    return seen


X, Y, B = number([[1.0, 2.0]]), number([[3.0], [4.0]]), number([5.0])


def test_backward_gets_torch_tensors_when_no_outer_session_tracks_them():
    assert kinds_seen_by_backward(lambda op: session.grad(op)(X, Y, B)) == [{torch.Tensor}]


def test_backward_gets_lite_tensors_when_an_outer_session_tracks_them_then_torch_tensors():
    def run(op):
        session.grad(lambda X: session.grad(lambda X: op(X, Y, B).sum(), argnums=0)(X).sum())(X)

    # the map is affine: nothing of it is left for the outer walk
    assert kinds_seen_by_backward(run) == [{neo.LiteTensor}]


def test_backward_gets_torch_tensors_when_the_outer_session_looks_elsewhere():
    def run(op):
        session.grad(lambda other: other * session.grad(op, argnums=0)(X, Y, B).sum())(number(2.0))

    assert kinds_seen_by_backward(run) == [{torch.Tensor}]


def test_backward_gets_lite_tensors_when_only_the_cotangent_is_watched():
    def run(op):
        session.grad(lambda v: session.grad(op, argnums=0, cotangent=v)(X, Y, B))(number([[1.0]]))

    assert kinds_seen_by_backward(run) == [{neo.LiteTensor}]


def test_inner_backward_records_nothing_on_an_outer_tape_that_tracks_none_of_it():
    def outer(other):
        before = len(TapeContext.current().nodes)
        session.grad(lambda x: square(x) * x)(number(3.0))
        assert len(TapeContext.current().nodes) == before
        return other * 2

    assert session.grad(outer, argnums=0)(number(1.0)).item() == 2.0


def test_plain_torch_tensors_give_torch_tensors_and_record_nothing():
    def fn(x):
        before = len(TapeContext.current().nodes)
        plain = affine(*(t.data for t in (X, Y, B)))
        assert type(plain) is torch.Tensor
        assert len(TapeContext.current().nodes) == before
        return x * plain

    assert session.grad(fn, argnums=0)(number([[1.0]])).item() == 16.0


def test_plain_tensors_that_require_grad_come_out_detached():
    weights = [t.data.clone().requires_grad_() for t in (X, Y, B)]
    out = affine(*weights)
    assert type(out) is torch.Tensor
    assert not out.requires_grad


def test_function_called_inside_forward_on_torch_tensors_is_part_of_the_rule():
    class Fourth(autograd.Policy):
        """y = x⁴, through another Policy's function."""

        def forward(self, x):
            self.ctx.save(x)
            return square(square(x))

        def backward(self, grad):
            (x,) = self.ctx.release
            return grad * x**3 * 4

    fourth, x = function(Fourth), number(2.0)
    assert session.grad(fourth, argnums=0)(x).item() == 32.0
    assert session.grad(session.grad(fourth, argnums=0), argnums=0)(x).item() == 48.0


def test_session_inside_forward_and_backward_is_closed_in_itself():
    class Derived(autograd.Policy):
        """y = d/du u³ at u = x, that is 3 x²;  x̄ = ȳ d/dx y, by a session again."""

        def forward(self, x):
            self.ctx.save(x)
            return session.grad(lambda u: u * u * u, argnums=0)(neo.LiteTensor(x)).data

        def backward(self, grad):
            (x,) = self.ctx.release
            lite = x if isinstance(x, neo.LiteTensor) else neo.LiteTensor(x)
            slope = session.grad(lambda x: x * x * 3, argnums=0)(lite)
            return grad * slope

    derived, x = function(Derived), number(2.0)
    out, g = session.value_and_grad(derived, argnums=0)(x)
    assert (out.item(), g.item()) == (12.0, 12.0)
    assert session.grad(session.grad(derived, argnums=0), argnums=0)(x).item() == 6.0


def test_outputs_that_were_not_used_get_zero_cotangents():
    x = number(0.3)
    assert session.grad(lambda x: sincos(x)[0], argnums=0)(x).item() == torch.cos(x.data).item()
    assert session.grad(lambda x: sincos(x)[1], argnums=0)(x).item() == -torch.sin(x.data).item()
    second = session.grad(session.grad(lambda x: sincos(x)[1], argnums=0), argnums=0)(x)
    torch.testing.assert_close(second.data, -torch.cos(x.data))


def test_integer_output_beside_a_floating_one_has_no_gradient():
    class Largest(autograd.Policy):
        def forward(self, x):
            value, place = torch.max(x, dim=0)
            self.ctx.save(place, x.shape[0])
            return value, place

        def backward(self, value_bar, place_bar):
            assert not place_bar.is_floating_point()
            place, size = self.ctx.release
            return value_bar * torch.nn.functional.one_hot(place, size)

    largest = function(Largest)
    value, g = session.value_and_grad(lambda x: largest(x)[0], argnums=0)(number([1.0, 5.0, 2.0]))
    assert value.item() == 5.0
    assert g.tolist() == [0.0, 1.0, 0.0]
    place = largest(number([1.0, 5.0, 2.0]))[1]
    assert place.dtype == torch.int64


def test_more_than_sixty_four_inputs_each_get_their_own_gradient():
    class Weighted(autograd.Policy):
        """y = Σ (i + 1) xᵢ."""

        def forward(self, *xs):
            self.ctx.save(len(xs))
            return sum((i + 1) * x for i, x in enumerate(xs))

        def backward(self, grad):
            (count,) = self.ctx.release
            assert len(self.ctx.needs_grad) == count
            return [grad * (i + 1) if need else None for i, need in enumerate(self.ctx.needs_grad)]

    xs = [number(1.0) for _ in range(100)]
    weighted = function(Weighted)
    g = session.grad(lambda xs: weighted(*xs), argnums=0)(xs)
    assert [part.item() for part in g] == [float(i + 1) for i in range(100)]
    only_last = session.grad(lambda last: weighted(*xs[:-1], last), argnums=0)(xs[-1])
    assert only_last.item() == 100.0


def test_tensors_in_lists_tuples_and_named_tuples_are_inputs():
    from tests.neo.autograd.test_arguments import Pair

    class Products(autograd.Policy):
        """y = a b c d, given as (a, [b], (c,)) and a named tuple's d."""

        def forward(self, a, bs, cs, pair):
            (b,), (c,) = bs, cs
            assert type(cs) is tuple
            self.ctx.save(a, b, c, pair.weight)
            return a * b * c * pair.weight

        def backward(self, grad):
            a, b, c, e = self.ctx.release
            return grad * b * c * e, grad * a * c * e, grad * a * b * e, grad * a * b * c

    products = function(Products)
    a, b, c, e = number(2.0), number(3.0), number(5.0), number(7.0)
    g = session.grad(lambda a, b, c, e: products(a, [b], (c,), Pair(e, "bias")), argnums=(0, 1, 2, 3))(
        a, b, c, e
    )
    assert [part.item() for part in g] == [105.0, 70.0, 42.0, 30.0]
    twice = session.grad(
        lambda a: session.grad(lambda e: products(a, [a], (c,), Pair(e, 0)), argnums=0)(e), argnums=0
    )
    assert twice(a).item() == 2 * 2.0 * 5.0


@pytest.mark.parametrize("materialize", [True, False])
def test_an_output_without_a_cotangent_has_zeros_or_none(materialize: bool):
    given = []

    class Both(autograd.Policy):
        """(s, c) = (sin x, cos x);  x̄ = s̄ c − c̄ s."""

        def forward(self, x):
            s, c = torch.sin(x), torch.cos(x)
            self.ctx.save(x)
            return s, c

        def backward(self, s_bar, c_bar):
            (x,) = self.ctx.release
            given.append(c_bar)
            parts = [] if s_bar is None else [s_bar * torch.cos(x)]
            parts += [] if c_bar is None else [-c_bar * torch.sin(x)]
            return sum(parts)

    Both.materialize = materialize
    both, x = function(Both), number(0.3)
    sine = lambda x: both(x)[0]  # noqa: E731
    assert session.grad(sine, argnums=0)(x).item() == pytest.approx(math.cos(0.3))
    assert len(given) == 1
    if materialize:
        assert given[0].item() == 0
    else:
        assert given[0] is None
    third = session.grad(session.grad(session.grad(sine, argnums=0), argnums=0), argnums=0)
    assert third(x).item() == pytest.approx(-math.cos(0.3))
    assert session.jvp(sine, (x,), (number(2.0),))[1].item() == pytest.approx(2 * math.cos(0.3))
    product = session.grad(lambda x: both(x)[0] * both(x)[1], argnums=0)
    assert product(x).item() == pytest.approx(math.cos(0.6))


def test_plain_arguments_may_stand_between_tensors():
    class Blend(autograd.Policy):
        def forward(self, x, weight, y, *, _never=None):
            self.ctx.save(weight)
            return x * weight + y * (1 - weight)

        def backward(self, grad):
            (weight,) = self.ctx.release
            return grad * weight, grad * (1 - weight)

    class Scale(autograd.Policy):
        def forward(self, x, by=2.0, plus=0.0):
            self.ctx.save(by)
            return x * by + plus

        def backward(self, grad):
            return grad * self.ctx.release[0]

    g = session.grad(function(Blend), argnums=(0, 2))(number(1.0), 0.25, number(1.0))
    assert [part.item() for part in g] == [0.25, 0.75]
    out, grads = session.value_and_grad(lambda x: function(Scale)(x, plus=1.0))(number(3.0))
    assert out.item() == 7.0
    assert next(iter(grads.values())).item() == 2.0


def test_policy_with_an_init_has_it_run():
    class Doubling(autograd.Policy):
        def __init__(self):
            self.factor = 2

        def forward(self, x):
            return x * self.factor

        def backward(self, grad):
            return grad * self.factor

    doubling = function(Doubling)
    assert session.grad(doubling, argnums=0)(number(1.0)).item() == 2.0


def test_chain_of_a_hundred_thousand_ops_is_no_deeper_than_one():
    def fn(x):
        for _ in range(100_000):
            x = x + 1
        return x

    assert session.grad(fn, argnums=0)(number(0.0)).item() == 1.0
