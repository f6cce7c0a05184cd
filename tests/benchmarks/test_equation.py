"""The equation of W11: written four ways, one residual and one gradient."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.func import functional_call, grad, jvp

import neo
from benchmarks import equation, networks

WIDTH, POINTS = 6, 7
NEO: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "reverse": (equation.by_reverse, neo.grad),
    "forward": (equation.by_forward, neo.jvp),
    "taylor": (equation.by_taylor, neo.jet),
}
FUNC: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "reverse": (equation.by_reverse, grad),
    "forward": (equation.by_forward, jvp),
}


def problem():
    torch.manual_seed(0)
    return networks.siren(WIDTH).double(), torch.rand(POINTS, 2, dtype=torch.float64)


def expected(model, points):
    """torch double backward: the residual, and the gradient of its mean square by each parameter."""
    residual = equation.by_autograd(model, points)
    gradients = torch.autograd.grad(residual.square().mean(), list(model.parameters()))
    return residual.detach(), dict(zip(dict(model.named_parameters()), gradients, strict=True))


def expect_equal(found, gradient, model, points):
    residual, gradients = expected(model, points)
    torch.testing.assert_close(found, residual, rtol=1e-10, atol=1e-12)
    assert gradient.keys() == gradients.keys()
    for name, value in gradients.items():
        torch.testing.assert_close(gradient[name], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("way", NEO)
def test_neos_residual_and_gradient_are_those_of_double_backward(way):
    model, points = problem()
    write, derivative = NEO[way]
    net, params = neo.nn.from_torch(model)

    def loss(params):
        r = write(derivative, lambda x: net(params, x), neo.LiteTensor(points))
        return r.square().mean(), r

    gradient, residual = neo.grad(loss, argnums=0, has_aux=True)(params)
    expect_equal(residual.data, {name: g.data for name, g in gradient.items()}, model, points)


@pytest.mark.filterwarnings(
    "ignore:.torch.jit.script. is deprecated:DeprecationWarning"
)  # torch.func.jvp calls it
@pytest.mark.parametrize("way", FUNC)
def test_torch_funcs_residual_and_gradient_are_those_of_double_backward(way):
    model, points = problem()
    write, derivative = FUNC[way]
    params = {name: param.detach() for name, param in model.named_parameters()}

    def loss(params):
        r = write(derivative, lambda x: functional_call(model, params, (x,)), points)
        return r.square().mean(), r

    gradient, residual = grad(loss, has_aux=True)(params)
    expect_equal(residual, gradient, model, points)
