"""Solvers: right against torch.linalg, differentiated by the equation, and honest about failure."""

import warnings

import pytest
import torch

import neo
from neo.autograd import session
from neo.errors import ConvergenceError, ConvergenceWarning
from neo.linear import Report


def draw(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return neo.LiteTensor(torch.randn(shape, dtype=dtype, generator=generator))


N = 6
ROOT, B = draw(N, N), draw(N, seed=1)
EYE = neo.LiteTensor(torch.eye(N, dtype=torch.float64))
SOLVERS = {
    "cg": neo.linear.cg(tolerance=1e-13),
    "gmres": neo.linear.gmres(tolerance=1e-13),
    "gmres restarted": neo.linear.gmres(iterations=400, restart=3, tolerance=1e-12),
    "neumann": neo.linear.neumann(iterations=3000, step=0.1, tolerance=1e-13),
}


def matrix(root, symmetric=True):
    a = root @ root.T / N + EYE
    return a if symmetric else a + 0.3 * (root - root.T)


def solved(solver, root, b):
    """As a tree, of two leaves of different shapes."""
    a = matrix(root, solver.symmetric)

    def apply(tree):
        y = a @ torch.cat((tree["head"].reshape((-1,)), tree["tail"]))
        return {"head": y[:4].reshape((2, 2)), "tail": y[4:]}

    x = solver(apply, {"head": b[:4].reshape((2, 2)), "tail": b[4:]})
    return torch.cat((x["head"].reshape((-1,)), x["tail"]))


@pytest.mark.parametrize("name", SOLVERS)
def test_solution_and_its_derivatives_are_those_of_the_equation(name):
    solver = SOLVERS[name]
    fn = lambda root, b: torch.sin(solved(solver, root, b)).sum()  # noqa: E731
    closed = lambda root, b: torch.sin(torch.linalg.solve(matrix(root, solver.symmetric), b)).sum()  # noqa: E731
    args, dots = (ROOT, B), (draw(N, N, seed=2), draw(N, seed=3))
    torch.testing.assert_close(fn(*args).data, closed(*args).data)
    for derivative in (
        lambda f: session.grad(f, argnums=(0, 1))(*args),
        lambda f: session.hvp(f, args, dots),
        lambda f: (session.jvp(f, args, dots)[1], session.jvp(session.grad(f, argnums=1), args, dots)[1]),
    ):
        for got, expected in zip(derivative(fn), derivative(closed), strict=True):
            torch.testing.assert_close(got.data, expected.data, rtol=1e-8, atol=1e-9)


def test_third_order():
    fn = lambda root, b: solved(SOLVERS["cg"], root, b).sum()  # noqa: E731
    assert session.gradcheck(fn, (ROOT * 0.3, B), order=3)


def test_nothing_of_the_iterations_is_recorded():
    def fn(b):
        x = SOLVERS["neumann"](lambda v: v * 2.0, b)
        assert len(neo.autograd.TapeContext.current()) == 1
        return x

    assert session.grad(fn, argnums=0)(draw(3)).tolist() == pytest.approx([0.5] * 3)


def test_inside_vmap_without_a_look_at_the_numbers():
    bs = draw(5, N, seed=4)
    for solver in (
        neo.linear.cg(iterations=N, tolerance=0),
        neo.linear.gmres(iterations=N, tolerance=0),
        neo.linear.neumann(iterations=400, step=0.1, tolerance=0),
    ):
        fn = lambda root, s=solver: neo.vmap(lambda b: solved(s, root, b))(bs).square().sum()  # noqa: E731
        closed = lambda root, s=solver: (  # noqa: E731
            torch.linalg.solve(matrix(root, s.symmetric), bs.T).square().sum()
        )
        got, expected = (session.grad(f, argnums=0)(ROOT) for f in (fn, closed))
        torch.testing.assert_close(got.data, expected.data, rtol=1e-7, atol=1e-9)


def test_report():
    _x, report = neo.linear.cg(tolerance=1e-10).solve(lambda v: matrix(ROOT) @ v, B)
    assert report.converged
    assert report.iterations <= N + 1
    assert report.residual <= 1e-10
    _, unseen = neo.linear.cg(iterations=3, tolerance=0).solve(lambda v: matrix(ROOT) @ v, B)
    assert unseen.iterations == 3
    assert unseen.converged is None
    assert unseen.residual != unseen.residual
    zero, report = neo.linear.gmres().solve(lambda v: v, neo.zeros((3,)))
    assert zero.tolist() == [0, 0, 0]
    assert report == Report(report.iterations, 0.0, True)


@pytest.mark.parametrize("name", ["cg", "gmres", "neumann"])
def test_what_did_not_converge_says_so(name):
    make, apply = getattr(neo.linear, name), lambda v: matrix(ROOT * 3) @ v
    options = {"iterations": 2, **({"step": 0.01} if name == "neumann" else {})}
    with pytest.warns(
        ConvergenceWarning, match=rf"{name}: after 2 products with A the residual .* is 0\.\d+"
    ):
        make(**options)(apply, B)
    with pytest.raises(ConvergenceError, match="above the tolerance 1e-05"):
        make(**options, unconverged="raise")(apply, B)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(**options, unconverged="ignore")(apply, B)


def test_cg_on_a_matrix_that_is_not_symmetric_is_found_out():
    with pytest.raises(ConvergenceError, match="symmetric and positive definite"):
        neo.linear.cg(unconverged="raise")(lambda v: (matrix(ROOT) + 3 * (ROOT - ROOT.T)) @ v, B)


def test_divergence_of_the_series_is_named():
    with pytest.raises(OverflowError, match="below 2 / the largest eigenvalue"):
        neo.linear.neumann(iterations=2000, step=5.0)(lambda v: v * 3.0, B)


def test_float32_reports_the_true_residual():
    b = draw(N, seed=1, dtype=torch.float32)
    a = matrix(ROOT * 30).to(torch.float32)  # condition number about 1e5
    _, report = neo.linear.cg(iterations=200, tolerance=1e-7, unconverged="ignore").solve(lambda v: a @ v, b)
    x, _ = neo.linear.cg(iterations=200, tolerance=1e-7, unconverged="ignore").solve(lambda v: a @ v, b)
    assert report.residual == pytest.approx(((b - a @ x).norm() / b.norm()).item(), rel=1e-3)
    assert report.converged is (report.residual <= 1e-7)


BAD = {
    "iterations": (lambda: neo.linear.cg(iterations=0), "iterations must be an integer of at least 1"),
    "tolerance": (lambda: neo.linear.gmres(tolerance=-1), r"tolerance must lie in \[0, 1\)"),
    "unconverged": (lambda: neo.linear.cg(unconverged="say"), '"warn", "raise" or "ignore"'),
    "restart": (lambda: neo.linear.gmres(restart=0), "restart must be"),
    "step": (lambda: neo.linear.neumann(step=0), "step must be greater than 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_settings_are_checked(case):
    make, words = BAD[case]
    with pytest.raises(ValueError, match=words):
        make()


def test_arguments_are_checked():
    with pytest.raises(TypeError, match="floating-point LiteTensors, got float"):
        neo.linear.cg()(lambda v: v, {"a": 1.0})
    with pytest.raises(TypeError, match="structure and the shapes of b"):
        neo.linear.cg()(lambda v: v[:2], B)
