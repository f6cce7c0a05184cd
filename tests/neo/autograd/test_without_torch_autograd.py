"""Neo's gradients come from Neo: everything works with torch.autograd made to raise."""

import gc

import pytest
import torch
import torch.nn.functional as F

import neo
from neo.autograd import session
from tests.neo.autograd.policies import affine, cube, sincos


def forbidden(*args, **kwargs):
    raise AssertionError("torch.autograd was called while Neo worked")


@pytest.fixture
def no_torch_autograd(monkeypatch):
    monkeypatch.setattr(torch.autograd, "grad", forbidden)
    monkeypatch.setattr(torch.autograd, "backward", forbidden)
    monkeypatch.setattr(torch.autograd.graph, "_engine_run_backward", forbidden)
    monkeypatch.setattr(torch.autograd, "_engine_run_backward", forbidden, raising=False)
    monkeypatch.setattr(torch.autograd.Function, "apply", forbidden)
    monkeypatch.setattr(torch.Tensor, "backward", forbidden)
    monkeypatch.setattr(torch.Tensor, "requires_grad_", forbidden)
    monkeypatch.setattr(torch.func, "grad", forbidden)
    monkeypatch.setattr(torch.func, "vjp", forbidden)
    with torch.enable_grad():
        yield


def network(params, x):
    hidden = torch.tanh(affine(x, params["w1"], params["b1"]))
    s, c = sincos(hidden @ params["w2"])
    return cube(s - c).sum()


def maml(params, x):
    g = session.grad(network, argnums=0)(params, x)
    return network({k: params[k] - g[k] * 0.1 for k in params}, x)


@pytest.mark.usefixtures("no_torch_autograd")
def test_everything_works_with_torch_autograd_made_to_raise():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return neo.LiteTensor(torch.randn(shape, generator=generator, dtype=torch.float64))

    params = {"w1": draw(3, 4), "b1": draw(4), "w2": draw(4, 2)}
    x = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    session.gradcheck(maml, (params, neo.LiteTensor(x)), order=1)
    session.grad(session.checkpoint(maml), argnums=0)(params, x)
    session.hvp(lambda p: network(p, x), params, params)
    session.jvp(lambda p: network(p, x), (params,), (params,))
    session.hessian(lambda b: network({**params, "b1": b}, x))(params["b1"])


IMAGES = torch.linspace(-1, 1, 2 * 3 * 6 * 6, dtype=torch.float64).reshape(2, 3, 6, 6)
FILTERS = torch.linspace(-1, 1, 4 * 3 * 3 * 3, dtype=torch.float64).reshape(4, 3, 3, 3)
SMALL = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
NAMES = [
    "sin",
    "cos",
    "tanh",
    "exp",
    "log",
    "log1p",
    "expm1",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "square",
    "abs",
    "neg",
]
OPS = {name: (getattr(torch, name), SMALL) for name in [*NAMES, "relu", "sigmoid", "sum", "mean", "var"]}
OPS |= {
    "logsumexp": (lambda x: torch.logsumexp(x, dim=-1), IMAGES),
    "softmax": (lambda x: torch.softmax(x, dim=1), IMAGES),
    "conv2d": (lambda x: F.conv2d(x, FILTERS, stride=2, padding=1), IMAGES),
    "conv2d in its weight": (lambda w: F.conv2d(IMAGES, w), FILTERS),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2), IMAGES),
    "batch_norm": (lambda x: F.batch_norm(x, None, None, training=True), IMAGES),
    "cross_entropy": (lambda x: F.cross_entropy(x, torch.tensor([0, 2, 1])), IMAGES[0, 0, :3, :4]),
    "indexing": (lambda x: x[1:, ..., [0, 2]], IMAGES),
    "matmul": (lambda x: x @ x.transpose(-1, -2), IMAGES),
    "cat": (lambda x: torch.cat([x, x * 2], dim=1), IMAGES),
}


@pytest.mark.usefixtures("no_torch_autograd")
@pytest.mark.parametrize("name", OPS)
def test_op_is_differentiated_twice_with_torch_autograd_made_to_raise(name):
    op, data = OPS[name]
    x = neo.LiteTensor(data)
    g = session.grad(lambda x: (session.grad(op, argnums=0)(x) * x).sum(), argnums=0)(x)
    assert g.shape == x.shape


def test_no_tensor_is_on_a_torch_graph_even_when_plain_leaves_are():
    weight = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    inputs = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    params = {
        "w1": neo.LiteTensor(torch.randn(3, 4, dtype=torch.float64, requires_grad=True)),
        "b1": neo.LiteTensor(torch.zeros(4, dtype=torch.float64)),
    }
    seen = []
    left = {id(value) for value in gc.get_objects() if type(value) is torch.Tensor}  # by other tests

    def loss(params):
        g = session.grad(lambda p: network({**p, "w2": weight}, inputs), argnums=0)(params)
        stepped = {k: params[k] - g[k] * 0.1 for k in params}
        mixed = torch.sin(inputs @ params["w1"]) * weight.sum() + weight[0, 0]
        out = network({**stepped, "w2": weight}, inputs) + mixed.sum()
        tensors = [
            value for value in gc.get_objects() if type(value) is torch.Tensor and id(value) not in left
        ]
        seen.extend(value for value in tensors if not value.is_leaf)
        return out

    out, g = session.value_and_grad(loss, argnums=0)(params)
    assert seen == []
    assert all(
        not t.data.requires_grad and t.data.grad_fn is None for t in (out, *g.values(), *params.values())
    )
    assert weight.grad is None
    assert inputs.grad is None
