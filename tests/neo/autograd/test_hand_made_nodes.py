"""tape.add(Node(output, parents, bwd_fn)): an op of the user's, on every open tape that tracks one of its parents."""

import gc
import math
import threading
import weakref

import pytest
import torch

import neo
from neo import autograd
from neo.autograd import Node, Tape, TapeContext, session
from neo.errors import GradientError, SessionError


def number(value):
    return neo.LiteTensor(value, dtype=torch.float64)


def cube(x, seen=None):
    """x³, recorded by hand on the innermost tape."""
    out = neo.LiteTensor(x.data**3)

    def backward(bar):
        if seen is not None:
            seen.append((type(bar), type(x)))
        return (bar * x * x * 3,)

    TapeContext.current().add(Node(out, (x,), backward))
    return out


def cube_in_checkpoint(x):
    """The same where no tape may be open: while a checkpoint runs its function the first time."""
    return cube(x * 1) if TapeContext.current() is not None else x * x * x


def sine(x):
    """sin x, whose rule is a node made by hand as well: right at every order."""
    out = neo.LiteTensor(torch.sin(x.data))
    if TapeContext.current() is not None:
        TapeContext.current().add(Node(out, (x,), lambda bar: (bar * sine(x + math.pi / 2),)))
    return out


def rounded(x):
    """round(x), with the identity for a rule (straight through)."""
    out = neo.LiteTensor(torch.round(x.data))
    TapeContext.current().add(Node(out, (x,), lambda bar: bar))
    return out


def test_outer_session_differentiates_the_value_of_an_inner_one_through_a_node():
    value = lambda x: session.value_and_grad(cube, argnums=0)(x)[0]  # noqa: E731
    assert session.grad(value, argnums=0)(number(2.0)).item() == 12.0
    assert session.grad(session.grad(value, argnums=0), argnums=0)(number(2.0)).item() == 12.0


def test_node_is_recorded_on_the_outer_tape_alone_where_the_inner_one_does_not_track_its_parents():
    def outer(x):
        def inner(y):
            before = len(TapeContext.current())
            out = cube(x)
            assert len(TapeContext.current()) == before
            return out * y

        return session.value_and_grad(inner, argnums=0)(number(5.0))[0]

    assert session.grad(outer, argnums=0)(number(2.0)).item() == 60.0


def test_node_between_the_variables_of_two_sessions():
    """d/dx [x · d/dy (y · x³)] at any y is d/dx x⁴ = 4 x³."""

    def outer(x):
        return x * session.grad(lambda y: y * cube(x), argnums=0)(number(7.0))

    assert session.grad(outer, argnums=0)(number(2.0)).item() == 32.0


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_node_is_right_at_every_order(order):
    x, fn = number(0.3), sine
    expected = [math.cos, lambda v: -math.sin(v), lambda v: -math.cos(v), math.sin][order - 1](0.3)
    for _ in range(order):
        fn = session.grad(fn, argnums=0)
    assert fn(x).item() == pytest.approx(expected)


def test_rule_of_a_node_is_the_rule_at_every_order():
    """Straight through: d/dx round(x)² = 2 round(x), and the derivative of that is 2, not 0."""
    square = lambda x: rounded(x) * rounded(x)  # noqa: E731
    x = number(2.4)
    assert session.grad(square, argnums=0)(x).item() == 4.0
    assert session.grad(session.grad(square, argnums=0), argnums=0)(x).item() == 2.0


def test_meta_gradient_through_nodes_is_that_through_ops():
    def meta_loss(power):
        def adapted(w):
            step = session.grad(lambda w: power(w) * power(w), argnums=0)(w)
            return power(w - step * 0.01)

        return session.value_and_grad(adapted, argnums=0)

    w = number(1.1)
    out, gradient = meta_loss(cube)(w)
    expected_out, expected = meta_loss(lambda x: x * x * x)(w)
    assert out.item() == pytest.approx(expected_out.item())
    assert gradient.item() == pytest.approx(expected.item())
    curvature = session.grad(lambda w: meta_loss(cube)(w)[1], argnums=0)(w)
    assert curvature.item() == pytest.approx(
        session.grad(lambda w: meta_loss(lambda x: x * x * x)(w)[1], argnums=0)(w).item()
    )


def test_bwd_fn_runs_on_lite_tensors_at_every_level():
    seen = []
    session.grad(lambda x: cube(x, seen), argnums=0)(number(2.0))
    session.grad(session.grad(lambda x: cube(x, seen), argnums=0), argnums=0)(number(2.0))
    assert set(seen) == {(neo.LiteTensor, neo.LiteTensor)}


def test_several_outputs_and_parents():
    def both(x, y):
        s, p = neo.LiteTensor(x.data + y.data), neo.LiteTensor(x.data * y.data)
        rule = lambda s_bar, p_bar: (s_bar + p_bar * y, s_bar + p_bar * x)  # noqa: E731
        TapeContext.current().add(Node((s, p), (x, y), rule))
        return s, p

    def fn(x, y):
        s, p = both(x, y)
        return s * p

    def plain(x, y):
        return (x + y) * (x * y)

    x, y = number(2.0), number(3.0)
    for which in (fn, plain):
        g = session.grad(which, argnums=(0, 1))(x, y)
        assert [part.item() for part in g] == [21.0, 16.0]
    mixed = lambda which: session.grad(lambda x: session.grad(which, argnums=1)(x, y), argnums=0)(x)  # noqa: E731
    assert mixed(fn).item() == mixed(plain).item() == 10.0
    only_product = session.grad(lambda x: session.grad(lambda y: both(x, y)[1], argnums=0)(y), argnums=0)
    assert only_product(x).item() == 1.0


def test_products_and_recomputation_go_through_nodes():
    x, v = number(2.0), number(1.5)
    assert session.jvp(cube, (x,), (v,))[1].item() == 18.0
    assert session.hvp(cube, x, v).item() == 18.0
    twice = session.grad(session.grad(session.checkpoint(cube_in_checkpoint), argnums=0), argnums=0)
    assert twice(x).item() == 12.0
    assert session.hessian(cube)(x).item() == 12.0
    forward = session.grad(lambda x: session.jvp(cube, (x,), (v,))[1], argnums=0)
    assert forward(x).item() == 18.0


def test_node_added_inside_a_checkpoint_to_what_it_closes_over():
    def fn(x):
        def piece(scale):
            return cube_in_checkpoint(x) * scale

        return session.checkpoint(piece)(number(2.0))

    assert session.grad(fn, argnums=0)(number(2.0)).item() == 24.0


def test_tape_that_a_checkpoint_suspends_gets_no_node_before_the_recomputation():
    def fn(x):
        tape = TapeContext.current()

        def piece(x):
            out = neo.LiteTensor(x.data**3)
            current = TapeContext.current()
            (tape if current is None else current).add(Node(out, (x,), lambda bar: (bar * x * x * 3,)))
            return out

        return session.checkpoint(piece)(x)

    assert session.grad(fn, argnums=0)(number(2.0)).item() == 12.0


def test_the_given_node_is_the_one_on_the_tape_it_is_added_to():
    outer, inner, x = Tape(), Tape(), number(2.0)
    outer.watch(x)
    inner.watch(x)
    out = neo.LiteTensor(x.data * 2)
    node = Node(out, (x,), lambda bar: bar * 2)
    TapeContext.push(outer)
    TapeContext.push(inner)
    inner.add(node)
    TapeContext.pop()
    TapeContext.pop()
    assert inner.nodes == [node]
    assert len(outer) == 1
    assert out in outer
    assert out in inner
    for tape in (inner, outer):
        (recorded,) = tape.nodes
        assert recorded.output is out
        assert recorded.parents[0] is x
        assert recorded.bwd_fn(number(1.0)).item() == 2.0
        (gradient,) = tape.gradients([out], [torch.ones_like(out.data)], [x])
        assert gradient.item() == 2.0


def test_adding_to_each_tape_by_hand_counts_once():
    def outer(x):
        first = TapeContext.current()

        def inner(y):
            out = neo.LiteTensor(y.data**3)
            node = Node(out, (y,), lambda bar: (bar * y * y * 3,))
            first.add(node)
            TapeContext.current().add(node)
            return out * 2

        return session.value_and_grad(inner, argnums=0)(x)[0]

    assert session.grad(outer, argnums=0)(number(2.0)).item() == 24.0


def test_node_may_be_added_to_a_closed_tape_until_it_is_walked():
    tape, x = Tape(), number(2.0)
    tape.watch(x)
    out = neo.LiteTensor(x.data**2)
    tape.add(Node(out, (x,), lambda bar: bar * x * 2))
    assert tape.gradients([out], [torch.ones_like(out.data)], [x])[0].item() == 4.0
    with pytest.raises(RuntimeError, match=r"Tape\.add: .*freed"):
        tape.add(Node(out, (x,), lambda bar: bar))


def test_a_recorded_op_cannot_be_added():
    tape, x = Tape(), number(2.0)
    tape.watch(x)
    TapeContext.push(tape)
    y = x * x
    TapeContext.pop()
    assert y is not None
    with pytest.raises(ValueError, match="on a tape already"):
        Tape().add(tape.nodes[0])


def test_session_under_no_grad_leaves_the_tapes_around_it_alone():
    def outer(x):
        with torch.no_grad():
            value, gradient = session.value_and_grad(cube, argnums=0)(x)
        assert (value.item(), gradient.item()) == (8.0, 12.0)
        return value + x

    assert session.grad(outer, argnums=0)(number(2.0)).item() == 1.0


def test_adding_is_explicit_and_heeds_no_grad_as_little_as_before():
    def fn(x):
        with torch.no_grad():
            return cube(x)

    value = lambda x: session.value_and_grad(fn, argnums=0)(x)[0]  # noqa: E731
    assert session.grad(fn, argnums=0)(number(2.0)).item() == 12.0
    assert session.grad(value, argnums=0)(number(2.0)).item() == 12.0


def test_node_on_another_threads_tensor_is_refused():
    failures = []

    def elsewhere(x):
        TapeContext.push(Tape())
        try:
            cube(x)
        except SessionError as error:
            failures.append(str(error))
        finally:
            TapeContext.pop()

    def fn(x):
        thread = threading.Thread(target=elsewhere, args=(x,))
        thread.start()
        thread.join()
        return x * x

    session.grad(fn, argnums=0)(number(2.0))
    (message,) = failures
    assert "another thread" in message


def test_wrong_gradients_of_a_node_are_named():
    def fn(x):
        out = neo.LiteTensor(x.data.sum())

        def my_rule(bar):
            return bar, bar

        TapeContext.current().add(Node(out, (x,), my_rule))
        return out

    with pytest.raises(GradientError, match=r"my_rule\.backward: expected 1 gradient"):
        session.grad(fn, argnums=0)(number([1.0, 2.0]))


def test_drawing_shows_a_node_at_both_levels():
    def fn(x):
        return session.value_and_grad(cube, argnums=0)(x)[0]

    trace = autograd.draw(fn, number(2.0)).trace
    (call,) = [call for call in trace.root.calls(walks=False) if call.policy is None]
    assert call.name == "backward"
    assert call.levels == (1, 2)


def test_nodes_go_free_with_their_tapes():
    gc.disable()
    try:
        alive = []

        def fn(x):
            out = cube(x)
            alive.append(weakref.ref(out))
            return out * 2

        def run():
            session.grad(lambda x: session.value_and_grad(fn, argnums=0)(x)[0], argnums=0)(number(2.0))

        run()
        assert [reference() for reference in alive] == [None]
    finally:
        gc.enable()
