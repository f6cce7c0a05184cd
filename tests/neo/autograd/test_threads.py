"""Rule 9: each thread has its own stack of tapes."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import neo
from neo.autograd import Tape, TapeContext, session
from neo.errors import SessionError
from tests.neo.autograd.policies import cube, square


def number(value):
    return neo.LiteTensor(value, dtype=torch.float64)


def d(fn):
    return session.grad(fn, argnums=0)


def test_four_threads_at_once_with_nested_sessions():
    gate = threading.Barrier(4)
    shared = number(1.5)

    def work(k):
        gate.wait(timeout=30)
        found = []
        for _ in range(60):
            x = number(float(k))
            found.append(d(lambda x: d(lambda y: cube(y) * x * shared)(x) * square(x))(x).item())
            found.append(d(session.checkpoint(lambda x: d(cube)(x) * x))(x).item())
            assert TapeContext.current() is None
        return found

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, (1, 2, 3, 4)))
    for k, found in zip((1, 2, 3, 4), results, strict=True):
        # d/dx [3 x² · x · 1.5 · x²] = 22.5 x⁴, and d/dx [3 x² · x] = 9 x²
        assert found == [22.5 * k**4, 9.0 * k**2] * 60


def test_tape_of_one_thread_is_not_seen_by_another():
    tape, x, other = Tape(), number(2.0), number(3.0)
    tape.watch(x)
    TapeContext.push(tape)
    try:
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(TapeContext.current).result() is None
            y = pool.submit(lambda: square(other)).result()
        assert y not in tape
        assert len(tape.nodes) == 0
        assert TapeContext.current() is tape
    finally:
        TapeContext.pop()


@pytest.mark.parametrize(
    "work",
    {
        "op": square,
        "session": d(square),
        "vjp": lambda x: session.vjp(square, x)[0],
        "numpy": lambda x: number(np.asarray(x)),
        "deepcopy": copy.deepcopy,
    }.items(),
    ids=lambda item: item[0],
)
def test_work_on_another_thread_on_what_a_session_differentiates_is_refused(work):
    def fn(x):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(work[1], x).result() + x

    with pytest.raises(SessionError, match=r"thread|open session"):
        d(fn)(number(2.0))
    assert TapeContext.current() is None


def test_constants_may_be_worked_on_by_another_thread():
    def fn(x):
        def work(x):
            with torch.no_grad():
                return square(x)

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(square, x.detach()).result() * x + pool.submit(work, x).result()

    assert d(fn)(number(2.0)).item() == 4.0


def test_session_inside_a_thread_differentiates_its_own_arguments():
    """As the tasks of a meta-batch do, side by side while the calling thread holds a session of its own open."""

    def fn(x):
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(lambda k: d(cube)(number(float(k))).item(), range(4)))
        return x * sum(found)

    assert d(fn)(number(2.0)).item() == 3.0 * (0 + 1 + 4 + 9)


def test_thread_that_ends_with_an_open_tape_leaves_other_threads_alone():
    thread = threading.Thread(target=lambda: TapeContext.push(Tape()))
    thread.start()
    thread.join()
    assert TapeContext.current() is None
    assert d(square)(number(3.0)).item() == 6.0


def test_pullbacks_made_in_one_thread_may_be_called_in_others():
    x = number(2.0)
    _, pullback = session.vjp(lambda x: cube(x) * x, x)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda k: pullback(number(float(k)))[0].item(), range(40)))
    assert results == [32.0 * k for k in range(40)]
