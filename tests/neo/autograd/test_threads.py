"""Rule 9: each thread has its own stack of tapes."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

import neo
from neo.autograd import Tape, TapeContext, session
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
    tape, x = Tape(), number(2.0)
    tape.watch(x)
    TapeContext.push(tape)
    try:
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(TapeContext.current).result() is None
            y = pool.submit(lambda: square(x)).result()
        assert y not in tape
        assert len(tape.nodes) == 0
        assert TapeContext.current() is tape
    finally:
        TapeContext.pop()


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
