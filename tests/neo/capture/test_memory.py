"""capture on the CPU: writes, views, results, what is closed over, signatures, and the memory of a replay."""

from __future__ import annotations

import pytest
import torch

import neo
from neo import LiteTensor
from tests.neo.capture.replays import assert_replays, assert_same, draw, leaves

pytestmark = pytest.mark.usefixtures("replays")


def chained(x):  # writes to its own memory, by way of views
    out = torch.zeros(4, 3, dtype=x.dtype)
    out[1:3] += x[:2]
    out.t()[0].mul_(2)
    out.view(-1)[-1] = x.sum()
    row = out[2]
    out.add_(1)
    return row * x[0], out


def resizing(x):
    y = (x * 2).unsqueeze(0)
    z = y.detach()
    z.squeeze_(0).t_()
    return y, z + 1


def foreach(x):
    rows = [row.clone() for row in x]
    torch._foreach_mul_(rows, 2.0)
    return torch._foreach_add(rows, [x[0]] * len(rows))


def partly(x):
    return torch.topk(x, 2), torch.nn.functional.layer_norm(x, (3,)), x[:, [0, 2]], torch.where(x > 0, x, -x)


def summed(x):
    total, places = torch.tensor(0.5), torch.tensor([2, 0])
    for row in x:
        total += row.sum()
    places += 1
    return total, x[places]


@pytest.mark.parametrize("step", [chained, resizing, foreach, partly, summed])
def test_steps_that_write_to_memory_of_their_own(step):
    assert_replays(lambda x: step(x), lambda i: (draw(i, 4, 3),))


@pytest.mark.parametrize(
    "step",
    [
        lambda x: x,
        lambda x: (x, x),
        lambda x: x.t()[1:],
        lambda x: (x.detach().view(-1), x + 1),
        lambda x: (lambda y: (y, y[0], y.t()))(x * 2),
        lambda x: (torch.ones(3), x.sum(), torch.tensor([1.0, 2.0])),
    ],
)
def test_results_are_the_callers_own(step):
    captured = neo.capture(step)
    for i in range(5):
        x = draw(i, 4, 3)
        expected, found = leaves(step(x.clone())), leaves(captured(x))
        assert all(map(torch.equal, found, expected))
        for k, one in enumerate(found if i > 1 else ()):  # of a replay each has memory of its own
            one.fill_(7.0)
            assert all(map(torch.equal, found[k + 1 :], expected[k + 1 :]))
        assert i < 2 or torch.equal(x, draw(i, 4, 3))


def test_layouts_are_part_of_the_signature():
    captured = neo.capture(lambda x: (x * 2, x.t().contiguous().view(-1), x.stride(0) * x.sum()))
    base = draw(0, 6, 6)
    layouts = [
        base,
        base.t(),
        base[::2, 1:4],
        base[:1].expand(6, 6),
        base.double(),
        base[:, :0],
        base[0, 0].expand(2, 2),
    ]
    for _ in range(4):
        for x in layouts:
            assert_same(captured(x), (x * 2, x.t().contiguous().view(-1), x.stride(0) * x.sum()))


def test_pytrees_constants_and_types():
    def step(tree, *, words, number=1.0, nothing=None):
        out = {"a": tree["a"] * number, "words": words, "many": [tree["b"][0], nothing, 3]}
        return out, (tree["b"][1] + tree["a"], "x")

    captured = neo.capture(step)
    for i in range(4):
        for number in (1.0, 2.0, 2, 0.0, -0.0):
            tree = {"a": LiteTensor(draw(i, 3)), "b": (draw(i, 2), draw(i + 1, 3))}
            found, expected = (s(tree, words="w", number=number) for s in (captured, step))
            assert neo.pytree.structure(found) == neo.pytree.structure(expected)
            assert (found[0]["words"], found[0]["many"][1:], found[1][1]) == ("w", [None, 3], "x")
            assert isinstance(found[0]["a"], LiteTensor)
            assert type(found[0]["many"][0]) is torch.Tensor
            assert torch.equal(found[0]["a"].data, expected[0]["a"].data)
            assert torch.equal(found[0]["a"].data.signbit(), expected[0]["a"].data.signbit())


def test_one_tensor_given_twice_is_another_recording():
    def step(x, y):
        if x is y:
            return x * 0, x
        return neo.grad(lambda x, y: (x * x * y).sum(), argnums=(0, 1))(x, y)

    captured = neo.capture(step)
    for i in range(4):
        x, y = LiteTensor(draw(i, 3)), LiteTensor(draw(i + 9, 3))
        assert_same(captured(x, y), step(x, y))
        assert_same(captured(x, x), step(x, x))


def test_changes_in_place_of_a_tensor_closed_over_are_seen():
    weight, lite = draw(1, 3), LiteTensor(draw(2, 3))
    captured = neo.capture(lambda x: x * weight.detach() + lite)
    for i in range(5):
        weight.mul_(1.5)
        lite.data.add_(1)
        x = draw(i, 3)
        assert torch.equal(captured(x).data, x * weight + lite.data)
    weight.resize_(2)
    with pytest.raises(RuntimeError, match="closes over was resized"):
        captured(draw(0, 3))


def test_what_results_do_not_depend_on_is_not_replayed():
    from neo._recording import Replayed

    def step(x):
        for _ in range(10):
            torch.linalg.svd(x)
        return x + 1

    program = Replayed(step, *neo.pytree.flatten(((draw(0, 3, 3),), {}), none_is_leaf=True)).program
    assert len(program) == 1


def test_memory_goes_free_as_in_the_run():
    def step(x):
        for _ in range(12):
            x = torch.sin(x)
        return x.sum()

    def peak(run):
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as seen:
            run()
        held = most = 0
        for event in seen.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                most = max(most, held)
        return most

    captured = neo.capture(step)
    x = draw(0, 256, 256)
    for i in range(3):
        captured(draw(i, 256, 256))
    plain, replayed = peak(lambda: step(x)), peak(lambda: captured(x))
    assert plain > x.nbytes
    assert replayed <= plain
