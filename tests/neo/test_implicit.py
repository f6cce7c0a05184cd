"""implicit: the derivative of a solution by the equation that it solves, against closed forms, at every order."""

import numpy as np
import pytest
import torch

import neo
from neo.autograd import session


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return neo.LiteTensor(torch.randn(shape, dtype=torch.float64, generator=generator))


X, Y, DECAY = draw(20, 4), draw(20, seed=1), neo.LiteTensor(0.7, dtype=torch.float64)
EYE = torch.eye(4, dtype=torch.float64)
EXACT = neo.linear.cg(tolerance=1e-13)


def objective(w, decay, x):
    return 0.5 * ((x @ w - Y) ** 2).sum() + 0.5 * decay * (w**2).sum()


def by_numpy(decay, x):
    a = x.numpy()
    return neo.LiteTensor(np.linalg.solve(a.T @ a + decay.item() * np.eye(4), a.T @ Y.numpy()))


def closed(decay, x):
    return torch.linalg.solve(x.T @ x + decay * EYE, x.T @ Y)


ridge = neo.implicit(by_numpy, session.grad(objective, argnums=0), solver=EXACT)
ARGS, DOTS = (DECAY, X), (neo.LiteTensor(0.3, dtype=torch.float64), draw(20, 4, seed=2))
DERIVATIVES = {
    "gradient": lambda f: session.grad(f, argnums=(0, 1))(*ARGS),
    "hessian product": lambda f: session.hvp(f, ARGS, DOTS),
    "third order": lambda f: session.grad(lambda *a: session.hvp(f, a, DOTS)[0], argnums=(0, 1))(*ARGS),
    "tangent": lambda f: session.jvp(f, ARGS, DOTS),
    "forward over reverse": lambda f: session.jvp(session.grad(f, argnums=1), ARGS, DOTS),
    "inside a mixed gradient": lambda f: session.grad(
        lambda d, x: (session.grad(f, argnums=1, mode="mixed")(d, x) ** 2).sum(), argnums=(0, 1)
    )(*ARGS),
}


@pytest.mark.parametrize("name", DERIVATIVES)
def test_inner_optimum(name):
    found, expected = (
        DERIVATIVES[name](lambda *args, f=f: torch.sin(f(*args)).sum()) for f in (ridge, closed)
    )
    for got, right in zip(found, expected, strict=True):
        torch.testing.assert_close(got.data, right.data, rtol=1e-9, atol=1e-11)


def test_fixed_point_of_a_map_that_is_not_symmetric():
    a = draw(3, 3) * 0.3

    def step(w, theta):
        return {"w": torch.tanh(a @ w["w"] + theta)}

    def iterated(theta):
        w = {"w": neo.zeros_like(theta)}
        for _ in range(200):
            w = step(w, theta)
        return w

    root = neo.implicit(
        iterated,
        lambda w, theta: {"w": step(w, theta)["w"] - w["w"]},
        solver=neo.linear.gmres(tolerance=1e-13),
    )
    assert session.gradcheck(lambda theta: root(theta)["w"], (draw(3, seed=3),), order=2)
    through = session.grad(lambda theta: (iterated(theta)["w"] ** 2).sum(), argnums=0)(draw(3, seed=3))
    found = session.grad(lambda theta: (root(theta)["w"] ** 2).sum(), argnums=0)(draw(3, seed=3))
    torch.testing.assert_close(found.data, through.data)


def test_optimum_constrained_by_projection():
    """The nearest point to θ whose entries are not negative: dw/dθ is 1 where θ > 0, 0 elsewhere."""
    step = lambda w, theta: torch.relu(w - 0.5 * (w - theta))  # noqa: E731
    nearest = neo.implicit(
        lambda theta: torch.relu(theta), lambda w, theta: step(w, theta) - w, solver=neo.linear.gmres(tolerance=1e-12)
    )  # fmt: skip
    theta = neo.LiteTensor([1.0, -2.0, 3.0], dtype=torch.float64)
    assert session.grad(lambda t: (nearest(t) * t).sum(), argnums=0)(theta).tolist() == pytest.approx(
        [2, 0, 6]
    )


def test_what_the_residual_closes_over_gets_its_gradient():
    def outer(decay):
        solve = neo.implicit(
            lambda x: by_numpy(DECAY, x),
            lambda w, x: session.grad(objective, argnums=0)(w, decay, x),
            solver=EXACT,
        )
        return torch.sin(solve(X)).sum()

    expected = session.grad(lambda decay: torch.sin(closed(decay, X)).sum(), argnums=0)(DECAY)
    torch.testing.assert_close(session.grad(outer, argnums=0)(DECAY).data, expected.data)


def test_memory_does_not_depend_on_the_solver_and_nothing_of_it_is_recorded():
    nodes = []

    def outer(decay, steps):
        def descend(decay):
            w = neo.zeros((4,), dtype=torch.float64)
            for _ in range(steps):
                w = w - 0.01 * session.grad(objective, argnums=0)(w, decay, X)
            return w

        residual = lambda w, decay: session.grad(objective, argnums=0)(w, decay, X)  # noqa: E731
        out = neo.implicit(descend, residual, solver=EXACT)(decay)
        nodes.append(len(neo.autograd.TapeContext.current()))
        return out.sum()

    for steps in (100, 2000):
        session.grad(lambda d, n=steps: outer(d, n), argnums=0)(DECAY)
    assert nodes == [1, 1]


def test_without_a_session_it_is_the_solver():
    torch.testing.assert_close(ridge(DECAY, X).data, closed(DECAY, X).data)


def test_wrong_functions_are_named():
    with pytest.raises(TypeError, match="expected solve to return floating-point LiteTensors, got float"):
        neo.implicit(lambda x: 1.0, lambda w, x: w - x)(X)
    with pytest.raises(TypeError, match="expected residual to return what solve does"):
        session.grad(lambda x: neo.implicit(lambda x: x, lambda w, x: (w - x).sum())(x).sum(), argnums=0)(X)
    with pytest.raises(TypeError, match="expected a function"):
        neo.implicit(3, lambda w, x: w)
