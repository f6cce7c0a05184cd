"""Random expressions of random ops: values, gradients and gradients of gradients against torch's double backward.

An expression is a list of steps; each takes an op and earlier results, all 3 x 3 matrices, so that any op may follow
any other. It is one Python function of torch functions, run on torch tensors by the examiner and on LiteTensors by
Neo. A step may also be a session, a gradient step down another random expression, in either mode, or an expression
checkpointed. The same expressions in forward mode, alone and over a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neo import LiteTensor
from neo.autograd import session
from tests.neo.functions.orders import close, neo_orders, torch_orders

N = 3

UNARY: dict[str, Callable[..., Any]] = {
    "tanh": torch.tanh,
    "sin": torch.sin,
    "cos": torch.cos,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "gelu": F.gelu,
    "silu": F.silu,
    "relu": torch.relu,
    "abs": torch.abs,
    "erf": torch.erf,
    "exp": lambda x: torch.exp(torch.tanh(x)),
    "log": lambda x: torch.log(x * x + 1.5),
    "sqrt": lambda x: torch.sqrt(x * x + 1),
    "reciprocal": lambda x: torch.reciprocal(x * x + 1),
    "power": lambda x: (x * x + 1) ** 0.7,
    "scale": lambda x: x * 0.7 - 0.2,
    "negate": lambda x: 1 - x,
    "transpose": lambda x: x.T,
    "flip": lambda x: torch.flip(x, (0,)),
    "roll": lambda x: torch.roll(x, 1, 1),
    "softmax": lambda x: torch.softmax(x, -1),
    "log_softmax": lambda x: torch.log_softmax(x, 0),
    "logsumexp": lambda x: x - torch.logsumexp(x, 1, keepdim=True),
    "centre": lambda x: x - x.mean(0),
    "cumsum": lambda x: torch.cumsum(x, 0) * 0.5,
    "prod": lambda x: x * torch.prod(torch.tanh(x), 1, keepdim=True),
    "var": lambda x: x * torch.var(x, 0),
    "amax": lambda x: x - torch.amax(x, 1, keepdim=True),
    "sort": lambda x: torch.sort(x, 0)[0],
    "norm": lambda x: x / torch.sqrt((x * x).sum() + 1),
    "layer_norm": lambda x: layer_norm(x),
    "triangle": torch.tril,
    "pad": lambda x: F.pad(x[:2, 1:], (1, 0, 0, 1)),
    "index": lambda x: x[torch.tensor([2, 0, 0])],
    "diagonal": lambda x: torch.diag(torch.diagonal(x)) + x,
    "halves": lambda x: torch.cat(tuple(reversed(torch.split(x, [1, 2], 1))), 1),
    "reshape": lambda x: x.reshape(9).unflatten(0, (N, N)),
    "repeat": lambda x: x.sum(0).expand(N, N) * 0.3,
    "conv": lambda x: F.conv2d(x.reshape((1, 1, N, N)), x.reshape((1, 1, N, N)) * 0.3, padding=1).reshape(
        (N, N)
    ),
    "pool": lambda x: F.avg_pool2d(x.reshape((1, 1, N, N)), 2, 1, 1)[0, 0, :N, :N],
    "solve": lambda x: torch.linalg.solve(x.T @ x * 0.1 + torch.eye(N, dtype=torch.float64), x),
}
BINARY: dict[str, Callable[..., Any]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / (y * y + 1),
    "matmul": lambda x, y: x @ y * 0.5,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "atan2": lambda x, y: torch.atan2(x, y * y + 1),
    "hypot": lambda x, y: torch.hypot(x, y * y + 1),
    "where": lambda x, y: torch.where(torch.eye(N, dtype=torch.bool), x, y),
    "broadcast": lambda x, y: x[:1] * y[:, 1:2],
    "linear": lambda x, y: F.linear(x, y, y[0]),
    "mse": lambda x, y: x * F.mse_loss(x, y),
    "einsum": lambda x, y: torch.einsum("ij,ik->jk", x, y) * 0.5,
    "addmm": lambda x, y: torch.addmm(x, y, x, alpha=0.3),
    "stack": lambda x, y: torch.stack((x, y)).mean(0),
    "cross_entropy": lambda x, y: y * F.cross_entropy(x, torch.tensor([0, 2, 1])),
}


def layer_norm(x: Any) -> Any:
    """For the examiner of its parts: the third derivative of torch's own takes its statistics for constants."""
    if isinstance(x, LiteTensor):
        return F.layer_norm(x, (N,))
    away = x - x.mean(-1, keepdim=True)
    return away / torch.sqrt((away * away).mean(-1, keepdim=True) + 1e-5)


@st.composite
def expressions(draw: Any, depth: int = 2, longest: int = 6) -> list[tuple]:
    """Steps (op, places of its operands among the results so far); the first two results are the arguments."""
    steps: list[tuple] = []
    for i in range(draw(st.integers(1, longest))):
        operands = st.integers(0, i + 1)
        kind = draw(
            st.sampled_from(
                ["unary", "binary", "binary", "session", "mixed", "checkpoint"]
                if depth
                else ["unary", "binary"]
            )
        )
        if kind in ("session", "mixed", "checkpoint"):
            steps.append((kind, draw(expressions(depth=0, longest=3)), draw(operands), draw(operands)))
        elif kind == "unary":
            steps.append((draw(st.sampled_from(sorted(UNARY))), draw(operands)))
        else:
            steps.append((draw(st.sampled_from(sorted(BINARY))), draw(operands), draw(operands)))
    return steps


def run(steps: list[tuple], x: Any, y: Any) -> Any:
    results = [x, y]
    for op, *operands in steps:
        if op in ("session", "mixed"):
            inner, a, b = operands
            mode = "reverse" if op == "session" else "mixed"
            results.append(stepped(inner, results[a], results[b], mode))
        elif op == "checkpoint":
            inner, a, b = operands
            part = lambda x, y, inner=inner: run(inner, x, y)  # noqa: E731
            lite = isinstance(x, LiteTensor)
            results.append((session.checkpoint(part) if lite else part)(results[a], results[b]))
        else:
            results.append((UNARY.get(op) or BINARY[op])(*[results[i] for i in operands]))
    return results[-1]


def stepped(steps: list[tuple], x: Any, y: Any, mode: str) -> Any:
    """x after one gradient step down the sum of an expression of x and y."""
    if isinstance(x, LiteTensor):
        return x - session.grad(lambda x: run(steps, x, y).sum(), argnums=0, mode=mode)(x) * 0.1
    # A view, so that what is known as `x` here is not `y`, should both be one tensor: rule 2, in torch's words.
    apart = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
    total = run(steps, apart, y).sum()
    if not total.requires_grad:
        return x
    (gradient,) = torch.autograd.grad(
        total, apart, create_graph=True, allow_unused=True, materialize_grads=True
    )
    return x - gradient * 0.1


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(steps=expressions(), seed=st.integers(0, 2**16))
def test_random_expressions_agree_with_torch_to_second_order(steps: list[tuple], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    args = [torch.randn((N, N), dtype=torch.float64, generator=generator) for _ in range(2)]
    fn = lambda x, y: run(steps, x, y)  # noqa: E731
    close(fn(*[LiteTensor(x) for x in args]), fn(*args), f"value of {steps}")
    for order in (1, 2):
        pairs = zip(neo_orders(fn, args, order), torch_orders(fn, args, order), strict=True)
        for i, (got, expected) in enumerate(pairs):
            scale = float(expected.abs().max()) + 1
            close(got / scale, expected / scale, f"gradient of order {order}, input {i}, of {steps}", 1e-7)


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(steps=expressions(), seed=st.integers(0, 2**16))
def test_tangents_of_random_expressions_and_of_their_gradients_agree_with_torch(
    steps: list[tuple], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    args, vectors, weights = (
        [torch.randn((N, N), dtype=torch.float64, generator=generator) for _ in range(2)] for _ in range(3)
    )
    fn = lambda x, y: (run(steps, x, y) * weights[0]).sum()  # noqa: E731
    lite, dots = (tuple(LiteTensor(x) for x in given) for given in (args, vectors))
    tracked = [x.clone().requires_grad_() for x in args]
    first = torch.autograd.grad(
        fn(*tracked), tracked, create_graph=True, allow_unused=True, materialize_grads=True
    )
    slope = sum((g * v).sum() for g, v in zip(first, vectors, strict=True))
    second = [torch.zeros_like(x) for x in args]
    if slope.requires_grad:
        second = torch.autograd.grad(slope, tracked, allow_unused=True, materialize_grads=True)
    close(session.jvp(fn, lite, dots)[1], slope, f"tangent of {steps}", 1e-7)
    gradient = session.grad(fn, argnums=(0, 1))
    backward = session.grad(lambda *args: session.jvp(fn, args, dots)[1], argnums=(0, 1))
    for name, found in (
        ("forward over reverse", session.jvp(gradient, lite, dots)[1]),
        ("reverse over forward", backward(*lite)),
    ):
        for i, (got, expected) in enumerate(zip(found, second, strict=True)):
            scale = float(expected.abs().max()) + 1
            close(got / scale, expected / scale, f"{name}, input {i}, of {steps}", 1e-7)
