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
from tests.neo.capture.replays import assert_replays, assert_same, draw

pytestmark = pytest.mark.usefixtures("replays")


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
    "attention": lambda: torch.nn.Sequential(
        torch.nn.Linear(1, 8),
        torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
        torch.nn.Linear(8, 1),
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


def test_third_derivatives_by_a_jet():
    def loss(w, v, x):
        ones = torch.ones_like(x)
        u, (u_x, _, u_xxx) = neo.jet(lambda x: torch.sin(x @ w) @ v, (LiteTensor(x),), ((ones, None, None),))
        return (u_xxx + u * u_x).square().mean()

    step = neo.value_and_grad(loss, argnums=(0, 1))
    assert_replays(step, lambda i: (LiteTensor(draw(i, 1, 8)), LiteTensor(draw(i, 8, 1)), draw(i, 6, 1)))


def test_convolutions_in_groups():
    def loss(weight, x):
        return torch.tanh(F.conv2d(x, weight, padding=1, groups=32)).square().mean()

    def inputs(i):
        return LiteTensor(draw(i, 32, 1, 3, 3)), draw(i, 2, 32, 5, 5).contiguous(
            memory_format=torch.channels_last
        )

    assert_replays(neo.value_and_grad(loss, argnums=0), inputs)
