"""capture on the CPU: replays give the step's numbers, bit for bit, on inputs that the recording has not seen."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import neo
from neo import LiteTensor
from neo.kernels import replay

pytestmark = pytest.mark.skipif(not replay.available, reason="_replay is not built for this torch")


def leaves(tree):
    return [leaf.data if isinstance(leaf, LiteTensor) else leaf for leaf in neo.pytree.flatten(tree)[0]]


def assert_same(found, expected):
    assert neo.pytree.structure(found) == neo.pytree.structure(expected)
    for one, other in zip(leaves(found), leaves(expected), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other) or (one.isnan() == other.isnan()).all()


def assert_replays(step, inputs, calls=6, **constants):
    """The captured step against the step; inputs(i) gives the arguments of call i. The step runs thrice at most."""
    runs = 0

    def counted(*args, **kwargs):
        nonlocal runs
        runs += 1
        return step(*args, **kwargs)

    captured = neo.capture(counted)
    kept = []
    for i in range(calls):
        kept.append((captured(*inputs(i), **constants), step(*inputs(i), **constants)))
    for found, expected in kept:  # earlier results outlive later replays
        assert_same(found, expected)
    assert runs == 3  # the first call, its recording, and the comparison with the first replay


def draw(i, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(i * 1000 + sum(shape)))


def problem(i, tasks=4):
    generator = torch.Generator().manual_seed(i)
    x = torch.randn(2, tasks, 10, 1, generator=generator)
    y = torch.randn(2, tasks, 10, 1, generator=generator)
    return {"support": (x[0], y[0]), "query": (x[1], y[1])}


NETWORKS = {
    "perceptron": lambda: torch.nn.Sequential(
        torch.nn.Linear(1, 20), torch.nn.ReLU(), torch.nn.Linear(20, 1)
    ),
    "layer norm": lambda: torch.nn.Sequential(
        torch.nn.Linear(1, 8), torch.nn.LayerNorm(8), torch.nn.GELU(), torch.nn.Linear(8, 1)
    ),
}


@pytest.mark.parametrize("batched", [False, True], ids=["one by one", "batched"])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_meta_gradient_of_second_order(network, batched, dtype):
    torch.manual_seed(0)
    model, start = neo.nn.from_torch(NETWORKS[network]().to(dtype))

    def loss(params, x, y):
        return F.mse_loss(model(params, x), y)

    def query_loss(params, task):
        for _ in range(2):
            gradient = neo.grad(loss, argnums=0)(params, *task["support"])
            params = {name: params[name] - 0.1 * gradient[name] for name in params}
        return loss(params, *task["query"])

    def of_task(params, task):
        return neo.value_and_grad(query_loss, argnums=0)(params, task)

    def step(params, tasks):
        if batched:
            return neo.vmap(of_task, in_dims=(None, 0))(params, tasks)
        found = [of_task(params, neo.pytree.tree_map(lambda leaf, i=i: leaf[i], tasks)) for i in range(4)]
        return neo.pytree.tree_map(lambda *them: torch.stack([LiteTensor(one) for one in them]), *found)

    def inputs(i):
        params = {name: param + 0.1 * draw(i, *param.shape).to(dtype) for name, param in start.items()}
        return params, neo.pytree.tree_map(lambda leaf: leaf.to(dtype), problem(i))

    assert_replays(step, inputs)


@pytest.mark.parametrize("pool", ["stride", "max"])
def test_neos_own_kernels(pool):
    model = neo.nn.Conv4(5, hidden=16, pool=pool)
    start = model.init(seed=0)
    y = torch.arange(5)

    def step(params, x, scale):
        def loss(params):
            gradient = neo.grad(lambda p: F.cross_entropy(model(p, x), y), argnums=0)(params)
            return F.cross_entropy(model({n: params[n] - 0.1 * gradient[n] for n in params}, x), y)

        value, gradient = neo.value_and_grad(loss, argnums=0)(params)
        return value * scale, gradient

    def inputs(i):
        params = {name: param + 0.1 * draw(i, *param.shape) for name, param in start.items()}
        return params, torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(i)), draw(i)

    assert_replays(step, inputs, calls=4)


def test_recurrent_and_attention_layers():
    torch.manual_seed(0)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(6, 8, batch_first=True)
            self.layer = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
            self.out = torch.nn.Linear(8, 3)

        def forward(self, x):
            return self.out(self.layer(self.lstm(x)[0])[:, -1])

    model, start = neo.nn.from_torch(Net())

    def step(params, x, y):
        return neo.value_and_grad(lambda p: F.cross_entropy(model(p, x), y), argnums=0)(params)

    def inputs(i):
        params = {name: param + 0.1 * draw(i, *param.shape) for name, param in start.items()}
        return params, draw(i, 5, 7, 6), (torch.arange(5) + i) % 3

    assert_replays(step, inputs, calls=4)


# --- values, memory, aliases -----------------------------------------------------------------------------------------


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


# --- random draws ----------------------------------------------------------------------------------------------------


def test_draws_go_on_from_torchs_generator():
    def step(x):
        torch.rand(5)  # nobody reads it, and still it is drawn
        return F.dropout(x, 0.5) + torch.randn_like(x), torch.randperm(6)

    found, expected = [], []
    captured = neo.capture(step)
    for results, run in ((expected, step), (found, captured)):
        torch.manual_seed(3)
        for i in range(6):
            results.append(run(draw(i, 4, 4)))
    assert_same(found, expected)


def test_a_step_that_sets_the_seed_is_found_out():
    def step(x):
        torch.manual_seed(0)
        return x + torch.rand(3)

    captured = neo.capture(step)
    captured(draw(0, 3))
    with pytest.raises(neo.CaptureError, match=r"capture\(step\): a replay gave other random draws"):
        captured(draw(1, 3))
    assert torch.equal(captured(draw(2, 3)), step(draw(2, 3)))


def test_draws_of_the_block_around_are_the_blocks():
    from neo.draws import SeededCalls

    def step(x):
        return F.dropout(F.dropout(LiteTensor(x), 0.5) * x, 0.3)

    captured, seeded = neo.capture(step), SeededCalls()
    for i in range(5):
        x = draw(i, 8)
        assert_same(seeded(i, lambda x=x: captured(x)), seeded(i, lambda x=x: step(x)))
        assert_same(
            seeded(i, lambda x=x: captured(x), dropout=False), seeded(i, lambda x=x: step(x), dropout=False)
        )
    assert not seeded._blocks


def test_conditions_on_numbers_are_replayed():
    from neo.guards import require

    def step(x):
        require(x.sum() > 0, lambda: ValueError("not above zero"))
        return x * 2

    captured = neo.capture(step)
    for i in range(4):
        captured(torch.ones(3) + i)
    with pytest.raises(RuntimeError, match="not above zero"):
        captured(-torch.ones(3))


# --- where it is the step itself -------------------------------------------------------------------------------------


def test_modes_transforms_and_autocast_run_the_step():
    runs = []

    def step(x):
        runs.append(1)
        return x @ x

    captured = neo.capture(step)
    x = draw(0, 3, 3)
    for i in range(3):
        captured(draw(i, 3, 3))
    before = len(runs)
    captured(x)
    assert len(runs) == before
    with torch.autocast("cpu"):
        assert captured(x).dtype is torch.bfloat16
    torch.func.vmap(captured)(x.expand(2, 3, 3))
    with torch.inference_mode():
        captured(x)
    with neo.nn.draws(0):
        captured(x)
    assert captured(x.clone().requires_grad_()).requires_grad
    odd = torch.from_numpy(np.zeros(37, np.uint8)[1:].view(np.float32).reshape(3, 3))  # at an odd address
    assert torch.equal(captured(odd), odd @ odd)
    assert len(runs) == before + 6
    with neo.kernels.switched_off():  # another recording
        captured(x)
    assert len(runs) == before + 8


def test_threads_may_replay_at_once():
    captured = neo.capture(lambda x, w: torch.tanh(x @ w) @ w)
    w = draw(0, 64, 64)
    for i in range(3):
        captured(draw(i, 64, 64), draw(i + 50, 64, 64))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: captured(draw(i, 64, 64), w), range(40)))
    for i, one in enumerate(found):
        assert torch.equal(one, torch.tanh(draw(i, 64, 64) @ w) @ w)


def test_another_thread_that_computes_meanwhile_is_not_recorded():
    started, stop = threading.Event(), threading.Event()

    def elsewhere():
        while not stop.is_set():
            neo.grad(lambda x: (torch.tanh(x) @ x).sum())(LiteTensor(torch.rand(4, 4)))
            torch.rand(3).tolist()
            started.set()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    started.wait()
    try:
        test_neos_own_kernels("stride")
    finally:
        stop.set()
        thread.join()


def test_errors_of_a_kernel_are_raised_at_the_replay():
    captured = neo.capture(lambda x, y: neo.grad(lambda x: F.cross_entropy(x, y), argnums=0)(x))
    for i in range(3):
        captured(LiteTensor(draw(i, 4, 3)), (torch.arange(4) + i) % 3)
    with pytest.raises(IndexError, match="out of bounds"):
        captured(LiteTensor(draw(0, 4, 3)), torch.tensor([0, 1, 2, 3]))
    factor = neo.capture(torch.linalg.cholesky)
    for i in range(3):
        factor(draw(i, 3, 3) @ draw(i, 3, 3).t() + torch.eye(3))
    with pytest.raises(torch.linalg.LinAlgError, match="positive-definite"):
        factor(-torch.eye(3))
